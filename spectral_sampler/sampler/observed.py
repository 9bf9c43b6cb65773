"""The learner's own losses, as far as the training loop reports them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error

__all__ = ["ObservedLosses"]

_log = logging.getLogger("spectral_sampler")
_MASK = (1 << 64) - 1


class ObservedLosses:
    """The last observed loss of every sample, NaN where there is none yet or too old a one.

    Values that are not finite (an overflow under mixed precision) are counted and left out: they would outrank all
    others for as long as their sample is not seen again.

    Args:
        samples: M.
        longest: epochs of delivered batches after which a loss counts as unknown again.
    """

    def __init__(self, samples: int, longest: int) -> None:
        self._samples, self.longest = samples, longest
        self.now = 0
        """Epochs delivered, counted by batches and not by passes: a loss is not aged by looking or by calls."""
        self._table: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None  # made by the first observation
        self._sum = self._seen = 0
        self.count = self.refused = 0

    def of(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(n,) float64, the losses of the samples ``rows``."""
        if self._table is None:
            return np.full(len(rows), np.nan)
        losses, seen = self._table
        return np.where(self.now - seen[rows] > self.longest, np.nan, losses[rows])

    def stale(self, rows: np.ndarray[Any, Any]) -> int:
        """How many of the samples ``rows`` have a loss that is too old."""
        if self._table is None:
            return 0
        losses, seen = self._table
        return int(np.count_nonzero((self.now - seen[rows] > self.longest) & ~np.isnan(losses[rows])))

    def observe(self, rows: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        """Losses (n,) of the samples ``rows`` (n,); of a sample named twice the last one counts."""
        if rows.size and not 0 <= rows.min() <= rows.max() < self._samples:
            found = f"{rows.min()} to {rows.max()}"
            raise argument_error("indices", f"from 0 to {self._samples - 1}", found, "They count rows of the store.")
        finite = np.isfinite(values)
        if not finite.all():
            if self.refused == 0:
                _log.warning("sampler.observe was given losses that are not finite; they are left out and counted")
            self.refused += int(np.count_nonzero(~finite))
        # np.unique keeps the first occurrence, so look from the end
        rows, last = np.unique(rows[finite][::-1], return_index=True)
        values = values[finite][::-1][last]
        if self._table is None:
            self._table = np.full(self._samples, np.nan), np.zeros(self._samples, dtype=np.int32)
        table, seen = self._table
        before = table[rows]
        self._seen += self.now * len(rows) - int(seen[rows].sum())
        self.count += int(np.count_nonzero(np.isnan(before)))
        self._sum = (self._sum + _digest(rows, values) - _digest(rows, before)) & _MASK
        table[rows], seen[rows] = values, self.now

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that depend on the losses alone, not on the order of the observations; kept up to date
        at the cost of the observed batch."""
        return f"{self._sum:016x}"

    def as_floats(self) -> dict[str, float]:
        """Share of the samples ever observed, the mean age of their losses in epochs, the age at which a loss counts as
        unknown, and how many values were refused."""
        return {
            "spectral/observed_share": self.count / self._samples,
            "spectral/observed_age": self.now - self._seen / self.count if self.count else 0.0,
            "spectral/observed_longest": float(self.longest),
            "spectral/observed_refused": float(self.refused),
        }

    def state_dict(self) -> dict[str, Any]:
        """(M,) losses and ages in epochs as tensors, None before the first observation; and the clock."""
        losses, seen = (None, None) if self._table is None else self._table
        return {
            "losses": None if losses is None else torch.from_numpy(losses.copy()),
            "ages": None if seen is None else torch.from_numpy(self.now - seen),
            "now": self.now,
            "refused": self.refused,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.now, self.refused = int(state["now"]), int(state["refused"])
        self._table, self._sum, self._seen, self.count = None, 0, 0, 0
        if state["losses"] is not None:
            losses = state["losses"].cpu().numpy().copy()
            seen = (self.now - state["ages"].cpu().numpy()).astype(np.int32)
            known = np.flatnonzero(~np.isnan(losses))
            self._table, self.count, self._seen = (losses, seen), len(known), int(seen[known].sum())
            self._sum = _digest(known, losses[known]) & _MASK


def _digest(rows: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> int:
    """Sum modulo 2^64 of a hash of each (row, value) that is known."""
    known = ~np.isnan(values)
    words = values[known].view(np.uint64) ^ (rows[known].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return int(np.add.reduce(draws.mixed(words), dtype=np.uint64))

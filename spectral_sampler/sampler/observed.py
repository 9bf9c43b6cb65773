"""The learner's own losses, as far as the training loop reports them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error

__all__ = ["ObservedLosses"]

_log = logging.getLogger("spectral_sampler")
_MASK = (1 << 64) - 1


def _flat(values: Any) -> np.ndarray[Any, Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().float() if values.is_floating_point() else values.detach()
        values = values.cpu().numpy()
    return np.asarray(values).reshape(-1)


class ObservedLosses:
    """The last observed loss of every sample, NaN where there is none yet.

    Values that are not finite (an overflow under mixed precision) are counted and left out: they would outrank all
    others for as long as their sample is not seen again.

    Args:
        samples: M.
        longest: calls of `observe` after which a loss counts as unknown again.
    """

    def __init__(self, samples: int, longest: int) -> None:
        self._samples, self._longest = samples, longest
        self.asked = self.stale = 0
        self._table: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None  # made by the first observation
        self._sum = 0
        self.count = self.refused = self.calls = 0

    def of(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(n,) float64, the last observed losses of the samples ``rows``; NaN where there is none, or too old a one."""
        if self._table is None:
            return np.full(len(rows), np.nan)
        losses, old = self._table[0][rows], self.calls - self._table[1][rows] > self._longest
        self.asked += len(rows)
        self.stale += int(np.count_nonzero(old & ~np.isnan(losses)))
        return np.where(old, np.nan, losses)

    def observe(self, indices: Any, losses: Any) -> None:
        """Losses (n,) of the samples ``indices`` (n,); of a sample named twice the last one counts."""
        rows, values = _flat(indices), _flat(losses).astype(np.float64)
        if rows.dtype.kind not in "iu":
            raise argument_error("indices", "integers", f"dtype {rows.dtype}", "Pass the dataset indices of the batch.")
        if rows.shape != values.shape:
            rule = f"one value for each of the {len(rows)} indices"
            raise argument_error("losses", rule, f"{len(values)} values", 'Compute the loss with reduction="none".')
        if rows.size and not 0 <= rows.min() <= rows.max() < self._samples:
            found = f"{rows.min()} to {rows.max()}"
            raise argument_error("indices", f"from 0 to {self._samples - 1}", found, "They count rows of the store.")
        self.calls += 1
        finite = np.isfinite(values)
        if not finite.all():
            if self.refused == 0:
                _log.warning("sampler.observe was given losses that are not finite; they are left out and counted")
            self.refused += int(np.count_nonzero(~finite))
        # np.unique keeps the first occurrence, so look from the end
        rows, last = np.unique(rows[finite][::-1], return_index=True)
        values = values[finite][::-1][last]
        if self._table is None:
            self._table = np.full(self._samples, np.nan), np.zeros(self._samples, dtype=np.int64)
        table, seen_at = self._table
        before = table[rows]
        table[rows], seen_at[rows] = values, self.calls
        self.count += int(np.count_nonzero(np.isnan(before)))
        self._sum = (self._sum + _digest(rows, values) - _digest(rows, before)) & _MASK

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that depend on the table alone, not on the order of the observations; kept up to date
        at the cost of the observed batch."""
        return f"{self._sum:016x}"

    def as_floats(self) -> dict[str, float]:
        """Share of the samples observed, their mean age in calls of `observe`, share of the losses asked for that were
        too old to be used, and how many values were refused."""
        age = 0.0
        if self._table is not None and self.count:
            age = float((self.calls - self._table[1][~np.isnan(self._table[0])]).mean())
        return {
            "spectral/observed_share": self.count / self._samples,
            "spectral/observed_age": age,
            "spectral/observed_stale_share": self.stale / max(1, self.asked),
            "spectral/observed_refused": float(self.refused),
        }


def _digest(rows: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> int:
    """Sum modulo 2^64 of a hash of each (row, value) that is known (SplitMix64's finaliser)."""
    known = ~np.isnan(values)
    words = values[known].view(np.uint64) ^ (rows[known].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.add.reduce(words ^ (words >> np.uint64(31)), dtype=np.uint64))

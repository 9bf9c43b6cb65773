"""Index lists of ordinary training: rows in shuffled passes, cut into epochs or into batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.class_balanced import passes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Listed", "Passes"]


class Passes:
    """An index sampler whose every epoch has ``length`` of ``rows`` (n,), going on where the last one stopped."""

    def __init__(self, rows: NDArray[np.int64], length: int, seed: int) -> None:
        self.rows, self.length, self.seed, self.epoch = rows, length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is of."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.length
        yield from self.rows[passes(self.seed, len(self.rows), start, start + self.length)].tolist()


class Listed:
    """A batch sampler whose index lists are known before the training: ``order`` (Σ sizes,) cut into ``sizes``.

    Args:
        epochs: the lists are dealt out to so many epochs of equal length.
    """

    def __init__(self, order: NDArray[np.int64], sizes: NDArray[np.int64], epochs: int) -> None:
        self.lists, self.epochs, self.epoch = np.split(order, np.cumsum(sizes)[:-1]), epochs, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is of."""
        if not 0 <= epoch < self.epochs:
            raise IndexError(f"There are lists for {self.epochs} epochs, and epoch {epoch} was asked for.")
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lists) // self.epochs

    def __iter__(self) -> Iterator[list[int]]:
        start = self.epoch * len(self)
        return (indices.tolist() for indices in self.lists[start : start + len(self)])

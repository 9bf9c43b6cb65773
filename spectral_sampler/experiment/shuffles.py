"""Rows in shuffled passes, every row once a pass: the order of ordinary training, at any place of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler import draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Listed", "Passes", "balanced_order", "passes"]

_ROWS, _CLASSES = 0x524F5753, 0x434C4153  # streams of draws; a class has the stream after the rows' of its number


def passes(seed: int, size: int, start: int, stop: int, stream: int = _ROWS) -> NDArray[np.int64]:
    """Places ``start`` to ``stop`` of an order that shuffles ``range(size)`` again and again: (stop − start,).

    Whatever is cut off at the end of a stretch, the next one goes on with, so that after any number of places every
    item has been there equally often to within one.
    """
    first, last = start // size, -(-stop // size)
    places = np.arange(first * size, last * size)
    order = np.lexsort((draws.uniforms(seed, 0, 0, places, stream), places // size)) % size
    return np.asarray(order[start - first * size : stop - first * size])


def balanced_order(seed: int, rows: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``count`` of ``rows`` (n,), in which every class of their ``labels`` (n,) comes equally often to within one, and
    inside a class every row: shuffled passes over the classes, and over the rows of each."""
    names, classes = np.unique(labels, return_inverse=True)
    turns = passes(seed, len(names), 0, count, _CLASSES)
    order = np.empty(count, dtype=np.int64)
    for number, name in enumerate(names.tolist()):
        own, places = rows[classes == number], np.flatnonzero(turns == number)
        order[places] = own[passes(seed, len(own), 0, len(places), _ROWS + 1 + name)]
    return order


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

"""Rows in shuffled passes, and classes in turns: orders in which all come equally often, at any place of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.estimates.label_noise import labelled
from spectral_sampler.validation import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["ClassBalancedSampler", "balanced_order", "passes"]

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


def balanced_order(
    seed: int, rows: NDArray[np.int64], labels: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.int64]:
    """Places ``start`` to ``stop`` of an order of ``rows`` (n,) in which every class of their ``labels`` (n,) comes
    equally often to within one, and inside a class every row: shuffled passes over the classes, and over the rows of
    each."""
    names, classes = np.unique(labels, return_inverse=True)
    begun, rest = divmod(start, len(names))
    turns = passes(seed, len(names), start - rest, stop, _CLASSES)
    before = begun + np.bincount(turns[:rest], minlength=len(names))  # places of each class before the start
    order = np.empty(stop - start, dtype=np.int64)
    groups = zip(
        names.tolist(), before.tolist(), _split(classes, len(names)), _split(turns[rest:], len(names)), strict=True
    )
    for name, first, own, places in groups:
        order[places] = rows[own[passes(seed, len(own), first, first + len(places), _ROWS + 1 + name)]]
    return order


def _split(classes: NDArray[np.int64], number: int) -> list[NDArray[np.int64]]:
    """The places of each of 0 … number − 1 in ``classes``, ascending."""
    counts = np.bincount(classes, minlength=number)
    return np.split(np.argsort(classes, kind="stable"), np.cumsum(counts[:-1]))


def _integers(argument: str, values: Any, rule: str, remedy: str) -> NDArray[np.int64]:
    """``values`` as a filled array of one axis."""
    try:
        found = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    except (TypeError, ValueError):
        raise argument_error(argument, rule, type(values).__name__, remedy) from None
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise argument_error(argument, rule, f"{found.dtype} of shape {found.shape}", remedy)
    return found.astype(np.int64)


class ClassBalancedSampler(Sampler[int]):
    """An index sampler that offers every class equally often: rows of rare classes several times an epoch, those of
    frequent ones not in every epoch.

    For a test in which rare and frequent classes count alike. As ``sampler=`` of `SpectralBatchSampler` or of the
    DataLoader that is curated, it evens out what is *offered*, for every selection and at every keep ratio, where
    ``PlausibleEven(balance=1)`` can only choose among candidates as uneven as the data. Not both: the selection's
    ``balance`` is 0 then. An epoch goes on where the last one stopped, so that over epochs all rows of a class come
    equally often to within one; a curated loader tells it the epoch, a plain one has to (``set_epoch``). A row that
    comes twice in a candidate batch is offered once in it, and the keep ratio stays that of all places: more of a batch
    is kept where much of it is repeated.

    Args:
        labels: (M,) integers, of all samples of the data set; those labelled −1 have no class and are never offered.
        rows: the samples that may be offered, None for all: ``np.flatnonzero(~suspects(store))`` leaves suspects out,
            so that a class is as frequent as its plausible rows.
        seed: of the order.

    Raises:
        ArgumentError: labels that are no whole numbers of one axis, or rows that are none of theirs.
    """

    def __init__(self, labels: Any, rows: Any = None, *, seed: int = 0) -> None:
        known = _integers("labels", labels, "(M,) integers", "Pass a class for every sample of the data set.")
        chosen = np.arange(len(known))
        if rows is not None:
            rule, remedy = f"indices from 0 to {len(known) - 1}", "They count the labels; of a mask, np.flatnonzero."
            chosen = np.unique(_integers("rows", rows, rule, remedy))
            if chosen[0] < 0 or chosen[-1] >= len(known):
                raise argument_error("rows", rule, f"{chosen[0]} to {chosen[-1]}", remedy)
        chosen = chosen[labelled(known)[chosen]]
        if not len(chosen):
            raise argument_error(
                "labels", "of a class for some row", "-1 for all", "Pass the labels of a labelled set."
            )
        self.seed = whole_number("seed", seed, 0, "It is that of the order.")
        self.epoch, self._size = 0, len(known)
        self._rows, self._labels = chosen, known[chosen]

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is of."""
        self.epoch = whole_number("epoch", epoch, 0, "Epochs count from 0.")

    def __len__(self) -> int:
        """M, whatever ``rows`` leaves: an epoch is as long as it would be otherwise."""
        return self._size

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self._size
        yield from balanced_order(self.seed, self._rows, self._labels, start, start + self._size).tolist()

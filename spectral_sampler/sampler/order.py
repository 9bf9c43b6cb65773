"""The order in which candidates are offered, a function of (seed, epoch, position) wherever that is possible."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils.data import DistributedSampler, Sampler, SequentialSampler, SubsetRandomSampler

from spectral_sampler import draws
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from numpy.typing import NDArray

    from spectral_sampler.sampler.counter import EpochCounter
    from spectral_sampler.sampler.plan import Slot

__all__ = ["CandidateOrder"]

_ABSENT = object()
_NONE = np.empty(0, dtype=np.int64)
_SOURCE_STREAM = 0x534F5552  # separates the seed given to a caller's sampler from our own permutations
_TOLD: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # by any of us: another sampler's epochs are not the caller's
_PASS_STRIDE = 1 << 32  # a further pass over the data is keyed like an epoch far in the future


class CandidateOrder(Sampler[int]):
    """An index sampler over the candidates of the counter's epoch: what frameworks find as ``batch_sampler.sampler``.

    Its `set_epoch` sets the batch sampler's epoch, because that is the only way some frameworks take to it.

    Args:
        counter: the batch sampler's epochs.
        rows: M, the length of the store; indices lie in [0, M).
        seed: of the permutation.
        shuffle: a permutation keyed by (seed, epoch), else ascending order. Not used with ``source``.
        fixed: every epoch uses the order of epoch 0.
        source: an index sampler of the caller's that decides the order instead, such as a DistributedSampler or a
            WeightedRandomSampler. It is iterated as a copy: with ``set_epoch``, if it has one, and with a generator
            keyed by (its own seed, seed, epoch) in place of its own, so that an epoch can be resumed and no global
            generator is read. A sampler with neither is iterated itself, once an epoch.
    """

    def __init__(
        self, counter: EpochCounter, rows: int, seed: int, shuffle: bool, *, fixed: bool, source: Any = None
    ) -> None:
        self._counter, self.source = counter, source
        self._rows, self._seed, self._shuffle, self._fixed = rows, seed, shuffle, fixed
        self._listens = callable(getattr(source, "set_epoch", None))
        self._told = _TOLD.get(source, 0) if self._listens else 0  # 0: what a sampler has before anybody sets it
        self._drawn: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}  # `_of` the running epoch, and another

    def __len__(self) -> int:
        return self._rows if self.source is None else len(self.source)

    def __iter__(self) -> Iterator[int]:
        yield from self.whole(self._counter.epoch).tolist()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_drawn": {}, "_source_told": _TOLD.get(self.source) if self._listens else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        told = state.pop("_source_told", None)
        self.__dict__.update(state)
        if told is not None:  # a copy of the source was told what the source was
            _TOLD.setdefault(self.source, told)

    def set_epoch(self, epoch: int) -> None:
        """Sets the batch sampler's epoch."""
        self._counter.set(epoch)
        self.tell(self._counter.epoch)

    def tell(self, epoch: int) -> None:
        """Passes the epoch on to the caller's sampler."""
        self._told = epoch
        if self._listens:
            if getattr(self.source, "epoch", None) != epoch:  # else it may be the caller's, and news to another of us
                _TOLD[self.source] = epoch
            elif _TOLD.get(self.source) != epoch:  # what we told it before is old
                _TOLD.pop(self.source, None)
            self.source.set_epoch(epoch)

    def epoch_set_by_caller(self) -> int | None:
        """The epoch that none of us has set on the caller's sampler since `tell`, as loops with a DistributedSampler
        do."""
        epoch = getattr(self.source, "epoch", None) if self._listens else None
        ours = {self._told, _TOLD.get(self.source, self._told)} if self._listens else set()
        return epoch if isinstance(epoch, int) and epoch >= 0 and epoch not in ours else None

    @property
    def constant(self) -> bool:
        """Is the order the same in every epoch?"""
        return self._fixed or (self.source is None and not self._shuffle)

    @property
    def rotates(self) -> bool:
        """Is it the same in every epoch, and ours, so that a `Plan` varies what an epoch leaves out?"""
        return self.constant and self.source is None

    @functools.cached_property
    def repeats(self) -> bool:
        """May a candidate batch hold a sample twice? Only orders that are known not to are trusted."""
        source = self.source
        if source is None or isinstance(source, (SequentialSampler, DistributedSampler)):
            return len(self) > self._rows
        if hasattr(source, "replacement"):  # a RandomSampler draws its data source again and again until it is done
            return bool(source.replacement) or len(source) > len(getattr(source, "data_source", range(self._rows)))
        listed = source.indices if isinstance(source, SubsetRandomSampler) else source
        known = isinstance(listed, (Sequence, np.ndarray, torch.Tensor))
        return not known or len(np.unique(np.asarray(listed))) < len(source)

    @property
    def replays(self) -> bool:
        """Can the order of any epoch be looked at without drawing from the caller's sampler itself?"""
        fixed = isinstance(self.source, (Sequence, SequentialSampler))
        return self.source is None or fixed or self._listens or self._seedable

    @property
    def _seedable(self) -> bool:
        generator = getattr(self.source, "generator", _ABSENT)
        return generator is None or isinstance(generator, torch.Generator)

    def slot_key(self, epoch: int, slot: Slot) -> Hashable | None:  # noqa: ARG002 - of no order that is constant
        """Equal keys have equal candidates in any epoch; None where no other epoch has them."""
        return (slot.order_pass * (not self.rotates), slot.start, slot.size) if self.constant else None

    def prepare(self, epoch: int) -> None:
        """To be called in the consumer's thread, in which alone a caller's sampler may be iterated: after it, any
        thread may ask for the epoch, however many others are looked at."""
        if self.source is not None:
            self._of(epoch, runs=True)

    def offered(self, epoch: int, slots: list[Slot]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64] | None]]:
        """The candidates of each slot in the order offered, a sample that comes again in it left out; and which of its
        places in the epoch's order each one's is, from 0, None where the order repeats none."""
        parts = [self._positions(epoch, slot) for slot in slots]
        positions = np.concatenate(parts)  # all at once: a call costs as much as a hundred positions
        cuts = np.cumsum([len(part) for part in parts[:-1]])
        if self.repeats:
            order, earlier = self._of(epoch)
            kept = [part[_first(order[part])] for part in np.split(positions, cuts)]
            return [order[part] for part in kept], [earlier[part] for part in kept]
        if self.source is not None:
            positions = self._of(epoch)[0][positions]
        elif self._shuffle:
            positions = draws.permuted(self._seed, self._key(epoch), self._rows, positions)
        return np.split(positions, cuts), [None] * len(slots)

    def distinct(self, epoch: int) -> NDArray[np.int64]:
        """`whole` without the samples that came before: the first place counts."""
        order = self.whole(epoch)
        return order[_first(order)] if self.repeats else order

    def _positions(self, epoch: int, slot: Slot) -> NDArray[np.int64]:
        positions = np.arange(slot.start, slot.start + slot.size)
        if slot.start + slot.size > len(self):
            positions %= len(self)
        if slot.order_pass and not self.rotates:  # a further pass over the data within the epoch
            key = self._key(epoch) + slot.order_pass * _PASS_STRIDE
            positions = draws.permuted(self._seed, key, len(self), positions)
        return positions

    def whole(self, epoch: int) -> NDArray[np.int64]:
        """(len(self),) all candidates of an epoch's first pass, in the order offered."""
        if self.source is not None:
            return self._of(epoch)[0]
        if self._shuffle:
            return draws.permutation(self._seed, self._key(epoch), self._rows)
        return np.arange(self._rows, dtype=np.int64)

    def _key(self, epoch: int) -> int:
        return 0 if self._fixed else epoch

    def _of(self, epoch: int, *, runs: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source's order, and if it repeats samples how often each place's comes earlier in it; that of the epoch
        that runs is the first of the two kept."""
        key, kept = self._key(epoch), self._drawn
        if key not in kept or (runs and next(iter(kept)) != key):
            found = kept[key] if key in kept else self._draw(key)
            others = {other: kept[other] for other in list(kept)[:1] if other != key}
            self._drawn = {key: found, **others} if runs else {**others, key: found}
        return self._drawn[key]

    def _draw(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        source = self.source
        if self._listens or self._seedable:
            source = copy.copy(source)
        if self._listens:
            source.set_epoch(epoch)
        if self._seedable:
            generator = self.source.generator
            own = generator.initial_seed() if isinstance(generator, torch.Generator) else 0
            key = draws.uniforms(self._seed, epoch, own, np.array([0]), _SOURCE_STREAM)[0]
            source.generator = torch.Generator().manual_seed(int(key * 2.0**53))
        order = np.fromiter(map(_index, source), dtype=np.int64)
        if len(order) != len(self):
            raise argument_error(
                "sampler", f"one that yields as many indices as its length says ({len(self)})", len(order),
                "Its __len__ and its __iter__ disagree.",
            )  # fmt: skip
        if order.min() < 0 or order.max() >= self._rows:
            raise argument_error(
                "sampler", f"one that yields indices from 0 to {self._rows - 1}", f"{order.min()} to {order.max()}",
                "Indices count rows of the reference store.",
            )  # fmt: skip
        return order, _earlier(order) if self.repeats else _NONE


def _first(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of the first of equals, ascending."""
    return np.sort(np.unique(indices, return_index=True)[1])


def _earlier(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) at how many earlier places of ``order`` (n,) the sample of each place is."""
    places = np.argsort(order, kind="stable")
    grouped, earlier = order[places], np.empty_like(order)
    earlier[places] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return earlier


def _index(item: Any) -> int:
    try:
        return operator.index(item)
    except TypeError:
        remedy = "A sampler of whole batches goes to a DataLoader; pass the one inside it."
        raise argument_error("sampler", "one that yields indices", repr(item), remedy) from None

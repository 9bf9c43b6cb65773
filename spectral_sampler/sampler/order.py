"""The order in which candidates are offered, as a pure function of (seed, epoch) wherever that is possible."""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import Sampler

from spectral_sampler import draws
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["CandidateOrder"]

_ABSENT = object()
_SOURCE_STREAM = 0x534F5552  # separates the seed given to a caller's sampler from our own permutations
_PASS_STRIDE = 1 << 32  # a further pass over the data is keyed like an epoch far in the future


class _Owner(Protocol):
    @property
    def epoch(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...


class CandidateOrder(Sampler[int]):
    """An index sampler over the candidates of the owner's epoch: what frameworks find as ``batch_sampler.sampler``.

    Its `set_epoch` forwards to the batch sampler, because that is the only way some frameworks take to it.

    Args:
        owner: the batch sampler.
        rows: M, the length of the store; indices lie in [0, M).
        seed: of the permutation.
        shuffle: a permutation keyed by (seed, epoch), else ascending order. Not used with ``source``.
        fixed: every epoch uses the order of epoch 0.
        source: an index sampler of the caller's that decides the order instead, such as a DistributedSampler or a
            WeightedRandomSampler. It is iterated as a copy: with ``set_epoch``, if it has one, and with a generator
            keyed by (its own seed, seed, epoch) in place of its own, so that an epoch can be resumed and no global
            generator is read. A sampler with neither is iterated itself, once an epoch.
    """

    def __init__(self, owner: _Owner, rows: int, seed: int, shuffle: bool, *, fixed: bool, source: Any = None) -> None:
        self._owner: weakref.ref[_Owner] | None = weakref.ref(owner)
        self._rows, self._seed, self._shuffle, self._fixed, self._source = rows, seed, shuffle, fixed, source
        self._told = 0  # the epoch a sampler has before anybody sets it
        self._recent: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self._rows if self._source is None else len(self._source)

    def __iter__(self) -> Iterator[int]:
        owner = self._owner() if self._owner is not None else None
        yield from self.indices(owner.epoch if owner is not None else 0).tolist()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": None, "_recent": {}}

    def adopt(self, owner: _Owner) -> None:
        """Belong to ``owner``, after a copy or unpickling."""
        self._owner = weakref.ref(owner)

    def set_epoch(self, epoch: int) -> None:
        """Sets the batch sampler's epoch."""
        owner = self._owner() if self._owner is not None else None
        if owner is not None:
            owner.set_epoch(epoch)

    def tell(self, epoch: int) -> None:
        """Passes the epoch on to the caller's sampler."""
        self._told = epoch
        if callable(getattr(self._source, "set_epoch", None)):
            self._source.set_epoch(epoch)

    def epoch_set_by_caller(self) -> int | None:
        """The epoch that somebody else has set on the caller's sampler since `tell`, as loops with a
        DistributedSampler do."""
        epoch = getattr(self._source, "epoch", None) if callable(getattr(self._source, "set_epoch", None)) else None
        return epoch if isinstance(epoch, int) and epoch >= 0 and epoch != self._told else None

    @property
    def constant(self) -> bool:
        """Is the order the same in every epoch?"""
        return self._fixed or (self._source is None and not self._shuffle)

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """Dataset indices in the order offered, (len(self),). For the consumer's thread only."""
        key = 0 if self._fixed else epoch
        if key not in self._recent:
            while len(self._recent) >= 2:  # a running epoch, and another one looked at
                del self._recent[next(iter(self._recent))]
            self._recent[key] = self._compute(key)
        return self._recent[key]

    def further(self, first: NDArray[np.int64], epoch: int, order_pass: int) -> NDArray[np.int64]:
        """The order of a further pass over the data within an epoch that began with the order ``first``."""
        if order_pass == 0 or (self._source is None and not self._shuffle):
            return first
        key = 0 if self._fixed else epoch
        return first[draws.permutation(self._seed, key + order_pass * _PASS_STRIDE, len(first))]

    def _compute(self, epoch: int) -> NDArray[np.int64]:
        if self._source is not None:
            return self._drawn(epoch)
        if self._shuffle:
            return draws.permutation(self._seed, epoch, self._rows)
        return np.arange(self._rows, dtype=np.int64)

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        source = self._source
        settable, generator = callable(getattr(source, "set_epoch", None)), getattr(source, "generator", _ABSENT)
        seedable = generator is None or isinstance(generator, torch.Generator)
        if settable or seedable:
            source = copy.copy(source)
        if settable:
            source.set_epoch(epoch)
        if seedable:
            own = generator.initial_seed() if isinstance(generator, torch.Generator) else 0
            key = draws.uniforms(self._seed, epoch, own, np.array([0]), _SOURCE_STREAM)[0]
            source.generator = torch.Generator().manual_seed(int(key * 2.0**53))
        order = np.fromiter((int(index) for index in source), dtype=np.int64)
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
        return order

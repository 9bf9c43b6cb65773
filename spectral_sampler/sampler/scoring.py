"""Candidate batches and their scores, computed ahead of time: all that depends on the store and the indices alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.sampler.located import Located

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from spectral_sampler.placement import Placement
    from spectral_sampler.sampler.order import CandidateOrder
    from spectral_sampler.sampler.plan import Plan, Slot
    from spectral_sampler.selection import Selection
    from spectral_sampler.selection.protocol import Proposal
    from spectral_sampler.store import ReferenceStore

__all__ = ["Candidates", "Epoch", "Score", "Scorer"]


class Score(NamedTuple):
    """Scores of one candidate batch, as in `spectral_sampler.selection.Scores`."""

    values: NDArray[np.float64]
    error: Any
    status: int
    matvecs: int


class Candidates(NamedTuple):
    """A candidate batch ready for its selection."""

    slot: Slot
    indices: NDArray[np.int64]
    """(size,) dataset indices, unique."""
    again: NDArray[np.int64] | None
    """(size,) which of its places in the epoch's order this is of each, from 0; None where the order repeats none."""
    score: Score | None


class Scorer:
    """Scores candidate batches many at a time; those that come again, of a fixed partition, once for the training."""

    def __init__(self, selection: Selection, store: ReferenceStore, placement: Placement) -> None:
        self._selection, self._store, self._placement = selection, store, placement
        self._kept: dict[Hashable, Score] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def works(self, batches: int) -> bool:
        """Is there anything worth a look-ahead thread in an epoch of so many candidate batches?"""
        return "features" in self._selection.needs and len(self._kept) < batches

    def score(
        self, slots: list[Slot], indices: list[NDArray[np.int64]], keys: list[Hashable | None]
    ) -> list[Score | None]:
        """One batched call for all candidate batches of one size that a choice depends on; a key is what a score may be
        kept by, None where its candidates do not come again."""
        scores = [None if key is None else self._kept.get(key) for key in keys]
        waiting: dict[int, list[int]] = {}
        for place, slot in enumerate(slots):
            if scores[place] is None and (self._selection.judges_all or slot.budget < len(indices[place])):
                waiting.setdefault(len(indices[place]), []).append(place)
        for places in waiting.values():
            for place, score in zip(places, self._call([indices[place] for place in places]), strict=True):
                scores[place] = score
                if score is not None and keys[place] is not None:
                    self._kept[keys[place]] = score
        return scores

    def _call(self, indices: list[NDArray[np.int64]]) -> Sequence[Score | None]:
        # A thread of its own has neither the caller's `use_backend` nor its grad mode; set both, in every thread.
        with torch.no_grad(), self._placement.solving():
            found = self._selection.score(self._store, np.stack(indices), backend=self._placement.backend)
        if found is None:
            return [None] * len(indices)
        return [
            Score(np.asarray(values, dtype=np.float64), error, int(status), int(matvecs))
            for values, error, status, matvecs in zip(*found, strict=True)
        ]


class Epoch:
    """The candidate batches of one rank's epoch; ``epoch(i, k)`` prepares those of steps i … k − 1, in any thread once
    the order is prepared for it."""

    def __init__(
        self, plan: Plan, order: CandidateOrder, scorer: Scorer, epoch: int, proposal: Proposal | None
    ) -> None:
        self._plan, self._order, self._scorer, self._epoch = plan, order, scorer, epoch
        self._proposed = None if proposal is None else proposal.batches

    def __call__(self, start: int, stop: int) -> list[Candidates]:
        """Steps ``start`` … ``stop − 1`` of this rank."""
        return self.prepare([self._plan.at_step(self._epoch, step) for step in range(start, stop)])

    def prepare(self, slots: list[Slot]) -> list[Candidates]:
        """Candidates and scores of some slots."""
        keys: list[Hashable | None] = [None] * len(slots)
        again: list[NDArray[np.int64] | None] = [None] * len(slots)
        if self._proposed is None:
            indices, again = self._order.offered(self._epoch, slots)
            if self._plan.recurs:
                keys = [self._order.slot_key(self._epoch, slot) for slot in slots]
            slots = [self._fitted(slot, len(own)) for slot, own in zip(slots, indices, strict=True)]
        else:
            size = self._proposed.shape[1]
            slots = [self._plan.refitted(self._epoch, slot, size) for slot in slots]
            indices = [self._proposed[slot.number] for slot in slots]
        with Located(self._epoch, [slot.number for slot in slots], indices):
            scores = self._scorer.score(slots, indices, keys)
        return [Candidates(*row) for row in zip(slots, indices, again, scores, strict=True)]

    def _fitted(self, slot: Slot, distinct: int) -> Slot:
        """``slot`` with a budget that its distinct candidates suffice for."""
        if slot.budget <= distinct:
            return slot
        if self._plan.batch_size is not None:
            raise argument_error(
                "sampler", f"one that offers at least {slot.budget} distinct samples among {slot.size}", distinct,
                'Use emit="shrink" with it.',
            )  # fmt: skip
        multiple = self._plan.multiple_of
        return slot._replace(budget=distinct // multiple * multiple or distinct)

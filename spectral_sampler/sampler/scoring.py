"""Candidate batches and their scores, computed ahead of time: all that depends on the store and the indices alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from spectral_sampler.sampler.order import CandidateOrder
    from spectral_sampler.sampler.placement import Placement
    from spectral_sampler.sampler.plan import Batch, Plan
    from spectral_sampler.selection import Selection
    from spectral_sampler.selection.proposal import Proposal
    from spectral_sampler.store import ReferenceStore

__all__ = ["Candidates", "Epoch", "Score", "Scorer"]


class Score(NamedTuple):
    """Scores of one candidate batch, as in `spectral_sampler.selection.Scores`."""

    values: NDArray[np.float64]
    error: float
    status: int
    matvecs: int


class Candidates(NamedTuple):
    """A candidate batch ready for its selection."""

    batch: Batch
    indices: NDArray[np.int64]
    """(size,) dataset indices, unique."""
    budget: int
    score: Score | None


class Scorer:
    """Scores candidate batches many at a time. Keeps those of a fixed partition for the whole training.

    Args:
        selection, store, placement: what scores, and where.
        constant: the partition is the same in every epoch, so a score may be kept.
    """

    def __init__(self, selection: Selection, store: ReferenceStore, placement: Placement, *, constant: bool) -> None:
        self._selection, self._store, self._placement = selection, store, placement
        self._whole = selection.judges_all
        self._kept: dict[tuple[int, int, int], Score] | None = {} if constant else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None if self._kept is None else {}}

    def has(self, batch: Batch) -> bool:
        """Is nothing left to compute for ``batch``?"""
        known = self._kept is not None and batch[1:4] in self._kept
        whole = batch.budget == batch.size and not self._whole
        return known or whole or "features" not in self._selection.needs

    def score(self, batches: list[Batch], indices: list[NDArray[np.int64]], budgets: list[int]) -> list[Candidates]:
        """One batched call for all candidate batches of one size that a choice depends on."""
        scores: list[Score | None] = [None] * len(batches)
        waiting: dict[int, list[int]] = {}
        for position, batch in enumerate(batches):
            if self._kept is not None and batch[1:4] in self._kept:
                scores[position] = self._kept[batch[1:4]]
            elif self._whole or budgets[position] < len(indices[position]):  # else all are kept, whatever their scores
                waiting.setdefault(len(indices[position]), []).append(position)
        for positions in waiting.values():
            for position, score in zip(positions, self._call([indices[p] for p in positions]), strict=True):
                scores[position] = score
                if self._kept is not None and score is not None:
                    self._kept[batches[position][1:4]] = score
        return [Candidates(*row) for row in zip(batches, indices, budgets, scores, strict=True)]

    def _call(self, indices: list[NDArray[np.int64]]) -> Sequence[Score | None]:
        # A thread of its own has neither the caller's `use_backend` nor its grad mode; set both, in every thread.
        with torch.no_grad(), self._placement.solving():
            found = self._selection.score(self._store, np.stack(indices), backend=self._placement.backend)
        if found is None:
            return [None] * len(indices)
        return [
            Score(np.asarray(values, dtype=np.float64), float(error), int(status), int(matvecs))
            for values, error, status, matvecs in zip(*found, strict=True)
        ]


class Epoch:
    """The candidate batches of one rank's epoch; ``epoch(i, k)`` prepares those of steps i … k − 1 in any thread."""

    def __init__(
        self, plan: Plan, order: CandidateOrder, scorer: Scorer, epoch: int, proposal: Proposal | None = None
    ) -> None:
        self._plan, self._order, self._scorer, self._epoch, self._proposal = plan, order, scorer, epoch, proposal
        # The first pass is taken here, in the consumer's thread: a caller's sampler may not be safe in another one.
        self._orders = {0: order.indices(epoch) if proposal is None else proposal.batches.ravel()}

    def needs_work(self) -> bool:
        """Is there anything worth a look-ahead thread?"""
        return not all(self._scorer.has(self._plan.at_step(self._epoch, step)) for step in range(self._plan.steps))

    def prepare(self, batches: list[Batch]) -> list[Candidates]:
        """Candidates and scores of some candidate batches."""
        if self._proposal is not None:
            size = self._proposal.batches.shape[1]
            batches = [
                batch._replace(start=batch.number * size, size=size, budget=self._plan.budget(batch.ratio, size))
                for batch in batches
            ]
        indices = [self._indices(batch) for batch in batches]
        budgets = [self._budget(batch, len(own)) for batch, own in zip(batches, indices, strict=True)]
        return self._scorer.score(batches, indices, budgets)

    def __call__(self, start: int, stop: int) -> list[Candidates]:
        """Steps ``start`` … ``stop − 1`` of this rank."""
        return self.prepare([self._plan.at_step(self._epoch, step) for step in range(start, stop)])

    def _indices(self, batch: Batch) -> NDArray[np.int64]:
        orders = self._orders
        if batch.order_pass not in orders:
            for old in [number for number in orders if number]:
                del orders[old]
            orders[batch.order_pass] = self._order.further(orders[0], self._epoch, batch.order_pass)
        order = orders[batch.order_pass]
        indices = np.take(order, range(batch.start, batch.start + batch.size), mode="wrap")
        distinct, first = np.unique(indices, return_index=True)
        # A caller's sampler may offer one sample twice; the first place counts, and a batch holds it once.
        return indices if len(distinct) == len(indices) else indices[np.sort(first)]

    def _budget(self, batch: Batch, distinct: int) -> int:
        if batch.budget <= distinct:
            return batch.budget
        if self._plan.batch_size is not None:
            raise argument_error(
                "sampler", f"one that offers at least {batch.budget} distinct samples among {batch.size}",
                distinct, 'Use emit="shrink" with it.',
            )  # fmt: skip
        multiple = self._plan.multiple_of
        return distinct // multiple * multiple or distinct

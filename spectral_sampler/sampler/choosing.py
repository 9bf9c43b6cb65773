"""From a scored candidate batch to a choice within its budget, when the batch is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.selection import KINDS, CandidateBatch, Choice
from spectral_sampler.selection.online import candidate_batch

if TYPE_CHECKING:
    from spectral_sampler.sampler.learner import Learner
    from spectral_sampler.sampler.observed import ObservedLosses
    from spectral_sampler.sampler.scoring import Candidates
    from spectral_sampler.selection import Selection
    from spectral_sampler.store import ReferenceStore

__all__ = ["choose"]


def choose(
    selection: Selection,
    store: ReferenceStore,
    observed: ObservedLosses,
    learner: Learner | None,
    candidates: Candidates,
    place: dict[str, Any],
) -> tuple[Choice, CandidateBatch | None]:
    """The selection's choice and what it was offered; all candidates, as offered, where the budget asks for no choice
    and the selection has nothing to say of them. ``place`` is seed, epoch, number of the batch, turn and progress."""
    _, indices, budget, score = candidates
    if budget == len(indices) and not selection.judges_all:
        return Choice(np.arange(budget), np.full(budget, KINDS.index("uniform"), dtype=np.int8)), None
    if learner is not None:
        offered = candidate_batch(selection, store, indices, learner(indices.tolist()), **place)
        if score is not None:
            offered = offered._replace(scores=score.values, error=score.error)
        return _checked(selection, selection.select(offered, budget), budget), offered
    needs = selection.needs
    offered = CandidateBatch(
        indices,
        scores=None if score is None else score.values,
        error=0.0 if score is None else score.error,
        losses=store.losses[indices].astype(np.float64) if "losses" in needs and store.losses is not None else None,
        labels=store.labels[indices] if "labels" in needs and store.labels is not None else None,
        learner_losses=observed.of(indices) if "learner_losses" in needs else None,
        **place,
    )
    return _checked(selection, selection.select(offered, budget), budget), offered


def _checked(selection: Selection, choice: Choice, budget: int) -> Choice:
    if not len(choice.positions) == len(set(choice.positions.tolist())) == budget:
        raise RuntimeError(f"{selection!r} was to select {budget} distinct candidates and did not")
    return choice

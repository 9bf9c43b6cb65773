"""From a scored candidate batch to a choice within its budget, when the batch is due. Pure: looking is choosing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.sampler.located import Located
from spectral_sampler.selection import KINDS, CandidateBatch, Choice
from spectral_sampler.selection.offered import chosen, offered

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral_sampler.sampler.learner import Learner
    from spectral_sampler.sampler.scoring import Candidates
    from spectral_sampler.selection import Selection
    from spectral_sampler.store import ReferenceStore

__all__ = ["Decision", "View", "choose"]


class View(NamedTuple):
    """What is known at this moment, beside the store."""

    losses: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    """The observed losses of samples."""
    learner: Learner | None
    place: dict[str, Any]
    """seed, epoch, number of the batch, turn and progress."""


class Decision(NamedTuple):
    """A choice, what the selection was offered for it (None where it was not asked), and what forwarding cost."""

    choice: Choice
    offered: CandidateBatch | None
    forwarded: int = 0
    seconds: float = 0.0


def choose(selection: Selection, store: ReferenceStore, candidates: Candidates, view: View) -> Decision:
    """The selection's choice; all candidates, as offered, where the budget asks for no choice and the selection has
    nothing to say of them."""
    with Located(view.place["epoch"], [candidates.slot.number], [candidates.indices]):
        return _chosen(selection, store, candidates, view)


def _chosen(selection: Selection, store: ReferenceStore, candidates: Candidates, view: View) -> Decision:
    slot, indices, again, score = candidates
    if slot.budget == len(indices) and not selection.judges_all:
        return Decision(Choice(np.arange(slot.budget), np.full(slot.budget, KINDS.index("uniform"), np.int8)), None)
    given: dict[str, Any] = {}
    forwarded, seconds, ignore_index = 0, 0.0, None
    if view.learner is not None:
        outputs = view.learner(indices.tolist())
        given, forwarded, seconds = outputs.given, len(indices), outputs.seconds
        ignore_index = view.learner.ignore_index
    elif "learner_losses" in selection.needs:
        given["learner_losses"] = view.losses(indices)
    batch = offered(selection, store, indices, given, score, ignore_index, again=again, **view.place)
    return Decision(chosen(selection, batch, slot.budget), batch, forwarded, seconds)

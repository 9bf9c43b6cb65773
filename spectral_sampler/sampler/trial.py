"""What a selection would choose if it were let: a virtual pass, which moves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.sampler.choosing import choose
from spectral_sampler.sampler.scoring import Epoch
from spectral_sampler.selection.needs import FORWARDED
from spectral_sampler.selection.protocol import Selection, leaves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.sampler.run import Run
    from spectral_sampler.sampler.scoring import Scorer

__all__ = ["knows_all", "would_choose"]

_ENOUGH = 512  # samples


def knows_all(selection: Selection) -> bool:
    """Does it choose by the store alone, so that a virtual pass is what a real one would be? One that listens to the
    learner, or learns in `trained`, chooses otherwise while it is not trained with."""
    asks = selection.needs & (FORWARDED | {"learner_losses"})
    own = [getattr(leaf.trained, "__func__", None) is Selection.trained for leaf in leaves(selection)]
    return not asks and all(own)


def would_choose(
    run: Run, selection: Selection, scorer: Scorer, epoch: int, *, number: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(n,) rows, n ≥ 512 where the epoch has as many, and weights of what ``selection`` would choose on all ranks in
    ``epoch`` by what is known at this moment. Trial ``number`` begins where the one before it ended. Pure."""
    plan, proposal = run.plan, run.proposed_by(selection, epoch) if selection.proposes else None
    count = min(plan.batches, -(-_ENOUGH // plan.slot(epoch, 0).budget))
    slots = [plan.slot(epoch, (number * count + step) % plan.batches) for step in range(count)]
    rows, weights = [], []
    for candidates in Epoch(plan, run.order, scorer, epoch, proposal).prepare(slots):
        slot = run.due(epoch, candidates.slot, len(candidates.indices))
        decision = choose(selection, run.store, candidates._replace(slot=slot), run.view(epoch, slot))
        chosen, factors = decision.choice.positions, decision.choice.weights
        rows.append(candidates.indices[chosen])
        weights.append(np.ones(len(chosen)) if factors is None else factors)
        if proposal is not None and proposal.weights is not None:
            weights[-1] = weights[-1] * proposal.weights[slot.number][chosen]
    return np.concatenate(rows), np.concatenate(weights)

"""Equal FLOPs: how many steps a policy gets for what uniform selection spends."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler.experiment.budgets import budgets, even_sizes
from spectral_sampler.experiment.policy import candidates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.policy import Policy
    from spectral_sampler.experiment.reference_cost import ReferenceCost
    from spectral_sampler.experiment.settings import Settings

__all__ = ["Allotment", "allot", "overspent"]


class Allotment(NamedTuple):
    """The length of one training, and what of the FLOPs is gone before it."""

    steps: int
    epochs: int
    """Horizon of the keep-ratio schedule: the fewest epochs that hold ``steps``."""
    reference: float
    """FLOPs that the reference, and what was decided before, is charged with."""
    total: float | None = None
    """FLOPs of the reference and the training together; None at equal samples."""
    largest: float = 0.0
    """FLOPs of the dearest step."""
    not_compared: str = ""
    """Why there is no training."""

    def record(self) -> dict[str, float]:
        """For the JSON."""
        return {"reference_flops": self.reference, **({} if self.total is None else {"equal_flops": self.total})}


def allot(
    policy: Policy, settings: Settings, rows: int, learner: tuple[float, float], cost: ReferenceCost,
    deciding: float = 0.0,
) -> Allotment:  # fmt: skip
    """The length of a training of ``policy`` on ``rows`` rows.

    At equal FLOPs as many steps as come closest to what uniform spends, ``C = f_b Σ n_t`` over all its steps: the
    reference and the first s steps, ``reference + Σ_{t ≤ s} (f_b n_t + f N [looks])``, are within half a step of C.
    A policy that gets fewer steps goes through the whole keep-ratio schedule (to within an epoch) and the whole
    learning-rate schedule in them, as ordinary training at equal compute does. What is judged as it is takes no step.

    Args:
        learner: f and f_b, FLOPs of the learner's forward, and forward with backward, of one sample.
        cost: of the reference, of which the policy pays what it reads, divided by the trainings that share it.
        deciding: FLOPs for saying which policy, such as a pilot's, shared by as many trainings.
    """
    forward, training = learner
    reference = (cost.charged(policy) + deciding) / settings.runs_per_reference
    if settings.equal == "samples":
        return Allotment(policy.steps(settings, rows), settings.epochs, reference)
    looking = forward * settings.candidate_batch_size if policy.looks else 0.0

    def costs(epochs: int) -> NDArray[np.float64]:
        sizes = _sizes(policy, dataclasses.replace(settings, epochs=epochs), rows)
        return training * sizes.astype(np.float64) + looking

    total = training * float(budgets(settings, rows).sum())
    left, found, epochs = total - reference, costs(settings.epochs), settings.epochs
    if left < (0.0 if policy.finished else found.min()):
        before = "reference and its pilot take" if deciding else "reference alone takes"
        spent = f"its {before} {reference / 1e9:,.3g} of {total / 1e9:,.3g} GFLOP"
        return Allotment(0, epochs, reference, total, float(found.max()), spent)
    if policy.finished:
        return Allotment(0, epochs, reference, total)
    epochs = max(1, math.ceil(left / (found.sum() / epochs) - 1e-9))
    while (found := costs(epochs)).sum() + found[-1] / 2 < left:
        epochs += 1  # a short horizon may keep a little less
    steps = 1 + int(np.argmin(np.abs(np.cumsum(found) - left)))
    return Allotment(steps, epochs, reference, total, float(found.max()))


def _sizes(policy: Policy, settings: Settings, rows: int) -> NDArray[np.int64]:
    """Samples trained on at every step of the whole training, (epochs · batches,): the candidates, those kept of them,
    or as many as evenly as can be."""
    kept = budgets(settings, rows)
    if policy.batches is not candidates:
        return even_sizes(int(kept.sum()), len(kept))
    return kept if policy.selection else np.full(len(kept), settings.candidate_batch_size)


def overspent(allotted: Allotment, training: float) -> str:
    """Why a training that spent ``training`` FLOPs beside its reference cannot be compared; empty where it is within
    one step of the others.

    Steps are allotted beforehand. A selection that offers fewer samples than it was asked for, as InfoBatch does, comes
    out elsewhere.
    """
    spent = allotted.reference + training
    if allotted.total is None or not allotted.steps or abs(spent - allotted.total) <= allotted.largest:
        return ""
    return f"its steps came out at {spent / 1e9:,.3g} GFLOP instead of {allotted.total / 1e9:,.3g}"

"""What a policy is: which training rows, in which batches, by which selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.class_balanced import ClassBalancedSampler
from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.budgets import budgets, candidate_batches
from spectral_sampler.experiment.shuffles import Passes
from spectral_sampler.experiment.zero_shot import with_zero_shot
from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.selection import BayesianSelection, Uniform
from spectral_sampler.selection.needs import forwards_candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from spectral_sampler.experiment.corruption import Corrupted
    from spectral_sampler.experiment.reference import Reference
    from spectral_sampler.experiment.samples import Samples, Task
    from spectral_sampler.experiment.settings import Settings
    from spectral_sampler.selection import Selection

__all__ = ["Decision", "Finished", "Material", "Policy", "candidates", "every_step"]


class Material(NamedTuple):
    """What is there before a training."""

    settings: Settings
    seed: int
    task: Task
    corrupted: Corrupted
    """What was done to the training rows on purpose. Nobody but an oracle looks at ``wrong``."""
    train: Samples
    """The M training rows with the labels that the learner sees."""
    reference: Reference
    """Of these rows, in their order; of the first M, where a policy has added some."""
    network: nn.Module
    """The learner, untrained."""
    cache: Path | None = None

    @property
    def budgets(self) -> NDArray[np.int64]:
        """(steps,) samples of every step of a curated policy; a control takes as many in as many steps."""
        return budgets(self.settings, len(self.reference.store))


class Decision(NamedTuple):
    """Which policy is to be trained, and what it took to say so."""

    policy: str
    """A name; not of a policy that decides again."""
    flops: float = 0.0
    """Charged beside the reference."""
    seconds: float = 0.0
    record: Mapping[str, Any] = {}
    """For the result: plain values."""


class Finished(NamedTuple):
    """A predictor that needs no training steps, with the inputs that it reads."""

    network: nn.Module
    train: Samples
    test: Samples
    record: dict[str, Any]
    """For the result: plain values."""


def every_step(settings: Settings, rows: int) -> int:
    """A step for every candidate batch."""
    return settings.epochs * candidate_batches(settings, rows)


def candidates(
    policy: Policy, material: Material, rows: NDArray[np.int64], *, reshuffle: bool | None = None, look: bool = True
) -> SpectralBatchSampler:
    """The batch sampler that offers candidate batches of ``rows`` (n,) to the policy's selection.

    Args:
        reshuffle: None for the settings'.
        look: a selection that looks at the candidates through the learner may do so.
    """
    settings, reference = material.settings, material.reference
    selection = policy.selection() if policy.selection else Uniform()
    if isinstance(selection, BayesianSelection) and not reference.logits.shape[1]:
        rule, remedy = "one that predicts classes, for the Bayesian selection", "held-out does, and minilm for texts."
        raise argument_error("reference", rule, settings.reference, remedy)
    selection = with_zero_shot(selection, reference.logits)
    forwarded: dict[str, Any] = {}
    if look and policy.looks:
        forwarded = {"learner": material.network, "dataset": material.train.plain()}
    if policy.oversampled:
        forwarded["sampler"] = ClassBalancedSampler(material.train.labels, rows, seed=material.seed)
    elif len(rows) < len(material.train):
        forwarded["sampler"] = Passes(rows, len(material.train), material.seed)
    return SpectralBatchSampler(
        reference.store,
        candidate_batch_size=settings.candidate_batch_size,
        epochs=settings.epochs,
        keep_ratio=settings.ratio() if policy.selection else 1.0,
        selection=selection,
        seed=material.seed,
        reshuffle=settings.reshuffle if reshuffle is None else reshuffle,
        backend=settings.backend,
        **forwarded,
    )


@dataclass(frozen=True)
class Policy:
    """One way to train the learner; by default on whole candidate batches of all rows.

    A policy of one's own is `register`ed under a name. Results are found again by that name and the selection's
    arguments: whatever else changes what it does deserves another name.
    """

    selection: Callable[[], Selection] | None = None
    """Makes the selection; None takes candidate batches whole."""
    left_out: Callable[[Material], NDArray[np.bool_]] | None = None
    """(M,) the training rows to leave out beforehand. Of the others more passes are made, so that there are as many
    steps and samples as with all of them."""
    batches: Callable[[Policy, Material, NDArray[np.int64]], Any] = candidates
    """The batch sampler over the rows (n,) that are left, ascending; `learner.fit` says what it asks of one."""
    steps: Callable[[Settings, int], int] = every_step
    """Training steps, from the settings and M."""
    extended: Callable[[Material], Material] | None = None
    """Adds rows to train on, behind the M, at as many steps and samples; none that a candidate batch has."""
    finished: Callable[[Material], Finished] | None = None
    """A predictor that is judged as it is, in place of the learner: nothing is trained step by step."""
    prepare: Callable[[Material], object] | None = None
    """Fills the cache with what several policies of a seed share, before any of them trains."""
    decides: Callable[[Material], Decision] | None = None
    """Looks at the material and names the policy that is trained in place of this one."""
    fresh: bool = False
    """The selection asks the learner for its losses of all candidates instead of going by the last observed ones."""
    oversampled: bool = False
    """Candidates are offered with every class equally often (`ClassBalancedSampler`)."""

    reads: frozenset[str] | None = None
    """What ``left_out`` or ``finished`` reads of the reference ("features", "losses"), which is charged for; None for
    the features, where there is either."""

    def __post_init__(self) -> None:
        if self.extended is not None and (self.left_out is not None or self.batches is candidates):
            rule, remedy = "None with left_out, and with candidate batches", "Both know the M training rows alone."
            raise argument_error("extended", rule, self.extended, remedy)

    @property
    def looks(self) -> bool:
        """Whether the learner looks at all candidates before each step."""
        return self.fresh or (self.selection is not None and forwards_candidates(self.selection()))

    def rows(self, material: Material) -> NDArray[np.int64]:
        """(n,) the training rows that are not left out, ascending.

        Raises:
            ArgumentError: none is left.
        """
        if self.left_out is None:
            return np.arange(len(material.train))
        rows = np.flatnonzero(~self.left_out(material))
        if not len(rows):
            raise argument_error("left_out", "false for a training row", "true for all of them", "Leave fewer out.")
        return rows

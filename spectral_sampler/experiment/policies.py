"""The policies that can be compared, by name: two that take every candidate, and the selections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.zero_shot import PLACEHOLDER
from spectral_sampler.selection import (
    EL2N,
    GSTDS,
    JEST,
    SALN,
    UDS,
    BayesianSelection,
    Chain,
    DivBS,
    Forgetting,
    GradientNorm,
    Herding,
    InfoBatch,
    KCentre,
    Leverage,
    LossWeighted,
    Mix,
    PlausibleEven,
    PlausibleLearnable,
    RHOLoss,
    SensitivitySampling,
    SeTa,
    SpectralStrata,
    Uniform,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spectral_sampler.selection import Selection

__all__ = [
    "BALANCED",
    "CONTROLS",
    "DEFAULT",
    "FRESH",
    "FULL",
    "FULL_EQUAL_COMPUTE",
    "POLICIES",
    "chosen_policies",
    "register",
]

FULL = "full"
"""Every candidate batch, whole."""
FULL_EQUAL_COMPUTE = "full-equal-compute"
"""Whole candidate batches until as many samples were seen as the curated policies see, learning-rate schedule shortened
to match: what the same compute buys without any selection."""

CONTROLS = (FULL, FULL_EQUAL_COMPUTE, Uniform.name, LossWeighted.name)
"""Always compared: without them a difference cannot be put down to the selection."""

BALANCED = {name: f"{name}-balanced" for name in (PlausibleEven.name, PlausibleLearnable.name)}
"""Our selections, and the same with every class shown equally often."""

POLICIES: dict[str, Callable[[], Selection]] = {
    Uniform.name: Uniform,
    LossWeighted.name: LossWeighted,
    SALN.name: SALN,
    GSTDS.name: GSTDS,
    "saln-negated": lambda: SALN(score="negated"),
    "gstds-negated": lambda: GSTDS(score="negated"),
    "gstds-abs": lambda: GSTDS(score="abs"),
    "gstds-boundary": lambda: GSTDS(score="boundary"),
    "gstds-abs-fiedler": lambda: GSTDS(weights="abs_fiedler"),
    "gstds-high-loss": lambda: GSTDS(weights="loss"),
    "saln-clamped": lambda: SALN(similarity="clamped"),
    "saln-rbf": lambda: SALN(similarity="rbf"),
    "gstds-clamped": lambda: GSTDS(similarity="clamped"),
    "gstds-rbf": lambda: GSTDS(similarity="rbf"),
    "saln-euclidean": lambda: SALN(similarity="euclidean"),
    "saln-knn": lambda: SALN(similarity="knn"),
    "saln-normalised": lambda: SALN(similarity="clamped", laplacian="normalised"),
    "gstds-euclidean": lambda: GSTDS(similarity="euclidean"),
    "gstds-knn": lambda: GSTDS(similarity="knn"),
    "gstds-normalised": lambda: GSTDS(similarity="clamped", laplacian="normalised"),
    SpectralStrata.name: SpectralStrata,
    RHOLoss.name: RHOLoss,
    "rho-loss-boltzmann": lambda: RHOLoss(temperature=1.0),
    JEST.name: JEST,
    "jest-joint": lambda: JEST(joint=True),
    BayesianSelection.name: lambda: BayesianSelection(PLACEHOLDER),
    SensitivitySampling.name: SensitivitySampling,
    "sensitivity-learner": lambda: SensitivitySampling(losses="learner"),
    InfoBatch.name: InfoBatch,
    GradientNorm.name: GradientNorm,
    DivBS.name: DivBS,
    SeTa.name: SeTa,
    UDS.name: UDS,
    EL2N.name: EL2N,
    "el2n-offset": lambda: EL2N(offset=0.1),
    Forgetting.name: Forgetting,
    KCentre.name: KCentre,
    Herding.name: Herding,
    Leverage.name: Leverage,
    "leverage-top": lambda: Leverage(deterministic=True),
    PlausibleEven.name: lambda: PlausibleEven(balance=0.0),
    PlausibleLearnable.name: lambda: PlausibleLearnable(balance=0.0),
    "plausible-learnable-fresh": lambda: PlausibleLearnable(balance=0.0),
    BALANCED[PlausibleEven.name]: lambda: PlausibleEven(balance=1.0),
    BALANCED[PlausibleLearnable.name]: lambda: PlausibleLearnable(balance=1.0),
    "plausible-even-uncut": lambda: PlausibleEven(balance=0.0, label_noise=0.0),
    "mix-plausible-even-rho-loss": lambda: Mix(PlausibleEven(balance=0.0), RHOLoss(), share=0.5),
    "chain-saln-uniform": lambda: Chain(SALN(), Uniform(), share=0.7),
}
"""A selection by name. `register` adds to it. Those that need the learner's view of the candidates get it through
``learner=``, those that need its losses through ``observe``, except `FRESH`."""

FRESH = frozenset({"plausible-learnable-fresh"})
"""Those that ask the learner for its losses of all candidates instead of going by the last observed ones."""

DEFAULT = (*CONTROLS, SALN.name, GSTDS.name, PlausibleEven.name, PlausibleLearnable.name)
"""What is compared when nothing is listed."""


def register(name: str, factory: Callable[[], Selection]) -> None:
    """Makes a selection available to ``--policies`` under ``name``.

    Worker processes import the package anew, so a name registered in a script is known to them only if the module that
    registers it is imported there too (``spectral-sampler compare --plugin MODULE``).
    """
    if name in {FULL, FULL_EQUAL_COMPUTE} or POLICIES.get(name, factory) is not factory:
        raise argument_error("name", "new", repr(name), "That policy exists already.")
    POLICIES[name] = factory


def chosen_policies(names: Iterable[str]) -> tuple[str, ...]:
    """The controls, then ``names`` in their order, each once.

    Raises:
        ArgumentError: a name that is neither a control nor registered.
    """
    order = dict.fromkeys((*CONTROLS, *names))
    for name in order:
        if name not in CONTROLS and name not in POLICIES:
            known = ", ".join(sorted({*CONTROLS, *POLICIES}))
            raise argument_error("policies", f"names out of {known}", repr(name), "Separate them by commas.")
    return tuple(order)

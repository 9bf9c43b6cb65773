"""The policies that can be compared, by name: the selections, and the controls that they have to beat."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.auto import piloted
from spectral_sampler.experiment.budgets import budgets
from spectral_sampler.experiment.controls import (
    balanced,
    confidently_wrong,
    linear_probe,
    out_of_sample,
    small,
    suspected,
    truly_wrong,
    with_held_out,
)
from spectral_sampler.experiment.policy import Policy
from spectral_sampler.experiment.ready import is_ready
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

    from spectral_sampler.experiment.settings import Settings
    from spectral_sampler.selection import Selection

__all__ = [
    "ALL_LABELLED",
    "AUTO",
    "BALANCED",
    "CEILINGS",
    "CONTROLS",
    "DEFAULT",
    "FRESH",
    "FULL",
    "FULL_EQUAL_COMPUTE",
    "POLICIES",
    "PROBE",
    "SELECT_NOTHING",
    "chosen_policies",
    "controls_for",
    "policy_named",
    "register",
]

_LOG = logging.getLogger("spectral_sampler.experiment")

FULL = "full"
"""Every candidate batch, whole."""
FULL_EQUAL_COMPUTE = "full-equal-compute"
"""Whole candidate batches until as many samples were seen as the curated policies see, learning-rate schedule shortened
to match: what the same compute buys without any selection."""

PROBE = "probe"
"""A linear probe on the reference's features alone, judged on the test rows: what a learner has to be worth."""

AUTO = "auto"
"""The selection that a pilot of each seed recommends, or `small` where it says no."""

CONTROLS = (
    FULL, FULL_EQUAL_COMPUTE, Uniform.name, "small", "balanced", "clean-once", "clean-once-balanced",
    "confident-learning", "confident-learning-balanced", PROBE,
)  # fmt: skip
"""Always compared: without them a difference cannot be put down to the selection. The probe only where the reference
has features of the test rows (`controls_for`)."""

CEILINGS = ("oracle", "oracle-balanced")
"""`small` and `balanced` without the rows whose labels were made wrong; compared where some were."""

ALL_LABELLED = "all-labelled"
"""`small` on the training rows and the held-out ones, on which else the reference alone is trained: what their labels
are worth without it. It has more rows than a control, and other shares of the classes."""

SELECT_NOTHING = frozenset({*CONTROLS, *CEILINGS, ALL_LABELLED})
"""Those that are compared beside the selections."""

BALANCED = {name: f"{name}-balanced" for name in (PlausibleEven.name, PlausibleLearnable.name)}
"""Our selections, and the same with `balance=1`."""

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
    "plausible-even-unbalanced": lambda: PlausibleEven(balance=0.0),  # as the committed study names it
    "plausible-even-uncut": lambda: PlausibleEven(balance=0.0, label_noise=0.0),
    "mix-plausible-even-rho-loss": lambda: Mix(PlausibleEven(balance=0.0), RHOLoss(), share=0.5),
    "chain-saln-uniform": lambda: Chain(SALN(), Uniform(), share=0.7),
}
"""A selection by name. `register` adds to it. Those that need the learner's view of the candidates get it through
``learner=``, those that need its losses through ``observe``, except `FRESH`."""

FRESH = frozenset({"plausible-learnable-fresh"})
"""Those that ask the learner for its losses of all candidates instead of going by the last observed ones."""

DEFAULT = (SALN.name, GSTDS.name, PlausibleEven.name, PlausibleLearnable.name)
"""What is compared, beside the controls, when nothing is listed."""


def _equal_compute(settings: Settings, rows: int) -> int:
    return max(1, round(int(budgets(settings, rows).sum()) / settings.candidate_batch_size))


_NAMED: dict[str, Policy] = {
    FULL: Policy(),
    FULL_EQUAL_COMPUTE: Policy(steps=_equal_compute),
    "small": Policy(batches=small),
    "balanced": Policy(batches=balanced),
    "clean-once": Policy(left_out=suspected, batches=small),
    "clean-once-balanced": Policy(left_out=suspected, batches=balanced),
    "confident-learning": Policy(left_out=confidently_wrong, batches=small, prepare=out_of_sample),
    "confident-learning-balanced": Policy(left_out=confidently_wrong, batches=balanced, prepare=out_of_sample),
    "oracle": Policy(left_out=truly_wrong, batches=small, reads=frozenset()),
    "oracle-balanced": Policy(left_out=truly_wrong, batches=balanced, reads=frozenset()),
    "plausible-learnable-oversampled": Policy(
        lambda: PlausibleLearnable(balance=0.0), left_out=suspected, oversampled=True
    ),
    ALL_LABELLED: Policy(extended=with_held_out, batches=small),
    AUTO: Policy(decides=piloted),
    PROBE: Policy(finished=linear_probe, steps=lambda _settings, _rows: 0, prepare=out_of_sample),
}
"""The policies that are more, or less, than a selection over candidate batches."""


def register(name: str, policy: Callable[[], Selection] | Policy) -> None:
    """Makes a policy available to ``--policies`` under ``name``: what makes a selection, or a `Policy`.

    Worker processes import the package anew, so a name registered in a script is known to them only if the module that
    registers it is imported there too (``spectral-sampler compare --plugin MODULE``).

    Raises:
        ArgumentError: a name that something else has.
    """
    known = _NAMED.get(name) or POLICIES.get(name)
    if known is not None and known is not policy:
        raise argument_error("name", "new", repr(name), "That policy exists already.")
    if isinstance(policy, Policy):
        _NAMED[name] = policy
    else:
        POLICIES[name] = policy


def policy_named(name: str) -> Policy:
    """What ``name`` stands for.

    Raises:
        ArgumentError: nothing is registered under it.
    """
    if name in _NAMED:
        return _NAMED[name]
    if name not in POLICIES:
        known = ", ".join(sorted({*_NAMED, *POLICIES}))
        raise argument_error("policies", f"names out of {known}", repr(name), "Separate them by commas.")
    return Policy(POLICIES[name], fresh=name in FRESH)


def controls_for(settings: Settings) -> tuple[str, ...]:
    """`CONTROLS`, and `CEILINGS` where labels are made wrong; without the probe, and a line in the log that says so,
    where the reference has no features of the test rows."""
    noisy = any(value > 0 for name, value in settings.corruption._asdict().items() if name.endswith("noise"))
    found = (*CONTROLS, *(CEILINGS if noisy else ()))
    if not is_ready(settings.reference):
        return found
    _LOG.warning("The probe is left out: the reference %s has no features of the test rows.", settings.reference)
    return tuple(name for name in found if name != PROBE)


def chosen_policies(names: Iterable[str], controls: Iterable[str] = CONTROLS) -> tuple[str, ...]:
    """The controls, then ``names`` in their order, each once.

    Raises:
        ArgumentError: a name that is neither a control nor registered.
    """
    order = tuple(dict.fromkeys((*controls, *names)))
    for name in order:
        policy_named(name)
    return order

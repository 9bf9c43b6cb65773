"""What a pilot concludes: a recommendation, a verdict, its reason, and advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.experiment.piloting.forecast import (
    SUSPECTED,
    UNEVEN,
    Forecast,
    against_full,
    against_uniform,
    differences,
    nothing_to_select_by,
)
from spectral_sampler.experiment.policies import BALANCED, FULL, POLICIES
from spectral_sampler.experiment.report import estimate
from spectral_sampler.selection import PlausibleEven, PlausibleLearnable, Uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectral_sampler.experiment.piloting.cost import Cost
    from spectral_sampler.experiment.settings import Settings

__all__ = ["SELECTIONS", "conclude", "selections"]

_ACCEPTABLE = 1.0
"""Points behind full training that a verdict of yes puts up with."""
_WORTHWHILE = 1.0
"""Points ahead, of uniform selection or of everything, below which it is not worth a reference."""
_LARGER = (0.5, 0.7)
"""Keep ratios to propose where the one asked for costs too much accuracy."""
_COPIED = 0.05
"""Share of copies worth a word."""
_EVERYTHING = "Train on everything"
SELECTIONS = (PlausibleEven.name, PlausibleLearnable.name)


def selections(facts: dict[str, Any]) -> tuple[str, str]:
    """`PlausibleEven` and `PlausibleLearnable`, with balance where uneven classes meet a test of even ones."""
    even, learnable = SELECTIONS
    return (BALANCED[even], BALANCED[learnable]) if facts["balance"] else (even, learnable)


def _recommended(records: Sequence[dict[str, Any]], facts: dict[str, Any], classes: int) -> str:
    """`PlausibleLearnable` unless `PlausibleEven`, which asks nothing of the loop, is clearly ahead of it."""
    tried = {run["policy"] for run in records}
    even, learnable = (name if name in tried else BALANCED[name] for name in SELECTIONS)
    found = estimate(differences(records, even, learnable, facts["label_noise"], classes).tolist())
    return even if found.clear_of_zero and found.mean > 0 else learnable


def _code(selection: str, facts: dict[str, Any]) -> str:
    policy = POLICIES[selection]()
    if isinstance(policy, PlausibleEven) and facts["imbalance"] >= UNEVEN:
        return f"{type(policy).__name__}(balance={policy.balance or 0:g})"
    return f"{type(policy).__name__}()"


def _ratio(settings: Settings, full: Forecast) -> float:
    """The smallest keep ratio at which the loss to full training is acceptable: it shrinks to nothing at 1."""
    asked = settings.keep_ratio
    for ratio in (asked, *(larger for larger in _LARGER if larger > asked)):
        if full.points * (1.0 - ratio) / max(1.0 - asked, 1e-9) >= -_ACCEPTABLE:
            return ratio
    return 1.0


def _verdict(uniform: Forecast, full: Forecast, saved: float, whole: float, facts: dict[str, Any]) -> tuple[str, str]:
    gain = f"{uniform.points:+.1f} points ({uniform.low:+.1f} to {uniform.high:+.1f}) over uniform selection"
    loss = f"{full.points:+.1f} ({full.low:+.1f} to {full.high:+.1f}) over training on everything"
    expected = f"expected are {gain} and {loss}"
    nothing = nothing_to_select_by(facts) and uniform.low <= 0.0 and uniform.points < _WORTHWHILE
    if nothing or uniform.high < _WORTHWHILE:
        why = "labels and classes give nothing to select by" if nothing else "it gains too little"
        return "no", f"Select at random or not at all: {why}; {expected}."
    if full.high < -_ACCEPTABLE:
        return "no", f"{_EVERYTHING}: at this keep ratio selection costs accuracy; {expected}."
    if saved <= 0.0 and full.points <= 0.0:
        return "no", f"{_EVERYTHING}: selection saves no time here, its reference included; {expected}."
    if uniform.low > 0.0 and full.points >= _WORTHWHILE and full.low >= -_ACCEPTABLE:
        time = "saves" if saved > 0.0 else "costs"
        return "yes", f"Selection pays, and {time} {abs(saved):,.0f} s of {whole:,.0f} s: {expected}."
    if uniform.low > 0.0 and saved > 0.0 and full.points >= -_ACCEPTABLE:
        return "yes", f"Selection pays, and saves {saved:,.0f} s of {whole:,.0f} s: {expected}."
    doubt = "whether it gains over uniform selection"
    if uniform.low > 0.0:
        doubt = "whether it gains over training on everything" if saved <= 0.0 else "what it costs against everything"
    return "undecided", f"Short trainings do not settle {doubt}: {expected}."


def _advice(settings: Settings, facts: dict[str, Any], verdict: str, cost: Cost, ratio: float) -> list[str]:
    noise, advice = facts["label_noise"], []
    if noise >= SUSPECTED:
        advice.append(
            f"Look at some of the {facts['suspected']:,} suspected labels first: overlapping classes look alike, and "
            "label_noise=0 trusts every label."
        )
        if settings.keep_max > 1.0 - noise:
            advice.append(
                f"Let the keep ratio rise to {1.0 - noise:.2f} at most, or multiply losses by "
                "sampler.weights_for(indices): beyond that suspects come back."
            )
    if not facts["features_informative"]:
        advice.append("The reference's features do not predict the labels: take another reference before you select.")
    if facts["imbalance"] >= UNEVEN:
        advice.append(
            "Classes are uneven, and in the test part they are not: most of the gain is that every class is shown "
            "equally often. If rare classes count less to you, take balance=0."
            if facts.get("balance")
            else "Classes are uneven, in the test part as well, and are left so: ClassBalancedSampler evens them out."
        )
    if facts["copies"] > _COPIED * facts["rows"]:
        advice.append(
            f"{facts['copies']:,} of {facts['rows']:,} rows copy another one: leaving them out saves time without any "
            "selection."
        )
    if ratio >= 1.0:
        advice.append("No keep ratio below 1 is expected to stay within a point of training on everything.")
    elif ratio > settings.keep_ratio:
        advice.append(f"What is expected at {ratio} is interpolated between {settings.keep_ratio} and 1, not measured.")
    if verdict == "undecided":
        whole = cost.seconds(1.0, 1.0)["against_total"]
        advice.append(f"`spectral-sampler compare` settles it: full training takes about {whole:,.1f} s a seed here.")
    return advice


def _entries(settings: Settings, forecasts: dict[str, Forecast], cost: Cost, ratio: float) -> list[dict[str, Any]]:
    asked = settings.keep_ratio
    rest = (1.0 - ratio) / max(1.0 - asked, 1e-9) if ratio != asked else 1.0
    return [
        {"against": against, "keep_ratio": ratio,
         **{name: round(value, 3) for name, value in forecast.scaled(rest)._asdict().items()},
         "seconds": cost.seconds(ratio, 1.0 if against == FULL else ratio)}
        for against, forecast in forecasts.items()
    ]  # fmt: skip


def conclude(
    settings: Settings, facts: dict[str, Any], records: Sequence[dict[str, Any]], cost: Cost
) -> dict[str, Any]:
    """Verdict, reason, proposal, expectations and advice from the facts and the short trainings."""
    classes = int(facts["classes"])
    selection = _recommended(records, facts, classes)
    shorts = {
        name: differences(records, selection, name, facts["label_noise"], classes) for name in (Uniform.name, FULL)
    }
    forecasts = {
        Uniform.name: against_uniform(shorts[Uniform.name], facts),
        FULL: against_full(shorts[FULL], facts),
    }
    asked = settings.keep_ratio
    seconds = cost.seconds(asked, 1.0)
    verdict, reason = _verdict(
        forecasts[Uniform.name], forecasts[FULL], seconds["against_total"] - seconds["total"], seconds["against_total"],
        facts,
    )  # fmt: skip
    everything = reason.startswith(_EVERYTHING)
    ratio = 1.0 if everything else _ratio(settings, forecasts[FULL])
    expected = _entries(settings, forecasts, cost, asked)
    if ratio not in {asked, 1.0}:
        expected += _entries(settings, forecasts, cost, ratio)
    chosen = selection
    if ratio >= 1.0 or verdict == "no" or forecasts[Uniform.name].points <= 0.0:
        chosen = Uniform.name
    made = f"epochs={settings.epochs}, keep_ratio={ratio}, selection={_code(chosen, facts)}"
    code = f"loader = curate(loader, store, {made})" if ratio < 1.0 else "loader  # as it is: all of the data"
    return {
        "verdict": verdict, "reason": reason, "keep_ratio": asked,
        "proposed": {"selection": chosen, "recommended": selection, "keep_ratio": ratio, "code": code},
        "expected": expected, "advice": _advice(settings, facts, verdict, cost, 0.0 if everything else ratio),
    }  # fmt: skip

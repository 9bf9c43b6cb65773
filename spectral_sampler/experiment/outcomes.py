"""From finished trainings to numbers: means over seeds, intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.experiment.policies import CONTROLS, FULL, FULL_EQUAL_COMPUTE, PROBE, SELECT_NOTHING
from spectral_sampler.experiment.ready import is_ready
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BASELINE",
    "SECONDS",
    "STRONGEST",
    "WIDEST",
    "Estimate",
    "Row",
    "at_equal_flops",
    "by_policy",
    "decisions",
    "estimate",
    "leader",
    "margin",
    "not_compared",
    "pays",
    "rows",
    "selections",
    "standings",
    "strongest",
]

BASELINE = "uniform"
"""The control that isolates the selection: as many samples of the same candidates, chosen at random."""

STRONGEST = tuple(name for name in CONTROLS if name not in {FULL, FULL_EQUAL_COMPUTE, PROBE})
"""Controls that anybody can have without selecting in every batch: a selection has to beat the best of them."""

WIDEST = 0.25
"""Half-width from which an interval is not printed: on a scale from 0 to 100 % it says nothing but that seeds lack."""

SECONDS = ("selection", "data", "training")


class Estimate(NamedTuple):
    """A mean over seeds with the half-width of its 95 % t-interval, NaN for a single seed."""

    mean: float
    half_width: float

    @property
    def clear_of_zero(self) -> bool:
        """The interval does not contain zero."""
        return abs(self.mean) > self.half_width  # false for NaN

    @property
    def too_wide(self) -> bool:
        """There is no interval, or one so wide that it says nothing: too few seeds."""
        return not self.half_width <= WIDEST  # true for NaN

    def percent(self, *, signed: bool = False) -> str:
        """In per cent (or points), such as ``87.82 ± 0.05``, or ``87.82 ± –`` where the interval is `too_wide`."""
        mean = f"{100 * self.mean:+.2f}" if signed else f"{100 * self.mean:.2f}"
        return f"{mean} ± –" if self.too_wide else f"{mean} ± {100 * self.half_width:.2f}"


class Row(NamedTuple):
    """One line of the table: a policy over its seeds."""

    policy: str
    seeds: int
    accuracy: Estimate
    difference: Estimate | None
    """Accuracy minus uniform's with the same seed; None for uniform itself."""
    samples: float
    samples_ratio: float
    """To full training."""
    flops: float
    """Of the learner: forward and backward of its samples, and the forwards for looking at candidates; of a probe, of
    its fits."""
    seconds: dict[str, float]
    wrong_label_share: float
    balanced: Estimate | None = None
    """Accuracy as the mean over classes; None where a training has none."""
    margin: Estimate | None = None
    """Accuracy minus that of the strongest control with the same seed; None for that control itself."""
    looking: float = 0.0
    """FLOPs for looking, which are in ``flops``, too."""
    reference: float | None = None
    """FLOPs that the reference is charged with; None where they were not counted."""
    ready_made: bool = False
    """The reference was there before, and counts as 0."""
    alone: bool = False
    """Every training ran with no other beside it, so that its seconds say something."""
    equal_flops: float | None = None
    """What every policy of the comparison could spend; None at equal samples."""


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and ``t_{.975, K−1} · s / √K`` of K values, s with K − 1 in the denominator."""
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Estimate(mean, math.nan)
    quantile = float(optional("scipy.stats").t.ppf(0.975, count - 1))
    return Estimate(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count))


def by_policy(cells: Iterable[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Finished trainings by policy, then seed, seeds ascending; without those that `not_compared` tells of."""
    grouped: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for cell in sorted(cells, key=lambda cell: int(cell["seed"])):
        if not cell.get("not_compared"):
            grouped[cell["policy"]][int(cell["seed"])] = cell
    return dict(grouped)


def not_compared(cells: Iterable[dict[str, Any]]) -> list[str]:
    """A sentence for every policy that has no place in the table, with the reason at its first seed."""
    reasons: dict[str, dict[str, str]] = defaultdict(dict)
    for cell in cells:
        if cell.get("not_compared"):
            reasons[cell["policy"]][str(cell["seed"])] = cell["not_compared"]
    return [f"{policy} is left out (seed{'s' if len(found) > 1 else ''} {', '.join(found)}): "
            f"{next(iter(found.values()))}." for policy, found in reasons.items()]  # fmt: skip


def decisions(cells: Iterable[dict[str, Any]]) -> list[str]:
    """A sentence for every policy that named another one to be trained: which, and at which seeds."""
    told: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in sorted(cells, key=lambda cell: int(cell["seed"])):
        if "chosen" in cell:
            told[cell["policy"]][cell["chosen"]].append(str(cell["seed"]))
    return [f"{policy} trained " + ", ".join(f"{name} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})"
            for name, seeds in sorted(found.items())) + "." for policy, found in told.items()]  # fmt: skip


def _mean(cells: Iterable[dict[str, Any]], name: str) -> float:
    return float(np.mean([cell.get(name) or 0.0 for cell in cells]))


def _paired(runs: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> Estimate | None:
    """Of the difference in accuracy, over the seeds that both have."""
    paired = [run["test_accuracy"] - other[seed]["test_accuracy"] for seed, run in runs.items() if seed in other]
    return estimate(paired) if paired else None


def _strongest(accuracies: dict[str, float]) -> str | None:
    """The control with the highest mean; None without one."""
    return max((name for name in STRONGEST if name in accuracies), key=lambda name: accuracies[name], default=None)


def strongest(lines: Sequence[Row]) -> str | None:
    """The strongest of the controls in `STRONGEST` that were compared: the best by its mean over the seeds.

    Picked on the same seeds, it is stronger than the best on average would be: a difference to it is conservative for
    the policy.
    """
    return _strongest({line.policy: line.accuracy.mean for line in lines})


def _row(policy: str, grouped: dict[str, dict[int, dict[str, Any]]], control: str | None) -> Row:
    runs, full = list(grouped[policy].values()), grouped.get(FULL)
    samples, looking = _mean(runs, "samples"), _mean(runs, "looking_flops")
    balanced = [run.get("test_balanced_accuracy") for run in runs]
    return Row(
        policy,
        len(runs),
        estimate([run["test_accuracy"] for run in runs]),
        None if policy == BASELINE else _paired(grouped[policy], grouped.get(BASELINE, {})),
        samples,
        samples / _mean(full.values(), "samples") if full else math.nan,
        _mean(runs, "learner_flops") + looking + _mean(runs, "probe_flops"),
        {part: float(np.mean([run.get("seconds", {}).get(part, 0.0) for run in runs])) for part in SECONDS},
        _mean(runs, "wrong_label_share"),
        estimate([value for value in balanced if value is not None]) if None not in balanced else None,
        None if control in {None, policy} else _paired(grouped[policy], grouped[control or ""]),
        looking,
        _mean(runs, "reference_flops") if all("reference_flops" in run for run in runs) else None,
        any(is_ready(run.get("reference", {}).get("name", "")) for run in runs),
        all(run.get("clock", {}).get("jobs") == 1 for run in runs if run["samples"]),
        runs[0].get("equal_flops"),
    )


def rows(cells: Iterable[dict[str, Any]], policies: Sequence[str]) -> list[Row]:
    """The lines of the table in the order of ``policies``; differences over the seeds that both have."""
    grouped = by_policy(cells)
    present = [policy for policy in policies if policy in grouped]
    control = _strongest({policy: _mean(grouped[policy].values(), "test_accuracy") for policy in present})
    return [_row(policy, grouped, control) for policy in present]


def standings(lines: Sequence[Row]) -> list[dict[str, Any]]:
    """The table in plain values for JSON: shares of 1, FLOPs of one training, None for what is not known."""

    def pair(value: Estimate | None) -> dict[str, float | None] | None:
        half = None if value is None or math.isnan(value.half_width) else value.half_width
        return None if value is None else {"mean": value.mean, "half_width": half}

    control, alone = strongest(lines), all(line.alone for line in lines)
    return [
        {
            "policy": line.policy,
            "seeds": line.seeds,
            "accuracy": pair(line.accuracy),
            "balanced_accuracy": pair(line.balanced),
            "minus_uniform": pair(line.difference),
            "minus_strongest": pair(line.margin),
            "strongest": control,
            "samples": line.samples,
            "learner_flops": line.flops - line.looking,
            "looking_flops": line.looking,
            "reference_flops": line.reference,
            "seconds": line.seconds if alone else None,
            "wrong_label_share": line.wrong_label_share,
        }
        for line in lines
    ]


def selections(lines: Sequence[Row]) -> list[Row]:
    """The lines that a selection made, which have something to be compared with."""
    return [line for line in lines if line.policy not in SELECT_NOTHING and (line.margin or line.difference)]


def margin(line: Row) -> Estimate:
    """Its difference to the strongest control."""
    return line.margin or line.difference or Estimate(0.0, math.nan)


def leader(lines: Sequence[Row]) -> Row | None:
    """The selection furthest above the strongest control: of those clear of it where there are any; None without a
    selection."""
    compared = selections(lines)
    clear = [line for line in compared if margin(line).mean > 0 and margin(line).clear_of_zero]
    return max(clear or compared, key=lambda line: margin(line).mean, default=None)


def pays(lines: Sequence[Row]) -> bool:
    """A selection is above the strongest control with an interval clear of zero."""
    best = leader(lines)
    return best is not None and margin(best).mean > 0 and margin(best).clear_of_zero


def at_equal_flops(lines: Sequence[Row]) -> bool:
    """Whether every policy stopped at the same FLOPs, not the same number of samples."""
    return any(line.equal_flops is not None for line in lines)

"""From finished trainings to a table, a verdict in words, and a JSON file that can be read back."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.policies import CEILINGS, CONTROLS, FULL, FULL_EQUAL_COMPUTE
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "WIDEST",
    "Estimate",
    "Row",
    "by_policy",
    "check_writable",
    "estimate",
    "footnote",
    "headline",
    "leader",
    "pays",
    "read_json",
    "rows",
    "table",
    "verdict",
    "write_json",
    "write_text",
]

BASELINE = "uniform"
"""The control that isolates the selection: as many samples of the same candidates, chosen at random."""


WIDEST = 0.25
"""Half-width from which an interval is not printed: on a scale from 0 to 100 % it says nothing but that seeds lack."""


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
    seconds: dict[str, float]
    wrong_label_share: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and ``t_{.975, K−1} · s / √K`` of K values, s with K − 1 in the denominator."""
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Estimate(mean, math.nan)
    quantile = float(optional("scipy.stats").t.ppf(0.975, count - 1))
    return Estimate(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count))


def by_policy(cells: Iterable[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Finished trainings by policy, then seed, seeds ascending."""
    grouped: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for cell in sorted(cells, key=lambda cell: int(cell["seed"])):
        grouped[cell["policy"]][int(cell["seed"])] = cell
    return dict(grouped)


def _mean(cells: Iterable[dict[str, Any]], name: str) -> float:
    return float(np.mean([cell[name] for cell in cells]))


def rows(cells: Iterable[dict[str, Any]], policies: Sequence[str]) -> list[Row]:
    """The lines of the table in the order of ``policies``; differences over the seeds that both have."""
    grouped = by_policy(cells)
    baseline = grouped.get(BASELINE, {})
    full = _mean(grouped[FULL].values(), "samples") if FULL in grouped else math.nan
    lines = []
    for policy in policies:
        finished = grouped.get(policy)
        if not finished:
            continue
        runs = list(finished.values())
        paired = [
            run["test_accuracy"] - baseline[seed]["test_accuracy"] for seed, run in finished.items() if seed in baseline
        ]
        samples = _mean(runs, "samples")
        parts = ("selection", "data", "training")
        lines.append(
            Row(
                policy,
                len(runs),
                estimate([run["test_accuracy"] for run in runs]),
                estimate(paired) if paired and policy != BASELINE else None,
                samples,
                samples / full,
                _mean(runs, "learner_flops"),
                {part: float(np.mean([run["seconds"][part] for run in runs])) for part in parts},
                _mean(runs, "wrong_label_share"),
            )
        )
    return lines


def table(lines: Sequence[Row]) -> str:
    """The table as text. Seconds are a description of this run, not a benchmark."""
    noisy = any(line.wrong_label_share > 0 for line in lines)
    header = ["policy", "test accuracy %", "minus uniform", "samples", "of full", "GFLOP", "selection s", "data s",
              "training s"]  # fmt: skip
    body = []
    for line in lines:
        seconds = [f"{line.seconds[part]:.2f}" for part in ("selection", "data", "training")]
        body.append(
            [line.policy, line.accuracy.percent(), line.difference.percent(signed=True) if line.difference else "",
             f"{line.samples:,.0f}", f"{100 * line.samples_ratio:.1f} %", f"{line.flops / 1e9:,.2f}", *seconds]
        )  # fmt: skip
        if noisy:
            body[-1].append(f"{100 * line.wrong_label_share:.1f} %")
    if noisy:
        header.append("wrong labels")
    widths = [max(len(row[column]) for row in [header, *body]) for column in range(len(header))]
    text = ["  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in
                      enumerate(zip(row, widths, strict=True))) for row in [header, *body]]  # fmt: skip
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, footnote(lines)])


def footnote(lines: Sequence[Row]) -> str:
    """What the numbers of `table` are, and why an interval is missing where one is."""
    counts = sorted({line.seeds for line in lines})
    seeds = f"{'/'.join(map(str, counts))} seed{'' if counts == [1] else 's'}"
    text = f"Means over {seeds}, ± half of the 95 % t-interval; differences are paired by seed."
    estimates = [value for line in lines for value in (line.accuracy, line.difference) if value]
    if any(value.too_wide for value in estimates):
        text += f" ± –: too few seeds for an interval within ± {100 * WIDEST:.0f} points; more seeds narrow it."
    return text


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _selections(lines: Sequence[Row]) -> list[Row]:
    """The lines that a selection made at uniform's number of samples."""
    return [line for line in lines if line.difference is not None and line.policy not in {*CONTROLS, *CEILINGS}]


def leader(lines: Sequence[Row]) -> Row | None:
    """The selection furthest above uniform: of those clear of zero where there are any; None without a selection."""
    compared = _selections(lines)
    clear = [
        line for line in compared if line.difference and line.difference.mean > 0 and line.difference.clear_of_zero
    ]
    return max(clear or compared, key=lambda line: line.difference.mean if line.difference else 0.0, default=None)


def pays(lines: Sequence[Row]) -> bool:
    """A selection is above uniform with an interval clear of zero."""
    best = leader(lines)
    return (
        best is not None and best.difference is not None and best.difference.mean > 0 and best.difference.clear_of_zero
    )


def headline(lines: Sequence[Row]) -> str:
    """Two sentences: whether a selection beats as many samples at random, and what training on everything reaches."""
    best = leader(lines)
    if best is None or best.difference is None:
        return "Nothing was compared with uniform selection."
    points = f"{best.difference.percent(signed=True)} points"
    text = f"{best.policy} beats as many samples chosen at random here: {points}."
    if not pays(lines):
        text = f"No selection clearly beats as many samples chosen at random here (best: {best.policy}, {points})."
    full = next((line for line in lines if line.policy == FULL), None)
    if full is None:
        return text
    numbers = f"{100 * best.accuracy.mean:.1f} % with {100 * best.samples_ratio:.0f} % of the samples"
    return f"{text} It reaches {numbers}; all of them give {100 * full.accuracy.mean:.1f} %."


def verdict(lines: Sequence[Row]) -> str:
    """Who beats or loses to uniform selection with an interval clear of zero, in plain words."""
    compared = _selections(lines)
    sentences = []
    for word, sign in (("beat", 1), ("lose to", -1)):
        clear = [line for line in compared if line.difference and line.difference.clear_of_zero
                 and math.copysign(1, line.difference.mean) == sign]  # fmt: skip
        if clear:
            listed = _listed([f"{line.policy} ({line.difference.percent(signed=True)} points)" for line in clear
                              if line.difference])  # fmt: skip
            verb = word if len(clear) > 1 else {"beat": "beats", "lose to": "loses to"}[word]
            sentences.append(f"{listed} {verb} uniform selection at the same number of samples.")
        else:
            sentences.append(
                f"No policy {'beats' if sign > 0 else 'loses to'} uniform selection with an interval clear of zero."
            )
    unclear = [line.policy for line in compared if line.difference and not line.difference.clear_of_zero]
    if unclear:
        sentences.append(f"Not decided by these seeds: {_listed(unclear)}.")
    for policy, what in (
        (FULL, "Training on everything"),
        (FULL_EQUAL_COMPUTE, "Ordinary training stopped at equal compute"),
    ):
        difference = next((line.difference for line in lines if line.policy == policy), None)
        if difference:
            sentences.append(f"{what} differs from uniform by {difference.percent(signed=True)} points.")
    return "\n".join(sentences)


def check_writable(folder: Path, ours: str = "") -> None:
    """Makes ``folder``, and says before anything is computed that nothing can be written there.

    Args:
        folder: where a page is to lie, too.
        ours: what lies beside a page that may be replaced; any other page is somebody's.

    Raises:
        ArgumentError: with what the operating system says, or for somebody's page.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = f"{error.strerror or error}. Pass another one."
        raise argument_error("out", "a folder that can be written", folder, remedy) from error
    if ours and (folder / "index.html").exists() and not (folder / ours).exists():
        rule, value = "a folder without a page of something else", f"{folder} with index.html"
        raise argument_error("out", rule, value, "Pass another one, or move that page.")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` whole or not at all; refuses NaN and infinity, which JSON has not."""
    write_text(path, _readable(value) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all; lone surrogates, as file names may hold them, as ``\\udcff``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", dir=path.parent, prefix=".", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _readable(value: Any, indent: str = "") -> str:
    """JSON with a line for every entry, except that a list of plain values keeps to one line."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{deeper}{json.dumps(key)}: {_readable(part, deeper)}" for key, part in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(part, (list, dict)) for part in value):
        return "[\n" + ",\n".join(deeper + _readable(part, deeper) for part in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        ArgumentError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argument_error("path", "a readable JSON file", path, str(error)) from None

"""Committed results as Markdown, put between ``<!-- KIND: NAME -->`` and ``<!-- end -->`` of a document.

- ``standing: DATA,DATA`` how often each policy is ahead of the strongest control; ``DATA@POLICY,POLICY`` some of them,
- ``arena: DATA`` every policy under every condition against that control,
- ``beside: twins`` what some comparisons were asked besides,
- ``natural: DATA,DATA`` accuracy and balanced accuracy of data as they are found,
- ``results: NAME`` one comparison in full,
- ``ablation: NAME`` the comparisons that vary one thing,
- ``noise: FILE`` how well wrong labels are counted and found,
- ``pilot: record`` what the pilot foretold,
- ``guard: record`` what a guard saves and costs,
- ``reliability: RUN,RUN`` what was checked how often, and what failed, ``checked: RUN`` in a sentence,
- ``scale: measured`` what a row costs, ``scale: estimates`` a whole store, and ``scale: arithmetic`` many more rows.

A test holds the documents against the files.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import reliability, scale
from benchmarks.arena import ARENA, BESIDE, CONDITIONS, GRID
from benchmarks.study import ABLATIONS, STUDY
from spectral_sampler.experiment.outcomes import Estimate, Row, rows, strongest
from spectral_sampler.experiment.report import read_json

RESULTS = Path(__file__).parent / "results"
ACCURACY, BALANCED = "test_accuracy", "test_balanced_accuracy"


def _table(titles: list[str], body: list[list[str]]) -> str:
    lines = [titles, ["---"] + ["--:"] * (len(titles) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comparison(lines: list[Row]) -> str:
    """The table of one comparison; intervals are 95 % over seeds, differences paired by seed."""
    noisy = any(line.wrong_label_share > 0 for line in lines)
    titles = ["policy", "test accuracy, %", "minus uniform, points", "samples", "of full", "learner GFLOP"]
    body = []
    for line in lines:
        row = [
            line.policy,
            line.accuracy.percent(),
            line.difference.percent(signed=True) if line.difference else "",
            f"{line.samples:,.0f}",
            f"{100 * line.samples_ratio:.1f} %",
            f"{line.flops / 1e9:,.1f}",
        ]
        body.append([*row, *([f"{100 * line.wrong_label_share:.1f} %"] if noisy else [])])
    return _table([*titles, *(["wrong labels seen"] if noisy else [])], body)


def _lines(path: Path, measure: str = ACCURACY) -> dict[str, Row]:
    """Of one comparison, by policy, judged by ``measure``."""
    result = read_json(path)
    cells = [{**cell, ACCURACY: cell[measure]} for cell in result["cells"]]
    return {line.policy: line for line in rows(cells, result["policies"])}


def _emphasised(difference: Estimate) -> str:
    """In points, bold where its interval is clear of zero."""
    text = difference.percent(signed=True)
    return f"**{text}**" if difference.clear_of_zero else text


def _entry(line: Row | None) -> str:
    """Difference to uniform; uniform's own accuracy in per cent."""
    if line is None:
        return ""
    return _emphasised(line.difference) if line.difference else f"{line.accuracy.percent()} %"


def ablation(name: str) -> str:
    """The variants of a setting against the policies that are compared under it; the longer list gives the rows."""
    variants = {variant: _lines(STUDY / f"{name}-{variant}.json") for variant in ABLATIONS[name].variants}
    policies = ["full", "full-equal-compute", "uniform", *ABLATIONS[name].policies]
    entries = [[_entry(lines.get(policy)) for policy in policies] for lines in variants.values()]
    titles, starts = policies, list(variants)
    if len(policies) > 2 * len(variants):
        entries, titles, starts = [list(column) for column in zip(*entries, strict=True)], list(variants), policies
    return _table([name, *titles], [[start, *row] for start, row in zip(starts, entries, strict=True)])


def noise(name: str) -> str:
    """Estimated share of wrong labels, mean and range over seeds; where there are any, precision and recall."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in read_json(RESULTS / f"{name}.json")["rows"]:
        found.setdefault(row["data"], {}).setdefault(row["fault"], []).append(row)
    body, columns = [], list(dict.fromkeys(fault for faults in found.values() for fault in faults))
    for data, faults in found.items():
        entries = [f"{np.mean([row['probe_accuracy'] for row in faults['clean']]):.2f}"]
        for fault in columns:
            shares = [row["estimated"] for row in faults[fault]]
            text = f"{np.mean(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"
            if faults[fault][0]["true"] > 0:
                known = ([row[key] for row in faults[fault] if row[key] is not None] for key in ("precision", "recall"))
                text += "; " + ", ".join(f"{np.mean(values):.2f}" if values else "–" for values in known)
            entries.append(text)
        body.append([data, *entries])
    return _table(["data", "probe right, clean", *columns], body)


def _compared(names: dict[str, str], measure: str = BALANCED) -> dict[str, dict[str, Row]]:
    """By the title of a column, the lines of the comparison of the arena that it is of, by policy."""
    return {title: _lines(ARENA / f"{name}.json", measure) for title, name in names.items()}


def _conditions(data: str, measure: str = BALANCED) -> dict[str, dict[str, Row]]:
    """Every condition that one of the data sets was put under, by ``DATA CONDITION``."""
    names = {f"{name} {condition}": f"{name}-{condition}" for name in data.split(",")
             for condition in CONDITIONS if f"{name}-{condition}" in GRID}  # fmt: skip
    return _compared(names, measure)


def _margins(columns: dict[str, dict[str, Row]]) -> str:
    """Points of balanced accuracy against the control that is strongest by it, above; bold where clear of zero."""
    best = [strongest(list(lines.values())) or "" for lines in columns.values()]
    body = [["*strongest control*", *(f"{name}, {lines[name].accuracy.percent()} %"
                                      for name, lines in zip(best, columns.values(), strict=True))]]  # fmt: skip
    for policy in dict.fromkeys(name for lines in columns.values() for name in lines):
        found = [lines[policy].margin if policy in lines else None for lines in columns.values()]
        body.append([policy, *("" if value is None else _emphasised(value) for value in found)])
    return _table(["policy", *columns], body)


def arena(data: str) -> str:
    """Every condition of one data set."""
    return _margins({name.partition(" ")[2]: lines for name, lines in _conditions(data).items()})


def beside(asked: str) -> str:
    """What some comparisons were asked besides, see `benchmarks.arena.BESIDE`."""
    return _margins(_compared({name: f"{name}-{asked}" for name in BESIDE[asked][1]}))


class Standing(NamedTuple):
    """One policy against the strongest control of every condition that it was put under."""

    policy: str
    margins: dict[str, Estimate]
    """By condition, without those in which it is that control."""
    conditions: int

    @property
    def mean(self) -> float:
        """Of its margins, whatever conditions they are of."""
        return float(np.mean([margin.mean for margin in self.margins.values()]))

    @property
    def said(self) -> tuple[str, str]:
        """Conditions in which it is better / worse, clear of zero, and the mean."""
        clear = [margin.mean > 0 for margin in self.margins.values() if margin.clear_of_zero]
        return f"{sum(clear)} / {len(clear) - sum(clear)}", f"{100 * self.mean:+.2f}"


def standings(data: str, measure: str = BALANCED) -> list[Standing]:
    """Those of the policies after an ``@``, else of all, in the order of the comparisons; the strongest control is the
    best by the same ``measure``."""
    names, _, wanted = data.partition("@")
    conditions, found = _conditions(names, measure), []
    present = dict.fromkeys(name for lines in conditions.values() for name in lines)
    for policy in wanted.split(",") if wanted else present:
        margins = {name: lines[policy].margin for name, lines in conditions.items() if policy in lines}
        compared = {name: margin for name, margin in margins.items() if margin is not None}
        if compared:
            found.append(Standing(policy, compared, len(margins)))
    return found


def standing(data: str) -> str:
    """How often each policy differs from the strongest control of a condition, clear of zero, and by how much in the
    mean: by balanced accuracy, with its worst, and by plain accuracy."""
    balanced, plain = ({one.policy: one for one in standings(data, measure)} for measure in (BALANCED, ACCURACY))
    body = []
    for policy in [name for name in plain if name in balanced]:
        one, worst = balanced[policy], min(balanced[policy].margins.items(), key=lambda entry: entry[1].mean)
        least = f"{worst[1].percent(signed=True)} ({worst[0]})"
        body.append([policy, str(one.conditions), *one.said, least, *plain[policy].said])
    titles = ["better / worse", "mean, points", "worst", "by plain accuracy", "mean, points"]
    return _table(["policy", "conditions", *titles], body)


def natural(data: str) -> str:
    """Accuracy and its mean over classes, in per cent, where classes are uneven in the test, too."""
    conditions = _conditions(data, ACCURACY)
    titles = [f"{name.partition(' ')[0]}, {kind}" for name in conditions for kind in ("accuracy", "balanced accuracy")]
    body = []
    for policy in dict.fromkeys(name for lines in conditions.values() for name in lines):
        found = [lines.get(policy) for lines in conditions.values()]
        pairs = [(line.accuracy, line.balanced) if line else (None, None) for line in found]
        body.append([policy, *(value.percent() if value else "" for pair in pairs for value in pair)])
    return _table(["policy", *titles], body)


def _one(kind: str, name: str) -> str:
    if kind == "results":
        result = read_json(RESULTS / name / "results.json")
        return comparison(rows(result["cells"], result["policies"]))
    return {"ablation": ablation, "noise": noise, "pilot": _pilot, "guard": _guard, "arena": arena,
            "standing": standing, "natural": natural, "beside": beside,
            "reliability": _reliability, "checked": _checked, "scale": _scale}[kind](name)  # fmt: skip


def _pilot(_: str) -> str:
    from benchmarks import pilot_record  # which the command line of every comparison is read for

    return pilot_record.table(read_json(pilot_record.RESULT))


def _guard(_: str) -> str:
    from benchmarks import guard  # likewise

    return guard.table(read_json(guard.RESULT))


def _reliability(name: str) -> str:
    return reliability.table({run: read_json(RESULTS / "reliability" / f"{run}.json") for run in name.split(",")})


def _checked(name: str) -> str:
    return reliability.sentence(read_json(RESULTS / "reliability" / f"{name}.json"))


def _scale(name: str) -> str:
    if name == "estimates":
        return scale.estimates(read_json(scale.ESTIMATES))
    return {"measured": scale.measured, "arithmetic": scale.arithmetic}[name](read_json(scale.RESULT))


def rendered(text: str) -> str:
    """``text`` with every table as its files have it."""

    def block(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        return f"<!-- {kind}: {name} -->\n{_one(kind, name)}\n<!-- end -->"

    return re.sub(r"<!-- (\w+): (\S+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)

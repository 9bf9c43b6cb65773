"""Committed results as Markdown, put between ``<!-- KIND: NAME -->`` and ``<!-- end -->`` of a document.

``results: NAME`` is one comparison in full, ``study: DATA`` every policy under every fault on one data set,
``summary: DATA,DATA`` how often each policy wins, ``ablation: NAME`` the comparisons that vary one thing,
``noise: FILE`` how well wrong labels are counted and found, ``arena: DATA`` every policy under every condition against
the strongest control, ``standing: DATA,DATA`` how often each is ahead of it. A test holds the documents against the
files.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arena import ARENA, CONDITIONS
from benchmarks.study import ABLATIONS, FAULTS, STUDY
from spectral_sampler.experiment.outcomes import Row, rows, strongest
from spectral_sampler.experiment.report import read_json

RESULTS = Path(__file__).parent / "results"


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


def _lines(name: str) -> dict[str, Row]:
    result = read_json(STUDY / f"{name}.json")
    return {line.policy: line for line in rows(result["cells"], result["policies"])}


def _entry(line: Row | None) -> str:
    """Difference to uniform, bold where its interval is clear of zero; uniform's own accuracy in per cent."""
    if line is None:
        return ""
    if line.difference is None:
        return f"{line.accuracy.percent()} %"
    text = line.difference.percent(signed=True)
    return f"**{text}**" if line.difference.clear_of_zero else text


def costs(name: str) -> dict[str, tuple[float, float]]:
    """By policy: milliseconds a batch for which training waited for the selection, and the wall clock of the whole
    training, selection and data included, as a share of full training's. Medians over seeds."""
    found: dict[str, list[tuple[float, float]]] = {}
    for cell in read_json(STUDY / f"{name}.json")["cells"]:
        seconds = cell["seconds"]
        found.setdefault(cell["policy"], []).append((1e3 * seconds["selection"] / cell["steps"], sum(seconds.values())))
    medians = {policy: np.median(pairs, axis=0) for policy, pairs in found.items()}
    return {policy: (float(ms), float(total / medians["full"][1])) for policy, (ms, total) in medians.items()}


def study(data: str) -> str:
    """Points against uniform for every policy and fault, and what a selection costs on the clean data."""
    columns = {fault: _lines(f"{data}-{fault}") for fault in FAULTS}
    cost = costs(f"{data}-clean")
    body = []
    for policy in columns["clean"]:
        entries = [_entry(lines.get(policy)) for lines in columns.values()]
        milliseconds, share = cost[policy]
        body.append([policy, *entries, f"{milliseconds:.2f}", f"{100 * share:.0f} %"])
    return _table(["policy", *FAULTS, "selection, ms a batch", "wall clock, of full"], body)


def ablation(name: str) -> str:
    """The variants of a setting against the policies that are compared under it; the longer list gives the rows."""
    variants = {variant: _lines(f"{name}-{variant}") for variant in ABLATIONS[name].variants}
    policies = ["full", "full-equal-compute", "uniform", *ABLATIONS[name].policies]
    entries = [[_entry(lines.get(policy)) for policy in policies] for lines in variants.values()]
    titles, starts = policies, list(variants)
    if len(policies) > 2 * len(variants):
        entries, titles, starts = [list(column) for column in zip(*entries, strict=True)], list(variants), policies
    return _table([name, *titles], [[start, *row] for start, row in zip(starts, entries, strict=True)])


def summary(data: str) -> str:
    """How often each policy differs from uniform, clear of zero, over all faults of the data sets, and its worst."""
    columns = {f"{name} {fault}": _lines(f"{name}-{fault}") for name in data.split(",") for fault in FAULTS}
    body = []
    for policy in next(iter(columns.values())):
        differences = {name: lines[policy].difference for name, lines in columns.items()}
        found = {name: difference for name, difference in differences.items() if difference is not None}
        if not found:
            continue
        clear = [difference.mean > 0 for difference in found.values() if difference.clear_of_zero]
        worst = min(found, key=lambda name: found[name].mean)
        mean = 100 * float(np.mean([difference.mean for difference in found.values()]))
        count = [str(sum(clear)), str(len(clear) - sum(clear)), str(len(found) - len(clear))]
        body.append([policy, *count, f"{mean:+.2f}", f"{found[worst].percent(signed=True)} ({worst})"])
    return _table(["policy", "better", "worse", "undecided", "mean, points", "worst, points"], body)


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


def _arena(data: str) -> dict[str, dict[str, Row]]:
    """The lines of every condition that one of the data sets was put under, by name."""
    paths = {f"{name} {condition}": ARENA / f"{name}-{condition}.json"
             for name in data.split(",") for condition in CONDITIONS}  # fmt: skip
    results = {name: read_json(path) for name, path in paths.items() if path.exists()}
    return {name: {line.policy: line for line in rows(result["cells"], result["policies"])}
            for name, result in results.items()}  # fmt: skip


def arena(data: str) -> str:
    """Points against the strongest control, which stands above with its accuracy; bold where clear of zero."""
    columns = {name.partition(" ")[2]: lines for name, lines in _arena(data).items()}
    best = [strongest(list(lines.values())) or "" for lines in columns.values()]
    body = [["*strongest control*", *(f"{name}, {lines[name].accuracy.percent()} %"
                                      for name, lines in zip(best, columns.values(), strict=True))]]  # fmt: skip
    for policy in dict.fromkeys(name for lines in columns.values() for name in lines):
        found = [lines[policy].margin if policy in lines else None for lines in columns.values()]
        texts = [value.percent(signed=True) if value else "" for value in found]
        body.append([policy, *(f"**{text}**" if value and value.clear_of_zero else text
                               for text, value in zip(texts, found, strict=True))])  # fmt: skip
    return _table(["policy", *columns], body)


def standing(data: str) -> str:
    """How often each policy differs from the strongest control of a condition, clear of zero, and its worst."""
    conditions, body = _arena(data), []
    for policy in dict.fromkeys(name for lines in conditions.values() for name in lines):
        found = {name: lines[policy].margin for name, lines in conditions.items() if policy in lines}
        compared = {name: value for name, value in found.items() if value is not None}
        if not compared:
            continue
        clear = [value.mean > 0 for value in compared.values() if value.clear_of_zero]
        worst = min(compared, key=lambda name: compared[name].mean)
        mean = 100 * float(np.mean([value.mean for value in compared.values()]))
        count = [len(found), sum(clear), len(clear) - sum(clear)]
        body.append([policy, *map(str, count), f"{mean:+.2f}", f"{compared[worst].percent(signed=True)} ({worst})"])
    return _table(["policy", "conditions", "better", "worse", "mean, points", "worst, points"], body)


def _one(kind: str, name: str) -> str:
    if kind == "results":
        result = read_json(RESULTS / name / "results.json")
        return comparison(rows(result["cells"], result["policies"]))
    return {"study": study, "ablation": ablation, "summary": summary, "noise": noise, "pilot": _pilot,
            "arena": arena, "standing": standing}[kind](name)  # fmt: skip


def _pilot(_: str) -> str:
    from benchmarks import pilot_record  # which the command line of every comparison is read for

    return pilot_record.table(read_json(pilot_record.RESULT))


def rendered(text: str) -> str:
    """``text`` with every table as its files have it."""

    def block(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        return f"<!-- {kind}: {name} -->\n{_one(kind, name)}\n<!-- end -->"

    kinds = r"<!-- (results|study|summary|ablation|noise|pilot|arena|standing): ([\w,-]+) -->"
    return re.sub(kinds + r"\n.*?<!-- end -->", block, text, flags=re.DOTALL)

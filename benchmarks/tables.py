"""Committed results as Markdown, put between ``<!-- KIND: NAME -->`` and ``<!-- end -->`` of a document.

``results: NAME`` is one comparison in full, ``study: DATA`` every policy under every fault on one data set,
``ablation: NAME`` the comparisons that vary one thing. A test holds the documents against the files.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study import ABLATIONS, DATA, FAULTS, STUDY
from spectral_sampler.experiment.report import Estimate, Row, read_json, rows

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
    """By policy: milliseconds for which training waited for a selection, and their share of a full training step."""
    cells: list[dict[str, Any]] = read_json(STUDY / f"{name}.json")["cells"]
    full = [cell["seconds"]["training"] / cell["steps"] for cell in cells if cell["policy"] == "full"]
    by_policy: dict[str, list[float]] = {}
    for cell in cells:
        by_policy.setdefault(cell["policy"], []).append(cell["seconds"]["selection"] / cell["steps"])
    return {policy: (1e3 * np.median(s), float(np.median(s) / np.median(full))) for policy, s in by_policy.items()}


def study(data: str) -> str:
    """Points against uniform for every policy and fault, and what a selection costs on the clean data."""
    columns = {fault: _lines(f"{data}-{fault}") for fault in FAULTS}
    cost = costs(f"{data}-clean")
    body = []
    for policy in columns["clean"]:
        entries = [_entry(lines.get(policy)) for lines in columns.values()]
        milliseconds, share = cost[policy]
        body.append([policy, *entries, f"{milliseconds:.2f}", f"{100 * share:.0f} %"])
    return _table(["policy", *FAULTS, "ms a batch", "of a full step"], body)


def ablation(name: str) -> str:
    """The variants of a setting against the policies that are compared under it; the longer list gives the rows."""
    variants = {variant: _lines(f"{name}-{variant}") for variant in ABLATIONS[name].variants}
    policies = ["full", "full-equal-compute", "uniform", *ABLATIONS[name].policies]
    entries = [[_entry(lines.get(policy)) for policy in policies] for lines in variants.values()]
    titles, starts = policies, list(variants)
    if len(policies) > 2 * len(variants):
        entries, titles, starts = [list(column) for column in zip(*entries, strict=True)], list(variants), policies
    return _table([name, *titles], [[start, *row] for start, row in zip(starts, entries, strict=True)])


def _one(kind: str, name: str) -> str:
    if kind == "results":
        result = read_json(RESULTS / name / "results.json")
        return comparison(rows(result["cells"], result["policies"]))
    return study(name) if kind == "study" else ablation(name)


def rendered(text: str) -> str:
    """``text`` with every table as its files have it."""

    def block(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        return f"<!-- {kind}: {name} -->\n{_one(kind, name)}\n<!-- end -->"

    return re.sub(r"<!-- (results|study|ablation): ([\w-]+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def wins(policy: str, names: list[str]) -> dict[str, Estimate]:
    """The policy's difference to uniform in each of the comparisons ``names``."""
    found = {name: _lines(name)[policy].difference for name in names}
    return {name: difference for name, difference in found.items() if difference is not None}


__all__ = ["DATA", "ablation", "comparison", "costs", "rendered", "study", "wins"]

"""The table of docs/reliability.md, from what ``make reliability`` and ``make soak`` have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["sentence", "table"]


def sentence(found: Mapping[str, Any]) -> str:
    """How much was tried, and what failed."""
    checks, failures = (sum(line[key] for line in found["lines"]) for key in ("checks", "failures"))
    what = "What must never happen (a wrong vector, a lost batch, a torn store, code in one)"
    page = "[docs/reliability.md](docs/reliability.md)"
    return f"{what} was tried {checks:,} times, with {failures:,} failures: {page}."


def table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Each run's machine, date and command; a line for every line of any, what each has checked in a column of its own;
    and what no run has checked."""
    parts, names = [], list(runs)
    lines: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for name, found in runs.items():
        checks, failures = (sum(line[key] for line in found["lines"]) for key in ("checks", "failures"))
        where = f"{found['machine']}, Python {found['python']}, torch {found['torch']}, commit {found['commit']}"
        total = f"{name}: {checks:,} checks, {failures:,} failures, {found['seconds']:,.0f} s of tests"
        parts.append(f"{total}. {found['date']}, {where}: `{found['command']}`")
        for line in found["lines"]:
            lines.setdefault((line["group"], line["name"]), []).append((name, line))
    titles = ["group", "what", *(f"checks, {name}" for name in names), "failures", "worst", "limit"]
    rows, reasons = [titles, ["---", "---", *["--:"] * (len(titles) - 2)]], dict[str, list[str]]()
    for (group, what), given in sorted(lines.items(), key=lambda item: item[0]):
        done = [(name, line) for name, line in given if not line["skipped"]]
        if not done:
            reasons.setdefault(given[0][1]["skipped"].removeprefix("Skipped: "), []).append(what)
            continue
        checked = [sum(line["checks"] for one, line in done if one == name) for name in names]
        failures = sum(line["failures"] for _, line in done)
        worst = max((line["worst"] for _, line in done if line["worst"] is not None), default=None)
        of = done[-1][1]
        if any((line["limit"], line["unit"]) != (of["limit"], of["unit"]) for _, line in done):
            raise ValueError(f"{what!r} has another limit in one run than in another: record the older one again")
        counts = [f"{count:,}" if count else "" for count in checked]
        rows.append([group, what, *counts, f"{failures:,}", _value(worst, of), _value(of["limit"], of)])
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    parts += [f"Not run, {reason}: {'; '.join(whats)}." for reason, whats in reasons.items()]
    return "\n\n".join(parts)


def _value(value: float | None, line: Mapping[str, Any]) -> str:
    return "" if value is None else f"{value:.3g} {line['unit']}".strip()

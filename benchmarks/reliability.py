"""The table of docs/reliability.md, from what ``make reliability`` and ``make soak`` have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["sentence", "table"]

TITLES = ["group", "what", "checks", "failures", "worst", "limit"]


def sentence(found: Mapping[str, Any]) -> str:
    """How much was tried, and what failed."""
    checks, failures = (sum(line[key] for line in found["lines"]) for key in ("checks", "failures"))
    what = "What must never happen (a wrong vector, a lost batch, a torn store, code in one)"
    page = "[docs/reliability.md](docs/reliability.md)"
    return f"{what} was tried {checks:,} times, with {failures:,} failures: {page}."


def table(found: Mapping[str, Any]) -> str:
    """A line for every line of the run, its machine, date and command above, and what was not run below."""
    lines = sorted(found["lines"], key=lambda line: (line["group"], line["name"]))
    rows = [TITLES, ["---", "---", "--:", "--:", "--:", "--:"]]
    for line in (line for line in lines if not line["skipped"]):
        values = [_value(line, "worst"), _value(line, "limit")]
        rows.append([line["group"], line["name"], f"{line['checks']:,}", f"{line['failures']:,}", *values])
    checks, failures = (sum(line[key] for line in lines) for key in ("checks", "failures"))
    where = f"{found['machine']}, Python {found['python']}, torch {found['torch']}, commit {found['commit']}"
    total = f"{checks:,} checks, {failures:,} failures, {found['seconds']:,.0f} s of tests"
    parts = [f"{total}. {found['date']}, {where}: `{found['command']}`"]
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    reasons: dict[str, list[str]] = {}
    for line in (line for line in lines if line["skipped"]):
        reasons.setdefault(line["skipped"].removeprefix("Skipped: "), []).append(line["name"])
    parts += [f"Not run, {reason}: {'; '.join(names)}." for reason, names in reasons.items()]
    return "\n\n".join(parts)


def _value(line: Mapping[str, Any], key: str) -> str:
    return "" if line[key] is None else f"{line[key]:.3g} {line['unit']}".strip()

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
    """A line for every line of the run, its machine, date and command above."""
    lines = found["lines"]
    checks, failures = (sum(line[key] for line in lines) for key in ("checks", "failures"))
    rows = [TITLES, ["---", "---", "--:", "--:", "--:", "--:"]]
    for line in sorted(lines, key=lambda line: (line["group"], line["name"])):
        values = [_value(line, "worst"), _value(line, "limit")]
        rows.append([line["group"], line["name"], f"{line['checks']:,}", _failures(line), *values])
    where = f"{found['machine']}, Python {found['python']}, torch {found['torch']}, commit {found['commit']}"
    total = f"{checks:,} checks, {failures:,} failures, {found['seconds']:,.0f} s"
    head = f"{total}. {found['date']}, {where}: `{found['command']}`"
    return head + "\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _failures(line: Mapping[str, Any]) -> str:
    """Their number, or why nothing was checked."""
    return f"not run: {line['skipped'].removeprefix('Skipped: ')}" if line["skipped"] else f"{line['failures']:,}"


def _value(line: Mapping[str, Any], key: str) -> str:
    return "" if line[key] is None else f"{line[key]:.3g} {line['unit']}".strip()

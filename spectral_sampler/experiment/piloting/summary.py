"""What a pilot found, as lines for people."""

from __future__ import annotations

from typing import Any

__all__ = ["summary"]


def _expected(entry: dict[str, Any]) -> str:
    seconds = entry["seconds"]
    other = "training on everything" if entry["against"] == "full" else "uniform selection"
    points = f"{entry['points']:+.1f} points ({entry['low']:+.1f} to {entry['high']:+.1f})"
    parts = f"extraction {seconds['extraction']:,.1f}, selection {seconds['selection']:,.1f}"
    took = f"{seconds['total']:,.1f} s ({parts}) instead of {seconds['against_total']:,.1f}"
    return f"  keep ratio {entry['keep_ratio']:g} against {other}: {points}, {took}"


def _data(facts: dict[str, Any]) -> str:
    found = [f"{facts['rows']:,} of {facts['rows_in_all']:,} rows looked at, {facts['classes']} classes"]
    found.append(f"{facts['suspected']:,} labels look wrong (about {100 * facts['label_noise']:.0f} %)")
    found.append(f"{facts['copies']:,} copies, {facts['near_copies']:,} near ones")
    found.append(f"most frequent class to rarest {facts['imbalance']:g}")
    pairs = ", ".join(" and ".join(pair["classes"]) for pair in facts["overlap"][:3])
    return "; ".join([*found, *([f"most alike: {pairs}"] if pairs else [])])


def summary(found: dict[str, Any]) -> str:
    """``found``, what `pilot` returned, as text: verdict and reason, expectations, data, proposal, advice."""
    lines = [f"{found['verdict'].upper()}. {found['reason']}", "", "Expected of a whole training, with 95 % intervals:"]
    lines += [_expected(entry) for entry in found["expected"]]
    lines += ["", f"In the data: {_data(found['data'])}.", f"Proposed: {found['proposed']['code']}"]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in found["advice"])])

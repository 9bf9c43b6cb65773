# ruff: noqa: E501  (sentences of the page)
"""docs/performance.md from benchmarks/results/cpu.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CERTIFICATES = tuple(ROOT / "benchmarks" / "results" / f"certificate{tail}.json" for tail in ("-5964252", ""))
TARGETS = (  # problem, (N, d) or a key, against, at least or at most, and where it is in the JSON
    ("N=128, d=2048, B=64", (128, 2048), "NumPy cosine + eigh", 3.5),
    ("N=128, d=512, B=64", (128, 512), "NumPy cosine + eigh", 7.0),
    ("N=64, d=1280", (64, 1280), "torch bmm + linalg.eigh", 3.0),
    ("N=1024, d=2048", (1024, 2048), "NumPy cosine + eigh", 10.0),
)


def time_of(seconds: float) -> str:
    """With three digits and a unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} × ({ratio['p20']:.2f} to {ratio['p80']:.2f})"


def _right(accuracy: dict[str, Any]) -> str:
    if accuracy["wrong"]:
        return f"**wrong** in {accuracy['wrong']} of {accuracy['members']}"
    return f"residual {accuracy['residual']:.0e}, angle {accuracy['sine']:.0e}"


def _find(found: dict[str, Any], size: int, width: int) -> dict[str, Any] | None:
    rows = [row for row in found["small"] if row["shape"][1:] == [size, width] and row["dtype"] == "float32"]
    return rows[0] if rows else None


def targets(found: dict[str, Any]) -> str:
    """What was aimed at, and what was measured."""
    rows = []

    def add(problem: str, against: str, aim: str, value: float, met: bool, shown: str) -> None:
        rows.append([problem, against, aim, shown or f"{value:.2f}", "yes" if met else "**no**"])

    for name, shape, peer, least in TARGETS:
        row = _find(found, *shape)
        if row is not None:
            ratio = row["peers"][peer]["ratio"]
            add(name, peer, f"≥ {least} ×", ratio["median"], ratio["median"] >= least, _spread(ratio))
    large = found.get("large")
    if large is not None:
        ratio = large["ratio"]
        add(
            "N=16,384, d=512",
            f"{large['peer']}, to the same residual",
            "≥ 2.5 ×",
            0,
            ratio["median"] >= 2.5,
            _spread(ratio),
        )
    wide = _find(found, 128, 2048)
    if wide is not None:
        part, limit = wide["solver / graph"], wide["graph / limit"]
        add("solver at N=128, d=2048", "our Gram", "≤ 0.15 of it", part, part <= 0.15, f"{part:.3f}")
        add(
            "Gram at N=128, d=2048",
            "half the flops at the SGEMM rate",
            "≤ 1.4 ×",
            limit,
            limit <= 1.4,
            f"{limit:.2f} ×",
        )
    for dtype, each in found.get("memory", {}).items():
        add(f"N=262,144, d=256, {dtype}", "memory beyond the store", "≤ 0.2 of it", 0, each["share"] <= 0.2,
            f"{each['share']:.3f}, in {time_of(each['seconds'])}, residual {each['residual']:.0e}")  # fmt: skip
    ratio = found["threads"]["ratio"]
    add("two threads, B=64", "one thread", "≥ 1.7 ×", 0, ratio["median"] >= 1.7, _spread(ratio))
    return table(["problem", "against", "aim", "measured", "met"], rows)


def small_tables(found: dict[str, Any]) -> str:
    """One table a problem."""
    parts = []
    for row in found["small"]:
        members, size, width = row["shape"]
        parts.append(f"### {row['problem']}: B={members}, N={size}, d={width}, {row['dtype']}\n")
        parts.append(
            f"{time_of(row['seconds'])} a batch: {row['all / limit']:.2f} × the time of the symmetric Gram product's flops at the SGEMM "
            f"rate. The graph alone: {time_of(row['graph seconds'])}, {row['graph / limit']:.2f} × that limit; the rest is "
            f"{row['solver / graph']:.2f} of the graph, for {row['matvecs']:.0f} products with L. "
            f"Accuracy: {_right(row['accuracy'])}.\n"
        )
        lines = [
            [name, time_of(peer["seconds"]), _spread(peer["ratio"]), _right(peer["accuracy"])]
            for name, peer in row["peers"].items()
        ]
        parts.append(table(["peer", "a batch", "peer / native", "accuracy"], lines) + "\n")
    return "\n".join(parts)


def rest(found: dict[str, Any]) -> str:
    """Large graphs, crossover, end to end."""
    parts = []
    large = found.get("large")
    if large is not None:
        parts.append(
            f"## Large graphs\n\nN=16,384, d=512, S never formed: {time_of(large['seconds'])} for {large['matvecs']} products "
            f"(residual {large['residual']:.0e}), {large['all / limit']:.2f} × the time of reading the rows once a product at "
            f"the measured rate; {large['peer']} with tolerance {large['peer tolerance']:g} takes {time_of(large['peer seconds'])} "
            f"(residual {large['peer residual']:.0e}): {_spread(large['ratio'])}.\n"
        )
    lines = [
        [str(each["N"]), str(each["d"]), time_of(each["dense"]), time_of(each["factored"])]
        for each in found["crossover"]
    ]
    parts.append(
        "## S formed or not\n\n" + table(["N", "d", "S in memory", "one pass over the rows a step"], lines) + "\n"
    )
    whole = found["end to end"]
    epoch, added = whole["seconds of selection an epoch"], whole["added by selection"]
    parts.append(
        f"## End to end\n\n{whole['features']}, {whole['candidates']} candidates, {whole['kept']} kept, ResNet-18 at 64 pixels, one "
        f"training thread. Selection alone: {time_of(whole['selection a batch, native'])} a candidate batch "
        f"({time_of(epoch['native'])} an epoch of {whole['batches an epoch']}; eager: {time_of(epoch['eager'])}), "
        f"{100 * whole['selection as a share of a step']:.2f} % of a training step of {time_of(whole['seconds a step'])}. "
        f"Steps became {100 * added['look-ahead 16']:+.1f} % slower with look-ahead and {100 * added['look-ahead 0']:+.1f} % "
        "without, against index lists made beforehand (differences below a few per cent are the noise of the step).\n"
    )
    return "\n".join(parts)


def certified() -> str:
    """Shares of certified sets, before and after thresholds lost N and vectors were refined."""
    before, after = (json.loads(path.read_text()) for path in CERTIFICATES)
    kinds = list(dict.fromkeys(row["kind"] for row in after["rows"]))
    old, new = ({(row["N"], row["kind"]): row for row in record["rows"]} for record in (before, after))

    def share(row: dict[str, Any]) -> str:
        return f"{row['certified'] / row['sets']:.2f}"

    rows = [
        [
            f"{size:,}",
            str(new[size, kinds[0]]["sets"]),
            *(f"{share(old[size, kind])} → {share(new[size, kind])}" for kind in kinds),
        ]
        for size in dict.fromkeys(row["N"] for row in after["rows"])
    ]
    graphs, false = (sum(row[name] for row in after["rows"]) for name in ("graphs", "false"))
    degenerate = " and ".join(str(sum(row["degenerate"] for row in record["rows"])) for record in (before, after))
    return (
        "## Certified sets\n\n"
        f"Share of the sets that SALN keeps (ratios .1, .3 and .5) that are certified, at commit {before['passport']['commit']} → now; "
        f"`{after['command']}`. Of {graphs:,} graphs none has a false certificate ({false}): a certified set is float64's. "
        f"Graphs called degenerate: {degenerate}. From 192 rows on vectors are refined; what remains uncertified there has scores "
        "at the cut that are equal by the rule for ties, or a gap so small that the bound exceeds their distance.\n\n"
        f"{table(['N', 'sets of a kind', *kinds], rows)}\n"
    )


def document(found: dict[str, Any]) -> str:
    """The whole page."""
    card = ", ".join(f"{name} {value}" for name, value in found["passport"].items())
    rates = found["rates"]
    notes = (ROOT / "benchmarks" / "notes.md").read_text()
    return (
        "# Performance\n\n<!-- Written by benchmarks/render.py from benchmarks/results/cpu.json; do not edit. -->\n\n"
        f"`make bench` made this page. Measured on: {card}.\n\n"
        f"SGEMM {rates['sgemm'] / 1e9:.1f} GFLOP/s, memory read {rates['read'] / 1e9:.1f} GB/s, copy "
        f"{rates['copy'] / 1e9:.1f} GB/s. One thread unless said. Times are for one candidate batch, the gather from the store "
        "included on all sides; ratios are medians over rounds in which every solver runs once, with the middle three fifths in "
        "brackets. An answer farther than 1e-2 (sine) from float64's vector is marked wrong.\n\n"
        f"## Aims\n\n{targets(found)}\n\n{notes}\n{certified()}\n## Against peers\n\n{small_tables(found)}\n{rest(found)}"
    )


def main(path: Path = ROOT / "benchmarks" / "results" / "cpu.json") -> None:
    """Write the page."""
    (ROOT / "docs" / "performance.md").write_text(document(json.loads(path.read_text())))


if __name__ == "__main__":
    main()

"""The tables of docs/gpu.md from a folder of the device check's results.

python -m benchmarks.device_check.report [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.device_check.session import ROOT, rows_of

FOLDER = ROOT / "benchmarks" / "results" / "nvidia-h200"
_SOLVED = ("triton", "cuda", "cuSOLVER XsyevBatched", "cupy.linalg.eigh", "torch.linalg.eigh", "native", "gather + bmm")
_HOSTED = ("triton, resident", "cuda, resident", "triton, gathered", "cuda, gathered", "native")


def timed(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The rows with methods of the last run that has any."""
    rows = [row for row in rows_of(folder) if "method" in row]
    return [row for row in rows if row["run"] == rows[-1]["run"]]


def _number(microseconds: float | None) -> str:
    return "" if microseconds is None else f"{float(f'{microseconds:.3g}'):,.0f}"


def _table(rows: list[dict[str, Any]], methods: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """Microseconds by ``names``, the first of them that a row has, of each problem that the first method solved."""
    found: dict[tuple[int, int, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["N"], row["d"], row["B"]), {})[row["method"]] = row
    lines = [f"| N | d | members | {' | '.join(methods)} |", f"|{'--:|' * (3 + len(methods))}"]
    for (size, width, members), solved in sorted(found.items()):
        times = [
            _number(next((solved[method][name] for name in names if name in solved.get(method, {})), None))
            for method in methods
        ]
        if any(times[:-1]):
            lines.append(f"| {size} | {width} | {members} | {' | '.join(times)} |")
    return lines


def tables(folder: Path = FOLDER) -> list[str]:
    """Markdown: throughput with the store on the device, and latency with the store on the host."""
    rows = timed(folder)
    device = ["Store on the device, microseconds a call of many that are queued one after another:", ""]
    host = ["Store on the host, microseconds of one call and its wait, transfers included:", ""]
    return [
        *device,
        *_table(rows, _SOLVED, ("queued_us", "latency_us")),
        "",
        *host,
        *_table(rows, _HOSTED, ("latency_us",)),
    ]


if __name__ == "__main__":
    print("\n".join(tables(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)))

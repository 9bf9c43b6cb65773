"""The table that ``backend="auto"`` follows, made of a benchmark's rows; the package says what its fields mean."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from benchmarks.device_check.session import ROOT

if TYPE_CHECKING:
    from pathlib import Path

INSTALLED = ROOT / "spectral_sampler" / "kernels" / "preference.json"


_LAST = 1e18  # microseconds


def _latencies(rows: list[dict[str, Any]]) -> dict[tuple[str, int, int, int], dict[str, float]]:
    """By (store, N, d, −B) the slowest way of each backend that was right and was timed in all its ways.

    A backend has two ways from the host, with the store on the device and with rows that are copied at every call. One
    that was left out, because it was slow on a smaller problem, comes last.
    """
    found: dict[tuple[str, int, int, int], dict[str, float]] = {}
    for row in rows:
        if row.get("kind") == "ours":
            times = found.setdefault((row["store"], row["N"], row["d"], -row["B"]), {})
            unknown = _LAST if "left_out" in row else math.inf
            times[row["backend"]] = max(times.get(row["backend"], 0.0), row.get("latency_us", unknown))
    finite = {problem: {name: t for name, t in times.items() if t < math.inf} for problem, times in found.items()}
    return {problem: times for problem, times in sorted(finite.items()) if times}


def entries(rows: list[dict[str, Any]], device: str, measured: str) -> list[dict[str, Any]]:
    """For each problem the backends that solved it, fastest first.

    An entry holds for smaller N and d and for more members, up to the next: limits ascend and members descend. The
    largest N, the largest d of an N and the fewest members of both hold for everything beyond. Where the next says the
    same of all that an entry holds for, it is left out.
    """
    problems = _latencies(rows)
    last = {problem[:depth]: problem for problem in problems for depth in (1, 2, 3)}  # they ascend
    found: list[dict[str, Any]] = []
    for problem, times in reversed(problems.items()):
        store, size, width, members = problem
        entry = {
            "device": device,
            "store": store,
            "max_nodes": None if last[problem[:1]][1] == size else size,
            "max_width": None if last[problem[:2]][2] == width else width,
            "members": 1 if last[problem[:3]] == problem else -members,
            "order": sorted(times, key=lambda name, times=times: times[name]),  # type: ignore[misc]
            "measured": measured,
        }
        if not (found and _covered(entry, found[-1])):
            found.append(entry)
    return found[::-1]


def _covered(entry: dict[str, Any], following: dict[str, Any]) -> bool:
    """Does ``following`` hold for all that ``entry`` holds for, and say the same of it?"""
    wider = all(
        following[limit] is None or (entry[limit] is not None and entry[limit] <= following[limit])
        for limit in ("max_nodes", "max_width")
    )
    same = all(entry[name] == following[name] for name in ("store", "order"))
    return wider and same and entry["members"] >= following["members"]


def write(rows: list[dict[str, Any]], path: Path) -> bool:
    """Write what these rows say of their device before the installed table; False, and no file, if it is nothing."""
    device = next((row["device"] for row in rows if "copy_bytes_s" in row), None)
    found = entries(rows, device, f"{rows[0]['run'][:10]}, {device}") if device else []
    if not found:
        return False
    installed = json.loads(INSTALLED.read_text(encoding="utf-8"))
    lines = ",\n  ".join(json.dumps(row) for row in [*found, *installed["rows"]])
    source = json.dumps(f"{device}: benchmarks/device_check; {installed['source']}")
    path.write_text(f'{{\n "source": {source},\n "rows": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
    return True

"""Latency of every GPU backend against torch, CuPy and CuPy's sparse solver, and the table that "auto" may follow.

    python benchmarks/bench_gpu.py [--json FILE] [--quick] [--write-table]   (needs a CUDA device; says so where there
    is none)

Rows carry a passport (device, versions, date, p20/p50/p80 of CUDA events after a warm-up, over 50 runs). Features are
on the device, fp16; the times are from indices to scores. No number of this file has been produced yet: see
docs/gpu.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from spectral_sampler import ops
from spectral_sampler.graph import cosine_affinity, laplacian

Method = Callable[[Tensor, Tensor], Any]
SIZES, WIDTHS, MEMBERS = (64, 128, 200, 256, 512, 1024), (384, 2048), (1, 16, 132)
PROBLEMS = [(members, size, width) for size in SIZES for width in WIDTHS for members in MEMBERS]
RUNS, WARM_UP = 50, 5


def torch_eigh(features: Tensor, indices: Tensor) -> Tensor:
    """All eigenvectors of L by torch.linalg.eigh (cuSOLVER)."""
    return torch.linalg.eigh(laplacian(cosine_affinity(features[indices].float())))[1][..., 1]


def cupy_eigh(features: Tensor, indices: Tensor) -> Any:
    """All eigenvectors of L by cupy.linalg.eigh."""
    import cupy

    return cupy.linalg.eigh(cupy.from_dlpack(laplacian(cosine_affinity(features[indices].float()))))[1][..., 1]


def cupy_eigsh(features: Tensor, indices: Tensor) -> Any:
    """Two lowest pairs of L, member by member, by cupyx's Lanczos."""
    import cupy
    from cupyx.scipy.sparse.linalg import eigsh

    matrices = cupy.from_dlpack(laplacian(cosine_affinity(features[indices].float())))
    return [eigsh(matrix, k=2, which="SA") for matrix in matrices]


def methods(device: torch.device) -> dict[str, Method]:
    """What can be timed here."""
    found: dict[str, Method] = {"torch.linalg.eigh": torch_eigh}
    if importlib.util.find_spec("cupy") is not None:
        found |= {"cupy.linalg.eigh": cupy_eigh, "cupyx eigsh": cupy_eigsh}
    for name in ("triton", "cuda", "cupy"):
        if ops.unusable_reason(name, device) is None:
            found[name] = ops.kernel(name).solve
    return found


def percentiles(method: Method, features: Tensor, indices: Tensor) -> list[float]:
    """p20, p50 and p80 in microseconds, by events on the current stream."""
    for _ in range(WARM_UP):
        method(features, indices)
    times = []
    for _ in range(RUNS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        method(features, indices)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3)
    return torch.tensor(times).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()


def preference(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our backends by geometric mean of the median times at each N, fastest first; equal neighbours become one entry.

    A backend is left out of an N that it did not run. The last entry holds for all larger N.
    """
    entries: list[dict[str, Any]] = []
    for size in sorted({row["N"] for row in rows}):
        logs: dict[str, list[float]] = {}
        for row in rows:
            if row["N"] == size and row["method"] in ops.BACKENDS:
                logs.setdefault(row["method"], []).append(math.log(row["p50"]))
        order = sorted(logs, key=lambda name, logs=logs: sum(logs[name]) / len(logs[name]))  # type: ignore[misc]
        if entries and entries[-1]["order"] == order:
            entries[-1]["max_nodes"] = size
        else:
            entries.append({"max_nodes": size, "order": order})
    entries[-1]["max_nodes"] = None
    return entries


def write_preference(rows: list[dict[str, Any]], device: str, path: Path = ops.PREFERENCE) -> None:
    """Let "auto" follow these rows: replaces the CUDA part of its table."""
    table = json.loads(path.read_text(encoding="utf-8"))
    table["devices"]["cuda"] = preference(rows)
    table["source"] = f"cuda: measured on {device} by benchmarks/bench_gpu.py; cpu: docs/performance.md"
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Print and write the rows; 2 where there is no device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="three problems")
    parser.add_argument("--write-table", action="store_true", help='rewrite the table that backend="auto" follows')
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("bench_gpu: torch sees no CUDA device; nothing was measured.", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    passport = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "measured": True,
    }  # fmt: skip
    rows = []
    for members, size, width in PROBLEMS[:3] if options.quick else PROBLEMS:
        generator = torch.Generator(device).manual_seed(0)
        features = torch.rand(max(4096, members * size), width, device=device, generator=generator)
        indices = torch.randperm(len(features), device=device)[: members * size].reshape(members, size)
        for name, method in methods(device).items():
            if "eigsh" in name and members > 16:
                continue
            p20, p50, p80 = percentiles(method, features.half(), indices)
            rows.append({"method": name, "B": members, "N": size, "d": width, "p20": p20, "p50": p50, "p80": p80})
            print(f"{name:18s} B={members:<4} N={size:<5} d={width:<5} {p20:9.1f} {p50:9.1f} {p80:9.1f} µs", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"passport": passport, "rows": rows}, indent=1), encoding="utf-8")
    if options.write_table:
        write_preference(rows, passport["device"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

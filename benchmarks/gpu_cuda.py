"""Machine code of the CUDA kernels (csrc/cuda) for one architecture, by nvcc."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CSRC = Path(__file__).resolve().parent.parent / "csrc"
_THREADS = 256
GRAPH_BYTES = {"fp32": 4 * 64 * 20 * 4, "fp16": 4 * 64 * 36 * 4}  # two stages of two operands, by type of the features
_FP32_LIMIT = {80: 200, 90: 237, 100: 237}  # largest N whose S stays in shared memory
_BASIS_ROWS, _FEWEST = 130, 40


def cuda_problems() -> list[Path]:
    """The translation units; none where there is no nvcc, which the caller makes a failure."""
    return [CSRC / "cuda" / "launch.cu"] if shutil.which("nvcc") else []


def solver_bytes(count: int, entry: int, rows: int = _BASIS_ROWS, *, basis: bool = False) -> int:
    """Shared memory of the solver with S of ``entry`` bytes a number (0: in global memory) and ``rows`` of the basis at
    most, these too if ``basis``, as csrc/cuda/launch.cu counts it.
    """
    rows = min(rows, count + 2)
    return 4 * (4 * count + 6 * (rows + 1) + 68) + entry * count * count + 4 * rows * count * basis


def resident_rows(count: int, arch: int) -> int:
    """Basis rows in shared memory beside S, for two blocks a multiprocessor if that gives enough of them, else for one,
    as csrc/cuda/launch.cu plans; 0 where the basis goes to global memory.
    """
    from prove_gpu import SHARED

    for limit in ((SHARED[arch] + 1) * 1024 // 2 - 1024, SHARED[arch] * 1024):
        most = min(_BASIS_ROWS, count + 2)
        rows = min(most, (limit - solver_bytes(count, 4, 0)) // (24 + 4 * count))
        if rows >= min(_FEWEST, most):
            return rows
    return 0


def _name(mangled: str) -> str:
    kernel = next(name for name in ("row_factors", "cosine_graph", "fiedler") if name in mangled)
    kind = "fp16" if re.search(rf"{kernel}It", mangled) else "fp32"
    if kernel != "fiedler":
        return f"cuda {kernel} {kind} features" + (" aligned" if "Lb1E" in mangled else "")
    if "Lb1ELb1E" in mangled:
        return f"cuda fiedler S {kind} and basis in shared memory"
    return f"cuda fiedler S {kind} in {'shared' if 'Lb1E' in mangled else 'global'} memory"


def prove_cuda(source: Path, arch: int, tools: Path) -> list[dict[str, Any]]:
    """Compile one file and measure its kernels. ``spill``: bytes ptxas reports beside the stack frame."""
    from prove_gpu import occupancy, read_cubin

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        command = ["nvcc", "-cubin", f"-arch=sm_{arch}", "-O3", "-std=c++17", "-lineinfo", f"-I{CSRC}", "-Xptxas", "-v"]
        log = subprocess.run(
            [*command, str(source), "-o", str(cubin)], capture_output=True, text=True, check=True
        ).stderr
        codes = read_cubin(cubin.read_bytes(), tools)
    spills = dict(re.findall(r"Function properties for (\S+)\n\s+\d+ bytes stack frame, (\d+) bytes spill stores", log))
    rows = []
    for code in codes:
        name = _name(code["name"])
        solves, everything = "fiedler" in name, "and basis" in name
        size = 128 if everything else _FP32_LIMIT[arch] if "S fp32 in shared" in name else 256
        entry = 0 if "global" in name else 4 if "fp32" in name else 2
        kept = resident_rows(size, arch) if everything else _BASIS_ROWS
        shared = solver_bytes(size, entry, kept, basis=everything) if solves else 0
        if "graph" in name:
            shared = GRAPH_BYTES["fp16" if "fp16" in name else "fp32"]
        blocks = occupancy(code["registers"], shared, _THREADS // 32, arch)
        rows.append({
            "kernel": f"{name} N={size}" if solves else name, "arch": arch, "warps": _THREADS // 32,
            "registers": code["registers"], "stack": code["stack"], "spill": int(spills[code["name"]]),
            "shared": shared,
            "blocks": blocks, "ops": code["ops"], "tensor_cores": 0, "tensor_cores_due": False,
        })  # fmt: skip
    return rows

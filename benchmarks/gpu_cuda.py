"""Machine code of the CUDA kernels (csrc/cuda) for one architecture, by nvcc."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from gpu_model import modelled

CSRC = Path(__file__).resolve().parent.parent / "csrc"
_THREADS = 256
_FP32_LIMIT = {80: 200, 90: 237, 100: 237}  # largest N whose S stays in shared memory
_BASIS_ROWS = 130


def cuda_problems() -> list[Path]:
    """The translation units; none where there is no nvcc, which the caller makes a failure."""
    return [CSRC / "cuda" / "launch.cu"] if shutil.which("nvcc") else []


def solver_bytes(count: int, entry: int) -> int:
    """Shared memory of the solver with S of ``entry`` bytes a number (0: in global memory), as csrc/cuda/launch.cu
    counts it.
    """
    capacity = min(_BASIS_ROWS, count + 2)
    return 4 * (4 * count + 6 * (capacity + 1) + 32) + entry * count * count


def _name(mangled: str) -> str:
    kernel = next(name for name in ("row_factors", "cosine_graph", "fiedler") if name in mangled)
    kind = "fp16" if re.search(rf"{kernel}It", mangled) else "fp32"
    if kernel != "fiedler":
        return f"cuda {kernel} {kind} features"
    return f"cuda fiedler S {kind} in {'shared' if 'Lb1E' in mangled else 'global'} memory"


def prove_cuda(source: Path, arch: int, tools: Path) -> list[dict[str, Any]]:
    """Compile one file and measure its kernels. ``spill``: bytes ptxas reports beside the stack frame."""
    from prove_gpu import occupancy, read_cubin

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        command = ["nvcc", "-cubin", f"-arch=sm_{arch}", "-O3", "-std=c++17", f"-I{CSRC}", "-Xptxas", "-v", str(source)]
        log = subprocess.run([*command, "-o", str(cubin)], capture_output=True, text=True, check=True).stderr
        codes = read_cubin(cubin.read_bytes(), tools)
    spills = dict(re.findall(r"Function properties for (\S+)\n\s+\d+ bytes stack frame, (\d+) bytes spill stores", log))
    rows = []
    for code in codes:
        name = _name(code["name"])
        size = _FP32_LIMIT[arch] if "S fp32 in shared" in name else 256
        entry = 0 if "global" in name else 4 if "fp32" in name else 2
        shared = solver_bytes(size, entry) if "fiedler" in name else 2 * 16 * 68 * 4 if "graph" in name else 0
        blocks = occupancy(code["registers"], shared, _THREADS // 32, arch)
        steps, gram = (32, 0.0) if "fiedler" in name else (0, float("graph" in name))
        times = modelled(arch, "ieee", size, 2048, 132, blocks, gram=gram, steps=steps, resident="shared" in name)
        rows.append({
            "kernel": f"{name} N={size}" if gram or steps else name, "arch": arch, "warps": _THREADS // 32,
            "registers": code["registers"], "stack": code["stack"], "spill": int(spills[code["name"]]),
            "shared": shared,
            "blocks": blocks, "ops": code["ops"], "tensor_cores": 0, "tensor_cores_due": False,
            "modelled_us": round(times[0], 1) if times and gram + steps else None,
            "floor_us": round(times[1], 1) if times and gram + steps else None,
        })  # fmt: skip
    return rows

"""Builds and runs the CUDA kernels on the CPU (tests/cuda/cuda_on_cpu.h); shared by the tests of the kernels and the
checker.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spectral_sampler import limits
from spectral_sampler.fiedler import FiedlerResult

HERE = Path(__file__).parent / "cuda"
KERNELS = Path(__file__).parent.parent / "csrc" / "cuda"
MODES = {
    "fibers": ("-O2",),
    "thread": ("-O1", "-g", "-DCUDA_ON_CPU_THREADS", "-fsanitize=thread"),
    "address": ("-O1", "-g", "-DCUDA_ON_CPU_THREADS", "-fsanitize=address"),
}


class Run(NamedTuple):
    """What came of one run: the exit status and message, and the result where there is one."""

    code: int
    message: str
    result: FiedlerResult | None = None
    affinity: np.ndarray | None = None
    degrees: np.ndarray | None = None


def build(target: Path, mode: str, kernels: Path = KERNELS) -> Path:
    """Compile the runner in a mode of MODES."""
    flags = ["-std=c++20", *MODES[mode], f"-I{HERE}", f"-I{kernels}", f"-I{KERNELS}", "-pthread", "-w"]
    subprocess.run(["g++", *flags, str(HERE / "run_fiedler.cpp"), "-o", str(target)], check=True)
    return target


def shipped() -> dict[str, int]:
    """The options with which launch.cu launches the solver, read from its text."""
    text = (KERNELS / "launch.cu").read_text(encoding="utf-8")
    line = re.search(r"constexpr int kThreads = (\d+), kCapacity = (\d+);", text)
    assert line, "launch.cu names its parameters otherwise"
    # As `solve` makes the problem: `plan` shortens the basis likewise, and nothing else goes into the launch.
    for use in (
        "std::min(kCapacity, count + 2)",
        "<<<workspace.blocks, kThreads, workspace.shared,",
        "workspace.capacity, kMostSteps}",
    ):
        assert use in text, f"launch.cu no longer has {use}"
    return {"threads": int(line[1]), "capacity": int(line[2]), "most": limits.MOST_STEPS}


def solve(program: Path, folder: Path, features: np.ndarray, indices: np.ndarray, **options: int) -> Run:
    """Solve indices (B, N) into features (M, d) float32 or float16.

    Options: threads, grid, capacity, storage, most, pitch, seed; by default smaller than what is shipped, to be faster.
    """
    members, count = indices.shape
    capacity = min(options.get("capacity", 96), count + 2)
    head = [members, count, *features.shape, features.dtype == np.float16, options.get("threads", 64)]
    head += [options.get("grid", 1), capacity, options.get("storage", 0), options.get("most", 640)]
    head += [max(count, options.get("pitch", 0))]
    problem, target = folder / "problem.bin", folder / "result.bin"
    parts = (np.array(head, dtype=np.int64), indices.astype(np.int64), features)
    problem.write_bytes(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    command = [str(program), str(problem), str(target), str(options.get("seed", 0))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode:
        return Run(done.returncode, done.stderr)
    data, offset = target.read_bytes(), 0

    def take(kind: type, *shape: int) -> np.ndarray:
        nonlocal offset
        array = np.frombuffer(data, kind, int(np.prod(shape)), offset).reshape(shape).copy()
        offset += array.nbytes
        return array

    vector = take(np.float32, members, count)
    value, residual, gap, error = (take(np.float32, members) for _ in range(4))
    matvecs, status = take(np.int64, members), take(np.int64, members)
    fields = (torch.from_numpy(field) for field in (vector, value, residual, matvecs, status, gap, error))
    return Run(0, "", FiedlerResult(*fields), take(np.float32, members, count, count), take(np.float32, members, count))

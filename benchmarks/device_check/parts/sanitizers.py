"""compute-sanitizer over small solves: memcheck (accesses out of bounds) and racecheck (shared memory)."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.device_check.session import ROOT, NotHere
from spectral_sampler import ops

if TYPE_CHECKING:
    from benchmarks.device_check.session import Session

# A faulty row; features that are read number by number; S in device memory.
PROBLEMS = ["2:33:20:float32", "1:64:31:float16", "1:260:17:float32"]
_FOUND = 9  # the status that the tool ends with where it found something
_LIMIT = 40.0  # seconds of one run


def _watched(session: Session, tool: str, backend: str, prefix: list[str]) -> None:
    problems = PROBLEMS[:1] if session.dry or session.quick else PROBLEMS
    command = [*prefix, sys.executable, "-m", "benchmarks.device_check.launches", backend, *problems]
    settings = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # or torch's pool hides where an array ends
    start, row = time.perf_counter(), {"tool": tool, "backend": backend}
    try:
        done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False,
                              timeout=max(1.0, min(_LIMIT, session.left() - 2)))  # fmt: skip
    except subprocess.TimeoutExpired:
        session.row(**row, wrong=f"{tool} of {backend} did not end in its time")
        return
    output = done.stdout + done.stderr
    print(output[-4000:], flush=True)
    if "not supported" in output:
        raise NotHere(f"{tool} does not support this device or the way it is lent")
    wrong = f"{tool} found errors in {backend}, see log.txt" if done.returncode == _FOUND else None
    if done.returncode not in (0, _FOUND):
        wrong = f"{tool} of {backend} ended with status {done.returncode}, see log.txt"
    last = (output.strip().splitlines() or [""])[-1]
    session.row(**row, status=done.returncode, seconds=round(time.perf_counter() - start, 1), last=last, wrong=wrong)


def run(session: Session) -> None:
    """A row for each tool and backend; a dry run solves without a tool."""
    device = session.device()
    if session.dry:
        _watched(session, "no tool", "eager", [])
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise NotHere("compute-sanitizer is not on PATH")
    if session.dry:
        raise NotHere("torch sees no CUDA device, so compute-sanitizer has nothing to watch")
    backends = [name for name in ("cuda", "triton") if ops.unusable_reason(name, device) is None]
    if not backends:
        raise NotHere("neither cuda nor triton can be used")
    for backend, check in itertools.product(backends, ("memcheck", "racecheck")):
        _watched(session, check, backend, [tool, "--tool", check, "--error-exitcode", str(_FOUND)])

"""Nsight Compute's counters of every kernel that a solve launches: speed against the hardware's, stalls, occupancy."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.device_check.session import ROOT, NotHere
from spectral_sampler import ops

if TYPE_CHECKING:
    from benchmarks.device_check.session import Session

PROBLEMS = ["64:128:2048:float16", "64:512:768:float16"]
_SECTIONS = ("SpeedOfLight", "WarpStateStats", "Occupancy", "LaunchStats")
_KERNELS = 12  # of one run


def kernels(text: str) -> list[dict[str, Any]]:
    """One row a kernel from the CSV that ncu prints among its own lines: kernel, launch, and every metric it has."""
    found: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(line for line in text.splitlines() if line.startswith('"')):
        kernel = found.setdefault(row["ID"], {"kernel": row["Kernel Name"], "grid": row["Grid Size"],
                                              "block": row["Block Size"], "metrics": {}})  # fmt: skip
        if row["Metric Name"]:
            kernel["metrics"][f"{row['Metric Name']} [{row['Metric Unit']}]"] = row["Metric Value"]
    return list(found.values())


def run(session: Session) -> None:
    """A row for each kernel."""
    device, tool = session.device(), shutil.which("ncu")
    if tool is None:
        raise NotHere("ncu is not on PATH")
    if session.dry:
        raise NotHere("torch sees no CUDA device, so ncu has nothing to count")
    sections = [word for name in _SECTIONS for word in ("--section", name)]
    prefix = [tool, "--csv", "--page", "details", "--clock-control", "none", "--profile-from-start", "off",
              "--launch-count", str(_KERNELS), *sections]  # fmt: skip
    for backend in ("triton", "cuda"):
        if ops.unusable_reason(backend, device) is not None:
            continue
        command = [*prefix, sys.executable, "-m", "benchmarks.device_check.launches", "--profile", backend]
        command += PROBLEMS[:1] if session.quick else PROBLEMS
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False,
                              timeout=max(1.0, session.left() / 2))  # fmt: skip
        found = kernels(done.stdout)
        for kernel in found:
            session.row(backend=backend, **kernel)
        if not found:
            print(done.stdout[-4000:], done.stderr[-4000:])
            session.row(backend=backend, wrong=f"ncu counted no kernel of {backend} (status {done.returncode})")

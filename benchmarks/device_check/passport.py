"""Which machine, which versions, which commit, when. Needs neither torch nor a device."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from benchmarks.device_check.session import ROOT

_PACKAGES = {"torch": ("torch",), "triton": ("triton",), "numpy": ("numpy",), "scipy": ("scipy",),
             "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy")}  # fmt: skip


def told_by(*command: str) -> str | None:
    """The first line that a command prints, or None where it cannot be run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def _digest() -> str:
    """Of the package's sources: says which commit this was also where git is not."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("csrc", "spectral_sampler") for path in (ROOT / folder).rglob("*")):
        if path.suffix in {".py", ".json", ".h", ".cpp", ".cu", ".cuh"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def passport() -> dict[str, Any]:
    """Everything a row must be read with."""
    device = told_by("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0")
    name, _, driver = (device or "").partition(", ")
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    return {
        "device": name or None,
        "driver": driver or None,
        **{package: next(filter(None, map(installed.get, names)), None) for package, names in _PACKAGES.items()},
        "nvcc": (told_by("sh", "-c", "nvcc --version | tail -1") or None),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": told_by("git", "describe", "--always", "--dirty"),
        "sources": _digest(),
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
    }

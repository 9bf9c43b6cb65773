"""tests/gpu under pytest, with a row for every test. What is about time or memory runs alone first."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.device_check.session import ROOT, NotHere

if TYPE_CHECKING:
    from benchmarks.device_check.session import Session

_ALONE, _OTHERS = "tests/gpu/test_beside_training.py", "tests/gpu/test_answers.py"
_WORKERS = 8


def _pytest(session: Session, file: str, *options: str) -> None:
    """One run of pytest, in which a skip is a failure unless this is a dry run."""
    command = [sys.executable, "-m", "pytest", file, "-q", "--tb=short", "-p", "no:cacheprovider", *options]
    command += ["-W", "default"]  # what another version of a library warns of is no answer of a GPU's
    command += ["-p", "benchmarks.device_check.pytest_rows"]
    command += [] if session.dry else ["--require-gpu"]
    # Or each of the workers computes its float64 truths on all cores, and all of them wait for one another.
    threads = max(1, (os.cpu_count() or 1) // _WORKERS) if "-n" in options else 1
    settings = session.environment() | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    start = time.perf_counter()
    status = subprocess.run(command, cwd=ROOT, env=settings, check=False).returncode
    wrong = f"pytest {file} ended with status {status}; its failed tests are rows" if status else None
    session.row(pytest=file, status=status, seconds=round(time.perf_counter() - start, 1), wrong=wrong)


def run(session: Session) -> None:
    """A row for each test and each run of pytest."""
    session.device()
    if importlib.util.find_spec("pytest") is None:
        raise NotHere("pytest is not installed")
    limit = ["--timeout=60"] if importlib.util.find_spec("pytest_timeout") else ["-o", "timeout="]
    spread = ["-n", str(_WORKERS)] if importlib.util.find_spec("xdist") and not session.dry else []
    only = ["-k", "128"] if session.quick else []
    _pytest(session, _ALONE, *limit)
    _pytest(session, _OTHERS, *limit, *spread, *only)
    if session.dry:
        raise NotHere("torch sees no CUDA device, so the tests were collected and skipped")

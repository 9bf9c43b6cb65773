"""Starts the programs that kill writers: crash_driver.py for stores, parts_crash_driver.py for stores of parts,
extraction_crash_driver.py for extractions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
BAD = ("silently wrong", "lost", "left behind")


def drive(mode, fault, trials, program="crash_driver.py", limit=280):
    """The counts of one run."""
    command = [sys.executable, str(HERE / program), mode, fault, str(trials)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=ENVIRONMENT)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)

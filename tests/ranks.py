"""Several processes as torchrun starts them; each leaves what it found as a JSON file."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from torch import distributed

TESTS = Path(__file__).parent


def torchrun(script, ranks, folder):
    """What ``script`` in this folder gave to `report` in each of ``ranks`` processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    finished = subprocess.run(
        [*start, str(TESTS / script), str(folder)],
        capture_output=True, text=True, timeout=240, check=False, env=environment,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]


def work(found):
    """Runs ``found(rank, ranks)`` in a process that torchrun started, and reports what it returns."""
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(found(rank, ranks)), encoding="utf-8")
    distributed.destroy_process_group()

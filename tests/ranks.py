"""Several processes with a process group between them; each leaves what it found as a JSON file."""

import json
import os
from datetime import timedelta

import torch
from processes import context
from torch import distributed


def ranked(found, ranks, folder):
    """What ``found(rank, ranks)``, of a module, gave in each of ``ranks`` processes."""
    processes = [context().Process(target=_work, args=(found, rank, ranks, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        process.kill()  # of one that has ended, nothing
    assert [process.exitcode for process in processes] == [0] * ranks
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]


def _work(found, rank, ranks, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    place = (folder / "rendezvous").as_uri()
    distributed.init_process_group(
        "gloo", init_method=place, rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    (folder / f"{rank}.json").write_text(json.dumps(found(rank, ranks)), encoding="utf-8")
    distributed.destroy_process_group()

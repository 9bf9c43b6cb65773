"""Plays one example again and again, on one process and on several, as torchrun starts them.

What is slow, importing the framework, is done once: every rank of every play is a fork. A play is a dictionary:
``name`` (also of the folder its records go to), ``ranks``, ``arguments`` of the example, and ``stop``, the batch before
which all ranks are killed, or None.
"""

import faulthandler
import importlib
import json
import os
import runpy
import socket
import sys
import time
import traceback
from pathlib import Path

LIMIT = 200  # seconds of one play


def work(plan, play, rank, port):
    """One rank; never returns."""
    folder = Path(plan["folder"]) / play["name"]
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(play["ranks"]), "MASTER_PORT": str(port),
        "LOCAL_WORLD_SIZE": str(play["ranks"]), "GROUP_RANK": "0", "ROLE_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": play["name"], "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    output = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.dump_traceback_later(LIMIT - 10)  # into the log, where it waits
    code = 1
    try:
        sys.argv = [plan["script"], "--data", plan["data"], *play["arguments"]]
        if "ray.train" in plan["modules"]:
            record_ray_workers(folder, play, plan["data"])
            runpy.run_path(plan["script"], run_name="__main__")
        else:
            from recorder import Recorder

            recorder = Recorder(folder, rank, play["ranks"], plan["data"], play["stop"])
            recorder.install()
            keep_models()
            runpy.run_path(plan["script"], run_name="__main__")
            recorder.write()
        code = 0
    except BaseException:  # noqa: BLE001 - told to the parent
        traceback.print_exc()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()  # its processes would stay
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def keep_models():
    """Keeps a model of several ranks until the process ends, whoever lets go of it, the script or a framework's end.

    Freed, it may wait for a thread of gloo that waits for the interpreter (torch 2.13, rarely).
    """
    from torch.nn.parallel import DistributedDataParallel

    kept, made = [], DistributedDataParallel.__init__

    def keeping(model, *arguments, **named):
        kept.append(model)
        made(model, *arguments, **named)

    DistributedDataParallel.__init__ = keeping


def record_ray_workers(folder, play, data):
    """The ranks are processes that Ray starts."""
    from ray.train.torch import TorchTrainer

    made = TorchTrainer.__init__

    def recording(trainer, train, **named):
        def recorded(options):
            import ray.train
            from recorder import Recorder

            rank = ray.train.get_context().get_world_rank()
            recorder = Recorder(folder, rank, play["ranks"], data, play["stop"], alone=False)
            recorder.install()
            train(options)
            recorder.write()

        made(trainer, recorded, **named)

    TorchTrainer.__init__ = recording


def play_all(plan):
    for play in plan["plays"]:
        (Path(plan["folder"]) / play["name"]).mkdir(parents=True)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        children = {}
        for rank in range(1 if "ray.train" in plan["modules"] else play["ranks"]):
            child = os.fork()
            if child == 0:
                work(plan, play, rank, port)
            children[child] = rank
        end = time.monotonic() + LIMIT
        while children:
            done, status = os.waitpid(-1, os.WNOHANG)
            if done:
                rank = children.pop(done)
            if (done and status) or time.monotonic() > end:
                ended = f"rank {rank} ended with status {status}" if done else f"{LIMIT} seconds are over"
                with (Path(plan["folder"]) / play["name"] / "0.log").open("a", encoding="utf-8") as log:
                    log.write(f"\n{ended}\n")
                for child in children:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                break
            time.sleep(0.01)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path[:0] = folders = [str(Path(plan["script"]).parent), str(Path(__file__).parent)]
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])  # for Ray's workers
    for module in ["tiny", *plan["modules"]]:
        importlib.import_module(module)
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # imports the compiler
    play_all(plan)

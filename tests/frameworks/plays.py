"""The frameworks, the plays of each, and what one process without a framework trains on."""

import functools
import json
import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import numpy as np

TESTS = Path(__file__).parent
ROOT = TESTS.parent.parent
EXAMPLES = ROOT / "examples"
EPOCHS, CANDIDATES, ROWS = 3, 32, 512
BATCHES = ROWS // CANDIDATES
MIDDLE, AFTER = 4, 2  # batches of the second epoch at the checkpoint, and further ones until all ranks are killed


class Framework(NamedTuple):
    """One row of the matrix."""

    script: str
    package: str
    modules: tuple[str, ...]
    ranks: tuple[int, ...] = (1, 2)
    mid: bool = True
    """Does its loop save within an epoch?"""
    ahead: bool = False
    """Does it read a batch before the losses of the last one are known? Then these resume at the end of an epoch."""
    multiple_of: int = 1

    @property
    def installed(self):
        return util.find_spec(self.package) is not None

    @property
    def version(self):
        return metadata.version(self.package).partition("+")[0]


OURS = "spectral_sampler.integrations."
FRAMEWORKS = {
    "raw": Framework("raw_loop.py", "torch", (), ranks=(1,)),
    "ddp": Framework("ddp.py", "torch", ()),
    "torchdata": Framework("torchdata_loop.py", "torchdata", ("torchdata.stateful_dataloader",)),
    "accelerate": Framework("accelerate_loop.py", "accelerate", ("accelerate", f"{OURS}accelerate"), ahead=True),
    "trainer": Framework(
        "hf_trainer.py", "transformers",
        ("transformers.trainer", "transformers.modeling_outputs", f"{OURS}transformers"), ahead=True,
    ),
    "lightning": Framework("lightning_module.py", "lightning", ("lightning.pytorch.callbacks", f"{OURS}lightning")),
    "fabric": Framework("fabric_loop.py", "lightning", ("lightning.fabric",)),
    "timm": Framework("timm_loop.py", "timm", ("timm.data",), mid=False, multiple_of=2),
    "ray": Framework("ray_train.py", "ray", ("ray.train", "ray.train.torch"), ranks=(2,), mid=False),
}  # fmt: skip


@functools.cache
def data():
    """Inputs and labels: four overlapping classes of 8 x 8 pixels."""
    random = np.random.default_rng(0)
    labels = np.arange(ROWS) % 4
    inputs = 0.5 + 0.2 * random.normal(size=(ROWS, 64)) + 0.3 * np.eye(4, 64)[labels]
    return np.clip(inputs, 0, 1).astype(np.float32), labels


def plays_of(framework, ranks, folder):
    batches = BATCHES // ranks
    common = ["--epochs", str(EPOCHS), "--batch-size", str(CANDIDATES)]
    middle = batches + MIDDLE
    saved = middle if framework.mid and not framework.ahead else batches

    def play(name, *arguments, out=None, stop=None):
        place = folder / f"out-{out or name}-{ranks}"
        given = [*common, "--out", str(place), *arguments]
        return {"name": f"{name}-{ranks}", "ranks": ranks, "arguments": given, "stop": stop}

    learner = ["--selection", "plausible-learnable", "--save-every", str(saved)]
    yield play("full")
    yield play("learner", *learner)
    yield play("learner-killed", *learner, out="learner-kill", stop=saved + AFTER)
    yield play("learner-resumed", *learner, "--resume", out="learner-kill")
    if "ray" in framework.package:
        return  # which takes ten seconds and more to start
    yield play("workers", "--workers", "2")
    yield play("accumulate", "--accumulate", "2")
    if framework.mid:
        killed = ["--workers", "2", "--save-every", str(middle)]
        yield play("killed", *killed, stop=middle + AFTER)
        yield play("resumed", *killed, "--resume", out="killed")
    if framework.package == "timm":
        yield play("mixup", "--mixup")


class Played:
    """The records of all plays of a framework."""

    def __init__(self, framework, folder):
        self.framework, self.folder = framework, folder / "plays"
        np.savez(folder / "data.npz", x=data()[0], y=data()[1])
        plays = [play for ranks in framework.ranks for play in plays_of(framework, ranks, folder)]
        plan = {
            "script": str(EXAMPLES / framework.script), "folder": str(self.folder), "data": str(folder / "data.npz"),
            "modules": framework.modules, "plays": plays,
        }  # fmt: skip
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self.finished = subprocess.run(
            [sys.executable, str(TESTS / "launch.py"), str(folder / "plan.json")],
            capture_output=True, text=True, check=False, env=environment, timeout=900,
        )  # fmt: skip

    def record(self, name, ranks):
        """What each rank wrote."""
        assert self.finished.returncode == 0, self.finished.stderr[-3000:]
        place = self.folder / f"{name}-{ranks}"
        found = []
        for rank in range(ranks):
            file, log = place / f"{rank}.json", place / f"{rank}.log"
            told = log.read_text(encoding="utf-8")[-3000:] if log.exists() else "never started"
            assert file.exists(), f"rank {rank} of {name} came to no end: {told}"
            found.append(json.loads(file.read_text(encoding="utf-8")))
        return found

    def steps(self, name, ranks):
        """A list of steps, each the lists of all ranks."""
        return [list(step) for step in zip(*(rank["trained"] for rank in self.record(name, ranks)), strict=True)]


def union(steps):
    """The batches of all ranks in the order in which one process would train on them."""
    return [batch for step in steps for batch in step]


@functools.cache
def expected(multiple_of):
    """Every batch of every epoch of `PlausibleEven`, of one process and no framework."""
    sys.path.insert(0, str(EXAMPLES))
    import tiny
    import torch
    from torch.utils.data import TensorDataset

    from spectral_sampler import PlausibleEven, SigmoidSchedule, SpectralBatchSampler

    dataset = TensorDataset(*map(torch.from_numpy, data()))
    sampler = SpectralBatchSampler(
        tiny.store(dataset), CANDIDATES, selection=PlausibleEven(), epochs=EPOCHS, seed=0, multiple_of=multiple_of,
        keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4),
    )  # fmt: skip
    return [list(sampler) for _ in range(EPOCHS)]

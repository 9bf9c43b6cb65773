"""One short training of a pilot: the learner on some rows for some epochs, judged by rows that it never saw."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler

from spectral_sampler.experiment.learner import Recipe, Rows, fit, flops_per_sample
from spectral_sampler.experiment.networks import network_for
from spectral_sampler.experiment.policies import FULL, POLICIES
from spectral_sampler.modules import frozen
from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.selection import Uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from spectral_sampler.experiment.piloting.pool import Lesson, Pool
    from spectral_sampler.experiment.samples import Samples

__all__ = ["Run", "Short", "short_run"]


class Short(NamedTuple):
    """How much shorter than the whole training."""

    rows: int
    epochs: int
    candidate_batch_size: int


class Run(NamedTuple):
    """What came of one training."""

    record: dict[str, Any]
    """Plain values."""
    selected: NDArray[np.int64]
    """(M,) how often each row of the pool was trained on."""


def _right(network: nn.Module, samples: Samples) -> NDArray[np.bool_]:
    """(M,) whether the network predicts the label."""
    found = [np.zeros(0, dtype=np.bool_)]
    loader = DataLoader(Rows(samples), 500, collate_fn=lambda batch: batch, generator=torch.Generator())
    with frozen(network) as home, torch.inference_mode():
        for inputs, labels, _ in loader:
            found.append((network(inputs.to(home)).argmax(1).cpu() == labels).numpy())
    return np.concatenate(found)


def short_run(pool: Pool, lesson: Lesson, policy: str, seed: int, short: Short, keep_ratio: float) -> Run:
    """Trains once, from weights and with an order of candidates that all policies of the seed share.

    The candidates are the lesson's rows; what a selection knows of them it knows from the whole pool, as in the whole
    training it will. The accuracy weighs the judges so that classes count as in the test part.
    """
    settings, whole = pool.settings, policy == FULL
    network = network_for(pool.task, settings, seed)
    flops, ratio = flops_per_sample(network, pool.samples), 1.0 if whole else keep_ratio
    order = SubsetRandomSampler(lesson.rows.tolist(), generator=torch.Generator().manual_seed(seed))
    batches = SpectralBatchSampler(
        pool.store, candidate_batch_size=short.candidate_batch_size, epochs=short.epochs, keep_ratio=ratio,
        selection=Uniform() if whole else POLICIES[policy](), seed=seed, backend=settings.backend, sampler=order,
    )  # fmt: skip
    steps = short.epochs * len(batches)
    given = {name: getattr(settings, name) for name in Recipe._fields if hasattr(settings, name)}
    recipe = Recipe(steps=steps, checkpoints=1, **given)
    with torch.random.fork_rng(devices=[]):  # photographs are augmented from the global generator
        torch.manual_seed(seed)
        trace = fit(network, pool.samples, batches, recipe, lesson.judges[1].subset(np.arange(1)))
    started = time.perf_counter()
    right = np.concatenate([_right(network, judges) for judges in lesson.judges])
    selected = trace.selected.sum(axis=0)
    seconds = {**trace.seconds, "judging": time.perf_counter() - started}
    record = {
        "policy": policy, "seed": seed, "keep_ratio": ratio, "rows": len(lesson.rows), "epochs": short.epochs,
        "candidate_batch_size": short.candidate_batch_size, "steps": steps, "samples": int(selected.sum()),
        "learner_flops": flops[1] * int(selected.sum()), "judges": len(right),
        "test_accuracy": float(lesson.weights @ right),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
    }  # fmt: skip
    return Run(record, selected)

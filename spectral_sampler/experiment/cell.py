"""One training of the comparison: one policy, one seed."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import math
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.confusions import with_partners
from spectral_sampler.experiment.corruption import Corrupted, corrupt
from spectral_sampler.experiment.data import Source, load_task
from spectral_sampler.experiment.learner import Recipe, evaluate, fit, flops_per_sample, predictions
from spectral_sampler.experiment.networks import network_for, weights_digest
from spectral_sampler.experiment.policies import CONTROLS, FRESH, FULL, FULL_EQUAL_COMPUTE, POLICIES
from spectral_sampler.experiment.reference import Reference, reference_for
from spectral_sampler.experiment.zero_shot import with_zero_shot
from spectral_sampler.modules import global_randomness_kept
from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.selection import KINDS, BayesianSelection, Uniform
from spectral_sampler.selection.needs import forwards_candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from spectral_sampler.experiment.learner import Trace
    from spectral_sampler.experiment.samples import Samples, Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["Cell", "Places", "budgets", "candidate_batches", "checkpoints", "load", "run_cell"]

_PICTURED_BATCH = 13  # "Batch 14" of GSTDS Fig. 8
_EXAMPLES = 24  # rows named in a result, of those trained on most and least


class Places(NamedTuple):
    """Where things lie on this machine; no result depends on it."""

    root: Path | None = None
    cache: Path | None = None
    download: bool = False
    plugins: tuple[str, ...] = ()
    """Modules to import first, for the policies they register."""


class Cell(NamedTuple):
    """A policy and a seed under one setting."""

    settings: Settings
    policy: str
    seed: int
    curve: bool = True
    """Test at every epoch, and look at one batch for a picture; else only test at the end. Changes no training."""

    @property
    def key(self) -> str:
        """Changes with anything that the result depends on, except the code."""
        factory = POLICIES.get(self.policy)
        return self.settings.key(self.policy, self.seed, factory() if factory else "")


@functools.lru_cache(maxsize=2)
def _loaded(name: str, source: Source) -> Task:
    return load_task(name, source)


def load(settings: Settings, places: Places) -> Task:
    """The data set; read once in a process."""
    for module in places.plugins:
        importlib.import_module(module)
    return _prepared(settings, places)


@functools.lru_cache(maxsize=2)
def _prepared(settings: Settings, places: Places) -> Task:
    task = _loaded(settings.data, settings.source(places.root, places.cache, download=places.download))
    return with_partners(settings, task, places.cache) if settings.confusion_noise else task


def candidate_batches(settings: Settings, rows: int) -> int:
    """Candidate batches in an epoch; the incomplete one is dropped."""
    return rows // settings.candidate_batch_size


def budgets(settings: Settings, rows: int) -> NDArray[np.int64]:
    """Samples kept from every candidate batch of the training, (epochs · batches,)."""
    sampler = SpectralBatchSampler(
        np.ones((rows, 1)), settings.candidate_batch_size, epochs=settings.epochs,
        keep_ratio=settings.planned_ratio(), selection=Uniform(),
    )  # fmt: skip
    places = itertools.product(range(settings.epochs), range(candidate_batches(settings, rows)))
    return np.array([len(sampler.selection_at(*place)[1].positions) for place in places])


def _steps(cell: Cell, rows: int) -> int:
    settings = cell.settings
    full = settings.epochs * candidate_batches(settings, rows)
    if cell.policy != FULL_EQUAL_COMPUTE:
        return full
    return max(1, round(int(budgets(settings, rows).sum()) / settings.candidate_batch_size))


def checkpoints(cell: Cell) -> int:
    """How often `run_cell` calls ``report``."""
    return cell.settings.epochs if cell.curve else 1


def _batches(
    cell: Cell, reference: Reference, *, reshuffle: bool, learner: tuple[nn.Module, Samples] | None = None
) -> Any:
    """The batch sampler of a policy; ``learner`` and its data for one that looks at the candidates through it."""
    settings = cell.settings
    whole = cell.policy in {FULL, FULL_EQUAL_COMPUTE}
    selection = Uniform() if whole else POLICIES[cell.policy]()
    if isinstance(selection, BayesianSelection) and not reference.logits.shape[1]:
        rule, remedy = "one that predicts classes, for the Bayesian selection", "held-out does, and minilm for texts."
        raise argument_error("reference", rule, settings.reference, remedy)
    selection = with_zero_shot(selection, reference.logits)
    forwarded: dict[str, Any] = {}
    if learner is not None and (forwards_candidates(selection) or cell.policy in FRESH):
        forwarded = {"learner": learner[0], "dataset": learner[1].plain()}
    return SpectralBatchSampler(
        reference.store,
        candidate_batch_size=settings.candidate_batch_size,
        epochs=settings.epochs,
        keep_ratio=1.0 if whole else settings.ratio(),
        selection=selection,
        seed=cell.seed,
        reshuffle=reshuffle,
        backend=settings.backend,
        **forwarded,
    )


def run_cell(cell: Cell, places: Places, report: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Trains the learner once and says what came of it, in plain values for JSON.

    The global generators of torch, NumPy and random, from which augmentation and dropout draw, are seeded by the cell's
    seed for the training and left as they were.
    """
    settings, started = cell.settings, time.perf_counter()
    task = load(settings, places)
    corrupted = corrupt(task.train.labels, settings.corruption, len(task.classes), cell.seed, task.known)
    train = task.train.subset(corrupted.rows, corrupted.labels)
    reference = reference_for(settings, task, corrupted, cell.seed, places.cache)
    network = network_for(task, settings, cell.seed)
    initial, flops = weights_digest(network), flops_per_sample(network, train)
    steps = _steps(cell, len(train))
    recipe = Recipe(
        steps, settings.learning_rate, settings.weight_decay, checkpoints(cell), settings.device,
        settings.optimizer, settings.momentum, settings.learning_rate_schedule,
    )  # fmt: skip
    batches = _batches(cell, reference, reshuffle=settings.reshuffle, learner=(network, train))
    with _seeded(cell.seed):
        trace = fit(network, train, batches, recipe, task.test, report)
    if not all(math.isfinite(value) for point in trace.curve for value in point.values()):
        rule, remedy = "one at which training does not diverge", "Its losses are no longer finite: use a smaller one."
        what = f"{settings.learning_rate} with {cell.policy}, seed {cell.seed}"
        raise argument_error("learning-rate", rule, what, remedy)
    result = {
        "policy": cell.policy,
        "seed": cell.seed,
        "key": cell.key,
        "selection": repr(getattr(batches, "selection", None)),
        "has_curve": cell.curve,
        "initial_weights": initial,
        "steps": steps,
        **_outcome(trace, flops, corrupted, len(task.classes)),
        **_accuracies(network, task, train, trace),
        "corruption": corrupted.record(len(task.classes)),
        "reference": reference.record,
        "statistics": trace.statistics,
        "total_seconds": time.perf_counter() - started,
    }
    if (
        cell.curve
        and cell.policy in POLICIES
        and POLICIES[cell.policy]().needs <= {"features", "losses", "labels"}
        and cell.policy not in CONTROLS
    ):
        result["pictured_batch"] = _pictured(cell, reference, train)
    return result


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with global_randomness_kept():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - somebody's augmentation may ask it
        random.seed(seed)
        yield


def _accuracies(network: nn.Module, task: Task, train: Samples, trace: Trace) -> dict[str, float | None]:
    """Of the trained network: on the rows that it was trained on, without augmentation and with the labels it saw; on
    the validation part, None where none was cut; and on the test part the mean over its classes."""
    seen = train.subset(np.flatnonzero(trace.selected.sum(0)))
    predicted, _ = predictions(network, task.test)
    right = predicted == task.test.labels
    recalls = [right[task.test.labels == label].mean() for label in np.unique(task.test.labels)]
    return {
        "train_accuracy": evaluate(network, seen)[0],
        "validation_accuracy": None if task.validation is None else evaluate(network, task.validation)[0],
        "test_balanced_accuracy": float(np.mean(recalls)),
    }


def _outcome(trace: Trace, flops: tuple[float, float], corrupted: Corrupted, classes: int) -> dict[str, Any]:
    counts = trace.selected
    samples, forwarded = int(counts.sum()), trace.statistics.get("spectral/forwarded_total", 0.0)
    by_class = np.stack([np.bincount(corrupted.labels, weights=row, minlength=classes) for row in counts])
    return {
        "samples": samples,
        "distinct_samples": int(np.count_nonzero(counts.sum(0))),
        "learner_flops": flops[0] * forwarded + flops[1] * samples,  # looking at candidates costs a forward pass each
        "seconds": {name: round(value, 4) for name, value in trace.seconds.items()},
        "test_accuracy": trace.curve[-1]["test_accuracy"],
        "curve": trace.curve,
        "wrong_label_share": float(counts.sum(0) @ corrupted.wrong / max(samples, 1)),
        "selected_per_class": by_class.astype(int).tolist(),
        "most_selected": _first(-counts.sum(0), counts.sum(0)),
        "least_selected": _first(counts.sum(0), counts.sum(0)),
    }


def _first(order: NDArray[np.int64], times: NDArray[np.int64]) -> list[list[int]]:
    """The rows lowest in ``order`` (M,), each with how often it was trained on; ties by chance, not by row."""
    ties = draws.uniforms(0, 0, 0, np.arange(len(order)), draws.TIES)
    return [[int(row), int(times[row])] for row in np.lexsort((ties, order))[:_EXAMPLES]]


def _pictured(cell: Cell, reference: Reference, train: Samples) -> dict[str, Any]:
    """One candidate batch early and late in a fixed partition: principal components, and who was selected why."""
    sampler = _batches(cell, reference, reshuffle=False)
    batch = min(_PICTURED_BATCH, candidate_batches(cell.settings, len(train)) - 1)
    moments = []
    for epoch in (min(1, cell.settings.epochs - 1), cell.settings.epochs - 1):
        candidates, choice, ratio = sampler.selection_at(epoch, batch)
        kinds = np.full(len(candidates), "rejected", dtype=object)
        kinds[choice.positions] = [KINDS[kind] for kind in choice.kinds]
        moments.append({"epoch": epoch + 1, "keep_ratio": float(ratio), "kinds": kinds.tolist()})
    rows = reference.store.features[candidates].astype(np.float64)
    centred = rows - rows.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    shares = values**2 / max(float((values**2).sum()), 1e-300)
    return {
        "batch": batch + 1,
        "points": np.round(left[:, :2] * values[:2], 4).tolist(),
        "variance_shares": [round(float(share), 4) for share in shares[:2]],
        "labels": train.labels[candidates].tolist(),
        "moments": moments,
    }

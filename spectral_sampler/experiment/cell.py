"""One training of the comparison: one policy, one seed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.budgets import budgets, candidate_batches
from spectral_sampler.experiment.confusions import with_partners
from spectral_sampler.experiment.controls.cleaning import cleaning_record
from spectral_sampler.experiment.corruption import Corrupted, corrupt
from spectral_sampler.experiment.data import Source, load_task
from spectral_sampler.experiment.equal_compute import Allotment, allot, overspent
from spectral_sampler.experiment.learner import Recipe, Trace, evaluate, fit, flops_per_sample, predictions
from spectral_sampler.experiment.networks import network_for, weights_digest
from spectral_sampler.experiment.policies import CONTROLS, FULL, policy_named
from spectral_sampler.experiment.policy import Decision, Material, candidates
from spectral_sampler.experiment.reference import reference_for
from spectral_sampler.experiment.reference_cost import reference_cost
from spectral_sampler.modules import global_randomness_kept
from spectral_sampler.selection import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from spectral_sampler.experiment.policy import Finished, Policy
    from spectral_sampler.experiment.samples import Samples, Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["Cell", "Places", "budgets", "candidate_batches", "checkpoints", "load", "prepare", "run_cell"]

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
        selection = policy_named(self.policy).selection
        return self.settings.key(self.policy, self.seed, selection() if selection else "")


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


def checkpoints(cell: Cell) -> int:
    """How often `run_cell` calls ``report``."""
    return cell.settings.epochs if cell.curve else 1


def _material(cell: Cell, places: Places) -> Material:
    settings = cell.settings
    task = load(settings, places)
    corrupted = corrupt(task.train.labels, settings.corruption, len(task.classes), cell.seed, task.known)
    train = task.train.subset(corrupted.rows, corrupted.labels)
    reference = reference_for(settings, task, corrupted, cell.seed, places.cache)
    network = network_for(task, settings, cell.seed)
    return Material(settings, cell.seed, task, corrupted, train, reference, network, places.cache)


def prepare(settings: Settings, seed: int, policies: Iterable[str], places: Places) -> None:
    """Fills the cache with one seed's reference, and what policies share, so that no two trainings compute it."""
    material = _material(Cell(settings, FULL, seed), places)
    for step in {policy_named(name).prepare for name in policies}:
        if step is not None:
            step(material)


class _Trained(NamedTuple):
    """A predictor, and what was done for it."""

    network: nn.Module
    task: Task
    """Its test part as this predictor reads it."""
    train: Samples
    corrupted: Corrupted
    """Of the rows in ``train``."""
    trace: Trace
    record: dict[str, Any]
    """What the policy alone has to say."""


def _train(cell: Cell, policy: Policy, material: Material, allotted: Allotment, report: Callable[[], None]) -> _Trained:
    """The material's network, trained."""
    material = _for(material, allotted)
    if policy.extended is not None:
        material = policy.extended(material)
    settings, network, train = cell.settings, material.network, material.train
    recipe = Recipe(
        allotted.steps, settings.learning_rate, settings.weight_decay, checkpoints(cell), settings.device,
        settings.optimizer, settings.momentum, settings.learning_rate_schedule,
    )  # fmt: skip
    started = time.perf_counter()
    rows = policy.rows(material)
    choosing = time.perf_counter() - started
    batches = policy.batches(policy, material, rows)
    with _seeded(cell.seed):
        trace = fit(network, train, batches, recipe, material.task.test, report)
    trace.seconds["selection"] += choosing
    record: dict[str, Any] = {"selection": repr(batches.selection)} if hasattr(batches, "selection") else {}
    if policy.left_out is not None:
        left_out = np.ones(len(train), dtype=np.bool_)
        left_out[rows] = False
        record["left_out"] = cleaning_record(left_out, material.corrupted.wrong)
    return _Trained(network, material.task, train, material.corrupted, trace, record)


def _for(material: Material, allotted: Allotment) -> Material:
    """The same with a keep-ratio schedule over the epochs that are allotted."""
    return material._replace(settings=dataclasses.replace(material.settings, epochs=allotted.epochs))


def _judge(
    cell: Cell, make: Callable[[Material], Finished], material: Material, report: Callable[[], None]
) -> _Trained:
    """A predictor as it is: one point of a curve, at no samples."""
    started = time.perf_counter()
    made = make(material)
    seconds = {"selection": 0.0, "data": 0.0, "training": time.perf_counter() - started}
    accuracy, losses = evaluate(made.network, made.test)
    training_loss = float(evaluate(made.network, made.train)[1].mean())
    point = {"step": 0, "samples": 0, "training_loss": training_loss, "test_accuracy": accuracy,
             "test_loss": float(losses.mean())}  # fmt: skip
    for _ in range(checkpoints(cell)):
        report()
    trace = Trace([point], np.zeros((1, len(made.train)), dtype=np.int64), seconds, {})
    seen = {"wrong_label_share": float(material.corrupted.wrong.mean())}
    task = material.task._replace(test=made.test, validation=None)  # whose rows it cannot read
    return _Trained(made.network, task, made.train, material.corrupted, trace, {**seen, **made.record})


def run_cell(cell: Cell, places: Places, report: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Trains the learner once and says what came of it, in plain values for JSON.

    The global generators of torch, NumPy and random, from which augmentation and dropout draw, are seeded by the cell's
    seed for the training and left as they were.
    """
    started = time.perf_counter()
    material = _material(cell, places)
    decided, corrupted, classes = _decided(cell, material), material.corrupted, len(material.task.classes)
    policy = policy_named(decided.policy)
    initial = weights_digest(material.network)
    flops = flops_per_sample(material.network, material.train)
    cost = reference_cost(cell.settings, material.task, len(material.train), flops)
    allotted = allot(policy, cell.settings, len(material.train), flops, cost, decided.flops)
    result: dict[str, Any] = {"policy": cell.policy, "seed": cell.seed, "key": cell.key, "has_curve": cell.curve,
                              "initial_weights": initial, "reference": material.reference.record,
                              **allotted.record(), **decided.record}  # fmt: skip
    if allotted.not_compared:
        return {**result, "not_compared": allotted.not_compared}
    if policy.finished is None:
        trained = _train(cell, policy, material, allotted, report)
    else:
        trained = _judge(cell, policy.finished, material, report)
    trained.trace.seconds["selection"] += decided.seconds
    if not all(math.isfinite(value) for point in trained.trace.curve for value in point.values()):
        rule, remedy = "one at which training does not diverge", "Its losses are no longer finite: use a smaller one."
        what = f"{cell.settings.learning_rate} with {cell.policy}, seed {cell.seed}"
        raise argument_error("learning-rate", rule, what, remedy)
    result |= {
        "steps": allotted.steps,
        **_outcome(trained.trace, flops, trained.corrupted, classes),
        **trained.record,
        **_accuracies(trained.network, trained.task, trained.train, trained.trace),
        "corruption": corrupted.record(classes),
        "clock": {"seconds": trained.trace.clock},
        "statistics": trained.trace.statistics,
        "total_seconds": time.perf_counter() - started,
    }
    if reason := overspent(allotted, result["learner_flops"] + result["looking_flops"]):
        result["not_compared"] = reason
    if cell.curve and cell.policy not in CONTROLS and _pictures(policy):
        result["pictured_batch"] = _pictured(policy, _for(material, allotted))
    return result


def _decided(cell: Cell, material: Material) -> Decision:
    """The cell's own policy, or the one that it decides for."""
    if (decides := policy_named(cell.policy).decides) is None:
        return Decision(cell.policy)
    with _seeded(cell.seed):
        decided = decides(material)
    if policy_named(decided.policy).decides is not None:
        rule, remedy = "one that is trained", "A policy that decides names one that does not."
        raise argument_error("policy", rule, repr(decided.policy), remedy)
    return decided._replace(record={"chosen": decided.policy, **decided.record})


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with global_randomness_kept():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - somebody's augmentation may ask it
        random.seed(seed)
        yield


def _accuracies(network: nn.Module, task: Task, train: Samples, trace: Trace) -> dict[str, float | None]:
    """Of the trained network: on the rows that it was trained on, all where no step was, without augmentation and with
    the labels it saw; on the validation part, None where none was cut; and on the test part the mean over its classes.
    """
    rows = np.flatnonzero(trace.selected.sum(0))
    predicted, _ = predictions(network, task.test)
    right = predicted == task.test.labels
    recalls = [right[task.test.labels == label].mean() for label in np.unique(task.test.labels)]
    return {
        "train_accuracy": evaluate(network, train.subset(rows) if len(rows) else train)[0],
        "validation_accuracy": None if task.validation is None else evaluate(network, task.validation)[0],
        "test_balanced_accuracy": float(np.mean(recalls)),
    }


def _outcome(trace: Trace, flops: tuple[float, float], corrupted: Corrupted, classes: int) -> dict[str, Any]:
    counts = trace.selected
    samples, forwarded = int(counts.sum()), trace.statistics.get("spectral/forwarded_total", 0.0)
    by_class = np.stack([np.bincount(corrupted.labels, weights=row, minlength=classes) for row in counts])
    return {
        "samples": samples,
        "passes": samples / len(corrupted.rows),
        "distinct_samples": int(np.count_nonzero(counts.sum(0))),
        "learner_flops": flops[1] * samples,
        "looking_flops": flops[0] * forwarded,
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


def _pictures(policy: Policy) -> bool:
    """Whether a batch of it can be looked at without a training."""
    shown = {"features", "losses", "labels"}
    return policy.batches is candidates and policy.selection is not None and policy.selection().needs <= shown


def _pictured(policy: Policy, material: Material) -> dict[str, Any]:
    """One candidate batch early and late in a fixed partition: principal components, and who was selected why."""
    train, reference, settings = material.train, material.reference, material.settings
    sampler = candidates(policy, material, policy.rows(material), reshuffle=False, look=False)
    batch = min(_PICTURED_BATCH, candidate_batches(settings, len(train)) - 1)
    moments = []
    for epoch in (min(1, settings.epochs - 1), settings.epochs - 1):
        offered, choice, ratio = sampler.selection_at(epoch, batch)
        kinds = np.full(len(offered), "rejected", dtype=object)
        kinds[choice.positions] = [KINDS[kind] for kind in choice.kinds]
        moments.append({"epoch": epoch + 1, "keep_ratio": float(ratio), "kinds": kinds.tolist()})
    rows = reference.store.features[offered].astype(np.float64)
    centred = rows - rows.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    shares = values**2 / max(float((values**2).sum()), 1e-300)
    return {
        "batch": batch + 1,
        "points": np.round(left[:, :2] * values[:2], 4).tolist(),
        "variance_shares": [round(float(share), 4) for share in shares[:2]],
        "labels": train.labels[offered].tolist(),
        "moments": moments,
    }

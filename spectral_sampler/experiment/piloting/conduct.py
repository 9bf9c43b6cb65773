"""Does selection pay on this data set? Short trainings beside what the reference says of the rows, within a budget."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.cell import Places, load
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.learner import flops_per_sample
from spectral_sampler.experiment.networks import network_for
from spectral_sampler.experiment.piloting.cost import Cost
from spectral_sampler.experiment.piloting.facts import facts_of
from spectral_sampler.experiment.piloting.plan import (
    Plan,
    Room,
    clockless,
    comparison_samples,
    least_samples,
    plan_for,
    reference_rows,
)
from spectral_sampler.experiment.piloting.pool import gather, lesson, sizes
from spectral_sampler.experiment.piloting.run import Short, short_run
from spectral_sampler.experiment.piloting.verdict import SELECTIONS, conclude, selections
from spectral_sampler.experiment.policies import FULL
from spectral_sampler.experiment.reference import with_features
from spectral_sampler.experiment.reference_cost import reference_cost
from spectral_sampler.experiment.runner import circumstances
from spectral_sampler.selection import Uniform
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from spectral_sampler.experiment.piloting.facts import Facts
    from spectral_sampler.experiment.piloting.pool import Pool
    from spectral_sampler.experiment.piloting.run import Run
    from spectral_sampler.experiment.samples import Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["pilot", "recommend"]

_ANYWHERE = Places()
_TRAININGS = 4  # of a seed: everything, uniform, and two selections
_TRIED = 128  # rows of the first measurement
_REFERENCE_PART, _END = 0.4, 0.95  # of the budget: for the reference; when the last training has to be over
_JUDGING_PART = 1.0 / 3.0  # of the trainings' time
_EXAMPLES = 24
_FEW_SEEDS = 3
_FEWEST = 40  # training rows, of which a half at most is learnt from at a time


class _Clock:
    """Seconds of the wall clock, whatever else the machine does: the budget is a promise to the one who waits."""

    def __init__(self, budget: float) -> None:
        self.budget, self.started, self.processor = budget, time.perf_counter(), time.process_time()

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def left(self) -> float:
        return _END * self.budget - self.elapsed()


class _Measured(NamedTuple):
    """The first, short measurement."""

    reference: tuple[int, float]
    """Rows, and the seconds their reference took."""
    sample: float
    """Seconds of training on one sample."""
    judge: float
    """Seconds of judging by one row."""
    runs: list[Run]


def _measure(settings: Settings, task: Task, cache: Path) -> _Measured:
    started = time.perf_counter()
    pool = gather(settings, task, cache / "first", _TRIED, _TRIED)
    took = time.perf_counter() - started
    rows = len(pool.rows)
    short = Short(rows // 2, 2, max(2, min(settings.candidate_batch_size, rows // 4)))
    runs = [
        short_run(pool, lesson(pool, short.rows, 0, _TRIED), FULL, 0, short, 1.0) for _ in range(2)
    ]  # first: warm-up
    record = runs[1].record
    seconds = record["seconds"]
    return _Measured(
        (rows, took), (seconds["training"] + seconds["data"]) / record["samples"],
        seconds["judging"] / record["judges"], runs,
    )  # fmt: skip


def _planned(settings: Settings, task: Task, rows: int, first: _Measured, left: float) -> tuple[int, int]:
    encodes = settings.reference not in {"held-out", "twin", "untrained"}
    return reference_rows(rows, len(task.held_out), left, first.reference, encodes=encodes)


def _plan(settings: Settings, pool: Pool, first: _Measured, clock: _Clock, share: float) -> Plan:
    """What the rest of the time, or the share of the full comparison, allows; the least there is if that is too little,
    for the seeds stop when time is over."""
    left = max(clock.left(), 0.0)
    judges = min(Plan._field_defaults["judges"], int(_JUDGING_PART * left / first.judge / _TRAININGS / 5))
    classes = len(np.unique(pool.samples.labels))
    least = least_samples(classes, len(pool.rows), _TRAININGS - 2, settings.keep_ratio)
    allowed = share * comparison_samples(settings, pool.rows_in_all) - sum(run.record["samples"] for run in first.runs)
    room = Room(
        max(least, min(allowed, (1.0 - _JUDGING_PART) * left / first.sample)),
        pool.rows_in_all,
        len(pool.rows),
        classes,
    )
    short, seeds = plan_for(settings, room, _TRAININGS - 2, settings.keep_ratio)
    return Plan(len(pool.rows), None, short, seeds, max(judges, 50))


@contextlib.contextmanager
def _threads(jobs: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if jobs is None else jobs)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What samplers warn of in a training of a whole run is meant so in a short one."""
    log = logging.getLogger("spectral_sampler")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _train(
    pool: Pool, plan: Plan, clock: _Clock | None, say: Callable[[str], None], selected: Sequence[str] = SELECTIONS,
    first: int = 0,
) -> list[Run]:  # fmt: skip
    """All policies of one seed after another, from ``first`` on, as many seeds as planned or as there is time for, at
    least one."""
    runs: list[Run] = []
    policies = (FULL, Uniform.name, *selected)
    begun = time.perf_counter()
    for seed in range(plan.seeds):
        if clock and seed and (time.perf_counter() - begun) / seed > clock.left():
            say(f"The budget ends after {seed} of {plan.seeds} seeds.")
            break
        taught = lesson(pool, plan.short.rows, first + seed, plan.judges)
        keep = pool.settings.keep_ratio
        runs += [short_run(pool, taught, policy, first + seed, plan.short, keep) for policy in policies]
        say(f"Seed {seed + 1} of {plan.seeds}: {_TRAININGS} short trainings, "
            f"{time.perf_counter() - begun:.0f} s.")  # fmt: skip
    return runs


def _examples(pool: Pool, runs: list[Run], selection: str) -> dict[str, list[int]]:
    """Rows that the selection took most often in its short trainings, and such as were offered but never taken."""
    chosen, offered = (
        sum(run.selected for run in runs if run.record["policy"] == policy) for policy in (selection, FULL)
    )
    often, seen = np.asarray(chosen), np.asarray(offered)
    order = np.argsort(-often, kind="stable")
    kept = list(dict.fromkeys(pool.numbers[order[often[order] > 0]].tolist()))  # copies have one number
    left = np.setdiff1d(pool.numbers[(often == 0) & (seen > 0)], kept)
    return {"kept": kept[:_EXAMPLES], "left": left[:_EXAMPLES].tolist()}


def pilot(
    settings: Settings,
    places: Places = _ANYWHERE,
    *,
    budget: float = 120.0,
    jobs: int | None = None,
    share: float = 0.05,
    plan: Plan | None = None,
    say: Callable[[str], None] = lambda _: None,
    command: str = "",
) -> dict[str, Any]:
    """Whether selection can be expected to pay under ``settings``, in plain values for JSON.

    Reading, a reference of some of the rows, short trainings of the learner on everything, on uniformly selected and
    on well selected samples: all of it within ``budget`` seconds of the wall clock, and with at most ``share`` of the
    learner's arithmetic in the comparison that it stands for (five seeds of full training, of uniform selection and of
    the recommended one), or, of small data, what the shortest trainings take that tell anything. The test part lends
    the shares of its classes and nothing else.

    Args:
        settings: what the whole training would be; its ``keep_ratio`` is the share of samples to train on.
        places: where things lie. The pilot keeps nothing.
        budget: seconds.
        jobs: threads of torch; None leaves them.
        share: in (0, 1].
        plan: what to do, so that no clock decides; else it is made after a first short measurement.
        say: is told what happens.
        command: what the result says it was made by.

    Raises:
        ArgumentError: settings or a data set that cannot be.
    """
    settings.checked()
    within("keep-ratio", settings.keep_ratio, "(0, 1)", "0.3 trains on three samples of ten.")
    within("budget", budget, "(0, inf)", "Two minutes are a good start.")
    within("share", share, "(0, 1]", "0.05 is a twentieth of the full comparison's arithmetic.")
    if jobs is not None:
        whole_number("jobs", jobs, 1, "Leave it out for torch's own number of threads.")
    clock = _Clock(budget)
    with _threads(jobs), _quiet(), tempfile.TemporaryDirectory() as folder:
        found = _pilot(settings, places, Path(folder), clock, share, plan, say)
    return {**found, "settings": settings.record(), "circumstances": circumstances(command)}


def _check_rows(settings: Settings, rows: int) -> None:
    if rows < _FEWEST:
        rule = f"one with at least {_FEWEST} training rows"
        raise argument_error("data", rule, f"{settings.data} with {rows}", "Train on all of so few.")
    if rows < settings.candidate_batch_size:
        rule = f"at most the number of training rows ({rows})"
        raise argument_error("candidate-batch-size", rule, settings.candidate_batch_size, "Use a smaller one.")


class _Known(NamedTuple):
    """The pool, what was found in it, and the seconds either took."""

    pool: Pool
    facts: Facts
    extraction: float
    judging: float


def _known(
    settings: Settings, task: Task, folder: Path | None, pool: int | None, held_out: int | None, seed: int = 0
) -> _Known:
    started = time.perf_counter()
    gathered = gather(settings, task, folder, pool, held_out, seed)
    extracted = time.perf_counter()
    facts = facts_of(gathered)
    return _Known(gathered, facts, extracted - started, time.perf_counter() - extracted)


def _pilot(
    settings: Settings, places: Places, folder: Path, clock: _Clock, share: float, plan: Plan | None,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    task = load(settings, places)
    rows = len(corrupt(task.train.labels, settings.corruption, len(task.classes), 0, task.known).rows)
    _check_rows(settings, rows)
    tried: list[Run] = []
    timed = clock if plan is None else None
    if plan is None:
        first = _measure(settings, task, folder)
        sizes = _planned(settings, task, rows, first, _REFERENCE_PART * clock.budget - clock.elapsed())
        known, tried = _known(settings, task, folder, *sizes), first.runs
        plan = _plan(settings, known.pool, first, clock, share)._replace(pool=sizes[0], held_out=sizes[1])
    else:
        known = _known(settings, task, folder, plan.pool, plan.held_out)
    say(f"{len(known.pool.rows):,} of {rows:,} training rows have a reference, {clock.elapsed():.0f} s.")
    runs = _train(known.pool, plan, timed, say, selections(known.facts.record))
    records = [run.record for run in runs]
    cost = Cost.of(settings, known.pool, records, known.extraction, known.judging)
    found = conclude(settings, known.facts.record, records, cost)
    if (seeds := len(runs) // _TRAININGS) < min(plan.seeds, _FEW_SEEDS):
        found["advice"].append(
            f"There was time for {seeds} of {plan.seeds} seeds: give it more than {clock.budget:g} s."
        )
    flops = sum(run.record["learner_flops"] for run in (*tried, *runs))
    per_sample = records[0]["learner_flops"] / records[0]["samples"]
    measured = {
        "seconds": round(clock.elapsed(), 2), "processor_seconds": round(time.process_time() - clock.processor, 2),
        "learner_flops": flops,
        "share_of_comparison": round(flops / (per_sample * comparison_samples(settings, rows)), 4),
        "plan": {**plan._asdict(), "short": plan.short._asdict()}, "cost": cost._asdict(), "runs": records,
    }  # fmt: skip
    examples = {"suspects": known.facts.suspects, **_examples(known.pool, runs, found["proposed"]["recommended"])}
    return {**found, "data": known.facts.record, "measured": measured, "examples": examples}


def recommend(settings: Settings, task: Task, seed: int, cache: Path | None) -> dict[str, Any]:
    """What a pilot says to one training of a comparison, in plain values: a function of its arguments.

    The plan is `clockless`, and time counts as samples trained on, so that no clock decides. Rows, wrong labels, the
    reference and the short trainings go by ``seed``; what an encoder says of rows comes from ``cache``. Test rows are
    not looked at, only how many there are of each class.

    Returns:
        ``verdict``, ``recommended`` (a policy), ``expected`` (points and intervals against uniform and everything),
        ``plan``, and ``flops``: of the short trainings, of judging them, and of the pool's reference.

    Raises:
        ArgumentError: a keep ratio of 1, or too few rows.
    """
    within("keep-ratio", settings.keep_ratio, "(0, 1)", "At 1 there is nothing to pilot.")
    seen = corrupt(task.train.labels, settings.corruption, len(task.classes), seed, task.known)
    _check_rows(settings, len(seen.rows))
    plan = clockless(settings, len(seen.rows), len(np.unique(seen.labels)), _TRAININGS - 2)
    with _quiet():
        known = with_features(settings, task, cache)
        pool, facts, *_ = _known(settings, known, cache, plan.pool, plan.held_out, seed)
        first = seed * plan.seeds  # no two seeds of the comparison share one
        runs = [run.record for run in _train(pool, plan, None, lambda _: None, selections(facts.record), first)]
    found = conclude(settings, facts.record, runs, Cost.of_samples(settings, len(seen.rows)))
    expected = [
        {name: value for name, value in entry.items() if name != "seconds"}
        for entry in found["expected"] if entry["keep_ratio"] == settings.keep_ratio
    ]  # fmt: skip
    return {
        "verdict": found["verdict"], "recommended": found["proposed"]["recommended"], "expected": expected,
        "plan": {**plan._asdict(), "short": plan.short._asdict()}, "flops": _flops(pool, runs),
    }  # fmt: skip


def _flops(pool: Pool, runs: list[dict[str, Any]]) -> float:
    """Of the short trainings, of judging them, and of the reference of the pool."""
    settings, task = pool.settings, pool.task
    learner = flops_per_sample(network_for(task, settings, 0), pool.samples)
    training, _ = sizes(task, len(pool.rows))
    part = task._replace(held_out=task.held_out.subset(np.arange(training)))
    reference = reference_cost(settings, part, len(pool.rows), learner).both
    return float(reference + sum(run["learner_flops"] + learner[0] * run["judges"] for run in runs))

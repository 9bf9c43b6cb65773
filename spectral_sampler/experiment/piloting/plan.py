"""How much a pilot does: as much as the time and the stated share of the full comparison's arithmetic allow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.cell import budgets, candidate_batches
from spectral_sampler.experiment.piloting.run import Short

if TYPE_CHECKING:
    from spectral_sampler.experiment.settings import Settings

__all__ = [
    "AT_MOST",
    "COMPARED_SEEDS",
    "JUDGES",
    "Plan",
    "Room",
    "clockless",
    "comparison_samples",
    "least_samples",
    "plan_for",
    "reference_rows",
]

COMPARED_SEEDS = 5
"""Of the full comparison that a pilot stands for: everything, uniform selection and the recommended one."""

AT_MOST = 0.5
"""Samples that a pilot within a comparison trains on, over those of the one training that it serves."""

JUDGES = 1500
_SEEDS = (5, 4, 3)
_LEAST_EPOCHS = 4  # a learner's losses of a row are known from its second look on
_ROWS_PER_CLASS = 4
_STEPS = 128
_LEAST_BATCH = 8
_MOST_POOLED = 6000
_REFERENCE_SAMPLES = 240 * 128  # what `reference.train_reference` sees, unless rows are few


class Plan(NamedTuple):
    """What is done. With a plan given, no clock decides anything, and the result is a function of it."""

    pool: int | None
    """Training rows with reference features; None for all."""
    held_out: int | None
    """Rows the reference is trained on, at most; None for all."""
    short: Short
    seeds: int = 5
    judges: int = JUDGES
    """Rows that judge one training, at most."""


class Room(NamedTuple):
    """What a plan may cost."""

    samples: float
    """Forward and backward passes of single samples, over all seeds and policies."""
    rows: int
    """Training rows in all."""
    pool: int
    classes: int


def comparison_samples(settings: Settings, rows: int) -> float:
    """Samples that the trainings of the full comparison see, five seeds of each of the three."""
    whole = settings.epochs * candidate_batches(settings, rows) * settings.candidate_batch_size
    return float(COMPARED_SEEDS * (whole + 2 * int(budgets(settings, rows).sum())))


def _least_rows(classes: int) -> int:
    return max(2 * _LEAST_BATCH, _ROWS_PER_CLASS * classes)


def least_samples(classes: int, pool: int, selections: int, keep_ratio: float) -> float:
    """What three seeds of the shortest trainings see from which anything can be told."""
    rows = min(_least_rows(classes), pool // 2)
    return _SEEDS[-1] * 2.0 * _LEAST_EPOCHS * rows * (1.0 + keep_ratio * (1 + selections))


def clockless(settings: Settings, rows: int, classes: int, selections: int) -> Plan:
    """The plan of a pilot that serves a single training on ``rows`` rows: a function of the settings.

    All short trainings together see at most `AT_MOST` of the samples that this training sees, or, of small data, the
    least from which anything can be told (`least_samples`).
    """
    pool = min(rows, _MOST_POOLED)
    least = least_samples(classes, pool, selections, settings.keep_ratio)
    samples = max(least, AT_MOST * int(budgets(settings, rows).sum()))
    short, seeds = plan_for(settings, Room(samples, rows, pool, classes), selections, settings.keep_ratio)
    return Plan(pool, None, short, seeds)


def reference_rows(
    rows: int, held_out: int, seconds: float, tried: tuple[int, float], *, encodes: bool
) -> tuple[int, int]:
    """Rows of the pool and of the reference's training that fit into ``seconds``.

    Args:
        tried: training rows, as many held-out ones, and the seconds that a reference of these took.
        encodes: the features are an encoder's, so that its cost is in the rows; else it is in the reference's training.
    """
    tried_rows, took = tried
    if encodes:
        both = max(2 * tried_rows, int(2 * tried_rows * seconds / max(took, 1e-9)))
        pool = min(rows, _MOST_POOLED, max(both // 2, both - held_out))
        return pool, min(held_out, max(tried_rows, both - pool))
    sample = took / (30 * tried_rows)
    fits = max(tried_rows, int(seconds / max(sample, 1e-9) / 30))
    return min(rows, _MOST_POOLED), held_out if _REFERENCE_SAMPLES * sample <= seconds else min(held_out, fits)


def plan_for(settings: Settings, room: Room, selections: int, keep_ratio: float) -> tuple[Short, int]:
    """Rows, epochs and candidate batch size of the short trainings, and their seeds.

    Few rows for many epochs come nearer to what a whole training does to wrong labels and to rare rows than many rows
    for few epochs do. Small batches, so that there are steps enough.
    """
    for seeds in _SEEDS:
        each = room.samples / seeds / (1.0 + keep_ratio * (1 + selections))
        balanced = math.sqrt(each * settings.epochs / room.rows)
        epochs = min(settings.epochs, max(_LEAST_EPOCHS, round(2.0 * balanced)))
        rows = min(max(int(each / epochs), min(_least_rows(room.classes), int(each / 2))), room.pool // 2)
        if rows >= 2 * _LEAST_BATCH:
            epochs = max(1, min(settings.epochs, int(each / rows)))
            size = max(_LEAST_BATCH, min(settings.candidate_batch_size, rows * epochs // _STEPS))
            return Short(rows, epochs, size), seeds
    raise argument_error(
        "budget", f"enough for trainings on {2 * _LEAST_BATCH} rows", f"one for {rows}",
        "Give it more time, or a larger share of the full comparison.",
    )  # fmt: skip

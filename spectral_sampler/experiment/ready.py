"""References that are there before anything is trained: those that came with the data, and stores on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment import own
from spectral_sampler.store import ReferenceStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.samples import Task

__all__ = ["BUILT_IN", "GIVEN", "Ready", "is_ready", "ready_reference", "ready_store", "resolved_reference"]

_LOG = logging.getLogger("spectral_sampler.experiment")

GIVEN = "given"
"""Features, and perhaps losses, that came with the data."""

BUILT_IN = ("held-out", "twin", "untrained", "lite0", "resnet50", "resnet50-random", "minilm", GIVEN)
"""References by name, see `reference.REFERENCES`."""


class Ready(NamedTuple):
    """What a reference says of the rows of a part."""

    features: NDArray[Any]
    losses: NDArray[Any] | None


def resolved_reference(reference: str) -> str:
    """``reference`` so that it means the same in any folder: the path of a store made absolute.

    Raises:
        ArgumentError: no name, no ``module:function`` and no folder.
    """
    path = Path(reference).expanduser()
    if reference in BUILT_IN:
        return reference
    if path.is_dir():
        return str(path.resolve())
    if own.is_function_name(reference):
        return reference
    rule = f"one of {', '.join(BUILT_IN)}, module:function or the folder of a store"
    raise argument_error("reference", rule, repr(reference), "held-out always works.")


def is_ready(reference: str) -> bool:
    """Whether it came with the data or is a store."""
    return reference == GIVEN or Path(reference).is_absolute()


def ready_store(reference: str) -> ReferenceStore | None:
    """The store that ``reference`` is the path of; None where it is something else."""
    return ReferenceStore.open(reference) if Path(reference).is_absolute() else None


def ready_reference(reference: str, task: Task, part: Literal["train", "held_out"] = "train") -> Ready:
    """Features and losses of the rows of a part of ``task``.

    A store has a row for every training row as its owner counts them, or for every row that the learner has, as
    ``spectral-sampler extract`` writes it.

    Raises:
        ArgumentError: another number of rows, other labels, or no reference in the data.
        StoreError: a store that is damaged or absent.
    """
    store = ready_store(reference)
    if store is None and task.given is None:
        rule, remedy = "another one for data without features", "held-out always works."
        raise argument_error("reference", rule, repr(reference), remedy)
    features, losses, labels = (
        (store.features, store.losses, store.labels) if store is not None else (*(task.given or ()), None)
    )
    rows = task.rows if part == "train" else task.held_out_rows
    samples = task.train if part == "train" else task.held_out
    if len(features) != (task.total or -1):
        if len(features) != len(task.train) or part != "train":
            known = f"{task.total} rows, one for every training row of the data, or " if task.total else ""
            rule = f"a store of {known}{len(task.train)} with losses, one for every row that is trained on"
            what = f"{len(features)}{'' if losses is not None else ' without losses'}"
            raise argument_error("reference", rule, what, "Make it from the same data and split.")
        rows = np.arange(len(task.train))
    assert rows is not None  # noqa: S101 - data that counts its rows has them
    if labels is None and store is not None:
        _LOG.warning("The store has no labels: whether its rows are those of the data could not be compared.")
    elif labels is not None:
        here, there = samples.labels, labels[rows]
        if task.labels is not None and len(labels) == task.total:
            here, there = task.labels, labels  # of what is held out and tested on, too
        if differ := int((here != there).sum()):
            rule, remedy = "a store of these rows", "Is it of another split, order or numbering of classes?"
            raise argument_error("reference", rule, f"other labels in {differ} of {len(here)} rows", remedy)
    return Ready(features[rows], None if losses is None else losses[rows])

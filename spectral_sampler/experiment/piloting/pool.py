"""What a pilot looks at: some training rows with their reference, and labelled rows that neither of them has seen."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.experiment.corruption import Corrupted, corrupt, corrupt_held_out
from spectral_sampler.experiment.data import stratified
from spectral_sampler.experiment.reference import reference_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.samples import Samples, Task
    from spectral_sampler.experiment.settings import Settings
    from spectral_sampler.store import ReferenceStore

__all__ = ["Lesson", "Pool", "gather", "lesson", "sizes"]

_MOST_RESERVED = 1500
_POOL, _LESSON = 0x504F4F4C, 0x4C455353  # streams of draws


class Pool(NamedTuple):
    """M of the training rows, labels as the learner would see them."""

    settings: Settings
    task: Task
    rows_in_all: int
    """Training rows, in the pool or not."""
    rows: NDArray[np.int64]
    """(M,) their places in the task's training part; copies repeat a number."""
    samples: Samples
    store: ReferenceStore
    copies: NDArray[np.int64]
    """(M,) the first row of the pool with the same features, mostly its own."""
    reserved: Samples
    """Held-out rows that the reference was not trained on, with labels as wrong as all others."""
    wanted: NDArray[np.float64]
    """(C,) shares of the classes in the test part; nothing else of it is used."""

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(M,) the rows as the owner of the data counts them."""
        return self.rows if self.task.rows is None else self.task.rows[self.rows]


class Lesson(NamedTuple):
    """The rows of one seed's short trainings, and those that judge them."""

    rows: NDArray[np.int64]
    """(n,) of the pool."""
    judges: tuple[Samples, Samples]
    weights: NDArray[np.float64]
    """(J,) of the judges, so that their classes count as in the test part."""


def sizes(task: Task, rows: int) -> tuple[int, int]:
    """Held-out rows that train the reference and those reserved for judging, where ``rows`` are in the pool."""
    reserved = min(len(task.held_out) // 3, _MOST_RESERVED, max(rows, len(task.classes)))
    return len(task.held_out) - reserved, reserved


def _copies(features: NDArray[np.floating]) -> NDArray[np.int64]:
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(row.tobytes(), place) for place, row in enumerate(features)], dtype=np.int64)


def _digest(*arrays: NDArray[np.int64]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def _part(
    settings: Settings, task: Task, rows: NDArray[np.int64], held_out: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[Task, NDArray[np.int64]]:
    """The task of these rows, so that no reference looks at others, and where they are in it."""
    distinct, places = np.unique(rows, return_inverse=True)
    if settings.reference == "given" or Path(settings.reference).is_absolute():
        distinct, places = np.arange(len(task.train)), rows  # it was made for all rows, and costs nothing
    named = {"rows": distinct, "held_out_rows": held_out}
    known = {name: getattr(task, name)[of] for name, of in named.items() if getattr(task, name, None) is not None}
    version = f"{task.version}-pilot-{_digest(distinct, labels, held_out)}"
    parts: dict[str, Any] = {
        "train": task.train.subset(distinct),
        "held_out": task.held_out.subset(held_out),
        "version": version,
    }
    if task.encoded is not None:
        of = {"train": distinct, "held_out": held_out}
        parts["encoded"] = {name: features[of[name]] for name, features in task.encoded.items()}
    return task._replace(**parts, **known), places


def gather(settings: Settings, task: Task, cache: Path | None, most: int | None = None, held_out: int | None = None,
           seed: int = 0) -> Pool:  # fmt: skip
    """The pool of ``most`` training rows (all by default), their reference trained on ``held_out`` rows at most."""
    classes, generator = len(task.classes), np.random.default_rng([seed, _POOL])
    seen = corrupt(task.train.labels, settings.corruption, classes, seed, task.known)
    size = min(most or len(seen.rows), len(seen.rows))
    chosen = stratified(seen.labels, size, generator)
    training, reserved = sizes(task, size)
    held = task.held_out.labels
    judges = stratified(held, reserved, generator)
    rest = np.setdiff1d(np.arange(len(held)), judges)
    if held_out is not None and held_out < training:
        rest = rest[stratified(held[rest], held_out, generator)]
    labels = seen.labels[chosen]
    part, places = _part(settings, task, seen.rows[chosen], rest, labels)
    reference = reference_for(settings, part, Corrupted(places, labels, seen.wrong[chosen]), seed, cache)
    noisy = corrupt_held_out(held[judges], settings.corruption, classes, seed + 1, task.known)
    wanted = np.bincount(task.test.labels, minlength=classes).astype(np.float64)
    return Pool(
        settings, task, len(seen.rows), seen.rows[chosen], task.train.subset(seen.rows[chosen], labels),
        reference.store,
        _copies(reference.store.features), task.held_out.subset(judges, noisy), wanted / wanted.sum(),
    )  # fmt: skip


def lesson(pool: Pool, size: int, seed: int, judges: int) -> Lesson:
    """``size`` rows of the pool to learn from; to judge, ``judges`` of those that are no copies, the reserved first."""
    labels, generator = pool.samples.labels, np.random.default_rng([seed, _LESSON])
    rows = stratified(labels, min(size, len(labels)), generator)
    rest = np.flatnonzero(~np.isin(pool.copies, pool.copies[rows]))
    reserved = np.sort(generator.permutation(len(pool.reserved))[:judges])
    rest = np.sort(generator.permutation(rest)[: judges - len(reserved)])
    told = np.concatenate([labels[rest], pool.reserved.labels[reserved]])
    weights = (pool.wanted / np.maximum(np.bincount(told, minlength=len(pool.wanted)), 1))[told]
    parts = (pool.samples.plain().subset(rest, labels[rest]), pool.reserved.plain().subset(reserved))
    return Lesson(rows, parts, weights / weights.sum())

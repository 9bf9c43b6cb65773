"""Which samples a page shows: those a selection trained on most and least, and those whose labels are suspected."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.estimates.label_noise import estimate, label_noise
from spectral_sampler.experiment.cell import load
from spectral_sampler.experiment.corruption import Corrupted, corrupt
from spectral_sampler.experiment.page.samples import Shown
from spectral_sampler.experiment.reference import reference_for
from spectral_sampler.experiment.report import by_policy
from spectral_sampler.experiment.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.cell import Places
    from spectral_sampler.experiment.samples import Samples, Task

__all__ = ["Suspicion", "Training", "often", "suspicion", "training"]

_MOST = 24
_NEIGHBOURS = 15


class Training(NamedTuple):
    """The training rows of one seed as its learner got them, and what was done to them on purpose."""

    settings: Settings
    task: Task
    rows: Corrupted
    seed: int

    @property
    def samples(self) -> Samples:
        """In the learner's order, with the learner's labels."""
        return self.task.train.subset(self.rows.rows, self.rows.labels)

    @property
    def _right(self) -> NDArray[np.int64]:
        known = self.task.known.truth
        return self.task.train.labels if known is None else known

    def name(self, label: int) -> str:
        """Of a class."""
        return str(self.task.classes[label])

    def number(self, row: int) -> int:
        """The learner's ``row`` as the owner of the data counts it."""
        own, row = self.task.rows, int(self.rows.rows[row])
        return row if own is None else int(own[row])

    def truth(self, row: int) -> str:
        """What the label was before it was made wrong, in words; empty for the others."""
        if not self.rows.wrong[row]:
            return ""
        return f", truly {self.name(int(self._right[self.rows.rows[row]]))}"


class Suspicion(NamedTuple):
    """Suspected labels in words and as samples."""

    sentence: str
    shown: list[Shown]


def training(results: dict[str, Any], places: Places) -> Training:
    """The data of the first seed of ``results``.

    Raises:
        ArgumentError: the data set is not where it was.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{name: value for name, value in results["settings"].items() if name in known})
    task = load(settings, places)
    seed = int(next(iter(results.get("seeds") or [0])))
    rows = corrupt(task.train.labels, settings.corruption, len(task.classes), seed, task.known)
    return Training(settings, task, rows, seed)


def often(results: dict[str, Any], policy: str, found: Training, which: str) -> list[Shown]:
    """Rows that ``policy`` trained on most or least (``which`` is "most_selected" or "least_selected") with the first
    seed; empty where the result does not name them."""
    cell = by_policy(results["cells"]).get(policy, {}).get(found.seed, {})
    return [
        Shown(
            row,
            found.name(int(found.rows.labels[row])),
            f"{times} time{'' if times == 1 else 's'}{found.truth(row)}",
            found.number(row),
        )
        for row, times in cell.get(which, [])
    ]


def suspicion(found: Training, places: Places) -> Suspicion:
    """The labels that the reference's features doubt most, and how many of those made wrong are among the suspected."""
    reference = reference_for(found.settings, found.task, found.rows, found.seed, places.cache)
    store, labels = reference.store, found.rows.labels
    noise = label_noise(store) if store.labels is not None else estimate(store.features, labels)
    suspected = noise.suspects()
    count, wrong = int(suspected.sum()), int(found.rows.wrong.sum())
    if not noise.informative:
        return Suspicion("The reference's features say too little about the labels to suspect any of them.", [])
    share = f"{count:,} of {len(labels):,} labels ({100 * count / len(labels):.1f} %)"
    sentence = f"The features of the other samples contradict {share}."
    if wrong:
        both = int((suspected & found.rows.wrong).sum())
        sentence += f" {wrong:,} were made wrong on purpose: {both:,} of these are among the suspected."
    elif count:
        sentence += " Overlapping classes look the same: look before you believe it."
    rows = np.flatnonzero(suspected)
    rows = rows[np.argsort(-noise.doubts[rows], kind="stable")][:_MOST]
    shown = [
        Shown(
            row, found.name(int(labels[row])), f"→ looks like {found.name(other)}{found.truth(row)}", found.number(row)
        )
        for row, other in zip(rows.tolist(), _alternatives(store.features, labels, rows), strict=True)
    ]
    return Suspicion(sentence, shown)


def _alternatives(features: NDArray[Any], labels: NDArray[np.int64], rows: NDArray[np.int64]) -> list[int]:
    """For each of ``rows``, the commonest label among the fifteen samples most like it (cosine) that are labelled
    otherwise."""
    norms = np.maximum(np.linalg.norm(features, axis=1), 1e-12)
    found = []
    for row in rows:
        others = np.flatnonzero((labels != labels[row]) & (labels >= 0))
        likeness = (features[others] @ features[row]) / norms[others]
        nearest = labels[others[np.argsort(-likeness, kind="stable")[:_NEIGHBOURS]]]
        found.append(int(np.bincount(nearest).argmax()))
    return found

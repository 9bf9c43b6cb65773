"""Classes that cannot be told apart: some classes are split at random into two labels, on every part of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.samples import Samples, Task

__all__ = ["ceiling", "checked_overlap", "overlapping"]

_SEED = 20250707  # the split belongs to the data set: the same for every seed


def checked_overlap(share: float) -> float:
    """``share``, or one sentence."""
    if not 0.0 <= share <= 1.0:
        raise argument_error("overlap", "in [0, 1]", share, "0.2 splits every fifth class into two.")
    return share


def _halved(labels: NDArray[np.int64], halves: dict[int, int], part: int) -> NDArray[np.int64]:
    """A copy of ``labels`` in which a random half (rounded down) of each class in ``halves`` has its other label."""
    generator = np.random.default_rng([_SEED, part])
    split: NDArray[np.int64] = labels.copy()
    for label, other in halves.items():
        rows = generator.permutation(np.flatnonzero(labels == label))
        split[rows[: len(rows) // 2]] = other
    return split


def ceiling(labels: NDArray[np.int64], origins: NDArray[np.int64]) -> dict[str, float]:
    """What a predictor that always names the origin right reaches on ``labels`` (n,), at best.

    It cannot know which of the labels of one origin a row has, and names the commonest: ``Σ_o max_c n_c / n`` over the
    classes c of origin o. Of its recalls, those of one origin's classes add up to one. Whoever names them at random can
    be luckier than that on a finite test part, by about half the root of the rows concerned.
    """
    counts = np.bincount(labels, minlength=len(origins))
    best = [int(counts[origins == origin].max()) for origin in np.unique(origins[labels])]
    return {
        "test_accuracy": sum(best) / len(labels),
        "test_balanced_accuracy": len(best) / int(np.count_nonzero(counts)),
    }


def overlapping(task: Task, share: float) -> Task:
    """``task`` with ``round(share · C)`` of its C classes, drawn at random, split into two labels each.

    A random half of the rows of such a class, in the training, the held-out, the validation and the test part alike,
    has a new label, C, C + 1, …; nothing in the inputs tells which. The split is the same for every seed. No row is
    wrong by it: `Known.origins` names the class that each label came from.

    Raises:
        ArgumentError: a share that splits no class.
    """
    classes = len(task.classes)
    count = round(checked_overlap(share) * classes)
    if count < 1:
        raise argument_error("overlap", f"0, or enough to split one of {classes} classes", share, "Or leave it out.")
    chosen = np.sort(np.random.default_rng(_SEED).permutation(classes)[:count]).tolist()
    halves = {label: classes + place for place, label in enumerate(chosen)}
    origins = np.concatenate([np.arange(classes), np.array(chosen, dtype=np.int64)])

    def relabelled(samples: Samples, part: int) -> Samples:
        return samples.subset(np.arange(len(samples)), _halved(samples.labels, halves, part))

    parts: dict[str, Any] = {
        name: relabelled(getattr(task, name), number)
        for number, name in enumerate(("train", "held_out", "test", "validation"))
        if getattr(task, name) is not None
    }
    names = [f"{name} (a)" if label in halves else name for label, name in enumerate(task.classes)]
    names += [f"{task.classes[label]} (b)" for label in chosen]
    facts = (
        ("indistinguishable", list(map(list, halves.items()))),
        ("ceiling", ceiling(parts["test"].labels, origins)),
    )
    known = task.known._replace(origins=origins, facts=(*task.known.facts, *facts))
    return task._replace(**parts, classes=tuple(names), version=f"{task.version}-overlap{share}", known=known)

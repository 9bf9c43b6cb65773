"""Which class each is taken for most often: the soft confusions of a linear probe on held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.reference import held_out_features
from spectral_sampler.experiment.samples import TextSamples

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral_sampler.experiment.samples import Samples, Task
    from spectral_sampler.experiment.settings import Settings

    Array = NDArray[np.float64]

__all__ = ["Partners", "confusions", "partners", "with_partners"]

_MOST = 4096  # rows that judge
_VOCABULARY = 1024
_SIDE = 32  # pixels
_PENALTIES = 10.0 ** np.arange(-5, 2)
"""Candidates for λ, as multiples of the largest eigenvalue."""


class Partners(NamedTuple):
    """For each class another one."""

    classes: NDArray[np.int64]
    """(C,)"""
    shares: Array
    """(C,) of the probability that a row of the class gives to that one."""


def _left_out(features: Array, targets: Array) -> Array:
    """Ridge regression's predictions (n, C) for each row of ``features`` (n, d) from all others, λ with least error.

    ``(ŷ_i − h_i y_i) / (1 − h_i)`` with leverages h (Allen 1974, PRESS), from the eigenvectors of the smaller of the
    two second moments.
    """
    rows, width = features.shape
    if rows <= width:
        values, vectors = np.linalg.eigh(features @ features.T)
        basis, scale = vectors, np.maximum(values, 0.0)
    else:
        values, vectors = np.linalg.eigh(features.T @ features)
        basis, scale = features @ vectors, np.ones(width)
    values = np.maximum(values, 0.0)
    found: list[tuple[float, Array]] = []
    for penalty in _PENALTIES * max(float(values.max()), np.finfo(np.float64).tiny):
        shrunk = scale / (values + penalty)
        leverages = ((basis**2) @ shrunk + 1.0 / rows)[:, None]  # the second part is the mean's
        mean = targets.mean(0)
        fitted = mean + (basis * shrunk) @ (basis.T @ (targets - mean))
        predicted = (fitted - leverages * targets) / np.maximum(1.0 - leverages, 1e-9)
        found.append((float(((predicted - targets) ** 2).sum()), predicted))
    return min(found, key=lambda item: item[0])[1]


def confusions(features: NDArray[Any], labels: NDArray[np.int64], classes: int) -> Array:
    """(C, C) mean probability that a row of class a (line) belongs to class c (column), by all rows but itself.

    A linear probability model: ridge regression of one-hot labels on standardised features, each row predicted without
    itself; predictions below zero are zero, each is divided by its class's rows, so that no class is taken for another
    because that one is frequent, and a row's sum to one. Deterministic: at most ``max(2, 4096 // C)`` rows of a class,
    drawn with a fixed seed.

    Args:
        features: (n, d).
        labels: (n,) in 0 … C − 1, each class at least twice.

    Raises:
        ArgumentError: a class with fewer rows.
    """
    fewest = int(np.bincount(labels, minlength=classes).argmin())
    if (count := int(np.count_nonzero(labels == fewest))) < 2:
        rule, remedy = "0 where a class has fewer than two held-out rows", "They say what it is taken for."
        raise argument_error("confusion-noise", rule, f"{count} of class {fewest}", remedy)
    generator = np.random.default_rng(0)
    most = max(2, _MOST // classes)
    rows = np.concatenate([generator.permutation(np.flatnonzero(labels == label))[:most] for label in range(classes)])
    values, labels = np.asarray(features[rows], dtype=np.float64).reshape(len(rows), -1), labels[rows]
    values -= values.mean(0)
    deviations = values.std(0)
    values /= np.where(deviations > 0.0, deviations, 1.0)
    told = np.maximum(_left_out(values, np.eye(classes)[labels]), 0.0) / np.bincount(labels)
    told /= np.maximum(told.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    return np.stack([told[labels == label].mean(0) for label in range(classes)])


def partners(confused: Array, origins: NDArray[np.int64] | None = None) -> Partners:
    """The likeliest other class of each line of ``confused`` (C, C), the first of equals, none of the same origin."""
    kinds = np.arange(len(confused)) if origins is None else origins
    others = np.where(kinds[:, None] == kinds, -1.0, confused)
    found = others.argmax(1)
    return Partners(found, confused[np.arange(len(confused)), found])


def _inputs(samples: Samples) -> NDArray[Any]:
    """(n, d) what a learner sees of each: numbers; pixels, of pictures beyond 32 pixels their means on a grid of 32;
    how often a text has each of the 1024 commonest tokens."""
    stacked = torch.stack([samples[row][0] for row in range(len(samples))])
    if isinstance(samples, TextSamples):
        counts = torch.bincount(stacked.flatten())
        counts[0] = 0  # padding
        common = torch.argsort(counts, descending=True, stable=True)[:_VOCABULARY]
        places = torch.full((len(counts),), len(common)).scatter(0, common, torch.arange(len(common)))
        rows = torch.zeros(len(stacked), len(common) + 1)
        return rows.scatter_add(1, places[stacked], torch.ones(stacked.shape))[:, :-1].numpy()
    if stacked.ndim == 4 and max(stacked.shape[2:]) > _SIDE:
        stacked = nn.functional.adaptive_avg_pool2d(stacked, _SIDE)
    return stacked.flatten(1).numpy()


def with_partners(settings: Settings, task: Task, cache: Path | None) -> Task:
    """``task`` with the class that each is taken for most often, for noise between look-alikes.

    The probe is trained on the held-out rows and the labels that the data have for them: on the features of the
    reference where that is an encoder, a store or came with the data, else on the inputs. The same for every seed.

    Raises:
        ArgumentError: held-out rows that are too few.
    """
    features = held_out_features(settings, task, cache)
    found = confusions(
        _inputs(task.held_out.plain()) if features is None else features, task.held_out.labels, len(task.classes)
    )
    pairs = partners(found, task.known.origins)
    told = [
        [label, int(other), round(float(share), 4)]
        for label, (other, share) in enumerate(zip(pairs.classes, pairs.shares, strict=True))
    ]
    facts = (*task.known.facts, ("taken_for", told))
    return task._replace(known=task.known._replace(partners=pairs.classes, facts=facts))

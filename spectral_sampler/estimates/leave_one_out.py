"""What the features of all other samples say about a sample's label: a probe's leave-one-out scores."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler import draws
from spectral_sampler.estimates.views import fourier_views, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    View = Callable[[NDArray[Any]], NDArray[np.float32]]

__all__ = ["LeaveOneOut", "leave_one_out", "most_telling", "some"]

_BLOCK = 4096  # rows at a time: the (M, C) scores never exist as a whole
_NUMBERS = 1 << 20  # scores at a time
_JUDGES = 4096  # rows whose errors choose λ
_GAIN = 0.02
_PATIENCE = 5.0  # seconds of a pass over the rows before a bar is drawn
_PENALTIES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0])
"""Candidates for λ, as multiples of the largest eigenvalue of the features' second moment."""


class LeaveOneOut(NamedTuple):
    """What a probe says of every sample as if it had been trained without it."""

    probe: _Probe
    penalty: float
    """λ over the largest eigenvalue of the second moment, chosen by the leave-one-out error."""
    error: float
    """The mean weighted squared error of the scores against one-hot labels, on the rows that chose λ."""

    def scores(self, places: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """By blocks of ``places`` (n,), which count the rows that take part: the places, and their scores (n, C)."""
        for block, scores in self.probe.scores(np.array([self.penalty]), places):
            yield block, scores[0]


class _Probe(NamedTuple):
    """A weighted ridge regression onto one-hot labels in the eigenbasis of the features' second moment."""

    features: NDArray[np.floating]
    view: View
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    weights: Array
    """(M,) with mean 1."""
    mean: NDArray[np.float32]
    """(d,) weighted mean of the unit rows."""
    shares: Array
    """(C,) weighted shares of the classes."""
    basis: NDArray[np.float32]
    """(d, d) eigenvectors in columns."""
    values: Array
    """(d,) eigenvalues."""
    targets: Array
    """(d, C) ``Σ_i w_i z_i (y_i − ȳ)ᵀ``, z_i the coordinates of row i."""

    def scores(self, penalties: Array, places: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """By blocks of ``places``, which count ``rows``: the places, and the scores (penalties, n, C) without each
        row's own part."""
        inverses = 1.0 / (self.values + penalties[:, None] * (float(self.values.max()) or 1.0))
        for block in _blocks(places, len(self.shares)):
            coordinates = (self.view(self.features[self.rows[block]]) - self.mean) @ self.basis
            leverages = (coordinates**2) @ inverses.T + 1.0 / len(self.rows)
            own = (self.weights[block, None] * leverages).T
            scores = np.stack([coordinates @ (inverse[:, None] * self.targets) for inverse in inverses]) + self.shares
            scores[:, np.arange(len(block)), self.classes[block]] -= own
            yield block, scores / np.maximum(1.0 - own, np.finfo(np.float64).eps)[:, :, None]


def _blocks(places: NDArray[np.int64], classes: int) -> Iterator[NDArray[np.int64]]:
    step = max(1, min(_BLOCK, _NUMBERS // classes))
    starts: Iterable[int] = range(0, len(places), step)
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm.auto import tqdm

            starts = tqdm(starts, desc="label noise", unit="block", leave=False, delay=_PATIENCE)
    return (places[start : start + step] for start in starts)


def _fit(
    features: NDArray[np.floating],
    rows: NDArray[np.int64],
    classes: NDArray[np.int64],
    counts: NDArray[np.int64],
    view: View,
) -> _Probe:
    size, width = len(rows), view(features[rows[:1]]).shape[1]
    weights = (counts.max() / counts[classes]) ** 0.5
    weights *= size / weights.sum()
    every = np.arange(size)
    total = sum((weights[block] @ view(features[rows[block]]) for block in _blocks(every, 1)), np.zeros(width))
    mean = np.asarray(total / size, dtype=np.float32)
    moment, sums = np.zeros((width, width)), np.zeros((width, len(counts)))
    for block in _blocks(every, 1):
        centred = view(features[rows[block]]) - mean
        weighted = centred * weights[block, None].astype(np.float32)
        moment += weighted.T @ centred
        np.add.at(sums.T, classes[block], weighted)
    values, basis = np.linalg.eigh(moment)
    shares = np.bincount(classes, weights) / size
    targets = basis.T @ sums
    return _Probe(
        features, view, rows, classes, weights, mean, shares, basis.astype(np.float32), np.maximum(values, 0.0), targets
    )


def leave_one_out(
    features: NDArray[np.floating],
    rows: NDArray[np.int64],
    classes: NDArray[np.int64],
    number: int,
    view: View = unit,
) -> LeaveOneOut:
    """Leave-one-out scores of a linear probe, in closed form.

    Ridge regression of one-hot labels on a view of the features, centred, with weights ``√(n_max / n_c)`` that keep
    frequent classes from winning by their frequency. Without sample i the prediction for it is ``(ŷ_i − h_i y_i) /
    (1 − h_i)``, h_i its leverage (Allen 1974, PRESS), so no model is fitted twice. λ is the one of a grid with the
    least weighted squared error of these predictions, on 4096 random rows if there are more. A copy of a sample
    vouches for it.

    Costs O(M d² + M d C + d³) and O(d² + d C) memory beside the features. It is meant for the features of an encoder,
    not for pixels.

    Args:
        features: (K, d).
        rows: (M,) the rows of ``features`` that take part, M ≥ 2.
        classes: (M,) their classes in 0 … C − 1.
        number: C ≥ 2.
        view: what the probe sees of rows (n, d).
    """
    probe = _fit(features, rows, classes, np.bincount(classes, minlength=number), view)
    judges, errors = some(len(classes), _JUDGES), np.zeros(len(_PENALTIES))
    for block, scores in probe.scores(_PENALTIES, judges):
        scores[:, np.arange(len(block)), classes[block]] -= 1.0
        errors += (probe.weights[block] * (scores**2).sum(axis=2)).sum(axis=1)
    return LeaveOneOut(probe, float(_PENALTIES[errors.argmin()]), float(errors.min() / probe.weights[judges].sum()))


def most_telling(
    features: NDArray[np.floating], rows: NDArray[np.int64], classes: NDArray[np.int64], number: int
) -> LeaveOneOut:
    """`leave_one_out` with the view whose error is least on 4096 random rows: unit rows, unless random Fourier features
    of some width err a fiftieth less, as where a class is a ring, a crescent or several clusters."""
    judges = some(len(rows), _JUDGES)
    few, some_classes = rows[judges], classes[judges]
    plain = leave_one_out(features, few, some_classes, number).error
    view: View = unit
    least = (1.0 - _GAIN) * plain
    for candidate in fourier_views(features, few):
        error = leave_one_out(features, few, some_classes, number, candidate).error
        if error < least:
            view, least = candidate, error
    return leave_one_out(features, rows, classes, number, view)


def some(rows: int, most: int) -> NDArray[np.int64]:
    """Random ones of ``range(rows)``, ascending, all if there are no more than ``most``; every k-th could be in step
    with the order of the labels."""
    return np.sort(draws.permutation(0, 0, rows)[: max(1, most)])

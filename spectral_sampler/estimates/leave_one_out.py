"""What the features of all other samples say about a sample's label: a linear probe's leave-one-out scores."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler import draws

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["LeaveOneOut", "leave_one_out"]

_BLOCK = 4096  # rows at a time: the (M, C) scores never exist as a whole
_NUMBERS = 1 << 20  # scores at a time
_JUDGES = 4096  # rows whose errors choose λ
_ALTERNATIVES = 1 << 22  # numbers
_PATIENCE = 5.0  # seconds of a pass over the rows before a bar is drawn
_PENALTIES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0])
"""Candidates for λ, as multiples of the largest eigenvalue of the features' second moment."""


class LeaveOneOut(NamedTuple):
    """What a probe says of a sample that it was trained without."""

    margins: Array
    """(M,) highest score of another class minus that of the label: above 0 where the probe contradicts it."""
    alternatives: Array
    """(S, C) the same for every class in place of the label, NaN where it is the label, of S random rows."""
    penalty: float
    """λ over the largest eigenvalue of the second moment, chosen by the leave-one-out error."""


class _Probe(NamedTuple):
    """A weighted ridge regression onto one-hot labels in the eigenbasis of the features' second moment."""

    features: NDArray[np.floating]
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
            coordinates = (_unit(self.features[self.rows[block]]) - self.mean) @ self.basis
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


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Single precision is enough: λ hides a rounding of 10⁻⁷ a thousandfold."""
    found = rows.astype(np.float64) if rows.dtype != np.float16 else rows.astype(np.float32)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _fit(
    features: NDArray[np.floating], rows: NDArray[np.int64], classes: NDArray[np.int64], counts: NDArray[np.int64]
) -> _Probe:
    size, width = len(rows), features.shape[1]
    weights = (counts.max() / counts[classes]) ** 0.5
    weights *= size / weights.sum()
    every = np.arange(size)
    total = sum((weights[block] @ _unit(features[rows[block]]) for block in _blocks(every, 1)), np.zeros(width))
    mean = np.asarray(total / size, dtype=np.float32)
    moment, sums = np.zeros((width, width)), np.zeros((width, len(counts)))
    for block in _blocks(every, 1):
        centred = _unit(features[rows[block]]) - mean
        weighted = centred * weights[block, None].astype(np.float32)
        moment += weighted.T @ centred
        np.add.at(sums.T, classes[block], weighted)
    values, basis = np.linalg.eigh(moment)
    shares = np.bincount(classes, weights) / size
    targets = basis.T @ sums
    return _Probe(
        features, rows, classes, weights, mean, shares, basis.astype(np.float32), np.maximum(values, 0.0), targets
    )


def leave_one_out(features: NDArray[np.floating], rows: NDArray[np.int64], classes: NDArray[np.int64]) -> LeaveOneOut:
    """Leave-one-out scores of a linear probe, in closed form.

    Ridge regression of one-hot labels on the features, scaled to unit length and centred, with weights
    ``√(n_max / n_c)`` that keep frequent classes from winning by their frequency. Without sample i the prediction for
    it is ``(ŷ_i − h_i y_i) / (1 − h_i)``, h_i its leverage (Allen 1974, PRESS), so no model is fitted twice. λ is the
    one of a grid with the least weighted squared error of these predictions, on 4096 random rows if there are more. A
    copy of a sample vouches for it.

    Costs O(M d² + M d C + d³) and O(d² + d C) memory beside the features: five seconds of one core for 100,000 rows of
    width 512 and 100 classes. It is meant for the features of an encoder, not for pixels.

    Args:
        features: (K, d).
        rows: (M,) the rows of ``features`` that take part, M ≥ 2.
        classes: (M,) their classes in 0 … C − 1, C ≥ 2, each of which occurs.
    """
    counts = np.bincount(classes)
    probe = _fit(features, rows, classes, counts)
    errors = np.zeros(len(_PENALTIES))
    for block, scores in probe.scores(_PENALTIES, _some(len(classes), _JUDGES)):
        scores[:, np.arange(len(block)), classes[block]] -= 1.0
        errors += (probe.weights[block] * (scores**2).sum(axis=2)).sum(axis=1)
    penalty, asked = _PENALTIES[[int(errors.argmin())]], np.zeros(len(classes), dtype=np.bool_)
    asked[_some(len(classes), _ALTERNATIVES // len(counts))] = True
    margins, alternatives = np.empty(len(classes)), []
    for block, (scores,) in probe.scores(penalty, np.arange(len(classes))):
        doubts, places = _margins(scores), np.arange(len(block))
        margins[block] = doubts[places, classes[block]]
        doubts[places, classes[block]] = np.nan
        alternatives.append(doubts[asked[block]])
    return LeaveOneOut(margins, np.concatenate(alternatives), float(penalty[0]))


def _some(rows: int, most: int) -> NDArray[np.int64]:
    """Random ones of ``range(rows)``, ascending, all if there are no more than ``most``; every k-th could be in step
    with the order of the labels."""
    return np.sort(draws.permutation(0, 0, rows)[: max(1, most)])


def _margins(scores: Array) -> Array:
    """(n, C) the highest score of the other classes minus each class's own, from scores (n, C)."""
    best = scores.argmax(axis=1)
    highest = np.repeat(scores.max(axis=1, keepdims=True), scores.shape[1], axis=1)
    rest = scores.copy()
    rest[np.arange(len(best)), best] = -np.inf
    highest[np.arange(len(best)), best] = rest.max(axis=1)
    return np.asarray(highest - scores)

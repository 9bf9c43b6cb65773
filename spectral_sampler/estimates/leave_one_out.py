"""What the features of all other samples say about a sample's label: a probe's leave-one-out scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.estimates.blocks import blocks, read
from spectral_sampler.estimates.side_by_side import one_thread, side_by_side
from spectral_sampler.estimates.views import fourier_views, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from spectral_sampler.estimates.progress import Progress

    Array = NDArray[np.float64]
    View = Callable[[NDArray[Any]], torch.Tensor]
    Answers = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

__all__ = ["LeaveOneOut", "leave_one_out", "most_telling", "some"]

_BLOCK = 4096  # rows at a time: the (M, C) scores never exist as a whole
_NUMBERS = 1 << 20  # scores at a time
_PANEL = 256  # columns of the moment: what lies below its diagonal is not computed
_JUDGES = 4096  # rows whose errors choose λ
_FEW = 2  # rows a dimension, below which products are float64: 1 − h is small there and magnifies an error
_GAIN = 0.02
_CHEAP = 100.0  # multiplications of a product, for the progress: what else is done to a number
_UNNOTICED = 1e-3  # of the deviation of the scores: error of a score that leverages may bring
_PENALTIES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0])
"""Candidates for λ, as multiples of the largest eigenvalue of the features' second moment."""


class LeaveOneOut(NamedTuple):
    """What a probe says of every sample as if it had been trained without it."""

    probe: _Probe
    penalty: float
    """λ over the largest eigenvalue of the second moment, chosen by the leave-one-out error."""
    error: float
    """The mean weighted squared error of the scores against one-hot labels, on the rows that chose λ."""
    rank: int
    """Eigenvectors that a leverage looks at, one after the other (`leave_one_out`)."""

    def scores(self, places: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """By `blocks` of ``places`` (n,), which count the rows that take part: the places, and their scores (n, C)."""
        yield from side_by_side(self.scorer(), self.blocks(places))

    def blocks(self, places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """What a `scorer` is asked for at a time."""
        return blocks(places, min(_BLOCK, _NUMBERS // len(self.probe.shares)))

    def scorer(self) -> Callable[[NDArray[np.int64]], Array]:
        """A function of places (n,) that gives their scores (n, C), on any thread."""
        probe = self.probe
        inverses = probe.inverses(np.array([self.penalty]))[0]
        answers = one_thread(lambda: self._exact(inverses) if self.rank == len(inverses) else self._nearly(inverses))

        def score(places: NDArray[np.int64]) -> Array:
            scores, leverages = answers(probe.centred(places))
            scores += torch.from_numpy(probe.shares)
            return probe.without_own(places, scores, leverages).numpy()

        return score

    def cost(self) -> float:
        """Multiplications of a row's scores, about."""
        classes = len(self.probe.shares)
        return len(self.probe.values) * (classes + self.rank) + _CHEAP * classes

    def _exact(self, inverses: Array) -> Answers:
        """In the eigenbasis."""
        basis = torch.from_numpy(self.probe.basis).to(self.probe.mean.dtype)
        targets, each = torch.from_numpy(inverses[:, None] * self.probe.targets), torch.from_numpy(inverses)

        def answers(centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            coordinates = (centred @ basis).double()
            return coordinates @ targets, coordinates.square() @ each

        return answers

    def _nearly(self, inverses: Array) -> Answers:
        """By one product, with as many eigenvectors as leverages need."""
        rest, classes, first = _rest(self.probe.values, inverses, self.rank), len(self.probe.shares), -self.rank or None
        basis = torch.from_numpy(self.probe.basis)
        weights = basis @ torch.from_numpy(inverses[:, None] * self.probe.targets)
        leading = basis[:, first:] if self.rank else basis[:, :0]
        factors = torch.hstack([weights, leading]).to(self.probe.mean.dtype)
        beyond = torch.from_numpy(inverses[first:][: self.rank] - rest).to(self.probe.mean.dtype)

        def answers(centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = centred @ factors
            leverages = centred.square_().sum(dim=1).mul_(rest).add_(found[:, classes:].square() @ beyond)
            return found[:, :classes].double(), leverages.double()

        return answers


class _Probe(NamedTuple):
    """A weighted ridge regression onto one-hot labels in the eigenbasis of the features' second moment."""

    features: Any
    view: View
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    weights: Array
    """(M,) with mean 1, the same for all rows of a class."""
    mean: torch.Tensor
    """(d,) weighted mean of what is seen of the rows; its dtype is that of the products."""
    shares: Array
    """(C,) weighted shares of the classes."""
    basis: Array
    """(d, d) eigenvectors in columns."""
    values: Array
    """(d,) eigenvalues, ascending."""
    targets: Array
    """(d, C) ``Σ_i w_i z_i (y_i − ȳ)ᵀ``, z_i the coordinates of row i."""

    def inverses(self, penalties: Array) -> Array:
        """(penalties, d)"""
        return np.asarray(1.0 / (self.values + penalties[:, None] * (float(self.values[-1]) or 1.0)))

    def centred(self, places: NDArray[np.int64]) -> torch.Tensor:
        """(n, d)"""
        return self.view(read(self.features, self.rows[places])).to(self.mean.dtype).sub_(self.mean)

    def without_own(self, places: NDArray[np.int64], scores: torch.Tensor, leverages: torch.Tensor) -> torch.Tensor:
        """``scores`` (n, C) of all rows, in place, without each row's own part; ``leverages`` (n,) but for 1 / M."""
        own = torch.from_numpy(self.weights[places]) * (leverages + 1.0 / len(self.rows))
        scores[torch.arange(len(places)), torch.from_numpy(self.classes[places])] -= own
        return scores.div_((1.0 - own).clamp_(min=float(np.finfo(np.float64).eps))[:, None])

    def judged(self, judges: NDArray[np.int64]) -> tuple[float, float, int]:
        """The penalty of least error on ``judges`` (n,), that error, and the rank for leverages."""
        inverses, shares = self.inverses(_PENALTIES), torch.from_numpy(self.shares)
        basis = torch.from_numpy(self.basis).to(self.mean.dtype)
        factors = [torch.from_numpy(inverse[:, None] * self.targets).to(self.mean.dtype) for inverse in inverses]

        def errors_of(block: NDArray[np.int64]) -> tuple[torch.Tensor, Array, Array]:
            coordinates, weights = self.centred(block) @ basis, torch.from_numpy(self.weights[block])
            energies = coordinates.double().square_() if coordinates.dtype == torch.float32 else coordinates.square()
            errors, squares = np.zeros(len(inverses)), np.zeros(len(inverses))
            for place, inverse in enumerate(inverses):
                scores = (coordinates @ factors[place]).double()
                squares[place] = scores.square().sum()
                scores = self.without_own(block, scores.add_(shares), energies @ torch.from_numpy(inverse))
                scores[torch.arange(len(block)), torch.from_numpy(self.classes[block])] -= 1.0
                errors[place] = weights @ scores.square_().sum(dim=1)
            return energies.float(), errors, squares

        parts = [part for _, part in side_by_side(errors_of, blocks(judges, min(_BLOCK, _NUMBERS // len(self.shares))))]
        errors = sum((part[1] for part in parts), np.zeros(len(inverses)))
        best = int(errors.argmin())
        deviation = np.sqrt(sum(part[2][best] for part in parts) / (len(judges) * len(self.shares)))
        energies, weights = torch.cat([part[0] for part in parts]), torch.from_numpy(self.weights[judges])
        rank = one_thread(lambda: self._rank(energies, weights, inverses[best], _UNNOTICED * float(deviation)))
        return float(_PENALTIES[best]), float(errors[best] / self.weights[judges].sum()), rank

    def _rank(self, energies: torch.Tensor, weights: torch.Tensor, inverses: Array, bound: float) -> int:
        """The fewest eigenvectors with which no score of rows with ``energies`` (n, d), the squares of their
        coordinates, and ``weights`` (n,) changes by more than ``bound``."""
        width = len(inverses)
        for rank in (0, *(64 << power for power in range(20) if 64 << power < width)):
            missed = torch.from_numpy(inverses - _rest(self.values, inverses, rank)).float()[: width - rank]
            if float((energies[:, : width - rank] @ missed).mul_(weights).abs_().max()) <= bound:
                return rank
        return width


def _rest(values: Array, inverses: Array, rank: int) -> float:
    """What stands for all of ``inverses`` (d,) but those of the ``rank`` largest ``values``: their mean over the rows'
    parts there, so that leverages are right in the mean."""
    values, inverses = values[: len(values) - rank], inverses[: len(inverses) - rank]
    return float(values @ inverses / values.sum()) if values.sum() > 0.0 else 0.0


def _fit(
    features: Any,
    rows: NDArray[np.int64],
    classes: NDArray[np.int64],
    counts: NDArray[np.int64],
    view: View,
    progress: Progress | None,
) -> _Probe:
    near = view(read(features, rows[some(len(rows), _BLOCK)])).mean(dim=0)  # near the mean: no cancellation below
    width = len(near)
    each = np.sqrt(counts.max() / np.maximum(counts, 1))
    each *= len(rows) / (counts * each).sum()
    names, precision = torch.from_numpy(classes), torch.float64 if len(rows) < _FEW * width else torch.float32
    roots = torch.from_numpy(np.sqrt(each)).to(precision)
    if progress is not None:  # the scores' rank is not known yet
        progress.expect(len(rows) * (_fit_cost(width) + width * (len(counts) + 64) + _CHEAP * len(counts)))
    moment, sums = np.zeros((width, width)), np.zeros((len(counts), width))

    def moments(block: NDArray[np.int64]) -> tuple[list[torch.Tensor], torch.Tensor]:
        own = names[block]
        seen = view(read(features, rows[block])).to(precision).sub_(near).mul_(roots[own][:, None])
        panels = [seen[:, start : start + _PANEL].T @ seen[:, start:] for start in range(0, width, _PANEL)]
        places, ones = torch.stack([own, torch.arange(len(own))]), torch.ones(len(own), dtype=precision)
        belong = torch.sparse_coo_tensor(places, ones, (len(counts), len(own)), check_invariants=False)
        return panels, torch.sparse.mm(belong, seen)

    for block, (panels, part) in side_by_side(moments, blocks(np.arange(len(rows)), _BLOCK)):
        for place, panel in enumerate(panels):
            start = place * _PANEL
            moment[start : start + _PANEL, start:] += panel.numpy()
        sums += part.numpy()
        if progress is not None:
            progress.advance(len(block) * _fit_cost(width))
    sums *= np.sqrt(each)[:, None]
    beyond = sums.sum(axis=0) / len(rows)
    moment -= len(rows) * np.outer(beyond, beyond)
    sums -= (counts * each)[:, None] * beyond

    def decomposed() -> tuple[Array, Array, Array]:
        values, basis = torch.linalg.eigh(torch.from_numpy(moment), UPLO="U")
        return values.clamp_(min=0.0).numpy(), basis.numpy(), (basis.T @ torch.from_numpy(sums).T).numpy()

    values, basis, targets = one_thread(decomposed)
    mean = (near + torch.from_numpy(beyond)).to(precision)
    shares = counts * each / len(rows)
    return _Probe(features, view, rows, classes, each[classes], mean, shares, basis, values, targets)


def _fit_cost(width: int) -> float:
    return width * (width + _PANEL) / 2.0 + _CHEAP * width


def leave_one_out(
    features: Any,
    rows: NDArray[np.int64],
    classes: NDArray[np.int64],
    number: int,
    view: View = unit,
    progress: Progress | None = None,
) -> LeaveOneOut:
    """Leave-one-out scores of a linear probe, in closed form.

    Ridge regression of one-hot labels on a view of the features, centred, with weights ``√(n_max / n_c)`` that keep
    frequent classes from winning by their frequency. Without sample i the prediction for it is ``(ŷ_i − h_i y_i) /
    (1 − h_i)``, h_i its leverage (Allen 1974, PRESS), so no model is fitted twice. λ is the one of a grid with the
    least weighted squared error of these predictions, on 4096 random rows if there are more. A copy of a sample
    vouches for it.

    A leverage, ``Σ_j z_j² / (v_j + λ)``, is exact in the directions of the r largest v_j; all others count alike, by
    the rows' parts there. r is the least of 0, 64, 128, … with which no score of those 4096 rows changes by more than a
    thousandth of the scores' deviation, all of them where M is not far beyond d.

    Products are float32 (float64 below 2 rows a dimension), sums of blocks float64; blocks are computed side by side on
    as many threads as torch has, and the answer is the same bit by bit for any number of them. Costs
    M (d² / 2 + d C + d r) + O(d³) multiplications, and O(d² + d C) memory beside the features, a block of 4096 rows for
    each thread. It is meant for the features of an encoder, not for pixels.

    Args:
        features: (K, d), an array or what reads its rows by index.
        rows: (M,) the rows of ``features`` that take part, ascending, M ≥ 2.
        classes: (M,) their classes in 0 … C − 1.
        number: C ≥ 2.
        view: what the probe sees of rows (n, d).
        progress: told how many multiplications to expect, with those of the scores of all rows, and advanced.
    """
    probe = _fit(features, rows, classes, np.bincount(classes, minlength=number), view, progress)
    return LeaveOneOut(probe, *probe.judged(some(len(classes), _JUDGES)))


def most_telling(
    features: Any,
    rows: NDArray[np.int64],
    classes: NDArray[np.int64],
    number: int,
    progress: Progress | None = None,
) -> LeaveOneOut:
    """`leave_one_out` with the view whose error is least on 4096 random rows: unit rows, unless random Fourier features
    of some width err a fiftieth less, as where a class is a ring, a crescent or several clusters."""
    judges = some(len(rows), _JUDGES)
    few, some_classes, every = read(features, rows[judges]), classes[judges], np.arange(len(judges))
    plain = leave_one_out(few, every, some_classes, number).error
    view: View = unit
    least = (1.0 - _GAIN) * plain
    for candidate in fourier_views(few):
        error = leave_one_out(few, every, some_classes, number, candidate).error
        if error < least:
            view, least = candidate, error
    return leave_one_out(features, rows, classes, number, view, progress)


def some(rows: int, most: int) -> NDArray[np.int64]:
    """Random ones of ``range(rows)``, ascending, all if there are no more than ``most``; every k-th could be in step
    with the order of the labels."""
    return np.sort(draws.permutation(0, 0, rows)[: max(1, most)])

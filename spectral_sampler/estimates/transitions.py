"""Which class is taken for which: labels as overlap and as noise, fitted to the scores of a probe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from spectral_sampler.estimates.side_by_side import one_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Labels = NDArray[np.int64]

__all__ = ["MOST_CLASSES", "Rates", "Transitions", "fit"]

MOST_CLASSES = 2048
"""With more classes pairs of them are not told apart: C² numbers would be too many, and their rows too few."""
_ROUNDS, _FEWER_ROUNDS = 150, 60  # with A, and without
_START = 0.05  # share of wrong labels that the rounds begin with
_FLOOR = 1e-4  # of a probability
_STEEP = 8.0  # slope to begin with: what is wrong is first taken for noise, then for overlap where that fits better
_FASTEST = 8.0  # steps of the bound
_RIDGE = 20.0
_SHRINK = 5.0  # rows
_STEEPEST = 100.0


class Rates(NamedTuple):
    """T, to be looked up: only its diagonal and the pairs beyond chance differ from the background."""

    background: float
    right: torch.Tensor
    """(C,) the diagonal, T."""
    starts: torch.Tensor
    """(C + 1,) where the pairs of a label begin."""
    classes: torch.Tensor
    """(pairs,) the class of a pair."""
    beyond: torch.Tensor
    """(pairs,) rows beyond what chance brings."""
    shrunk: torch.Tensor
    """(C,) rows of a class and a few more."""

    def places(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(k,) the rows of ``labels`` (n,) with a pair beyond chance, and the pair."""
        numbers = self.starts[labels + 1] - self.starts[labels]
        rows = torch.repeat_interleave(numbers)
        first = torch.cumsum(numbers, 0) - numbers
        return rows, torch.arange(len(rows)) - first[rows] + self.starts[labels][rows]

    def joint(
        self, logits: torch.Tensor, labels: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor], own: torch.Tensor
    ) -> torch.Tensor:
        """(n, C) log P(class) + log T[class, label] where the row's ``own`` (k,) posteriors of ``pairs`` are left out
        of T: no label is evidence against itself."""
        rows, which = pairs
        found, each = logits + math.log(self.background), torch.arange(len(labels))
        found[each, labels] = logits[each, labels] + self.right[labels].log()
        classes = self.classes[which]
        rate = self.background + (self.beyond[which] - own).clamp_(min=0.0) / self.shrunk[classes]
        found[rows, classes] = logits[rows, classes] + rate.log()
        return found


class Transitions(NamedTuple):
    """P(label | scores) = Σ_c P(c | scores) T[c, label]."""

    scale: float
    """What standardises the scores, times the slope β."""
    matrix: Array
    """(C + 1, C) what is added to the logits: scores times the upper rows, and the last one; (0, C) if nothing is."""
    background: float
    """P(label a | true class c) of any pair c ≠ a that is not among the excesses."""
    counts: Array
    """(C, C) rows of class c labelled a; (0, 0) beyond `MOST_CLASSES`."""
    rows: Array
    """(C,) rows of class c."""

    def likelihoods(self, scores: Array, labels: Labels, rates: Rates) -> torch.Tensor:
        """(n, C) log P(class c and this label), of scores (n, C): the posterior of the true class but for a constant.

        ``rates`` are `rates()`. A row's own part is taken out of the counts, so that no label is evidence against
        itself."""
        given, names = torch.from_numpy(scores), torch.from_numpy(labels)
        logits = given * self.scale
        if len(self.matrix):
            logits.addmm_(given, torch.from_numpy(self.matrix[:-1])).add_(torch.from_numpy(self.matrix[-1]))
        logits = torch.log_softmax(logits, dim=1)
        pairs = rates.places(names)
        own = torch.zeros(len(pairs[0]), dtype=torch.float64)
        joint = rates.joint(logits, names, pairs, own)
        for _ in range(2 if len(own) else 0):
            joint = rates.joint(logits, names, pairs, _posteriors(joint, pairs[0], rates.classes[pairs[1]]))
        return joint

    def rates(self) -> Rates:
        """T, ready to be looked up."""
        classes, rows = len(self.rows), self.rows
        right = np.full(classes, 1.0 - self.background * (classes - 1))
        if self.counts.size:
            beyond = self.counts - _usual(self.background, rows)[:, None]
            np.fill_diagonal(beyond, 0.0)
            np.maximum(beyond, 0.0, out=beyond)
            right -= beyond.sum(axis=1) / (rows + _SHRINK)
            labels, pairs = np.nonzero(beyond.T)
            beyond = beyond[pairs, labels]
        else:
            labels, pairs, beyond = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        starts = np.searchsorted(labels, np.arange(classes + 1))
        parts = (np.maximum(right, _FLOOR), starts, pairs, beyond, rows + _SHRINK)
        return Rates(self.background, *(torch.from_numpy(part) for part in parts))

    def unseen(self) -> Array:
        """(C,) share of a class, beyond the background, that may be labelled as another and not be told from chance;
        one without counts."""
        if not self.counts.size:
            return np.ones(len(self.rows))
        beyond = _usual(self.background, self.rows) - self.background * self.rows
        return np.minimum(1.0, beyond / np.maximum(self.rows, 1.0))


def _posteriors(joint: torch.Tensor, rows: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(k,) P(c | scores, label) at some places of ``joint`` (n, C)."""
    named, places = torch.unique_consecutive(rows, return_inverse=True)
    return (joint[rows, classes] - joint[named].logsumexp(dim=1)[places]).exp_()


def _usual(background: float, rows: Array) -> Array:
    """How many rows of a pair chance brings: the background, a standard error and one row, these two times log₁₀ C, for
    the largest of many pairs is higher by chance."""
    expected = background * rows
    return np.asarray(expected + np.log10(len(rows)) * (np.sqrt(expected) + 1.0))


def _background(counts: Array, rows: Array, before: float, wrong: float, size: int) -> float:
    """The mean rate of all pairs c ≠ a, each counted no further than `_usual`."""
    if counts.size:
        capped = np.minimum(counts, _usual(before, rows)[:, None])
        wrong = float(capped.sum() - np.diagonal(capped).sum())
    return max(wrong / size, _FLOOR) / (len(rows) - 1)


def _sum(each: torch.Tensor) -> float:
    """The sum of (n,) numbers, the same on any number of threads."""
    return float(each.numpy().sum())


class _Logits:
    """β s + A s + b of standardised scores s, moved so that they fit a posterior better each time."""

    def __init__(self, standard: torch.Tensor) -> None:
        size, classes = standard.shape
        self.standard, self.slope = standard, _STEEP
        self.bends, self.step, self.best = size >= classes**2, 1.0, -np.inf
        self.matrix = torch.zeros((classes + 1 if self.bends else 0, classes), dtype=torch.float64)
        if self.bends:  # A: a bound of the curvature (Böhning 1992)
            self.inputs = torch.hstack([standard, torch.ones((size, 1), dtype=torch.float64)])
            self.ridge = torch.tensor([_RIDGE] * classes + [1e-3], dtype=torch.float64)[:, None]
            bound = self.inputs.T @ self.inputs / 2.0 + torch.diag(self.ridge[:, 0])
            self.inverse = torch.linalg.inv(bound)
            # Scores sum to one, so that b may stand for a part of A: along here nothing changes but the ridge.
            self.idle = torch.ones((classes + 1, 1), dtype=torch.float64)
            self.idle[-1] = -standard.sum(dim=1).mean()

    def values(self) -> torch.Tensor:
        logits = self.standard * self.slope
        return torch.log_softmax(logits.addmm_(self.inputs, self.matrix) if self.bends else logits, dim=1)

    def move(self, wanted: torch.Tensor, before: torch.Tensor, value: float) -> None:
        """Towards the posterior ``wanted``; ``before`` are the probabilities, ``value`` the log-likelihood, now."""
        weighted = before * self.standard
        means = weighted.sum(dim=1)
        slant = _sum((wanted * self.standard).sum(dim=1) - means)
        curvature = _sum(weighted.mul_(self.standard).sum(dim=1) - means**2)
        change = np.clip(slant / (curvature + 1e-3), -self.slope / 2.0, self.slope / 2.0)
        self.slope = float(np.clip(self.slope + change, 1e-3, _STEEPEST))
        if self.bends:
            self.step = min(_FASTEST, 1.3 * self.step) if value >= self.best else 1.0
            self.best = value
            gradient = self.inputs.T @ (wanted - self.values().exp_()) - self.ridge * self.matrix
            self.matrix += self.step * (self.inverse @ gradient)
            self._still()

    def _still(self) -> None:
        """Without the parts that change no probability: exact steps leave them at zero, but long ones turn a rounding
        error there into numbers of any size."""
        self.matrix -= self.matrix.mean(dim=1, keepdim=True)
        heavy = self.ridge * self.idle
        self.matrix -= self.idle @ (heavy.T @ self.matrix) / (heavy.T @ self.idle)


def fit(scores: Array, labels: Labels) -> Transitions:
    """`Transitions` of scores (S, C) and labels (S,) in 0 … C − 1, by expectation maximisation.

    P(c | s) is the softmax of β s + A s + b. β is found by Newton's method and A, which bends the scores where classes
    lie on a line or are unequally wide, with a ridge, by steps along Böhning's (1992) bound; with fewer than C² rows
    there is neither A nor b, which could let one class swallow another. T[c, a] is what the background brings and, per
    row of class c, what a pair has beyond `_usual`; the background is the mean rate of pairs, each counted up to that.
    The rounds begin with a steep β, which takes for noise what A may explain as overlap later. Costs 150 rounds of
    O(S C²), or 60 of O(S C) without A, on one thread, and some ten numbers of memory for a score.
    """
    return one_thread(lambda: _fit(scores, labels))


def _fit(scores: Array, labels: Labels) -> Transitions:
    size, classes = scores.shape
    width, pairs, names = float(scores.std()) or 1.0, classes <= MOST_CLASSES, torch.from_numpy(labels)
    logits, each = _Logits(torch.from_numpy(scores) / width), torch.arange(size)
    none, start = np.zeros((classes if pairs else 0,) * 2), _START / (classes - 1)
    model = Transitions(0.0, none, start, none, np.bincount(labels, minlength=classes).astype(np.float64))
    own = torch.zeros((size, classes), dtype=torch.float64)
    for _ in range(_ROUNDS if logits.bends else _FEWER_ROUNDS):
        values, rates = logits.values(), model.rates()
        found = rates.places(names)
        joint = rates.joint(values, names, found, own[found[0], rates.classes[found[1]]])
        total = joint.logsumexp(dim=1, keepdim=True)
        value, own = _sum(total[:, 0]), joint.sub_(total).exp_()
        rows, wrong = own.sum(dim=0).numpy(), size - _sum(own[each, names])
        counts = torch.zeros(none.shape, dtype=torch.float64)
        if pairs:
            counts.index_add_(0, names, own)
        background = _background(counts.numpy().T, rows, model.background, wrong, size)
        model = model._replace(background=background, counts=counts.numpy().T, rows=rows)
        logits.move(own, values.exp_(), value)
    matrix = logits.matrix.numpy().copy()
    matrix[:-1] /= width
    return model._replace(scale=logits.slope / width, matrix=matrix)

"""Which class is taken for which: labels as overlap and as noise, fitted to the scores of a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Labels = NDArray[np.int64]

__all__ = ["MOST_CLASSES", "Transitions", "fit", "posterior", "totals"]

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


class Transitions(NamedTuple):
    """P(label | scores) = Σ_c P(c | scores) T[c, label]."""

    scale: float
    """What standardises the scores, times the slope β."""
    matrix: Array
    """(C + 1, C) what is added to the logits: scores times the upper rows, and the last one."""
    background: float
    """P(label a | true class c) of any pair c ≠ a that is not among the excesses."""
    counts: Array
    """(C, C) rows of class c labelled a; (0, 0) beyond `MOST_CLASSES`."""
    rows: Array
    """(C,) rows of class c."""

    def likelihoods(self, scores: Array, labels: Labels) -> Array:
        """(n, C) log P(class c and this label), of scores (n, C): the posterior of the true class but for a constant.

        A row's own part is taken out of the counts, so that no label is evidence against itself."""
        logits = _log_softmax(self.scale * scores + scores @ self.matrix[:-1] + self.matrix[-1])
        joint = logits + np.log(_leave_one_out(self, labels, np.zeros_like(logits)))
        for _ in range(2):
            joint = logits + np.log(_leave_one_out(self, labels, posterior(joint)))
        return joint

    def unseen(self) -> Array:
        """(C,) share of a class, beyond the background, that may be labelled as another and not be told from chance;
        one without counts."""
        if not self.counts.size:
            return np.ones(len(self.rows))
        beyond = _usual(self.background, self.rows) - self.background * self.rows
        return np.minimum(1.0, beyond / np.maximum(self.rows, 1.0))


def _log_softmax(logits: Array) -> Array:
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def posterior(joint: Array) -> Array:
    """(n, C) P(c | scores, label) from `Transitions.likelihoods`."""
    found = np.exp(joint - joint.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def totals(own: Array, labels: Labels) -> Array:
    """(C, C) rows of class c labelled a, of posteriors ``own`` (n, C)."""
    found = np.zeros((own.shape[1],) * 2)
    order = np.argsort(labels, kind="stable")
    names, starts = np.unique(labels[order], return_index=True)
    found[:, names] = np.add.reduceat(own[order], starts, axis=0).T
    return found


def _usual(background: float, rows: Array) -> Array:
    """How many rows of a pair chance brings: the background, a standard error and one row, these two times log₁₀ C, for
    the largest of many pairs is higher by chance."""
    expected = background * rows
    return np.asarray(expected + np.log10(len(rows)) * (np.sqrt(expected) + 1.0))


def _excess(counts: Array, background: float, rows: Array) -> Array:
    """Rows beyond what chance brings, of counts (n, C) whose columns are true classes."""
    return np.asarray(np.maximum(counts - _usual(background, rows), 0.0))


def _leave_one_out(model: Transitions, labels: Labels, own: Array) -> Array:
    """(n, C) T[c, label] without the row's ``own`` posterior."""
    places, classes = np.arange(len(labels)), len(model.rows)
    found = np.full((len(labels), classes), model.background)
    right = np.full(classes, 1.0 - model.background * (classes - 1))
    if model.counts.size:
        found += _excess(model.counts[:, labels].T - own, model.background, model.rows) / (model.rows + _SHRINK)
        whole = _excess(model.counts.T, model.background, model.rows).T
        np.fill_diagonal(whole, 0.0)
        right -= whole.sum(axis=1) / (model.rows + _SHRINK)
    found[places, labels] = np.maximum(right[labels], _FLOOR)
    return found


def _background(counts: Array, rows: Array, before: float, wrong: float, size: int) -> float:
    """The mean rate of all pairs c ≠ a, each counted no further than `_usual`."""
    if counts.size:
        capped = np.minimum(counts, _usual(before, rows)[:, None])
        wrong = float(capped.sum() - np.diagonal(capped).sum())
    return max(wrong / size, _FLOOR) / (len(rows) - 1)


class _Logits:
    """β s + A s + b of standardised scores s, moved so that they fit a posterior better each time."""

    def __init__(self, standard: Array) -> None:
        size, classes = standard.shape
        self.standard, self.slope = standard, _STEEP
        self.inputs = np.hstack([standard, np.ones((size, 1))])
        self.matrix = np.zeros((classes + 1, classes))
        self.ridge = np.append(np.full(classes, _RIDGE), 1e-3)[:, None]
        self.bends, self.step, self.best = size >= classes**2, 1.0, -np.inf
        if self.bends:  # A: a bound of the curvature (Böhning 1992)
            self.inverse = np.linalg.inv(self.inputs.T @ self.inputs / 2.0 + np.diag(self.ridge[:, 0]))

    def values(self) -> Array:
        return _log_softmax(self.slope * self.standard + self.inputs @ self.matrix)

    def move(self, wanted: Array, before: Array, value: float) -> None:
        """Towards the posterior ``wanted``; ``before`` are the probabilities, ``value`` the log-likelihood, now."""
        means = (before * self.standard).sum(axis=1)
        slant = float((wanted * self.standard).sum() - means.sum())
        curvature = float((before * self.standard**2).sum() - (means**2).sum())
        change = np.clip(slant / (curvature + 1e-3), -self.slope / 2.0, self.slope / 2.0)
        self.slope = float(np.clip(self.slope + change, 1e-3, _STEEPEST))
        if self.bends:
            now = np.exp(self.values())
            self.step = min(_FASTEST, 1.3 * self.step) if value >= self.best else 1.0
            self.best = value
            self.matrix += self.step * self.inverse @ (self.inputs.T @ (wanted - now) - self.ridge * self.matrix)


def fit(scores: Array, labels: Labels) -> Transitions:
    """`Transitions` of scores (S, C) and labels (S,) in 0 … C − 1, by expectation maximisation.

    P(c | s) is the softmax of β s + A s + b. β is found by Newton's method and A, which bends the scores where classes
    lie on a line or are unequally wide, with a ridge, by steps along Böhning's (1992) bound; with fewer than C² rows
    there is neither A nor b, which could let one class swallow another. T[c, a] is what the background brings and, per
    row of class c, what a pair has beyond `_usual`; the background is the mean rate of pairs, each counted up to that.
    The rounds begin with a steep β, which takes for noise what A may explain as overlap later. Costs 150 rounds of
    O(S C²), or 60 of O(S C) without A.
    """
    size, classes = scores.shape
    width, pairs = float(scores.std()) or 1.0, classes <= MOST_CLASSES
    logits = _Logits(scores / width)
    none, start = np.zeros((classes if pairs else 0,) * 2), _START / (classes - 1)
    model = Transitions(0.0, none, start, none, np.bincount(labels, minlength=classes).astype(np.float64))
    own = np.zeros((size, classes))
    for _ in range(_ROUNDS if logits.bends else _FEWER_ROUNDS):
        values = logits.values()
        joint = values + np.log(_leave_one_out(model, labels, own))
        value, own = float(np.logaddexp.reduce(joint, axis=1).sum()), posterior(joint)
        rows, wrong = own.sum(axis=0), size - float(own[np.arange(size), labels].sum())
        counts = totals(own, labels) if pairs else none
        background = _background(counts, rows, model.background, wrong, size)
        model = model._replace(background=background, counts=counts, rows=rows)
        logits.move(own, np.exp(values), value)
    matrix = logits.matrix.copy()
    matrix[:-1] /= width
    return model._replace(scale=logits.slope / width, matrix=matrix)

"""Confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068): wrong labels from out-of-sample
probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["confident_joint", "label_issues", "thresholds"]

_ROUNDING = 1e-6  # what a probability may lack of its threshold, as in cleanlab


def thresholds(probabilities: NDArray[np.float64], labels: NDArray[np.int64], fewest: int = 1) -> NDArray[np.float64]:
    """(C,) self-confidence ``t_j``, the mean probability of j among the rows labelled j (eq. 2); ∞ for a class of less
    than ``fewest`` rows, so that nobody is counted as of it."""
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=len(counts))
    return np.where(counts >= max(fewest, 1), own / np.maximum(counts, 1), np.inf)


def confident_joint(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], fewest: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts (C, C) of rows labelled i and confidently of class j, and the same calibrated.

    A row counts for the class j of highest probability among those with ``p_j ≥ t_j`` (eq. 1), and not at all without
    one. (cleanlab takes the highest of all classes where several are above; it may be none of them.) Calibrated, row i
    adds up to the number of rows labelled i (eq. 3), the diagonal being at least one before, as in cleanlab: nobody's
    class is wrong as a whole. A class of which nobody is counted is taken as right.

    Args:
        probabilities: (M, C), of every row without its label.
        labels: (M,) in [0, C).
        fewest: rows of a class below which nobody is counted as of it.
    """
    classes = probabilities.shape[1]
    above = probabilities >= thresholds(probabilities, labels, fewest) - _ROUNDING
    told = np.where(above, probabilities, -1.0).argmax(axis=1)
    counts = np.zeros((classes, classes), dtype=np.int64)
    confident = above.any(axis=1)
    np.add.at(counts, (labels[confident], told[confident]), 1)
    filled = counts.astype(np.float64)
    np.fill_diagonal(filled, np.maximum(filled.diagonal(), 1.0))
    return counts, filled * (np.bincount(labels, minlength=classes) / filled.sum(axis=1))[:, None]


def label_issues(probabilities: NDArray[np.float64], labels: NDArray[np.int64], fewest: int = 1) -> NDArray[np.bool_]:
    """(M,) labels to prune by noise rate, the paper's PBNR and cleanlab's default ``filter_by="prune_by_noise_rate"``.

    Of every pair i ≠ j as many as the calibrated joint has, rounded: those labelled i with the largest margin
    ``p_j − p_i``, ties by row. As in cleanlab, a label that the probabilities predict is no issue; and a class keeps
    at least one row.

    Args:
        probabilities, labels, fewest: see `confident_joint`. No label of a smaller class is an issue.
    """
    calibrated = confident_joint(probabilities, labels, fewest)[1]
    found = np.zeros(len(labels), dtype=np.bool_)
    predicted = probabilities.argmax(axis=1)
    for given in range(len(calibrated)):
        rows = np.flatnonzero(labels == given)
        if len(rows) < max(fewest, 2):
            continue
        for other in np.flatnonzero(np.rint(calibrated[given]) > 0).tolist():
            if other != given:
                margins = probabilities[rows, other] - probabilities[rows, given]
                found[rows[np.argsort(-margins, kind="stable")[: round(calibrated[given, other])]]] = True
        found[rows] &= predicted[rows] != given
        if found[rows].all():
            found[rows[probabilities[rows, given].argmax()]] = False
    return found

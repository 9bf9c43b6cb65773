"""How many labels are wrong, and which: what the features of the other samples say about every label."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler import draws
from spectral_sampler.selection.leave_one_out import leave_one_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LabelNoise", "estimate"]

_QUANTILE = 0.7
_FEWEST = 5  # samples of a class, below which its labels are not judged: too little is known of them
_STANDARD_ERRORS = 3.0


class LabelNoise(NamedTuple):
    """What the features say about the labels."""

    share: float
    """Estimated share of wrong labels among distinct samples, in [0, 1]."""
    doubts: NDArray[np.float64]
    """(M,) how much the features of the others contradict a label; −inf in a class of fewer than five."""
    accuracy: float
    """Share of the judged labels that the features of the others predict."""
    informative: bool
    """They predict more of them than the most frequent class would; without it the share means nothing."""
    distinct: NDArray[np.int64]
    """(G,) the first row of every group of copies."""
    groups: NDArray[np.int64]
    """(M,) the group of every row."""

    def suspects(self, share: float | None = None) -> NDArray[np.bool_]:
        """(M,) the ``share`` of the distinct samples with the most doubtful labels, and their copies; never one whose
        label the features predict. None takes the estimate, or nobody where the features are not informative."""
        if share is None:
            share = self.share if self.informative else 0.0
        doubts = self.doubts[self.distinct]
        ties = draws.uniforms(0, 0, 0, self.distinct, draws.TIES)  # not by row: the first ones would always be accused
        most = np.lexsort((ties, -doubts))[: round(share * len(doubts))]
        found = np.zeros(len(doubts), dtype=np.bool_)
        found[most] = doubts[most] > 0.0
        return np.asarray(found[self.groups])


def _copies(features: NDArray[np.floating], classes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of every group of equal rows with equal labels, and the group (M,) of every row."""
    numbers: dict[bytes, int] = {}
    rows: list[int] = []
    groups = np.empty(len(classes), dtype=np.int64)
    for row, label in enumerate(classes.tolist()):
        key = hashlib.blake2b(features[row].tobytes(), digest_size=16, salt=label.to_bytes(8, "little")).digest()
        groups[row] = numbers.setdefault(key, len(rows))
        if groups[row] == len(rows):
            rows.append(row)
    return np.array(rows, dtype=np.int64), groups


def estimate(features: NDArray[np.floating], labels: NDArray[np.int64]) -> LabelNoise:
    """Share of wrong labels from features (M, d) of a model that never saw them, and a doubt for every label.

    A linear probe on the features of all other samples (`leave_one_out`) gives every label a doubt: the margin of the
    best other class over it, as in confident learning (Northcutt et al. 2021), without probabilities that would have to
    be calibrated. A wrong label c, if it may be that of any sample, is doubted like c *on any other sample*, and what
    that looks like is known: these are the alternatives. With t_c the 70 % quantile of the doubts of c as an
    alternative, doubts above it are left to wrong labels as far as right ones are never doubted so much, and

        ρ = P(doubt > t_y) / P(alternative > t),    share = ρ / (1 + ρ / (C − 1)),

    the latter because one in C − 1 of the alternatives of a wrong label is the right one. This is mixture proportion
    estimation (Blanchard, Lee and Scott 2010) at one threshold, or Storey's (2002) share of true null hypotheses. It
    holds for unsure probes too; it errs upwards by the right labels that are doubted that much, up to (C − 1) / C for
    features that know nothing of the labels.

    Exact copies do not vouch for each other, and classes of fewer than five samples are not judged. Wrong labels that
    are not spread over the classes, such as two classes that are taken for each other, are found less often. Where
    classes are uneven *and* labels wrong, most samples labelled with a rare class are in truth of others: the share
    errs upwards with few classes, and much of what is right in the rarest classes is accused with the rest. The
    combination is our own.

    Args:
        features: (M, d), finite.
        labels: (M,) integers, any.
    """
    names, every = np.unique(labels, return_inverse=True)
    rows, groups = _copies(features, every)
    classes = every[rows]
    counts = np.bincount(classes)
    judged = counts[classes] >= _FEWEST
    if len(names) < 2 or not judged.any():
        return LabelNoise(0.0, np.full(len(labels), -np.inf), 1.0, informative=False, distinct=rows, groups=groups)
    found = leave_one_out(features, rows, classes)
    doubts, size = np.where(judged, found.margins, -np.inf), int(judged.sum())
    thresholds = np.nanquantile(found.alternatives, _QUANTILE, axis=0)
    above = np.nanmean(np.where(np.isnan(found.alternatives), np.nan, found.alternatives > thresholds), axis=0)
    expected = above[classes[judged]].sum()
    ratio = min(1.0, np.count_nonzero(doubts > thresholds[classes]) / expected) if expected > 0 else 0.0
    share = ratio / (1.0 + ratio / (len(names) - 1)) * size / len(rows)
    accuracy = float(np.count_nonzero(doubts[judged] < 0.0) / size)
    guess = counts.max() / size
    informative = accuracy > guess + _STANDARD_ERRORS * math.sqrt(guess * max(0.0, 1.0 - guess) / size)
    return LabelNoise(float(share), doubts[groups], accuracy, bool(informative), rows, groups)

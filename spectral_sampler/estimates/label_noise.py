"""How many labels are wrong, and which: what the features of the other samples say about every label."""

from __future__ import annotations

import hashlib
import math
import threading
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.estimates.leave_one_out import leave_one_out
from spectral_sampler.store import derived
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["LabelNoise", "estimate", "known_label_noise", "label_noise", "labelled", "labels_of", "suspects"]

_NAME, _VERSION = "derived-label-noise", 1
"""Beside a store; the version rises whenever `estimate` or `leave_one_out` would answer otherwise."""
_QUANTILE = 0.7
_FEWEST = 5  # samples of a class, below which its labels are not judged: too little is known of them
_STANDARD_ERRORS = 3.0


class LabelNoise(NamedTuple):
    """What the features say about the labels."""

    share: float
    """Estimated share of wrong labels among distinct labelled samples, in [0, 1]."""
    doubts: NDArray[np.float64]
    """(M,) how much the features of the others contradict a label; −inf in a class of fewer than five, or without."""
    accuracy: float
    """Share of the judged labels that the features of the others predict."""
    informative: bool
    """They predict more of them than the most frequent class would; without it the share means nothing."""
    first: NDArray[np.int64]
    """(M,) the first row of which a row is a copy, label included, mostly its own; −1 without a label."""

    def suspects(self, share: float | None = None) -> NDArray[np.bool_]:
        """(M,) the ``share`` of the distinct labelled samples with the most doubtful labels, and their copies; never
        one whose label the features predict. None takes the estimate, nobody where features are not informative."""
        if share is None:
            share = self.share if self.informative else 0.0
        distinct = np.flatnonzero(self.first == np.arange(len(self.first)))
        doubts = self.doubts[distinct]
        ties = draws.uniforms(0, 0, 0, distinct, draws.TIES)  # not by row: the first ones would always be accused
        most = np.lexsort((ties, -doubts))[: round(share * len(doubts))]
        found = np.zeros(len(self.first) + 1, dtype=np.bool_)  # the last is what −1 asks for
        found[distinct[most]] = doubts[most] > 0.0
        return np.asarray(found[self.first])


def labelled(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(M,) all but those that are −1, the mark of a row without a label; −1 and 1 alone are two classes."""
    marked = labels == -1
    return np.ones_like(marked) if marked.any() and np.isin(labels, (-1, 1)).all() else ~marked


def _copies(features: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) the first row that has the same features and the same label."""
    seen: dict[bytes, int] = {}
    first = np.empty(len(labels), dtype=np.int64)
    for row, label in enumerate(labels.tolist()):
        salt = label.to_bytes(8, "little", signed=True)
        key = hashlib.blake2b(features[row].tobytes(), digest_size=16, salt=salt).digest()
        first[row] = seen.setdefault(key, row)
    return first


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

    Exact copies do not vouch for each other, and classes of fewer than five samples are not judged. Rows without a
    label take no part. Wrong labels that are not spread over the classes, such as two classes that are taken for each
    other, are found less often. Where classes are uneven *and* labels wrong, most samples labelled with a rare class
    are in truth of others: the share errs upwards with few classes, and much of what is right in the rarest classes is
    accused with the rest. **Overlap looks like noise**: of labels that are right it accuses a sixth where the classes
    are five overlapping levels along one direction, and in few dimensions a tenth to a half of a small class that is
    made of several clusters. The combination is our own.

    Args:
        features: (M, d), finite.
        labels: (M,) integers, any; −1 for rows without a label (`labelled`).
    """
    known = labelled(labels)
    first = np.where(known, _copies(features, labels), -1)
    rows = np.flatnonzero(first == np.arange(len(labels)))
    names, classes = np.unique(labels[rows], return_inverse=True)
    counts = np.bincount(classes)
    judged = counts[classes] >= _FEWEST
    everywhere = np.full(len(labels) + 1, -np.inf)  # the last is what −1 asks for
    if len(names) < 2 or not judged.any():
        return LabelNoise(0.0, everywhere[:-1], 1.0, informative=False, first=first)
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
    everywhere[rows] = doubts
    return LabelNoise(float(share), everywhere[first], accuracy, bool(informative), first)


_KNOWN: WeakKeyDictionary[ReferenceStore, LabelNoise] = WeakKeyDictionary()
_LOCK = threading.Lock()  # a look-ahead thread may ask while the caller does


def labels_of(store: ReferenceStore) -> NDArray[np.int64]:
    """The labels (M,) of a store, or one sentence."""
    labels: NDArray[np.int64] | None = getattr(store, "labels", None)
    if labels is None:
        raise argument_error("store", "a reference store with labels", "one without", "Make it with labels=.")
    return labels


def known_label_noise(store: ReferenceStore) -> LabelNoise | None:
    """What `label_noise` has found, here or in the process that kept it beside the store, without computing it."""
    if store not in _KNOWN:
        each = (len(store),)
        layout = {"numbers": ("float64", (3,)), "doubts": ("float64", each), "first": ("int64", each)}
        if (kept := derived.kept(store, _NAME, _VERSION, layout)) is None:
            return None
        (share, accuracy, informative), doubts, first = kept.values()
        _KNOWN[store] = LabelNoise(float(share), doubts, float(accuracy), bool(informative), first)
    return _KNOWN[store]


def label_noise(store: ReferenceStore) -> LabelNoise:
    """What the features of a store say about its labels: `estimate`, computed once, at the price of `leave_one_out`.

    For a store opened from a directory it is kept there, in ``derived-label-noise…``, for whoever opens it later.

    Raises:
        ArgumentError: for a store without labels.
    """
    labels = labels_of(store)
    with _LOCK:
        found = known_label_noise(store)
        if found is None:
            found = _KNOWN[store] = estimate(store.features, labels)
            numbers = np.array([found.share, found.accuracy, found.informative])
            arrays = {"numbers": numbers, "doubts": found.doubts, "first": found.first}
            derived.keep(store, _NAME, _VERSION, arrays)
        return found


def suspects(store: ReferenceStore, share: float | None = None) -> NDArray[np.bool_]:
    """(M,) the rows of a store whose labels its features contradict most: what `PlausibleEven` does not draw.

    Look at some of them before you believe it: `estimate` says what else looks like a wrong label.

    Args:
        share: of the distinct labelled samples, in [0, 1); None takes the estimate, 0 is nobody and computes nothing.

    Raises:
        ArgumentError: for a store without labels, or a share out of range.
    """
    labels = labels_of(store)
    if share is not None and within("share", share, "[0, 1)", "None takes the estimate.") == 0.0:
        return np.zeros(len(labels), dtype=np.bool_)
    return label_noise(store).suspects(share)

"""How many labels are wrong, and which: what the features of the other samples say about every label."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.estimates import transitions
from spectral_sampler.estimates.blocks import blocks, read
from spectral_sampler.estimates.leave_one_out import most_telling, some
from spectral_sampler.estimates.progress import Progress
from spectral_sampler.estimates.side_by_side import side_by_side
from spectral_sampler.store import derived
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["LabelNoise", "estimate", "known_label_noise", "label_noise", "labelled", "labels_of", "suspects"]

_NAME, _VERSION = "derived-label-noise", 3
"""Beside a store; the version rises whenever `estimate` or `leave_one_out` would answer otherwise."""
_FEWEST = 5  # samples of a class, below which its labels are not judged: too little is known of them
_STANDARD_ERRORS = 3.0
_PRECISION = 0.75  # of the suspects as far as the model holds
_FEW = 0.1  # of a class; who does not see noise between classes below that is told
_BLOCK = 4096  # rows
_NUMBERS = 1 << 20  # scores that the transitions are fitted to
_LAST = 1e-9  # doubt of labels that are kept: suspected after all others, and only where a share is asked for
_log = logging.getLogger("spectral_sampler")


class LabelNoise(NamedTuple):
    """What the features say about the labels."""

    share: float
    """Estimated share of wrong labels among distinct labelled samples, in [0, 1]."""
    doubts: NDArray[np.float64]
    """(M,) log of how much likelier the features are if the label is wrong than if it is right; −inf in a class of
    fewer than five, or without a label."""
    accuracy: float
    """Share of the judged labels that the features of the others predict."""
    informative: bool
    """They predict more of them than the most frequent class would; without it the share means nothing."""
    first: NDArray[np.int64]
    """(M,) the first row of which a row is a copy, label included, mostly its own; −1 without a label."""
    joint: NDArray[np.float64]
    """(C, C) estimated shares of the judged samples that are of class c and labelled a, classes ascending: its
    diagonal is what is right. Zeros where nothing was estimated, (0, 0) with more than 2,048 classes."""
    unclear: int = 0
    """Classes of which more labels look wrong than can be believed; their least doubted ones are kept (`estimate`)."""
    unseen: float = 0.0
    """Share of a class, in [0, 1], that could be labelled as one other class and not be told from chance: below that,
    noise between classes is missed. The mean of the judged samples; it is large where classes have few samples."""

    def suspects(self, share: float | None = None) -> NDArray[np.bool_]:
        """(M,) the ``share`` of the distinct labelled samples with the most doubtful labels, and their copies; never
        one for whose label the features speak. None takes the estimated share at most: labels more likely wrong than
        right, and as far as three quarters of the suspects stay wrong by the estimate, those that are so by one in
        four; nobody where features are not informative."""
        distinct = np.flatnonzero(self.first == np.arange(len(self.first)))
        doubts, least = self.doubts[distinct], 0.0
        most = round((self.share if share is None else share) * len(doubts))
        if share is None:
            odds = min(0.0, _log_odds(self.share)) if 0.0 < self.share < 1.0 else 0.0
            wrong = np.sort(_probability(doubts + odds))[::-1]
            precise = (np.cumsum(wrong) >= _PRECISION * np.arange(1, len(wrong) + 1)) | (wrong > 0.5)
            most = min(most, int(np.count_nonzero(precise))) if self.informative else 0
            least = max(_LAST, -_log_odds(_PRECISION) - odds)
        ties = draws.uniforms(0, 0, 0, distinct, draws.TIES)  # not by row: the first ones would always be accused
        chosen = np.lexsort((ties, -doubts))[:most]
        found = np.zeros(len(self.first) + 1, dtype=np.bool_)  # the last is what −1 asks for
        found[distinct[chosen]] = doubts[chosen] > least
        return np.asarray(found[self.first])


def labelled(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(M,) all but those that are −1, the mark of a row without a label; −1 and 1 alone are two classes."""
    marked = labels == -1
    return np.ones_like(marked) if marked.any() and np.isin(labels, (-1, 1)).all() else ~marked


def _copies(features: Any, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) the first row that has the same features, byte by byte, and the same label."""
    keys = draws.mixed(labels.astype(np.uint64))

    def hashed(places: NDArray[np.int64]) -> NDArray[np.uint64]:
        words = _bytes(features, places)
        words = np.pad(words, ((0, 0), (0, -words.shape[1] % 8))) if words.shape[1] % 8 else words
        odd = draws.mixed(np.arange(1, words.shape[1] // 8 + 1, dtype=np.uint64)) | np.uint64(1)
        found = words.view(np.uint64)
        found ^= found >> np.uint64(32)  # a product moves no high bit down
        return np.asarray(found @ odd)

    for places, part in side_by_side(hashed, blocks(np.arange(len(labels)), _BLOCK)):
        keys[places] += part
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    found = np.asarray(first[inverse], dtype=np.int64)
    later = np.flatnonzero(found != np.arange(len(found)))
    for rows in blocks(later, _BLOCK):  # a hash is no proof
        other = (_bytes(features, rows) != _bytes(features, found[rows])).any(axis=1)
        other |= labels[rows] != labels[found[rows]]
        found[rows[other]] = rows[other]
    return found


def _bytes(features: Any, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return read(features, rows).view(np.uint8).reshape(len(rows), -1)


def estimate(features: Any, labels: NDArray[np.int64]) -> LabelNoise:
    """Share of wrong labels from features (M, d) of a model that never saw them, and a doubt for every label.

    A probe on the features of all other samples scores every sample (`leave_one_out.most_telling`), and a model of
    three parts explains the labels by the scores (`transitions`): classes overlap where scores are near each other, a
    class is taken for another in a share of its samples *however clear their scores are*, or a label is that of any
    class. By Bayes every label is wrong with the chance

        P(wrong | y, s) = Σ_{c ≠ y} P(c | s) T[c, y] / Σ_c P(c | s) T[c, y],    share = their mean,

    and the most doubtful ones are suspected, as many as the share (`LabelNoise.suspects`). ``doubts`` are the log of
    its odds less those of ``share``. Where overlap explains the labels as well, nobody is suspected. Of every class
    the least doubted labels are kept, n (1 − min(share, ½)) / 2 of n: were more of them wrong, the label would hardly
    mean the class, and the model more likely takes one class for another (``unclear`` counts where that happened).

    Exact copies do not vouch for each other, and classes of fewer than five samples are not judged. Rows without a
    label take no part. Where classes have few samples, single pairs of classes cannot be told from chance and count as
    any class. What the features cannot see, they cannot find: a wrong label between classes that overlap, and classes
    that are mixed alike in every place (two separate places with a fifth of the other's label each are noise here,
    whatever made them so). The combination is our own; T is the noise layer of Goldberger and Ben-Reuven (2017).

    Costs `most_telling`'s O(M d² + M d C + d³) and 150 rounds of O(S C²), S ≤ 2²⁰ / C random samples, C² at most.

    Args:
        features: (M, d), finite; an array, or what reads its rows by index.
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
        return LabelNoise(
            0.0, everywhere[:-1], 1.0, informative=False, first=first, joint=np.zeros((_paired(len(names)),) * 2)
        )
    with Progress("label noise") as progress:
        odds, joint, right, unseen = _judge(features, rows, classes, judged, progress)
    size = int(judged.sum())
    share = float(_probability(odds[judged]).sum() / len(rows))
    accuracy, guess = right / size, counts.max() / size
    informative = accuracy > guess + _STANDARD_ERRORS * math.sqrt(guess * max(0.0, 1.0 - guess) / size)
    prior = min(max(share, 1.0 / (2 * len(rows))), 0.5)
    doubts, core = odds - _log_odds(prior), _core(odds, classes, share)
    unclear = len(np.unique(classes[core & judged & (odds > 0.0)])) if informative else 0
    everywhere[rows] = np.where(judged, np.where(core, np.minimum(doubts, _LAST), doubts), -np.inf)
    return LabelNoise(share, everywhere[first], float(accuracy), bool(informative), first, joint, unclear, unseen)


def _paired(classes: int) -> int:
    return classes if classes <= transitions.MOST_CLASSES else 0


def _probability(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 + 0.5 * np.tanh(odds / 2.0))


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log(1.0 - probability)


def _core(odds: NDArray[np.float64], classes: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """(M,) the labels of every class that are kept whatever the odds that they are wrong: half of the expected right
    ones, a quarter of the class at least."""
    counts, order = np.bincount(classes), np.lexsort((odds, classes))
    place = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.zeros(len(classes), dtype=np.bool_)
    found[order] = place < np.repeat(np.ceil(counts * (1.0 - min(share, 0.5)) / 2.0), counts)
    return found


def _judge(
    features: Any, rows: NDArray[np.int64], classes: NDArray[np.int64], judged: NDArray[np.bool_], progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, float]:
    """(M,) log-odds of a wrong label, the joint of `LabelNoise`, how many judged labels are predicted, and `unseen`."""
    number = int(classes.max()) + 1
    found = most_telling(features, rows, classes, number, progress)
    sample = some(len(rows), _NUMBERS // number)
    model = transitions.fit(np.concatenate([scores for _, scores in found.scores(sample)]), classes[sample])
    score, rates, paired = found.scorer(), model.rates(), _paired(number)

    def explained(places: NDArray[np.int64]) -> tuple[int, NDArray[np.float64], NDArray[np.int64], torch.Tensor]:
        scores, labels, believed = score(places), classes[places], judged[places]
        right = int(np.count_nonzero((torch.from_numpy(scores).argmax(dim=1).numpy() == labels) & believed))
        logs = model.likelihoods(scores, labels, rates)
        given, places_of = np.unique(labels[believed], return_inverse=True)
        part = torch.zeros((len(given), paired), dtype=torch.float64)
        if paired:
            part.index_add_(0, torch.from_numpy(places_of), logs[torch.from_numpy(believed)].softmax(dim=1))
        names, own = torch.from_numpy(labels), torch.arange(len(places))
        own_logs = logs[own, names]
        logs[own, names] = -math.inf
        return right, (logs.logsumexp(dim=1) - own_logs).numpy(), given, part

    odds, right, joint = np.empty(len(rows)), 0, np.zeros((paired, paired))
    for places, (hits, odds[places], given, part) in side_by_side(explained, found.blocks(np.arange(len(rows)))):
        right += hits
        if paired:
            joint[given] += part.numpy()
        progress.advance(len(places) * found.cost())
    size = max(1, int(judged.sum()))
    return odds, joint.T / size, right, float(model.unseen()[classes[judged]].mean())


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
        labels = getattr(store, "labels", None)
        if labels is None:
            return None
        each, pair = (len(store),), (_paired(len(np.unique(labels[labelled(labels)]))),) * 2
        layout = {
            "numbers": ("float64", (5,)), "joint": ("float64", pair), "doubts": ("float64", each),
            "first": ("int64", each),
        }  # fmt: skip
        if (kept := derived.kept(store, _NAME, _VERSION, layout)) is None:
            return None
        (share, accuracy, informative, unclear, unseen), joint, doubts, first = kept.values()
        _KNOWN[store] = LabelNoise(
            float(share), doubts, float(accuracy), bool(informative), first, joint, int(unclear), float(unseen)
        )
    return _KNOWN[store]


def label_noise(store: ReferenceStore) -> LabelNoise:
    """What the features of a store say about its labels: `estimate`, computed once, at the price of `leave_one_out`.

    For a store opened from a directory it is kept there, in ``derived-label-noise…``, for whoever opens it later.

    Raises:
        ArgumentError: for a store without labels.
    """
    labels = labels_of(store)
    with _LOCK:
        new, found = store not in _KNOWN, known_label_noise(store)
        if found is None:
            found = _KNOWN[store] = estimate(store.features, labels)
            numbers = np.array([found.share, found.accuracy, found.informative, found.unclear, found.unseen])
            arrays = {"numbers": numbers, "joint": found.joint, "doubts": found.doubts, "first": found.first}
            derived.keep(store, _NAME, _VERSION, arrays)
        if new:
            _say(found)
        return found


def _say(noise: LabelNoise) -> None:
    """What the evidence does not tell, once for a store."""
    if noise.unclear:
        _log.warning(
            "label noise: most labels of %s classes look wrong, and their least doubted ones are kept: the features "
            "can hardly tell; look at suspects(store), or pass label_noise=0",
            f"{noise.unclear:,}",
        )
    if noise.informative and noise.unseen > _FEW:
        _log.info(
            "label noise: with so few samples a class, samples labelled as one other class go unseen up to about "
            "%.0f %% of their class",
            100.0 * noise.unseen,
        )


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

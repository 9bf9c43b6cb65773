"""What a pilot finds in the data: doubtful labels, copies, uneven classes, classes that overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.estimates.label_noise import label_noise
from spectral_sampler.experiment.piloting.forecast import UNEVEN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.piloting.pool import Pool

__all__ = ["Facts", "facts_of"]

_MOST_COMPARED = 3000  # rows whose neighbours are looked for
_NEIGHBOURS = 10
_NEAR = 0.999  # cosine from which two rows are near copies
_EXAMPLES = 24
_PAIRS = 5


class Facts(NamedTuple):
    """What was found, in plain values."""

    record: dict[str, Any]
    suspects: list[dict[str, Any]]


def _neighbours(features: NDArray[np.floating], copies: NDArray[np.int64]) -> tuple[Any, Any]:
    """Rows (M, k) of greatest cosine that are no copies of each, nearest first, and the greatest cosine (M,)."""
    rows = np.asarray(features, dtype=np.float32)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    count = max(1, min(_NEIGHBOURS, len(rows) - 1))
    found, cosines = np.empty((len(rows), count), dtype=np.int64), np.empty(len(rows))
    for start in range(0, len(rows), 1024):
        block = slice(start, start + 1024)
        near = rows[block] @ rows.T
        near[copies[block, None] == copies[None, :]] = -np.inf
        places = np.argpartition(-near, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(near, places, 1), axis=1, kind="stable")
        found[block] = np.take_along_axis(places, order, 1)
        cosines[block] = near.max(axis=1)
    return found, cosines


def _overlap(labels: NDArray[np.int64], nearest: NDArray[np.int64], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The pairs of classes that are each other's nearest neighbours most often, in both directions."""
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (labels, nearest), 1.0)
    shares = counts / np.maximum(np.bincount(labels, minlength=len(classes)), 1)[:, None]
    both = np.triu(np.minimum(shares, shares.T), 1)
    worst = np.argsort(-both, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(classes)) for place in worst]
    return [
        {"classes": [classes[a], classes[b]], "shares": [round(float(shares[a, b]), 4), round(float(shares[b, a]), 4)]}
        for a, b in pairs
        if both[a, b] > 0
    ]


def _looks_like(labels: NDArray[np.int64], own: int, around: NDArray[np.int64]) -> int:
    votes = np.bincount(labels[around], minlength=own + 1)
    votes[own] = 0
    return int(votes.argmax())


def _wants_balance(counts: NDArray[np.int64], wanted: NDArray[np.float64]) -> bool:
    """Whether classes are uneven, and the shares (C,) that the test part has are nearer to even ones than to these, in
    Kullback-Leibler divergence."""
    there = (counts > 0) & (wanted > 0)
    if not there.any() or counts[there].max() < UNEVEN * counts[there].min():
        return False
    test, training = wanted[there] / wanted[there].sum(), counts[there] / counts[there].sum()
    return bool((test * np.log(test * len(test))).sum() < (test * np.log(test / training)).sum())


def facts_of(pool: Pool) -> Facts:
    """The facts of a pool of M rows; shares are of its rows."""
    labels, classes, noise = pool.samples.labels, pool.task.classes, label_noise(pool.store)
    suspected = noise.suspects()
    share = noise.share if noise.informative else 0.0
    doubtful = np.flatnonzero(suspected)
    doubtful = doubtful[np.argsort(-noise.doubts[doubtful], kind="stable")]
    compared = np.arange(min(len(labels), _MOST_COMPARED))
    if len(labels) > _MOST_COMPARED:  # the first in doubt are shown, so their neighbours are needed
        rest = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(labels)), doubtful[:_EXAMPLES]))
        compared = np.sort(np.concatenate([doubtful[:_EXAMPLES], rest])[:_MOST_COMPARED])
    near, cosines = _neighbours(pool.store.features[compared], pool.copies[compared])
    seen, trusted = labels[compared], ~suspected[compared]
    place = {int(row): number for number, row in enumerate(compared)}
    suspects = [
        {"row": int(pool.numbers[row]), "label": classes[labels[row]],
         "looks_like": classes[_looks_like(seen, int(labels[row]), near[place[int(row)]])]}
        for row in doubtful[:_EXAMPLES] if int(row) in place
    ]  # fmt: skip
    both = trusted & trusted[near[:, 0]]
    counts = np.bincount(labels, minlength=len(classes))
    present = counts[counts > 0]
    copies = int(np.count_nonzero(pool.copies != np.arange(len(labels))))
    record = {
        "rows": len(labels), "rows_in_all": pool.rows_in_all, "classes": len(classes),
        "rows_per_class": counts.tolist(), "label_noise": round(share, 4),
        "suspected": int(suspected.sum()), "suspected_share": round(float(suspected.mean()), 4),
        "copies": copies, "near_copies": int(np.count_nonzero(cosines[both] > _NEAR)),
        "imbalance": round(float(present.max() / present.min()), 2),
        "balance": _wants_balance(counts, pool.wanted),
        "overlap": _overlap(seen[both], seen[near[both, 0]], classes),
        "reference_accuracy": round(noise.accuracy, 4), "features_informative": noise.informative,
    }  # fmt: skip
    return Facts(record, suspects)

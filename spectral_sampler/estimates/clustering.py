"""(k, z)-clustering of embeddings: k-means from scikit-learn, and k-medians started from it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.estimates.blocks import blocks, read
from spectral_sampler.estimates.progress import Progress
from spectral_sampler.estimates.side_by_side import side_by_side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Clustering", "cluster"]

_MEDIAN_STEPS = 25
_WHOLE = 1 << 24  # numbers up to which all rows are looked at together, in float64
_SAMPLE = 1 << 23  # numbers of the rows that the first centres are found on, unless 16 rows for a cluster are more
_LLOYD = 20  # steps there: the mini-batches go on
_BATCH = 1 << 22  # numbers of a mini-batch, and of a block
_FEWEST = 16  # rows of a mini-batch for a cluster
_PASSES = 3


class Clustering(NamedTuple):
    """k clusters of M rows."""

    labels: NDArray[np.int64]
    """(M,) cluster of each row, 0 … k − 1; no cluster is empty."""
    distances: Array
    """(M,) Euclidean distance to the centre of its cluster."""
    medoids: NDArray[np.int64]
    """(k,) the row nearest to each centre."""


def _scikit_learn() -> Any:
    try:
        return importlib.import_module("sklearn.cluster")
    except ImportError as error:
        line = "pip install 'spectral-sampler[experiment]'"
        raise ImportError(f"Clustering needs the package scikit-learn, which is not installed. {line}") from error


def _k_means(features: Any, clusters: int, seed: int) -> Array:
    """Centres (k, d) by Lloyd's steps on all rows."""
    found = _scikit_learn().KMeans(n_clusters=clusters, n_init=1, tol=1e-6, random_state=seed % 2**32)
    return np.asarray(found.fit(np.asarray(features[:], dtype=np.float64)).cluster_centers_, dtype=np.float64)


def _mini_batches(features: Any, clusters: int, seed: int, progress: Progress) -> Array:
    """Centres (k, d) by float32 mini-batches of random rows (Sculley 2010), begun by k-means on a random sample."""
    size, width = features.shape
    sample = np.sort(draws.permutation(seed, 0, size)[: max(_SAMPLE // width, _FEWEST * clusters)])
    few = read(features, sample).astype(np.float32)
    start = (
        _scikit_learn()
        .KMeans(n_clusters=clusters, n_init=1, max_iter=_LLOYD, random_state=seed % 2**32)
        .fit(few)
        .cluster_centers_
    )
    del few
    # Reassignment would take rare clusters for failed ones and put their centres on random rows.
    model = _scikit_learn().MiniBatchKMeans(
        n_clusters=clusters, init=start, n_init=1, reassignment_ratio=0.0, random_state=seed % 2**32
    )
    for turn in range(1, _PASSES + 1):
        for batch in blocks(draws.permutation(seed, turn, size), max(_BATCH // width, _FEWEST * clusters)):
            model.partial_fit(read(features, np.sort(batch)).astype(np.float32))
            progress.advance(len(batch) * width * clusters)
    return np.asarray(model.cluster_centers_, dtype=np.float64)


class _Assigned(NamedTuple):
    labels: NDArray[np.int64]
    distances: Array
    sums: Array
    """(k, d) Σ x / |x − c| over each cluster, and (k,) Σ 1 / |x − c|; zeros unless asked for."""
    totals: Array


def _assign(
    features: Any, centres: Array, precision: type[np.floating], progress: Progress, *, weighted: bool = False
) -> _Assigned:
    """Nearest centre and the distance to it, in blocks of rows, of which no copy and no (M, k) array is formed."""
    size, (number, width) = len(features), centres.shape
    middle = centres.mean(axis=0)  # far from zero, squared norms would cancel
    moved = (centres - middle).astype(precision)
    norms = (moved**2).sum(axis=1)

    def nearest(places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array, NDArray[np.int64], Array, Array]:
        rows = read(features, places).astype(precision)
        rows -= middle.astype(precision)
        products = (torch.from_numpy(rows) @ torch.from_numpy(moved).T).numpy()  # NumPy's would take all cores for each
        labels = np.argmin(norms - 2.0 * products, axis=1)
        distances = np.linalg.norm(rows - moved[labels], axis=1).astype(np.float64)  # no cancellation
        if not weighted:
            return labels, distances, labels[:0], np.zeros((0, width)), np.zeros(0)
        inverse = 1.0 / np.maximum(distances, 1e-12)
        rows *= inverse[:, None].astype(precision)
        order = np.argsort(labels, kind="stable")
        names, starts = np.unique(labels[order], return_index=True)
        sums = np.add.reduceat(rows[order], starts, axis=0).astype(np.float64)
        return labels, distances, names, sums, np.add.reduceat(inverse[order], starts)

    found = _Assigned(np.empty(size, np.int64), np.empty(size), np.zeros((number, width)), np.zeros(number))
    step = max(256, _BATCH // max(width, number))
    for places, (labels, distances, names, sums, totals) in side_by_side(nearest, blocks(np.arange(size), step)):
        found.labels[places], found.distances[places] = labels, distances
        found.sums[names] += sums
        found.totals[names] += totals
        progress.advance(len(places) * width * number)
    found.sums[:] += found.totals[:, None] * middle
    return found


def cluster(features: Any, clusters: int, *, power: int = 2, seed: int = 0) -> Clustering:
    """Clusters the rows of ``features`` (M, d) so that the sum of ``distance^power`` is small.

    power 2 is k-means. power 1 goes on from it with Weiszfeld's step, ``c ← Σ x/|x − c| / Σ 1/|x − c|`` over each
    cluster, which lowers the sum of distances.

    Up to 2²⁴ numbers (M d), k-means is Lloyd's on all rows in float64. Beyond, it is 20 steps of Lloyd's on a random
    sample of 2²³ numbers (16 k rows if that is more), then three passes of mini-batches over all rows, in float32.
    Memory beside the features is then a few copies of the sample and, for each thread, of a block of 2²² numbers,
    whatever M, and 32 bytes a row. Costs 4 M d k multiplications, and 25 M d k more for power 1. The answer for a seed
    is the same on any number of threads but for scikit-learn's rounding.

    Args:
        features: (M, d), an array or what reads its rows by index.
        clusters: k, at most M.
        power: 1 or 2.
        seed: of the sample, the first centres and the batches.
    """
    size, width = features.shape
    few = size * width <= _WHOLE or clusters * _FEWEST >= size
    precision: type[np.floating] = np.float64 if few else np.float32
    passes = (0 if few else _PASSES) + 1 + (_MEDIAN_STEPS if power == 1 else 0)
    with Progress("clustering", float(size) * width * clusters * passes) as progress:
        centres = _k_means(features, clusters, seed) if few else _mini_batches(features, clusters, seed, progress)
        found = _assign(features, centres, precision, progress, weighted=power == 1)
        for left in range(_MEDIAN_STEPS if power == 1 else 0, 0, -1):
            means = found.sums / np.maximum(found.totals, 1e-300)[:, None]
            centres = np.where(found.totals[:, None] > 0, means, centres)
            found = _assign(features, centres, precision, progress, weighted=left > 1)
    order = np.lexsort((found.distances, found.labels))
    _, first = np.unique(found.labels[order], return_index=True)  # nearest row of every cluster that is not empty
    _, labels = np.unique(found.labels, return_inverse=True)
    return Clustering(labels.astype(np.int64), found.distances, order[first])

"""(k, z)-clustering of embeddings: k-means from scikit-learn, and k-medians started from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Clustering", "cluster"]

_MEDIAN_STEPS = 25


class Clustering(NamedTuple):
    """k clusters of M rows."""

    labels: NDArray[np.int64]
    """(M,) cluster of each row, 0 … k − 1; no cluster is empty."""
    distances: Array
    """(M,) Euclidean distance to the centre of its cluster."""
    medoids: NDArray[np.int64]
    """(k,) the row nearest to each centre."""


def _k_means(features: Any, clusters: int, seed: int) -> Any:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        line = "pip install 'spectral-sampler[experiment]'"
        raise ImportError(f"Clustering needs the package scikit-learn, which is not installed. {line}") from error
    return KMeans(n_clusters=clusters, n_init=1, tol=1e-6, random_state=seed % 2**32).fit(features)


def _assign(rows: Array, centres: Array) -> tuple[NDArray[np.int64], Array]:
    """Nearest centre and the distance to it, in blocks of rows so that no (M, k, d) array is formed."""
    labels, distances = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    norms = (centres**2).sum(axis=1)
    for start in range(0, len(rows), 8192):
        block = rows[start : start + 8192]
        nearest = np.argmin(norms - 2.0 * block @ centres.T, axis=1)
        labels[start : start + 8192] = nearest
        distances[start : start + 8192] = np.linalg.norm(block - centres[nearest], axis=1)  # no cancellation
    return labels, distances


def cluster(features: NDArray[Any], clusters: int, *, power: int = 2, seed: int = 0) -> Clustering:
    """Clusters the rows of ``features`` (M, d) so that the sum of ``distance^power`` is small.

    power 2 is k-means. power 1 goes on from it with Weiszfeld's step, ``c ← Σ x/|x − c| / Σ 1/|x − c|`` over each
    cluster, which lowers the sum of distances.
    """
    rows = np.asarray(features, dtype=np.float64)
    centres = np.asarray(_k_means(rows, clusters, seed).cluster_centers_, dtype=np.float64)
    labels, distances = _assign(rows, centres)
    for _ in range(_MEDIAN_STEPS if power == 1 else 0):
        inverse = 1.0 / np.maximum(distances, 1e-12)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, rows * inverse[:, None])
        totals = np.bincount(labels, inverse, minlength=len(centres))
        centres = np.where(totals[:, None] > 0, sums / np.maximum(totals, 1e-300)[:, None], centres)
        labels, distances = _assign(rows, centres)
    order = np.lexsort((distances, labels))
    _, first = np.unique(labels[order], return_index=True)  # nearest row of every cluster that is not empty
    _, labels = np.unique(labels, return_inverse=True)
    return Clustering(labels.astype(np.int64), distances, order[first])

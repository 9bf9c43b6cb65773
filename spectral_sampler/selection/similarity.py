"""Which graph the candidates form: the papers' cosines and plain Laplacian, and others that their claim can be held
against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spectral_sampler import ops
from spectral_sampler.errors import argument_error
from spectral_sampler.fiedler import LAPLACIANS, FiedlerResult, fiedler_of_affinity
from spectral_sampler.graph import cosine_affinity, gram, nearest, working_precision
from spectral_sampler.validation import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["COSINE", "SIMILARITIES", "Graph", "affinity", "solve_similarity"]

COSINE = "cosine"
NEIGHBOURS = 10  # k where none is given
_ROUNDING = 64 * torch.finfo(torch.float64).eps  # of a weight: cosines of 0 and equally near neighbours are within it
_CANCELLED = 1 / 64  # of |x|² + |y|²: a smaller |x − y|² has lost two digits of float64
_CHUNK_BYTES = 1 << 26  # of affinities at a time


def _clamped(rows: Tensor) -> Tensor:
    cosines = cosine_affinity(rows)
    return cosines.masked_fill_(cosines < _ROUNDING, 0.0)


def _distances(rows: Tensor) -> Tensor:
    """In units of their median. From products, several times as fast as from differences, but for rows close to
    another one, where these would cancel.
    """
    products = gram(rows - rows.mean(dim=0))
    sums = products.diagonal()[:, None] + products.diagonal()
    squares = (sums - 2.0 * products).clamp_(min=0.0)
    others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    close = ((squares < _CANCELLED * sums) & others).any(dim=1).nonzero()[:, 0]
    distances, some = squares.sqrt(), rows[close]
    distances[close[:, None], close] = torch.cdist(some, some, compute_mode="donot_use_mm_for_euclid_dist")
    median = distances[others].median()
    return distances / torch.where(median > 0, median, torch.ones_like(median))  # 0: most are duplicates


def _rbf(rows: Tensor) -> Tensor:
    return torch.exp(-0.5 * _distances(rows) ** 2)


def _euclidean(rows: Tensor) -> Tensor:
    return 1.0 / (1.0 + _distances(rows))


SIMILARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    COSINE: cosine_affinity,
    "clamped": _clamped,
    "rbf": _rbf,
    "euclidean": _euclidean,
    "knn": _clamped,
    "knn-euclidean": _euclidean,
}
"""From features (N, d) float64 to weights (N, N). "cosine" is GSTDS §3.2. "clamped" is max(cosine, 0), whose Laplacian
is positive semi-definite for any features. "rbf" is exp(−|x − y|² / 2σ²) and "euclidean" 1 / (1 + |x − y| / σ) of the
features as they are, σ the median distance within the candidate batch. "knn" and "knn-euclidean" are "clamped" and
"euclidean" for pairs of which one is among the k nearest of the other (`spectral_sampler.graph.nearest`), and 0
elsewhere. The Fiedler vector of a graph of two components tells them apart and nothing else; one of more components is
degenerate."""


@dataclass(frozen=True)
class Graph:
    """What an edge weighs and which Laplacian is taken; the default is the papers'.

    Args:
        similarity: a key of `SIMILARITIES`.
        laplacian: "unnormalised", D − S, or "normalised", D^{-1/2} (D − S) D^{-1/2}, by whose random-walk eigenvector
            candidates are ranked (`spectral_sampler.fiedler.fiedler_of_affinity`); not of "cosine", whose degrees may
            be negative.
        k: neighbours of each candidate, for a similarity named knn; None is `NEIGHBOURS`.
    """

    similarity: str = COSINE
    laplacian: str = "unnormalised"
    k: int | None = None

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            known = f"one of {sorted(SIMILARITIES)}"
            raise argument_error("similarity", known, repr(self.similarity), 'The papers use "cosine".')
        if self.laplacian not in LAPLACIANS:
            known = f"one of {sorted(LAPLACIANS)}"
            raise argument_error("laplacian", known, repr(self.laplacian), 'The papers use "unnormalised".')
        if self.similarity == COSINE and self.laplacian == "normalised":
            rule = 'without negative weights for laplacian="normalised"'
            remedy = 'Pass similarity="clamped", which is the cosine where no cosine is negative.'
            raise argument_error("similarity", rule, repr(COSINE), remedy)
        if self.similarity.startswith("knn"):
            k = NEIGHBOURS if self.k is None else whole_number("k", self.k, 1, "It counts neighbours.")
            object.__setattr__(self, "k", k)
        elif self.k is not None:
            raise argument_error("k", f"None for similarity={self.similarity!r}", self.k, 'Pass similarity="knn".')

    def __str__(self) -> str:
        """What departs from the papers', as arguments after others."""
        papers = vars(Graph())
        return "".join(f", {name}={value!r}" for name, value in vars(self).items() if value != papers[name])


def affinity(features: Tensor, graph: Graph) -> Tensor:
    """Weights (N, N) of one candidate batch's features (N, d): in float64, rounded once, to the working precision."""
    rows = working_precision(features)
    weights = SIMILARITIES[graph.similarity](rows.double())
    if graph.k is not None:
        weights = nearest(weights, graph.k, _ROUNDING)
    return weights.to(rows.dtype)


def solve_similarity(
    features: Tensor, indices: Tensor, graph: Graph, backend: str, numbers: Tensor | None = None
) -> FiedlerResult:
    """Fiedler vectors of B candidate batches whose graph no kernel computes.

    Args:
        features: (M, d).
        indices: (B, N) int64.
        graph: another than the papers'.
        backend: "auto" or "eager"; the kernels know the papers' only.
        numbers: as of `spectral_sampler.fiedler.fiedler_rows`.
    """
    if ops.requested(backend) not in ("auto", "eager"):
        raise argument_error(
            "backend", f'"auto" or "eager" for {str(graph)[2:]}', repr(backend), "Kernels compute the papers' graph."
        )
    parts, indices = [], indices.to(features.device)
    numbers = indices if numbers is None else numbers.to(features.device)
    step = max(1, _CHUNK_BYTES // (8 * indices.shape[1] ** 2))
    with torch.autocast(features.device.type, enabled=False):  # what training does is of no concern here
        for first in range(0, len(indices), step):
            part = indices[first : first + step]
            weights = torch.stack([affinity(features.index_select(0, row), graph) for row in part])
            known_by = numbers[first : first + step]
            parts.append(fiedler_of_affinity(weights, laplacian=graph.laplacian, indices=known_by))
    return FiedlerResult(*(torch.cat(field) for field in zip(*parts, strict=True)))

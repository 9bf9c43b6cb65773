"""What an edge of the graph weighs: the papers' cosine, and two others that their claim can be held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spectral_sampler import ops
from spectral_sampler.errors import argument_error
from spectral_sampler.fiedler import FiedlerResult, fiedler_of_affinity
from spectral_sampler.graph import cosine_affinity, working_precision
from spectral_sampler.precision import unloosened

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["COSINE", "SIMILARITIES", "check_similarity", "solve_similarity"]

COSINE = "cosine"


def _clamped(features: Tensor) -> Tensor:
    rows = working_precision(features)
    return cosine_affinity(unloosened(rows)).to(rows.dtype).clamp_(min=0.0)


def _rbf(features: Tensor) -> Tensor:
    rows = working_precision(features)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    away = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    median = distances[away].median()
    width = torch.where(median > 0, median, torch.ones_like(median))  # more than half are duplicates
    return torch.exp(-0.5 * (distances / width) ** 2)


SIMILARITIES: dict[str, Callable[[Tensor], Tensor]] = {COSINE: cosine_affinity, "clamped": _clamped, "rbf": _rbf}
"""From features (N, d) to weights (N, N). "cosine" is GSTDS §3.2. "clamped" is max(cosine, 0), whose Laplacian is
positive semi-definite for any features. "rbf" is exp(−|x − y|² / 2σ²) of the features as they are, σ the median
distance within the candidate batch."""


def check_similarity(similarity: str) -> str:
    """``similarity`` itself, or one sentence."""
    if similarity not in SIMILARITIES:
        raise argument_error(
            "similarity", f"one of {sorted(SIMILARITIES)}", repr(similarity), 'The papers use "cosine".'
        )
    return similarity


def solve_similarity(features: Tensor, indices: Tensor, similarity: str, backend: str) -> FiedlerResult:
    """Fiedler vectors of B candidate batches under a similarity that no kernel computes.

    Args:
        features: (M, d).
        indices: (B, N) int64.
        similarity: a key of `SIMILARITIES`.
        backend: "auto" or "eager"; the kernels know the cosine only.
    """
    if ops.requested(backend) not in ("auto", "eager"):
        raise argument_error(
            "backend", f'"auto" or "eager" for similarity={similarity!r}', repr(backend), "Kernels compute cosines."
        )
    weigh = SIMILARITIES[similarity]
    with torch.autocast(features.device.type, enabled=False):  # what training does is of no concern here
        weights = torch.stack([weigh(features.index_select(0, row)) for row in indices.to(features.device)])
        return fiedler_of_affinity(weights, indices=indices)

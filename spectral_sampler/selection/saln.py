"""SALN: keep the candidates with the highest Fiedler scores (arXiv 2412.17069)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.ranking import top
from spectral_sampler.selection.similarity import COSINE, Graph
from spectral_sampler.selection.spectral import check_orientation, fiedler_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["SALN"]


class SALN(Selection):
    """The ``n`` largest entries of the Fiedler vector of ``L = D − S``, S the cosine similarity of the reference
    features.

    No losses and no schedule: pair it with a constant keep ratio. The paper publishes neither the ratio, nor the sign
    of the eigenvector, nor which end it keeps; ``score`` offers every reading
    (`spectral_sampler.selection.spectral.ORIENTATIONS`).
    ``similarity``, ``laplacian`` and ``k`` choose another graph: `spectral_sampler.selection.similarity.Graph`.
    """

    name = "saln"
    needs = frozenset({"features"})

    def __init__(
        self,
        score: str = "signed",
        *,
        similarity: str = COSINE,
        laplacian: str = "unnormalised",
        k: int | None = None,
    ) -> None:
        self.orientation, self.graph = check_orientation(score), Graph(similarity, laplacian, k)

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:
        """Fiedler scores, (B, N)."""
        return fiedler_scores(store, indices, score=self.orientation, backend=backend, **vars(self.graph))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The ``budget`` highest scores."""
        ranked = top(required(batch, "scores"), budget, batch.ties(), batch.error)
        return Choice(ranked.positions, np.zeros(budget, dtype=np.int8), ranked.certified)

    def __repr__(self) -> str:
        return f"SALN(score={self.orientation!r}{self.graph})"

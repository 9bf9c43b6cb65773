"""SpectralStrata: as many strata along the Fiedler vector as the budget, one candidate from each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.similarity import COSINE, Graph
from spectral_sampler.selection.spectral import fiedler_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["SpectralStrata"]


class SpectralStrata(Selection):
    """Every (N/n)-th candidate in the order of φ, from a random start: systematic sampling along the Fiedler vector.

    Where SALN takes one end of φ, this takes all of it evenly. Every candidate is selected with probability n/N, as by
    `Uniform`, but neighbours on the graph rarely together. Ours, as the plainest use of φ that keeps all classes.
    ``similarity``, ``laplacian`` and ``k`` choose another graph: `spectral_sampler.selection.similarity.Graph`.
    """

    name = "spectral-strata"
    needs = frozenset({"features"})
    unbiased = True

    def __init__(self, *, similarity: str = COSINE, laplacian: str = "unnormalised", k: int | None = None) -> None:
        self.graph = Graph(similarity, laplacian, k)

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:
        """Fiedler vectors, (B, N)."""
        return fiedler_scores(store, indices, score="signed", backend=backend, **vars(self.graph))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The candidates of ranks ``⌊(k + u) N/n⌋``, k = 0 … n − 1, with one draw u for the candidate batch."""
        order = np.lexsort((batch.ties(), required(batch, "scores")))
        start = batch.uniforms()[np.argmin(batch.indices)]  # the same whatever the order of the candidates
        ranks = np.floor((np.arange(budget) + start) * (len(order) / budget)).astype(np.int64)
        return Choice(order[ranks], np.full(budget, KINDS.index("spectral"), dtype=np.int8))

    def __repr__(self) -> str:
        return f"SpectralStrata({str(self.graph).removeprefix(', ')})"

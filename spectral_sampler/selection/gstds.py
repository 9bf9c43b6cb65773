"""GSTDS: half by Fiedler score, half drawn by reference loss (arXiv 2507.04269)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.selection.loss_weighted import check_epsilon, inverse_loss
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.ranking import draw_without_replacement, top
from spectral_sampler.selection.similarity import COSINE, Graph
from spectral_sampler.selection.spectral import check_orientation, fiedler_scores
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["GSTDS"]

_WEIGHTS = ("inverse_loss", "abs_fiedler", "loss")


class GSTDS(Selection):
    """``U1`` = the ⌊n/2⌋ largest entries of the Fiedler vector φ; ``U2`` = n − ⌊n/2⌋ of the rest, drawn without
    replacement.

    Differs from GSTDS §3.3 in one point: for odd n, U2 gets the sample that ⌊n/2⌋ + ⌊n/2⌋ loses.

    Args:
        score: which end of φ leads (`spectral_sampler.selection.spectral.ORIENTATIONS`); the paper leaves the sign
            open.
        weights: of the draw. "inverse_loss" is §3.3, ``w_j = 1/(r_j + ε)``, which favours *low* reference loss
            although the prose speaks of "high-loss regions"; "loss" (``w_j = r_j``) does what the prose says;
            "abs_fiedler" is line 12 of Algorithm 1, ``w_j = |φ_j|``, which contradicts §3.3.
        epsilon: ε, not given in the paper.
        spectral_share: share of the budget that goes to U1; the paper's is one half, 1.0 is SALN, 0.0 is
            `LossWeighted`.
        similarity, laplacian, k: of the graph (`spectral_sampler.selection.similarity.Graph`), by default the paper's.
    """

    name = "gstds"

    def __init__(
        self,
        score: str = "signed",
        weights: str = "inverse_loss",
        *,
        epsilon: float = 1e-8,
        spectral_share: float = 0.5,
        similarity: str = COSINE,
        laplacian: str = "unnormalised",
        k: int | None = None,
    ) -> None:
        if weights not in _WEIGHTS:
            raise argument_error(
                "weights", f"one of {sorted(_WEIGHTS)}", repr(weights), 'GSTDS §3.3 is "inverse_loss".'
            )
        self.orientation, self.weights = check_orientation(score), weights
        self.epsilon = check_epsilon(epsilon)
        self.spectral_share = within("spectral_share", spectral_share, "[0, 1]", "The paper's is 0.5.")
        self.graph = Graph(similarity, laplacian, k)
        self.needs = frozenset({"features"}) if weights == "abs_fiedler" else frozenset({"features", "losses"})

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:
        """Fiedler scores, (B, N); signed ones where the draw needs |φ|."""
        return fiedler_scores(store, indices, score=self.orientation, backend=backend, **vars(self.graph))

    def _draw_weights(self, batch: CandidateBatch, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.weights == "abs_fiedler":
            return np.abs(scores)  # every orientation keeps the magnitude
        if self.weights == "inverse_loss":
            return inverse_loss(batch, self.epsilon)
        return required(batch, "losses").astype(np.float64)

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """U1, then U2 in the order drawn."""
        scores = required(batch, "scores")
        ranked = top(scores, int(budget * self.spectral_share), batch.ties(), batch.error)
        rest = np.ones(len(batch.indices), dtype=np.bool_)
        rest[ranked.positions] = False
        count = budget - len(ranked.positions)
        draw = draw_without_replacement(self._draw_weights(batch, scores), count, batch.uniforms(), rest)
        kinds = np.repeat(
            np.array([KINDS.index("spectral"), KINDS.index("weighted")], dtype=np.int8), [len(ranked.positions), count]
        )
        return Choice(np.concatenate([ranked.positions, draw.positions]), kinds, ranked.certified, draw.zero_weight)

    def __repr__(self) -> str:
        return (
            f"GSTDS(score={self.orientation!r}, weights={self.weights!r}, epsilon={self.epsilon}, "
            f"spectral_share={self.spectral_share}{self.graph})"
        )

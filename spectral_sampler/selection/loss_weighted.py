"""LossWeighted: GSTDS without its spectral half, the control for the Fiedler vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import draw_without_replacement
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LossWeighted", "check_epsilon", "inverse_loss"]


def check_epsilon(epsilon: float) -> float:
    """``epsilon`` itself, or one sentence."""
    return within("epsilon", epsilon, "(0, inf)", "It is the floor of the loss; the default is 1e-8.")


def inverse_loss(batch: CandidateBatch, epsilon: float) -> NDArray[np.float64]:
    """``w_j = 1 / (r_j + ε)`` with r the reference losses, (N,) float64 (GSTDS §3.3).

    In float64 because held-out losses span eight decades and more: in float32 the floor would vanish beside a loss of
    1.
    """
    return np.asarray(1.0 / (required(batch, "losses").astype(np.float64) + epsilon))


class LossWeighted(Selection):
    """``n`` candidates without replacement, with probability ∝ ``1 / (reference loss + ε)``: confident ones first."""

    name = "loss-weighted"
    needs = frozenset({"losses"})

    def __init__(self, epsilon: float = 1e-8) -> None:
        self.epsilon = check_epsilon(epsilon)

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """``budget`` weighted draws without replacement."""
        draw = draw_without_replacement(inverse_loss(batch, self.epsilon), budget, batch.uniforms())
        kinds = np.full(budget, KINDS.index("weighted"), dtype=np.int8)
        return Choice(draw.positions, kinds, zero_weight_draws=draw.zero_weight)

"""GradientNorm: importance sampling by the last layer's gradient (Katharopoulos and Fleuret 2018, arXiv 1803.00942)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler import draws
from spectral_sampler.likelihood import gradient_norms
from spectral_sampler.selection.importance import importance_weights, inclusion_probabilities, systematic
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import draw_without_replacement
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["GradientNorm", "variance_reduction"]

_START_STREAM = 1


def variance_reduction(norms: Array) -> float:
    """``τ = 1 / √(1 − ‖p − u‖² / ‖p‖²)``, p = norms normalised, u uniform: the batch size it is worth, in batches.

    Since p·u = ‖u‖², it equals ``√N ‖p‖``, between 1 and √N.
    """
    total = norms.sum()
    return float(np.sqrt(len(norms)) * np.linalg.norm(norms / total)) if total > 0 else 1.0


class GradientNorm(Selection):
    """``n`` candidates with chances ∝ the gradient norm ``g_i`` and weights ``1 / (N p_i)``, once that pays.

    It pays while the running τ of `variance_reduction` exceeds ``(N + 3n) / (3n)``: forwarding all N costs a third of
    the training of N. Until then n are drawn uniformly with weight one.

    Differs from the paper in: drawn without replacement, with inclusion probability ``n p_i`` (capped at 1), so that
    no candidate is trained on twice in a step; the weights stay the paper's wherever nothing was capped, and the
    weighted mean stays unbiased.

    Args:
        momentum: of the running τ, the paper's 0.9.
        gate: False draws by importance always.
    """

    name = "gradient-norm"
    needs = frozenset({"logits", "labels"})
    unbiased = True

    def __init__(self, *, momentum: float = 0.9, gate: bool = True) -> None:
        self.momentum, self.gate = within("momentum", momentum, "[0, 1)", "The paper's is 0.9."), bool(gate)
        self.tau: float | None = None

    def _norms(self, batch: CandidateBatch) -> Array:
        return gradient_norms(required(batch, "logits"), required(batch, "labels"))

    def _running_tau(self, norms: Array) -> float:
        tau = variance_reduction(norms)
        return tau if self.tau is None else self.momentum * self.tau + (1.0 - self.momentum) * tau

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """By importance, with weights, or uniformly, without."""
        norms = self._norms(batch)
        if self.gate and self._running_tau(norms) <= (len(norms) + 3 * budget) / (3 * budget):
            positions = draw_without_replacement(np.ones(len(norms)), budget, batch.uniforms()).positions
            return Choice(positions, np.full(budget, KINDS.index("uniform"), dtype=np.int8))
        chances = inclusion_probabilities(norms, budget)
        start = draws.uniforms(batch.seed, batch.epoch, batch.batch, np.zeros(1, dtype=np.int64), _START_STREAM)[0]
        positions = systematic(chances, budget, batch.uniforms(), float(start))
        kinds = np.full(budget, KINDS.index("weighted"), dtype=np.int8)
        return Choice(positions, kinds, weights=importance_weights(chances, positions))

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:  # noqa: ARG002 - the signature of the hook
        """Moves the running τ on by one candidate batch."""
        self.tau = self._running_tau(self._norms(batch))

    def state_dict(self) -> dict[str, Any]:
        """The running τ."""
        return {"tau": self.tau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.tau = state["tau"]

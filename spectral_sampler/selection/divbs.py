"""DivBS: diversified batch selection by orthogonalised gradients (Hong et al. 2024, arXiv 2406.04872)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.likelihood import output_gradients
from spectral_sampler.selection.greedy import greedy
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.validation import true_or_false

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["DivBS", "gradient_gram", "orthogonal_greedy"]

_SPANNED = 1e-10  # of a gradient's squared length: what is left of it in the span of others, by rounding
_ROUNDING = 1e-9


def gradient_gram(logits: Any, labels: Any, embeddings: Any) -> Array:
    """``G_ij = ⟨g_i, g_j⟩`` (N, N) of the last layer's gradients ``g_i = (softmax(f_i) − onehot(y_i)) h_iᵀ``, which are
    never formed: ``⟨g_i, g_j⟩ = ⟨δ_i, δ_j⟩ ⟨h_i, h_j⟩``. The bias is left out, as in the released code."""
    deltas = output_gradients(logits, labels)
    inputs = torch.as_tensor(embeddings).detach().to(deltas)
    return np.asarray(((deltas @ deltas.T) * (inputs @ inputs.T)).cpu().numpy())


def orthogonal_greedy(gram: Array, count: int, keys: Array, *, normalised: bool = True) -> NDArray[np.int64]:
    """``count`` of N vectors by greedy steps towards the largest ``‖P_S v‖²``, in the order taken; ``v = Σ_i g_i``, P_S
    the projection onto the span of those taken.

    A step adds ``⟨g_i, v⊥⟩² / ‖g_i⊥‖²``, ⊥ what the span does not have: the column of largest gain of a pivoted
    Cholesky factorisation of ``gram`` (N, N), whose ``count`` columns cost O(N·count²). What lies in the span, a copy
    for one, adds nothing; where nothing adds anything, ``keys`` decide.
    """
    lengths, columns = gram.diagonal().copy(), np.zeros((0, len(gram)))
    rest, along = lengths.copy(), gram.sum(axis=1)

    def gains() -> Array:
        new = rest > _SPANNED * lengths
        return np.where(new, np.abs(along) / (np.sqrt(np.where(new, rest, 1.0)) if normalised else 1.0), 0.0)

    def take(one: int) -> None:
        nonlocal columns, rest, along
        if rest[one] > _SPANNED * lengths[one]:
            column = (gram[one] - columns[:, one] @ columns) / np.sqrt(rest[one])
            along = along - column * (along[one] / np.sqrt(rest[one]))
            rest, columns = rest - column**2, np.vstack([columns, column])

    total = lengths.sum()
    return greedy(count, keys, _ROUNDING * (np.sqrt(total) if normalised else total), gains, take)


class DivBS(Selection):
    """The ``n`` candidates whose last-layer gradients span most of the sum of all candidates' gradients.

    Greedy in the paper's group-wise orthogonalised representativeness: each pick adds the most that the picks before
    it do not represent, where a score of single samples would take copies. The greedy rule has at least 1 − 1/e of the
    best subset's value (the paper's theorem). No reference model, no weights, nothing drawn: where the rest adds
    nothing, because the gradients of those taken span it, candidates go by the ties' keys (the released code draws).

    Args:
        normalised: divide what a gradient adds by the length of its new part, as the objective has it. False goes by
            ``|⟨g_i, v⊥⟩|``, the streamlined form of the released code, which prefers large gradients; that code draws
            in proportion to it, we take the largest.

    Embeddings are the inputs of the last linear layer.
    """

    name = "divbs"
    needs = frozenset({"logits", "labels", "embeddings"})

    def __init__(self, *, normalised: bool = True) -> None:
        self.normalised = true_or_false("normalised", normalised)

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """In the order taken."""
        gram = gradient_gram(*(required(batch, name) for name in ("logits", "labels", "embeddings")))
        positions = orthogonal_greedy(gram, budget, batch.ties(), normalised=self.normalised)
        return Choice(positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

"""Leverage: sampling by the leverage scores of the reference features (Drineas, Mahoney and Muthukrishnan 2006)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from spectral_sampler import draws
from spectral_sampler.fiedler import Status
from spectral_sampler.selection.importance import importance_weights, inclusion_probabilities, systematic
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.ranking import top
from spectral_sampler.validation import true_or_false, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

    Array = NDArray[np.float64]

__all__ = ["Leverage", "ridge_leverage"]

_BLOCK, _START_STREAM = 8192, 1
_SCORES: WeakKeyDictionary[ReferenceStore, dict[float, Array]] = WeakKeyDictionary()
"""By ridge."""


def ridge_leverage(features: Any, ridge: float) -> Array:
    """``τ_i = x_iᵀ (XᵀX + λI)⁻¹ x_i`` (M,) of ``features`` (M, d), in [0, 1]; ``λ = ridge · tr(XᵀX) / d``.

    Their sum is the effective dimension ``Σ_j s_j / (s_j + λ)``, s_j the eigenvalues of XᵀX (Alaoui and Mahoney 2015).
    Without a ridge the inverse is the pseudo-inverse over eigenvalues above ``d · ε`` times the largest: directions
    whose singular value is below about 10⁻⁷ of the largest count as rounding. Costs O(M d² + d³); the rows are read
    twice, in blocks.
    """
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(features), _BLOCK)]
    largest = max(float(np.abs(features[block]).max()) for block in blocks) or 1.0  # squares of 1e30 would overflow

    def rows(block: slice) -> Array:
        return np.asarray(features[block], dtype=np.float64) / largest

    moment = sum((part.T @ part for part in map(rows, blocks)), np.zeros((features.shape[1],) * 2))
    values, basis = np.linalg.eigh(moment)
    penalised = np.maximum(values, 0.0) + ridge * moment.trace() / len(moment)
    used = penalised > len(moment) * np.finfo(np.float64).eps * values.max()
    scaled = basis[:, used] / np.sqrt(penalised[used])
    found = np.concatenate([((rows(block) @ scaled) ** 2).sum(axis=1) for block in blocks])
    return np.asarray(np.minimum(found, 1.0))


class Leverage(Selection):
    """``n`` candidates with chances ∝ the ridge leverage τ of their reference features and weights ``n / (N π_i)``:
    rows that few others are like.

    The weighted mean of the losses is unbiased for the mean over the candidates. Leverage is that within the whole data
    set, computed once a store: within a candidate batch of N ≤ d rows each has leverage one. Drawn without replacement,
    with inclusion probability ``π_i = min(1, c·τ_i)``, where the literature draws with replacement.

    Args:
        ridge: λ in units of the mean eigenvalue of XᵀX. 0 is leverage itself, to which features' least directions,
            often noise, matter as much as the first; the default, 0.01, is ours.
        deterministic: the n largest instead (Papailiopoulos, Kyrillidis and Boutsidis 2014), without weights.
    """

    name = "leverage"
    needs = frozenset({"features"})

    def __init__(self, ridge: float = 0.01, *, deterministic: bool = False) -> None:
        self.ridge = within("ridge", ridge, "[0, inf)", "0 is leverage without a ridge; the default is 0.01.")
        self.deterministic = true_or_false("deterministic", deterministic)
        self.unbiased = not self.deterministic

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:  # noqa: ARG002
        """(B, N) leverages; the error is that of their rounding, which `top` allows for."""
        known = _SCORES.setdefault(store, {})
        if self.ridge not in known:
            known[self.ridge] = ridge_leverage(store.features, self.ridge)
        exact = np.full(len(indices), int(Status.CONVERGED), dtype=np.int64)
        return Scores(known[self.ridge][indices], np.zeros(len(indices)), exact, np.zeros_like(exact))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """By importance, with weights, or the highest, without."""
        scores, kinds = required(batch, "scores"), np.full(budget, KINDS.index("weighted"), dtype=np.int8)
        if self.deterministic:
            ranked = top(scores, budget, batch.ties(), batch.error)
            return Choice(ranked.positions, kinds, ranked.certified)
        chances = inclusion_probabilities(scores, budget)
        start = draws.uniforms(batch.seed, batch.epoch, batch.batch, np.zeros(1, dtype=np.int64), _START_STREAM)[0]
        positions = systematic(chances, budget, batch.uniforms(), float(start))
        return Choice(positions, kinds, weights=importance_weights(chances, positions))

"""RHO-LOSS: the candidates whose loss can still be reduced (Mindermann et al. 2022, arXiv 2206.07137)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler import draws
from spectral_sampler.selection.importance import draw_by_logits
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import top
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["RHOLoss", "holdout_twin_losses", "learnability"]


def learnability(batch: CandidateBatch, among: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """``l_i − r_i``, learner loss minus reference loss, (N,).

    A candidate whose learner loss is unknown (never observed, or too long ago) counts as the most learnable of the
    known ones, of those that are in ``among`` (N,) if given: it is tried rather than forgotten, which also bounds the
    age of what the ranking rests on. Where none is known, all are equal.
    """
    scores = required(batch, "learner_losses") - required(batch, "losses")
    known = np.isfinite(scores)
    sample = scores[known if among is None else known & among]
    return np.where(known, scores, sample.max() if len(sample) else 0.0)


class RHOLoss(Selection):
    """The ``n`` largest ``l_i − r_i``, r from a model trained on data that was held out (`holdout_twin_losses`).

    Args:
        temperature: None ranks, as the paper does; T > 0 draws n without replacement ∝ ``exp((l_i − r_i) / T)``.

    Equal scores go in an order drawn by dataset index. The paper keeps a tenth of the candidates.
    """

    name = "rho-loss"
    needs = frozenset({"losses", "learner_losses"})

    def __init__(self, temperature: float | None = None) -> None:
        self.temperature = (
            None if temperature is None else within("temperature", temperature, "(0, inf)", "None ranks.")
        )

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The highest learnability, or a draw by it."""
        scores = learnability(batch)
        if self.temperature is None:
            positions = top(scores, budget, batch.ties()).positions
        else:
            positions = draw_by_logits(scores / self.temperature, budget, batch.uniforms())
        return Choice(positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))


def holdout_twin_losses(
    score: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]], size: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Reference losses (M,) of which none comes from a model that was trained on its sample, and no data is lost.

    Args:
        score: ``score(train, rest)`` trains a model on the dataset indices ``train`` and returns its losses on
            ``rest``; called twice, with the two halves of ``range(size)`` either way round.
        size: M, at least 2.
        seed: of the random halves.
    """
    order = draws.permutation(seed, 0, whole_number("size", size, 2, "Each of the two models is trained on one half."))
    first, second = np.sort(order[: size // 2]), np.sort(order[size // 2 :])
    losses = np.empty(size)
    losses[second], losses[first] = score(first, second), score(second, first)
    return losses

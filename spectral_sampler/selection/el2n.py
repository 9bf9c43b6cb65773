"""EL2N: the candidates of the largest error vectors (Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.likelihood import gradient_norms
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import top
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EL2N"]


class EL2N(Selection):
    """The ``n`` largest ``‖softmax(f_i) − onehot(y_i)‖₂`` beside the hardest share, which is left out.

    The paper computes the score once, early in training, averages it over several networks, and prunes the data set
    by it; ours is that of the learner at the moment, for the candidates at hand. It keeps the hardest, as the paper
    does. Where labels are wrong these are among them, and there the paper finds it better to keep a window below the
    highest scores, which is what ``offset`` is for.

    Args:
        offset: share of the candidates, the hardest, that is left out, ⌊offset · N⌋; where the budget exceeds the
            others the least hard of them come back.
    """

    name = "el2n"
    needs = frozenset({"logits", "labels"})

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = within("offset", offset, "[0, 1)", "It is the share of the hardest that is left out.")

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The hardest first, then what had been left out, the least hard first."""
        scores, keys = gradient_norms(required(batch, "logits"), required(batch, "labels")), batch.ties()
        out = top(scores, int(self.offset * len(scores) + 1e-9), keys).positions
        others = np.setdiff1d(np.arange(len(scores)), out)
        ranked = top(scores[others], min(budget, len(others)), keys[others])
        back = top(-scores[out], budget - len(ranked.positions), keys[out]).positions
        positions: NDArray[np.int64] = np.concatenate([others[ranked.positions], out[back]])
        return Choice(positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

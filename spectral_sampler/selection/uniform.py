"""Uniform: the control without which no claim for a selection means anything."""

from __future__ import annotations

import numpy as np

from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import draw_without_replacement

__all__ = ["Uniform"]


class Uniform(Selection):
    """``n`` of the N candidates at random, each subset equally likely."""

    name = "uniform"
    unbiased = True

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """``budget`` draws without replacement."""
        draw = draw_without_replacement(np.ones(len(batch.indices)), budget, batch.uniforms())
        return Choice(draw.positions, np.full(budget, KINDS.index("uniform"), dtype=np.int8))

"""Uniform: the control without which no claim for a selection means anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice
from spectral_sampler.selection.ranking import draw_without_replacement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["Uniform"]


class Uniform:
    """``n`` of the N candidates at random, each subset equally likely."""

    name = "uniform"
    needs: frozenset[str] = frozenset()

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> None:  # noqa: ARG002
        """No scores."""
        return

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """``budget`` draws without replacement."""
        draw = draw_without_replacement(np.ones(len(batch.indices)), budget, batch.uniforms())
        return Choice(draw.positions, np.full(budget, KINDS.index("uniform"), dtype=np.int8))

    def __repr__(self) -> str:
        return "Uniform()"

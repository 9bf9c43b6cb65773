"""Chain: one selection narrows the candidates down, another one chooses among those that are left."""

from __future__ import annotations

import math

import numpy as np

from spectral_sampler.selection.hybrid import Hybrid
from spectral_sampler.selection.offered import checked, part_of
from spectral_sampler.selection.protocol import CandidateBatch, Choice, Selection
from spectral_sampler.validation import within

__all__ = ["Chain"]


class Chain(Hybrid):
    """``filter`` keeps ``share · N`` of the candidates, to the nearest whole number, and ``selection`` fills the budget
    from those::

        Chain(SALN(), Uniform(), share=0.7)  # whoever is not among the last 30 % by Fiedler score
        Chain(PlausibleEven(), GradientNorm(), share=0.5)

    The filter keeps as many as the budget asks for where that is more, and then decides alone: a keep ratio from
    ``share`` on leaves the selection no choice. Scores are those of the whole candidate batch, not of the graph that
    the filter leaves. Kinds are the selection's. Weights multiply, as those of a sample drawn in two phases do: if both
    are unbiased, so is their product.

    A share and no threshold, because scores of candidate batches have no scale in common (an eigenvector has norm one
    whatever the graph), and the filter must leave at least a budget. Ours: the open question of SALN (arXiv 2412.17069)
    about hybrids names none.

    Args:
        filter, selection: any selections, hybrids among them; see `spectral_sampler.selection.hybrid.Hybrid` for what
            is refused.
        share: of the candidates, in (0, 1].
    """

    def __init__(self, filter: Selection, selection: Selection, share: float = 0.7) -> None:  # noqa: A002
        super().__init__(filter=filter, selection=selection)
        self.filter, self.selection = self.parts
        self.share = within("share", share, "(0, 1]", "It is the share of the candidates that the filter keeps.")
        self.name = f"chain-{self.filter.name}-{self.selection.name}"
        self.unbiased = self.filter.unbiased and self.selection.unbiased

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """Those of the selection, in its order; it sees what the filter kept in the order of the candidates."""
        kept = max(budget, math.floor(self.share * len(batch.indices) + 0.5))
        first = checked(self.filter, self.filter.select(self._as_seen_by(0, batch), kept), batch, kept)
        order = np.argsort(first.positions)
        rows = first.positions[order]
        left = part_of(self._as_seen_by(1, batch), rows)
        second = checked(self.selection, self.selection.select(left, budget), left, budget)
        weights, forced = second.weights, second.zero_weight_draws
        if first.weights is not None:
            earlier = first.weights[order][second.positions]
            weights = earlier if weights is None else earlier * weights
            forced = max(forced, int(np.count_nonzero(weights == 0.0)))
        certified = first.certified and second.certified
        return Choice(rows[second.positions], second.kinds, certified, forced, weights)

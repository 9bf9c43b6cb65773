"""Mix: a share of the budget by one selection, the rest by another one from what is left."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler import draws
from spectral_sampler.selection.hybrid import Hybrid
from spectral_sampler.selection.offered import checked, part_of
from spectral_sampler.selection.protocol import CandidateBatch, Choice, Selection, leaves
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Mix"]

_STREAM = 0x4D4958
_NOBODY = Choice(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int8))


class Mix(Hybrid):
    """Of a budget n, ``share · n`` by ``a``, then the rest by ``b`` among the candidates that a left::

        Mix(SALN(), LossWeighted(), share=0.5)  # GSTDS
        Mix(PlausibleLearnable(), Uniform(), share=0.8)

    A share that is no whole number is rounded up as often as its fraction says, by a draw, so that it is met on
    average. The scores are those of the whole candidate batch; what b draws it draws among the rest. Kinds stay those
    of the part that selected a sample.

    Weights are those of the part, one where it gives none, so that the weighted mean over the batch is that of a's and
    b's objectives in proportion ``n_a : n_b``. Where a draws with unequal chances and both are unbiased (`GradientNorm`
    with `Uniform`, say), the rest is not like the whole, and b's estimate takes what a selected for what it is, chosen
    with certainty:

        a's weights + n_b / N,   b's weights · (N − n_a) / N,

    so that the weighted mean is unbiased for the mean over all N. Ours, as all of it: the open question of SALN
    (arXiv 2412.17069) about hybrids names none.

    Args:
        a, b: any selections, hybrids among them; see `spectral_sampler.selection.hybrid.Hybrid` for what is refused.
        share: a's, in [0, 1].
    """

    def __init__(self, a: Selection, b: Selection, share: float = 0.5) -> None:
        super().__init__(a=a, b=b)
        self.a, self.b = self.parts
        self.share = within("share", share, "[0, 1]", "It is the share of the budget that a selects.")
        self.name = f"mix-{self.a.name}-{self.b.name}"
        self.unbiased = self.a.unbiased and self.b.unbiased

    def _count(self, batch: CandidateBatch, budget: int) -> int:
        wanted = round(self.share * budget, 9)
        cell = np.array([len(leaves(self))], dtype=np.int64)  # a mix within this one rounds by itself
        draw = draws.uniforms(batch.seed, batch.epoch, batch.batch, cell, _STREAM)[0]
        return math.floor(wanted) + int(draw < wanted - math.floor(wanted))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """Those of a in its order, then those of b in its own."""
        count, first, second = self._count(batch, budget), _NOBODY, _NOBODY
        if count:
            first = checked(self.a, self.a.select(self._as_seen_by(0, batch), count), batch, count)
        rest = np.ones(len(batch.indices), dtype=np.bool_)
        rest[first.positions] = False
        rows = np.flatnonzero(rest)
        if count < budget:
            left = part_of(self._as_seen_by(1, batch), rows)
            second = checked(self.b, self.b.select(left, budget - count), left, budget - count)
        return Choice(
            np.concatenate([first.positions, rows[second.positions]]),
            np.concatenate([first.kinds, second.kinds]).astype(np.int8),
            first.certified and second.certified,
            first.zero_weight_draws + second.zero_weight_draws,
            self._weights(first, second, len(batch.indices)),
        )

    def _weights(self, first: Choice, second: Choice, size: int) -> NDArray[np.float64] | None:
        counts = len(first.positions), len(second.positions)
        whole = self.unbiased and sum(counts) == size  # nothing is left to chance
        if whole or (first.weights is None and second.weights is None):
            return None
        ours, theirs = (
            np.ones(count) if choice.weights is None else choice.weights
            for choice, count in zip((first, second), counts, strict=True)
        )
        if self.unbiased and first.weights is not None:
            ours, theirs = ours + counts[1] / size, theirs * (1.0 - counts[0] / size)
        return np.concatenate([ours, theirs])

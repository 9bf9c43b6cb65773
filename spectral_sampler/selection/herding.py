"""Herding: a selection whose mean is that of the candidates (Welling 2009; Chen, Welling and Smola 2010)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.selection.greedy import greedy
from spectral_sampler.selection.jest import unit_rows
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Herding", "herd"]

_ROUNDING = 1e-12  # of a unit row, for every step taken


def herd(features: Any, count: int, keys: Array) -> NDArray[np.int64]:
    """``count`` of the rows of ``features`` (N, d), scaled to unit length, in the order taken: each the largest
    ``⟨w, u_i⟩``, and then ``w ← w + ū − u_i`` from w = ū, the mean of all rows.

    Welling leaves the first w open; with ū and rows of one length each step is the one that brings the mean of those
    taken nearest to ū (Chen, Welling and Smola 2010), hence the unit rows. A row is taken once.
    """
    units = unit_rows(np.asarray(features), torch.device("cpu")).numpy()
    mean = units.mean(axis=0)
    weights = mean.copy()

    def take(one: int) -> None:
        weights[:] += mean - units[one]

    return greedy(count, keys, _ROUNDING * count, lambda: units @ weights, take)


class Herding(Selection):
    """The ``n`` candidates that `herd` takes by their reference features: as a whole they look like the candidate
    batch, the typical ones first. Nothing of the learner, no weights, nothing drawn but the order of equals.

    Herding is published for the samples of one class or one model; here it runs within a candidate batch.
    """

    name = "herding"
    needs = frozenset({"features"})
    reads_features = True

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """In the order taken."""
        positions = herd(required(batch, "features"), budget, batch.ties())
        return Choice(positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

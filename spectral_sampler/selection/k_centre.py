"""KCentre: cover the candidates with as small balls as possible (Sener and Savarese 2018, arXiv 1708.00489)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.selection.greedy import greedy
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["KCentre", "k_centre_greedy"]

_ROUNDING = 1e-12  # of the longest row


def k_centre_greedy(features: Any, count: int, keys: Array) -> NDArray[np.int64]:
    """``count`` of the rows of ``features`` (N, d) in the order taken: each the farthest, in Euclidean distance, from
    the nearest of those taken before (Algorithm 1 of the paper; Gonzalez 1985). The largest distance of any row to its
    nearest centre is at most twice the least possible.

    The paper starts from a labelled pool, which is not there: the first is the row nearest to the mean of all.
    """
    rows = np.asarray(features, dtype=np.float64)
    distances = -np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    started = False

    def take(one: int) -> None:
        nonlocal distances, started
        new = np.linalg.norm(rows - rows[one], axis=1)
        distances, started = np.minimum(distances, new) if started else new, True

    longest = float(np.linalg.norm(rows, axis=1).max())
    return greedy(count, keys, _ROUNDING * longest, lambda: distances, take)


class KCentre(Selection):
    """The ``n`` candidates that `k_centre_greedy` takes by their reference features: far from each other, outliers
    first, a copy of a candidate taken last. Nothing of the learner, no weights.

    Within a candidate batch; over the whole data set it would be a fixed subset. Features count as they are, as in the
    paper: rows of different length are far apart though they point the same way.
    """

    name = "k-centre"
    needs = frozenset({"features"})
    reads_features = True

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """In the order taken."""
        positions = k_centre_greedy(required(batch, "features"), budget, batch.ties())
        return Choice(positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

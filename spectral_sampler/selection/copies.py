"""Copies of a row have one score: a solver tells them apart by a few units of rounding, and a rank must not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.selection.ranking import tie_tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["equal_for_copies"]


def equal_for_copies(
    scores: NDArray[np.float64], indices: NDArray[np.int64], features: NDArray[np.floating]
) -> NDArray[np.float64]:
    """``scores`` (N,), that of the lowest dataset index for all candidates whose rows of features are the same bits.

    Only rows whose scores are within rounding of another one's are looked at: copies have the same score but for that.
    """
    order = np.argsort(scores)
    near = np.diff(scores[order]) <= tie_tolerance(scores)
    positions = order[np.append(near, False) | np.insert(near, 0, False)]
    equal, first = np.array(scores), dict[bytes, int]()
    for position in positions[np.argsort(indices[positions])]:
        equal[position] = scores[first.setdefault(features[indices[position]].tobytes(), position)]
    return equal

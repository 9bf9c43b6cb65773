"""One candidate after the other, each the best beside those that were taken before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["greedy"]


def greedy(
    count: int, keys: Array, rounding: float, gains: Callable[[], Array], take: Callable[[int], None]
) -> NDArray[np.int64]:
    """``count`` of N positions in the order taken.

    Args:
        count: n.
        keys: (N,), as of `CandidateBatch.ties`: gains within ``rounding`` of the largest go by ascending key, so that
            neither rounding nor the order of the candidates decides.
        rounding: what the error of a gain may be.
        gains: (N,) what each candidate would add beside those taken.
        take: is told each position taken, before the gains are asked for again.
    """
    left, taken = np.ones(len(keys), dtype=np.bool_), np.empty(count, dtype=np.int64)
    for number in range(count):
        found = np.where(left, gains(), -np.inf)
        equals = np.flatnonzero(found >= found.max() - rounding)
        taken[number] = one = int(equals[keys[equals].argmin()])
        left[one] = False
        take(one)
    return taken

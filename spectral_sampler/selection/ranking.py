"""From scores to a ranking, and from weights to a draw without replacement. Shared by all selections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Draw", "Top", "draw_without_replacement", "tie_tolerance", "top"]

_ULP = float(np.finfo(np.float32).eps)
_TIE_ULPS = 32 * _ULP


class Top(NamedTuple):
    """The highest scores, and whether an exact computation of the scores would give the same set."""

    positions: NDArray[np.int64]
    certified: bool


def tie_tolerance(scores: NDArray[np.float64]) -> float:
    """Scores closer than this are one value: 32 units of rounding of their root mean square. Eigenvectors' entries for
    rows of one direction differ by about 5, however much larger the largest entry is.
    """
    return _TIE_ULPS * float(np.linalg.norm(scores) / np.sqrt(len(scores)))


def top(scores: NDArray[np.float64], count: int, keys: NDArray[Any], error: float = 0.0) -> Top:
    """The ``count`` highest of ``scores`` (N,), best first.

    Scores within rounding of the one at the cut count as equal to it, and equals are taken by ascending key: they
    would otherwise be ranked by noise, differently on every machine.

    Args:
        keys: (N,), as of `CandidateBatch.ties`: the same rows must not be favoured for ever.
        error: bound on the error of the difference of two scores, but for their rounding to float32. The result is
            *certified* when no error within it changes the set.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if count <= 0:
        return Top(np.empty(0, dtype=np.int64), certified=True)
    order = np.lexsort((keys, -scores))
    if count >= len(scores):
        return Top(order, certified=True)
    cut = scores[order[count - 1]]
    tolerance = tie_tolerance(scores)
    ties = np.abs(scores - cut) <= tolerance
    above = order[(scores > cut)[order] & ~ties[order]]
    equals = np.flatnonzero(ties)
    equals = equals[np.argsort(keys[equals], kind="stable")]
    positions = np.concatenate([above, equals])[:count]
    # Nothing may join the group at the cut or leave it. One that is in whole only looks down; one that is divided has
    # to be copies of one row, whose exact scores are equal too, or so close that no error makes them unequal.
    divided = count < len(above) + len(equals)
    others = scores[~ties] if divided else scores[~ties & (scores < cut)]
    apart = np.abs(cut - others) - _ULP * np.maximum(np.abs(others), np.abs(cut))
    spread = float(np.ptp(scores[ties]))
    steady = not divided or spread == 0.0 or spread + error <= tolerance
    alone = not others.size or bool(apart.min() > tolerance + error)
    return Top(positions, certified=bool(np.isfinite(error)) and steady and alone)


class Draw(NamedTuple):
    """Positions in the order drawn, and how many of them had weight zero."""

    positions: NDArray[np.int64]
    zero_weight: int


def draw_without_replacement(
    weights: NDArray[np.float64], count: int, uniforms: NDArray[np.float64], eligible: NDArray[np.bool_] | None = None
) -> Draw:
    """Draw ``count`` of N candidates one after the other with probability proportional to ``weights`` among those left.

    Sequential sampling equals taking the largest of ``ln w_i − ln(−ln u_i)`` (Gumbel-top-k; Efraimidis and Spirakis
    2006 in logarithms), which needs one uniform draw a candidate and cannot overflow for weights from 1e-300 to 1e300.

    Args:
        weights: (N,) finite, non-negative.
        count: number of draws.
        uniforms: (N,) in (0, 1).
        eligible: (N,) candidates that may be drawn, default all.

    Returns:
        The positions. Weight zero is drawn, uniformly, only when nothing else is left, and is counted.
    """
    if count <= 0:
        return Draw(np.empty(0, dtype=np.int64), 0)
    allowed = np.flatnonzero(eligible) if eligible is not None else np.arange(len(weights))
    gumbel = -np.log(-np.log(uniforms[allowed]))
    positive = weights[allowed] > 0
    keys = gumbel + np.log(weights[allowed], where=positive, out=np.zeros(len(allowed)))
    order = np.lexsort((-keys, ~positive))  # positive weights first, then the largest key
    positions = allowed[order[:count]]
    return Draw(positions, int(np.count_nonzero(weights[positions] <= 0)))

"""From scores to a ranking, and from weights to a draw without replacement. Shared by all selections."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Draw", "Top", "draw_without_replacement", "top"]

_TIE_ULPS = 32 * float(np.finfo(np.float32).eps)
"""Scores closer than this share of the largest magnitude are one value: exact duplicates differ by about 5 units of
rounding."""


class Top(NamedTuple):
    """The highest scores, and whether that set would survive an exact computation of the scores."""

    positions: NDArray[np.int64]
    certified: bool


def top(scores: NDArray[np.float64], count: int, indices: NDArray[np.int64], error: float = 0.0) -> Top:
    """The ``count`` highest of ``scores`` (N,), best first.

    Scores within rounding of the one at the cut count as equal to it, and equals are taken by ascending dataset index:
    duplicates would otherwise be ranked by noise, differently on every machine. The result is *certified* when no score
    outside that group of equals lies within ``error`` of the cut.
    """
    if count <= 0:
        return Top(np.empty(0, dtype=np.int64), certified=True)
    order = np.lexsort((indices, -scores))
    if count >= len(scores):
        return Top(order, certified=True)
    cut = scores[order[count - 1]]
    ties = np.abs(scores - cut) <= _TIE_ULPS * np.abs(scores).max()
    above = order[(scores > cut)[order] & ~ties[order]]
    equals = np.flatnonzero(ties)
    equals = equals[np.argsort(indices[equals], kind="stable")]
    positions = np.concatenate([above, equals])[:count]
    return Top(positions, certified=_margin(scores, ties, count, len(above)) > error)


def _margin(scores: NDArray[np.float64], ties: NDArray[np.bool_], count: int, above: int) -> float:
    """Distance from the group at the cut to the nearest score whose side would change the set."""
    group = scores[ties]
    lower = scores[~ties & (scores < group.min())]
    below = float(group.min() - lower.max()) if lower.size else np.inf
    if count == above + group.size:
        return below  # the whole group is in: only what lies under it matters
    higher = scores[~ties & (scores > group.max())]
    return min(below, float(higher.min() - group.max()) if higher.size else np.inf)


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

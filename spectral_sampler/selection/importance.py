"""Draws with prescribed probabilities: by logits, and of a fixed size with a prescribed chance for every candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["draw_by_chances", "draw_by_logits", "importance_weights", "inclusion_probabilities", "systematic"]

_CERTAIN, _NEVER = 1.0 - 1e-9, 1e-300


def draw_by_logits(
    logits: Array, count: int, uniforms: Array, eligible: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """``count`` of N without replacement ∝ ``exp(logits)``: the largest ``logit − ln(−ln u)`` (Gumbel-top-k).

    No exponential is taken, so logits of any size are safe. ``uniforms`` (N,) in (0, 1); ``eligible`` (N,) may be
    drawn.
    """
    keys = logits - np.log(-np.log(uniforms))
    if eligible is not None:
        keys = np.where(eligible, keys, -np.inf)
    return np.argsort(-keys, kind="stable")[:count]


def draw_by_chances(logits: Array, count: int, uniforms: Array) -> NDArray[np.int64]:
    """``count`` of N, each with the chance ``π_i = min(1, c·exp(logit_i))``, ``Σπ = count``, to within a few per cent.

    Drawn one after the other, as by `draw_by_logits`, heavy ones run out and come less often than in proportion. Here
    the largest ``logit(π_i) + logit(u_i)`` are taken, Rosén's (1997) Pareto sampling: i is in about when u_i > 1 − π_i,
    whatever the others draw. Equal logits draw the same either way, and in the same order. Logits of any size are safe.
    """
    order = np.argsort(-logits, kind="stable")
    ranked = logits[order]
    rest = np.logaddexp.accumulate(ranked[::-1])[::-1]
    chances = np.log(count - np.arange(count)) + (ranked - rest)[:count]  # if all of larger weight are certain
    certain = int(np.append(np.flatnonzero(chances < np.log(_CERTAIN)), count)[0])
    open_ones = order[certain:]
    chances = np.log(max(count - certain, _NEVER)) + ranked[certain:] - rest[certain : certain + 1]
    keys = chances - np.log1p(-np.exp(chances)) + np.log(uniforms[open_ones]) - np.log1p(-uniforms[open_ones])
    chosen = np.append(order[:certain], open_ones[np.argsort(-keys, kind="stable")[: count - certain]])
    return np.asarray(chosen[draw_by_logits(logits[chosen], count, uniforms[chosen])])


def inclusion_probabilities(weights: Array, count: int) -> Array:
    """``π_i = min(1, c·w_i)`` with ``Σπ = count``, (N,); weight zero gets a chance only if too few others are left."""
    positive = weights > 0
    if np.count_nonzero(positive) <= count:
        spare = count - np.count_nonzero(positive)
        return np.where(positive, 1.0, spare / max(1, np.count_nonzero(~positive)))
    scaled = weights / weights.max()
    certain = np.zeros(len(weights), dtype=np.bool_)
    while True:  # each turn fixes at least one candidate at 1
        chance = scaled * ((count - np.count_nonzero(certain)) / scaled[~certain].sum())
        over = (chance >= _CERTAIN) & ~certain
        if not over.any():
            return np.where(certain, 1.0, chance)
        certain |= over


def systematic(chances: Array, count: int, uniforms: Array, start: float) -> NDArray[np.int64]:
    """``count`` distinct positions, position i with probability exactly ``chances[i]`` (Madow 1949), in random order.

    The candidates are laid end to end in the order of ``uniforms`` (N,), each as long as its chance, and every unit of
    length from ``start`` in (0, 1) on is hit once.
    """
    order = np.argsort(uniforms, kind="stable")
    certain, rest = order[chances[order] >= _CERTAIN], order[chances[order] < _CERTAIN]
    draws = count - len(certain)
    if draws <= 0:
        return certain[:count]
    ends = np.cumsum(chances[rest])
    ends *= draws / ends[-1]  # the sum is `draws` up to rounding
    hits = np.minimum(np.searchsorted(ends, start + np.arange(draws), side="right"), len(rest) - 1)
    return np.concatenate([certain, rest[hits]])


def importance_weights(chances: Array, positions: NDArray[np.int64]) -> Array:
    """``n / (N π_i)`` (n,): the mean of ``weight · loss`` over the selected is unbiased for the mean over all N.

    Where no chance was capped, π_i = n·p_i and the weight is the ``1 / (N p_i)`` of draws with replacement.
    """
    return np.asarray(len(positions) / (len(chances) * chances[positions]))

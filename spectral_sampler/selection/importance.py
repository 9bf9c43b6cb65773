"""Draws with prescribed probabilities: by logits, and of a fixed size with a prescribed chance for every candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["draw_by_chances", "draw_by_logits", "importance_weights", "inclusion_probabilities", "systematic"]

_CERTAIN = 1.0 - 1e-9
_NEVER = -1e4  # below the logarithm of any positive weight, and equal for all that are zero


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


def _log_chances(logits: Array, count: int) -> Array:
    """``ln π_i``, ``π_i = min(1, c·exp(logit_i))`` with ``Σπ = count``, (N,); safe for logits of any size."""
    order = np.argsort(-logits, kind="stable")
    ranked = logits[order]
    rest = np.logaddexp.accumulate(ranked[::-1])[::-1]
    found = np.log(count - np.arange(count)) + (ranked - rest)[:count]  # if all of larger weight are certain
    certain = int(np.append(np.flatnonzero(found < np.log(_CERTAIN)), count)[0])
    chances = np.zeros(len(logits))
    with np.errstate(divide="ignore"):
        chances[order[certain:]] = np.log(count - certain) + ranked[certain:] - rest[certain : certain + 1]
    return chances


def inclusion_probabilities(weights: Array, count: int) -> Array:
    """``π_i = min(1, c·w_i)`` with ``Σπ = count``, (N,); weight zero gets a chance only if too few others are left."""
    logits = np.log(weights, where=weights > 0, out=np.full(len(weights), _NEVER))
    return np.asarray(np.exp(_log_chances(logits, count)))


def draw_by_chances(logits: Array, count: int, uniforms: Array) -> NDArray[np.int64]:
    """``count`` of N, each with the chance ``π_i = min(1, c·exp(logit_i))``, ``Σπ = count``, to within a few per cent.

    Drawn one after the other, as by `draw_by_logits`, heavy ones run out and come less often than in proportion. Here
    the largest ``logit(π_i) + logit(u_i)`` are taken, Rosén's (1997) Pareto sampling: i is in about when u_i > 1 − π_i,
    whatever the others draw. It is less exact where ``Σ π (1 − π) < 1``: nearly all are certain, or hardly one drawn.
    Equal logits draw the same either way, and in the same order. Logits of any size are safe.
    """
    chances = _log_chances(logits, count)
    with np.errstate(divide="ignore"):
        keys = chances - np.log1p(-np.exp(chances)) + np.log(uniforms) - np.log1p(-uniforms)
    chosen = np.argsort(-keys, kind="stable")[:count]
    return np.asarray(chosen[draw_by_logits(logits[chosen], count, uniforms[chosen])])


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

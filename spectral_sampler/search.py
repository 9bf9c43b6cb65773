"""The search for the Fiedler pair of B graphs, given products with L / ‖L‖_∞: written once against the array API.

    1. Lanczos from white noise until its lowest Ritz vector v has a residual of one ulp.
    2. A probe: Lanczos from another start, kept away from v, until λ3 is told apart from λ2. One start vector never
       sees a multiple eigenvalue; and where the first run had settled on a higher eigenvector, this one finds the
       lower, and both directions together start it again.
    3. Where products in float64 are given (`exact`), v's residual r in float64 is taken, and v becomes v + δ where
       (L − θ) δ = −r: the space of the first run solves for the parts along low eigenvectors at no further product,
       and a short run from what it leaves of r for the others. That run finds no other eigenvector of a double λ2,
       of which r has no part; the probe, from noise, does. It keeps away from the Ritz vectors next to v as well:
       nothing hides behind them then, and it has less to tell apart.

Vectors are arrays (B, N) of torch, NumPy, CuPy or array-api-strict; numbers (B,) are NumPy's, on the host, to which
each look at convergence brings T. `bool` and `float` of a device array, which would wait for it, are not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spectral_sampler import limits
from spectral_sampler.lanczos import Array, Lanczos, array_namespace, checkpoints, placed, take_rows

__all__ = ["Accept", "Defect", "Exact", "Found", "Operator", "Ritz", "lowest_ritz", "search", "to_host", "unit"]

Numbers = NDArray[np.float64]
Accept = Callable[[Numbers, Numbers, NDArray[np.int64]], NDArray[np.bool_]]  # (value, bound, members) -> done


class Operator(Protocol):
    """L / ‖L‖_∞ of B graphs, so that every threshold is a pure number."""

    def __call__(self, vectors: Array) -> Array:
        """For vectors (B, N)."""

    def take(self, members: NDArray[np.int64]) -> Operator:
        """The graphs with these numbers."""


class Defect(NamedTuple):
    """The residual r = L v − θ v of vectors v in float64, away from v and the constant vector."""

    direction: Array  # r / ‖r‖ (b, N), in the precision of v
    length: Numbers  # ‖r‖
    value: Numbers  # θ


class Exact(Protocol):
    """The same graphs in float64."""

    def __call__(self, vectors: Array) -> Defect:
        """Of unit vectors (B, N)."""

    def take(self, members: NDArray[np.int64]) -> Exact:
        """The graphs with these numbers."""


class Space(NamedTuple):
    """Where b members ended: A V = V T + beyond eᵀ, e the last unit vector."""

    basis: Array  # V (b, k, N)
    values: Numbers  # of T (b, k)
    vectors: Numbers  # (b, k, k)
    bounds: Numbers  # on the residuals of the Ritz pairs (b, k)
    beyond: Array  # (b, N)
    lowest: Array  # Ritz vector (b, N)


Finish = Callable[[NDArray[np.int64], Space], tuple[Any, ...]]  # (members, their space) -> arrays or numbers (b, …)


class Ritz(NamedTuple):
    """Lowest Ritz pair of each member."""

    vector: Array  # (b, N)
    value: Numbers
    bound: Numbers  # on the residual, from the recurrence
    second: Numbers  # second Ritz value, never below λ3
    steps: NDArray[np.int64]
    more: tuple[Any, ...] = ()  # what `Finish` gave


class Found(NamedTuple):
    """Unit vectors (b, N), refined where that was asked for; steps taken, gaps and bounds on ‖v − exact‖ · gap (b,)."""

    vector: Array
    steps: NDArray[np.int64]
    gap: Numbers
    remainder: Numbers  # infinite where not refined


def to_host(array: Array) -> NDArray[Any]:
    """As a NumPy array."""
    fetch = getattr(array, "cpu", None) or getattr(array, "get", None)  # torch, CuPy
    if fetch is not None:
        return np.asarray(fetch())
    if not isinstance(array, np.ndarray):  # elsewhere the default device is the host
        array = array.to_device(array.__array_namespace__().__array_namespace_info__().default_device())
    return np.asarray(array)


def _ulp(array: Array) -> float:
    finfo = array_namespace(array).finfo
    return float(finfo(array.dtype).eps)


def _eigen(alpha: NDArray[Any], beta: NDArray[Any], steps: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Eigenvalues (b, k + 1) and eigenvectors (b, k, k) of T; steps not taken, and one more, are `limits.ABOVE`."""
    count, depth = alpha.shape
    place = np.arange(depth)
    matrix = np.zeros((count, depth, depth))
    matrix[:, place, place] = np.where(place >= steps[:, None], limits.ABOVE, alpha)
    matrix[:, place[1:], place[:-1]] = beta[:, :-1]  # eigh reads the lower triangle
    values, vectors = np.linalg.eigh(matrix)
    return np.concatenate((values, np.full((count, 1), limits.ABOVE)), axis=1), vectors


def _like(numbers: Numbers, array: Array) -> Array:
    """The numbers beside ``array``, float32 unless that is float64."""
    single = array.dtype == array_namespace(array).float32
    return placed(numbers.astype(np.float32) if single else numbers, array)


def _combined(xp: Any, basis: Array, weights: Numbers) -> Array:
    """Σ_j weights_j basis_j (b, N)."""
    return xp.sum(basis * _like(weights, basis)[:, :, None], axis=1)


def lowest_ritz(
    operator: Operator, start: Array, locked: Array, accept: Accept, limit: int, finish: Finish | None = None
) -> Ritz:
    """Run Lanczos on each member until ``accept`` holds, or its space is exhausted, or ``limit`` steps are taken.

    Args:
        start: (b, N). locked: (b, m, N) rows to stay orthogonal to, orthonormal or zero.
        finish: what else to take from the space.
    """
    xp = array_namespace(start)
    run = Lanczos(operator, start, deflate=locked, tolerance=_ulp(start))
    members, parts = np.arange(start.shape[0]), []
    for depth in checkpoints(limit := min(limit, run.limit)):
        state = run.extend(depth)
        steps = to_host(state.steps).astype(np.int64)
        beta = to_host(state.beta).astype(np.float64)
        values, vectors = _eigen(to_host(state.alpha), beta, steps)
        bounds = np.abs(beta[:, -1:] * vectors[:, -1, :])
        done = accept(values[:, 0], bounds[:, 0], members) | (depth == limit)
        which, rest = np.flatnonzero(done), np.flatnonzero(~done)
        if which.size:
            basis, beyond = take_rows(state.basis, which), take_rows(state.remainder, which)
            lowest = _combined(xp, basis, vectors[which, :, 0])
            space = Space(basis, values[which, :-1], vectors[which], bounds[which], beyond, lowest)
            numbers = (values[which, 0], bounds[which, 0], values[which, 1], steps[which])
            more = () if finish is None else finish(members[which], space)
            parts.append((members[which], lowest, *numbers, *more))
            if not rest.size:
                break
            members, operator = members[rest], operator.take(rest)
            run.take(operator, rest)
    order, *fields = (_joined(xp, field) for field in zip(*parts, strict=True))
    vector, value, bound, second, steps, *further = (take_rows(field, np.argsort(order)) for field in fields)
    return Ritz(vector, value, bound, second, steps, tuple(further))


def _joined(xp: Any, parts: tuple[Array, ...]) -> Array:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else xp.concat(parts)


def _length(vectors: Array) -> Numbers:
    return to_host(array_namespace(vectors).sqrt((vectors * vectors).sum(-1))).astype(np.float64)


def _solved(space: Space, below: Numbers, value: Numbers, rest: Array) -> tuple[Array, Array, Numbers]:
    """δ = −V (T − σ)⁻¹ Vᵀ r, r + (L − θ) δ and ‖δ‖ for σ, θ and r: ``below``, ``value`` (b,) and ``rest`` (b, N)."""
    xp = array_namespace(rest)
    parts = to_host(xp.sum(space.basis * rest[:, None, :], axis=-1)).astype(np.float64)
    apart = space.values - below[:, None]
    inverse = np.divide(-1.0, apart, out=np.zeros_like(apart), where=apart > 0)
    inner = inverse * np.einsum("bji,bj->bi", space.vectors, parts)
    weights, images = np.einsum("bji,nbi->nbj", space.vectors, (inner, (space.values - value[:, None]) * inner))
    left = rest + _combined(xp, space.basis, images) + space.beyond * _like(weights[:, -1], rest)[:, None]
    return _combined(xp, space.basis, weights), left, np.linalg.norm(weights, axis=1)


def _lowest_with(values: Numbers, bounds: Numbers, rest: Numbers) -> Numbers:
    """The lowest eigenvalue there can be (b,) where ``rest`` bounds those orthogonal to Ritz vectors (b, m)."""
    for value, bound in zip(values.T[::-1], bounds.T[::-1], strict=True):
        rest = 0.5 * (value + rest - np.hypot(value - rest, 2.0 * bound))  # of [[value, bound], [bound, rest]]
    return rest


def _measured(exact: Exact, members: NDArray[np.int64], space: Space) -> tuple[Any, ...]:
    """`_above`, ‖r‖ and θ in float64, and what the space solves."""
    defect = exact.take(members)(unit(space.lowest))
    rest = defect.direction * _like(defect.length, defect.direction)[:, None]
    solved = _solved(space, space.values[:, 0] - limits.ULP, defect.value, rest)
    return (*_above(space), defect.length, defect.value, *solved)


def _above(space: Space) -> tuple[Array, Numbers, Numbers]:
    """The Ritz vectors next to v that are close (b, m, N), or zeros, with values and bounds (b, m).

    `_lowest_with` would take no more than APART from the distance of an eigenvalue where the first of them is.
    """
    xp = array_namespace(space.basis)
    values, bounds = (part[:, 1 : 1 + limits.MOST_LOCKED] for part in (space.values, space.bounds))
    distance = values - space.values[:, :1]
    shown = [_lowest_with(distance[:, : 1 + j], bounds[:, : 1 + j], distance[:, 0]) for j in range(distance.shape[1])]
    near = np.stack(shown, axis=1) >= (1.0 - limits.APART) * distance[:, :1]
    close = np.logical_and.accumulate(near & (bounds <= limits.CLOSE * distance), axis=1)
    rows = [_combined(xp, space.basis, close[:, j : j + 1] * space.vectors[:, :, 1 + j]) for j in range(close.shape[1])]
    return xp.stack(rows, axis=1), np.where(close, values, limits.ABOVE), np.where(close, bounds, 0.0)


def unit(vectors: Array) -> Array:
    """Vectors (B, N) without their constant part, of length 1, or 0 where nothing is left."""
    xp = array_namespace(vectors)
    for _ in range(2):
        vectors = vectors - xp.mean(vectors, axis=-1, keepdims=True)
    length = xp.sqrt(xp.sum(vectors * vectors, axis=-1, keepdims=True))
    return vectors / xp.where(length > 0, length, xp.ones_like(length))


def search(
    operator: Operator,
    starts: tuple[Array, Array],
    rounding: Numbers,
    *,
    limit: int,
    rounds: int = limits.ROUNDS,
    exact: Exact | None = None,
    descend: Callable[..., Ritz] = lowest_ritz,
) -> Found:
    """Fiedler vectors of b graphs of N rows.

    Args:
        starts: for v and for the probe, (b, N) each.
        rounding: e (b,), see `limits`.
        limit: most steps of one Lanczos run.
        rounds: searches at most, each further one where the one before ended on a higher eigenvector or unconverged.
        exact: the same graphs in float64.
        descend: `lowest_ritz`, or another with its signature.
    """
    xp = array_namespace(starts[0])
    count, size = starts[0].shape
    stop = limits.STOP * _ulp(starts[0])
    constant = xp.ones_like(starts[0])[:, None, :] * size**-0.5

    finish = None if exact is None else functools.partial(_measured, exact)
    main = descend(operator, starts[0], constant, lambda _value, bound, _members: bound <= stop, limit, finish)
    vector = unit(main.vector)
    if size == 2:
        return Found(vector, main.steps, np.full(count, 2.0), np.full(count, np.inf))
    locked = xp.concat((constant, vector[:, None, :]), axis=1)
    away, share = locked, limits.APART
    if exact is not None:
        away, share = xp.concat((locked, main.more[0]), axis=1), limits.CLOSE

    def settled(value: Numbers, bound: Numbers, members: NDArray[np.int64]) -> NDArray[np.bool_]:
        distance = value - main.value[members]
        near = share * np.maximum(distance, limits.GAP * rounding[members])
        return np.asarray((bound <= near) | (distance + bound < 0))

    probe = descend(operator, starts[1], away, settled, limit)
    lower = probe.value - probe.bound
    if exact is not None:
        lower = _lowest_with(main.more[1], main.more[2], lower)
    gap = np.clip(np.minimum(lower, main.second) - main.value, 0.0, 2.0)
    found = Found(vector, main.steps + probe.steps, gap, np.full(count, np.inf) if exact is None else main.more[3])
    which = np.flatnonzero((gap > limits.GAP * rounding) & (main.bound <= stop))
    if exact is not None and which.size:
        refined = _refined(operator, found, main, which, locked, rounding)
        found = _replaced(found, which, refined)
    again = (probe.value < main.value - limits.RESIDUAL * rounding) | (main.bound > stop)
    which = np.flatnonzero(again)
    if rounds == 1 or not which.size:
        return found
    both = tuple(take_rows(part, which) for part in (vector + probe.vector, starts[1]))
    better = search(
        operator.take(which), both, rounding[which], limit=limit, rounds=rounds - 1,
        exact=None if exact is None else exact.take(which), descend=descend,
    )  # fmt: skip
    return _replaced(found, which, better)


def _refined(
    operator: Operator, found: Found, main: Ritz, which: NDArray[np.int64], locked: Array, rounding: Numbers
) -> Found:
    """v + δ of the members ``which`` where that is better. T is float32's, which tells where δ is long."""
    vector, lowest, locked = take_rows(found.vector, which), main.value[which], take_rows(locked, which)
    length, value, correction, rest, size = (take_rows(part, which) for part in main.more[3:])

    def finish(members: NDArray[np.int64], space: Space) -> tuple[Any, ...]:
        return _solved(space, lowest[members] - limits.ULP, value[members], take_rows(rest, members))

    def never(_value: Numbers, _bound: Numbers, members: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.zeros(members.shape, dtype=bool)

    run = lowest_ritz(operator.take(which), rest, locked, never, limits.REFINE_STEPS, finish)
    more, left, further = run.more
    remainder = _length(left) + 4.0 * rounding[which] * (size + further)
    better = _like(np.where(remainder < length, 1.0, 0.0), vector)[:, None]
    gap = np.clip(run.value - lowest, 0.0, found.gap[which])
    return Found(unit(vector + better * (correction + more)), run.steps, gap, np.minimum(remainder, length))


def _replaced(found: Found, which: NDArray[np.int64], better: Found) -> Found:
    """``found`` with the members ``which`` as in ``better``; steps add up."""
    xp = array_namespace(found.vector)
    place = np.arange(len(found.gap))
    place[which] = len(place) + np.arange(len(which))
    vector = take_rows(xp.concat((found.vector, better.vector)), place)
    steps, gap, remainder = found.steps.copy(), found.gap.copy(), found.remainder.copy()
    steps[which] += better.steps
    gap[which], remainder[which] = better.gap, better.remainder
    return Found(vector, steps, gap, remainder)

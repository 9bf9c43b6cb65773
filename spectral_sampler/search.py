"""The search for the Fiedler pair of B graphs, given products with L / ‖L‖_∞: written once against the array API.

    1. Lanczos from white noise until its lowest Ritz vector v has a residual of one ulp.
    2. A probe: Lanczos from another start, kept away from v, until λ3 is told apart from λ2. One start vector never
       sees a multiple eigenvalue; and where the first run had settled on a higher eigenvector, this one finds the
       lower, and both directions together start it again.
    3. Where products in float64 are given (`exact`), the probe starts from v's residual r in float64, and its
       Krylov space, which then holds what solves (L − θ) δ = −r, refines v to v + δ at no further product with L.

Vectors are arrays (B, N) of torch, NumPy, CuPy or array-api-strict; numbers (B,) are NumPy's, on the host, to which
each look at convergence brings T. `bool` and `float` of a device array, which would wait for it, are not used.
"""

from __future__ import annotations

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


class Ritz(NamedTuple):
    """Lowest Ritz pair of each member, and the Galerkin solution of (L − θ) δ = −r in its space where r was given."""

    vector: Array  # (b, N)
    value: Numbers
    bound: Numbers  # on the residual, from the recurrence
    second: Numbers  # second Ritz value, never below λ3
    steps: NDArray[np.int64]
    correction: Array  # δ (b, N), or zeros
    remainder: Numbers  # ‖r + (L − θ) δ‖


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
    operator: Operator, start: Array, locked: Array, accept: Accept, limit: int, defect: Defect | None = None
) -> Ritz:
    """Run Lanczos on each member until ``accept`` holds, or its space is exhausted, or ``limit`` steps are taken.

    Args:
        start: (b, N). locked: (b, m, N) orthonormal rows to stay orthogonal to.
        defect: what to solve for in the same space.
    """
    xp = array_namespace(start)
    run = Lanczos(operator, start, deflate=locked, tolerance=_ulp(start))
    members, parts = np.arange(start.shape[0]), []
    for depth in checkpoints(limit := min(limit, run.limit)):
        state = run.extend(depth)
        steps = to_host(state.steps).astype(np.int64)
        beta = to_host(state.beta).astype(np.float64)
        values, vectors = _eigen(to_host(state.alpha), beta, steps)
        bound = np.abs(beta[:, -1] * vectors[:, -1, 0])
        done = accept(values[:, 0], bound, members) | (depth == limit)
        which, rest = np.flatnonzero(done), np.flatnonzero(~done)
        if which.size:
            basis = take_rows(state.basis, which)
            solved = xp.zeros_like(basis[:, 0, :]), np.ones(which.size)
            if defect is not None:
                apart = values[which, :-1] - defect.value[members[which], None]
                direction = take_rows(defect.direction, members[which])
                solved = _galerkin(basis, direction, apart, vectors[which], beta[which, -1])
            mixed = _combined(xp, basis, vectors[which, :, 0])
            numbers = (values[which, 0], bound[which], values[which, 1], steps[which])
            parts.append((members[which], mixed, *numbers, *solved))
            if not rest.size:
                break
            members, operator = members[rest], operator.take(rest)
            run.take(operator, rest)
    order, *fields = (_joined(xp, field) for field in zip(*parts, strict=True))
    return Ritz(*(take_rows(field, np.argsort(order)) for field in fields))


def _joined(xp: Any, parts: tuple[Array, ...]) -> Array:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else xp.concat(parts)


def _galerkin(basis: Array, direction: Array, apart: Numbers, vectors: Numbers, beta: Numbers) -> tuple[Array, Numbers]:
    """δ = −V (T − θ)⁻¹ Vᵀ r for unit vectors r, and ‖r + (L − θ) δ‖: what of r is outside of V, and β |y_k|.

    apart: (b, k) eigenvalues of T, less θ. vectors: (b, k, k) of T. beta: (b,) what couples V to the next vector.
    """
    xp = array_namespace(basis)
    parts = to_host(xp.sum(basis * direction[:, None, :], axis=-1)).astype(np.float64)
    inverse = np.divide(1.0, apart, out=np.zeros_like(apart), where=apart > 0)
    weights = np.einsum("bkj,bj,bij,bi->bk", vectors, inverse, vectors, parts, optimize=True)
    outside = direction - _combined(xp, basis, parts)
    left = to_host(xp.sqrt(xp.sum(outside * outside, axis=-1))).astype(np.float64)
    # An eigenvalue of T that is not above θ leaves its part of r unsolved.
    return -_combined(xp, basis, weights), np.where((apart > 0).all(axis=1), left + np.abs(beta * weights[:, -1]), 1.0)


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
    main = descend(operator, starts[0], constant, lambda _value, bound, _members: bound <= stop, limit)
    vector = unit(main.vector)
    if size == 2:
        return Found(vector, main.steps, np.full(count, 2.0), np.full(count, np.inf))

    def settled(value: Numbers, bound: Numbers, members: NDArray[np.int64]) -> NDArray[np.bool_]:
        distance = value - main.value[members]
        near = limits.APART * np.maximum(distance, limits.GAP * rounding[members])
        return np.asarray((bound <= near) | (distance + bound < 0))

    defect = None if exact is None else exact(vector)
    start = starts[1] if defect is None else defect.direction + limits.NOISE * unit(starts[1])
    probe = descend(operator, start, xp.concat((constant, vector[:, None, :]), axis=1), settled, limit, defect)
    steps = main.steps + probe.steps
    gap = np.clip(np.minimum(probe.value - probe.bound, main.second) - main.value, 0.0, 2.0)
    found = Found(vector, steps, gap, np.full(count, np.inf))
    if defect is not None:
        found = _refined(found, probe, defect.length, rounding)
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


def _refined(found: Found, probe: Ritz, length: Numbers, rounding: Numbers) -> Found:
    """v + δ where that is better. T is made of float32's products, which tells where δ is long."""
    xp = array_namespace(found.vector)
    size = to_host(xp.sqrt(xp.sum(probe.correction * probe.correction, axis=-1))).astype(np.float64)
    remainder = length * (probe.remainder + 4.0 * rounding * size)
    factor = np.where(remainder < length, length, 0.0)
    shrink = 1.0 / np.sqrt(1.0 + (factor * size) ** 2)  # δ is orthogonal to v
    factor, shrink = _like(factor, found.vector)[:, None], _like(shrink, found.vector)[:, None]
    vector = shrink * (found.vector + factor * probe.correction)
    return found._replace(vector=vector, remainder=np.minimum(remainder, length))


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

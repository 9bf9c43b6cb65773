"""The Fiedler solve on any library that follows the array API (CuPy here; NumPy and array-api-strict in the tests).

Only the tridiagonal eigenproblem, k × k for each member, is solved on the host, where one transfer a look fetches it.
`bool` and `float` of a device array, each of which would wait for the device, are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Solved", "solve_features"]

Array = Any
ToHost = Callable[[Array], NDArray[Any]]
_ULP = float(np.finfo(np.float32).eps)
_GAP_LIMIT = 8.0  # fiedler's
_DEEPEST, _AGAIN = 512, 4
_ABOVE = 4.0  # above the spectrum of L / ‖L‖_∞


class Solved(NamedTuple):
    """Arrays of the library, but those that the host has to know anyway."""

    vector: Array  # (B, N), sign free
    value: Array  # (B,), over ‖L‖_∞
    residual: Array  # (B,)
    degrees: Array  # (B, N)
    norm: Array  # (B,)
    valid: Array  # (B,) bool
    rounding: NDArray[np.float64]  # (B,)
    steps: NDArray[np.int64]  # (B,)
    gap: NDArray[np.float64]  # (B,)


class _Pair(NamedTuple):
    vector: Array
    value: NDArray[np.float64]
    bound: NDArray[np.float64]
    second: NDArray[np.float64]  # second Ritz value, never below λ3
    steps: NDArray[np.int64]


Accept = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]


def _place(xp: Any, like: Array) -> dict[str, Any]:
    """Where new arrays go; CuPy and NumPy before 2 take no device; CuPy has a current one."""
    return {} if xp.__name__ in {"numpy", "cupy"} else {"device": like.device}


class _Graphs:
    """L / ‖L‖_∞ of B graphs from float32 features (B, N, d); a graph with a faulty row has no edges."""

    def __init__(self, xp: Any, features: Array) -> None:
        self.xp = xp
        largest = xp.max(xp.abs(features), axis=-1, keepdims=True)
        sound = (largest > 0) & xp.isfinite(largest)
        one = xp.ones_like(largest)
        scaled = xp.where(sound, features, xp.zeros_like(features)) / xp.where(sound, largest, one)
        length = xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))
        units = scaled / xp.where(sound, length, one)
        self.valid = xp.all(sound[:, :, 0], axis=-1)
        affinity = xp.matmul(units, xp.matrix_transpose(units))
        number = xp.arange(features.shape[1], **_place(xp, features))
        edges = (number[:, None] != number[None, :])[None, :, :] & self.valid[:, None, None]
        self.affinity = xp.where(edges, affinity, xp.zeros_like(affinity))
        self.degrees = xp.sum(self.affinity, axis=-1)
        self.norm = xp.max(xp.abs(self.degrees) + xp.sum(xp.abs(self.affinity), axis=-1), axis=-1)
        self._divisor = xp.where(self.norm > 0, self.norm, xp.ones_like(self.norm))[:, None]

    def apply(self, vectors: Array) -> Array:
        """L x / ‖L‖_∞ for vectors (B, N)."""
        mixed = self.xp.matmul(self.affinity, vectors[:, :, None])[:, :, 0]
        return (self.degrees * vectors - mixed) / self._divisor


def _eigen(alpha: NDArray[Any], beta: NDArray[Any], steps: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two lowest eigenvalues (B, 2) and the lowest eigenvector (B, k) of each tridiagonal matrix."""
    depth = alpha.shape[1]
    matrix = np.zeros((*alpha.shape, depth))
    place = np.arange(depth)
    matrix[:, place, place] = np.where(place >= steps[:, None], _ABOVE, alpha)
    matrix[:, place[1:], place[:-1]] = beta[:, :-1]  # eigh reads the lower triangle
    values, vectors = np.linalg.eigh(matrix)
    return np.concatenate((values, np.full((len(values), 1), _ABOVE)), axis=1)[:, :2], vectors[:, :, 0]


def _descend(graphs: _Graphs, start: Array, locked: Array, accept: Accept, to_host: ToHost) -> _Pair:
    """The lowest Ritz pair of each member at the first look that accepts it, or at the last one."""
    from spectral_sampler.lanczos import Lanczos, checkpoints

    xp = graphs.xp
    run = Lanczos(graphs.apply, start, deflate=locked, tolerance=_ULP)
    count = start.shape[0]
    value, bound, second, steps = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.int64)
    vector, waiting = xp.zeros_like(start), np.ones(count, dtype=bool)
    for depth in checkpoints(min(_DEEPEST, run.limit)):
        state = run.extend(depth)
        taken = to_host(state.steps).astype(np.int64)
        beta = to_host(state.beta).astype(np.float64)
        values, weights = _eigen(to_host(state.alpha).astype(np.float64), beta, taken)
        bounds = np.abs(beta[:, -1] * weights[:, -1])
        last = depth == min(_DEEPEST, run.limit)
        now = waiting & (accept(values[:, 0], bounds) | last)
        if now.any():
            weight = xp.asarray((weights * now[:, None]).astype(np.float32), **_place(xp, start))
            vector = vector + xp.sum(state.basis * weight[:, :, None], axis=1)
            value, second = np.where(now, values[:, 0], value), np.where(now, values[:, 1], second)
            bound = np.where(now, bounds, bound)
            steps, waiting = np.where(now, taken, steps), waiting & ~now
        if not waiting.any():
            break
    return _Pair(_unit(xp, vector), value, bound, second, steps)


def _unit(xp: Any, vectors: Array) -> Array:
    for _ in range(2):
        vectors = vectors - xp.mean(vectors, axis=-1, keepdims=True)
    length = xp.sqrt(xp.sum(vectors * vectors, axis=-1, keepdims=True))
    return vectors / xp.where(length > 0, length, xp.ones_like(length))


def solve_features(xp: Any, features: Array, starts: tuple[Array, Array], to_host: ToHost) -> Solved:
    """Solve the cosine graphs of float32 features (B, N, d), N ≥ 2, from starts (B, N) for the vector and for the
    probe.
    """
    graphs = _Graphs(xp, features)
    count, size = starts[0].shape
    norm = to_host(graphs.norm).astype(np.float64)
    rounding = _ULP / np.minimum(np.where(norm > 0, norm, 1.0), 1.0)
    smallest = _GAP_LIMIT * size * rounding
    constant = xp.full((count, 1, size), size**-0.5, dtype=features.dtype, **_place(xp, features))
    start, steps, gap = starts[0], np.zeros(count, dtype=np.int64), np.full(count, 2.0)
    for _ in range(_AGAIN):
        found = _descend(graphs, start, constant, lambda _values, bounds: bounds <= _ULP, to_host)
        steps = steps + found.steps
        if size == 2:
            break

        def apart(
            values: NDArray[np.float64], bounds: NDArray[np.float64], value: NDArray[np.float64] = found.value
        ) -> NDArray[np.bool_]:
            distance = values - value
            settled: NDArray[np.bool_] = (bounds <= 0.25 * np.maximum(distance, smallest)) | (distance + bounds < 0)
            return settled

        locked = xp.concat((constant, found.vector[:, None, :]), axis=1)
        probe = _descend(graphs, starts[1], locked, apart, to_host)
        steps = steps + probe.steps
        gap = np.clip(np.minimum(probe.value - probe.bound, found.second) - found.value, 0.0, 2.0)
        lower = probe.value < found.value - size * _ULP
        if not lower.any():
            break
        # Some member had settled on a higher eigenvector: those begin again with both directions, the others as they
        # are.
        both = xp.asarray(lower.astype(np.float32), **_place(xp, features))[:, None]
        start = found.vector + both * probe.vector
    gap = np.where(gap <= smallest, 0.0, gap)
    image = graphs.apply(found.vector)
    value = xp.sum(image * found.vector, axis=-1)
    rest = image - value[:, None] * found.vector
    residual = xp.sqrt(xp.sum(rest * rest, axis=-1))
    parts = (graphs.degrees, graphs.norm, graphs.valid)
    return Solved(found.vector, value, residual, *parts, rounding, steps + 1, gap)

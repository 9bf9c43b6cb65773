"""L / ‖L‖_∞ for `search`, on any library that follows the array API: CuPy; in the tests NumPy and array-api-strict."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler import limits
from spectral_sampler.lanczos import Array, array_namespace, placed, take_rows
from spectral_sampler.search import Found, search, to_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Graphs", "solve_features"]


class Graphs(NamedTuple):
    """Cosine graphs of B candidate batches; one with a faulty row has no edges."""

    affinity: Array  # (B, N, N), zero diagonal
    degrees: Array  # (B, N)
    norm: Array  # ‖L‖_∞ (B,)
    valid: Array  # (B,) bool

    @classmethod
    def of(cls, features: Array) -> Graphs:
        """From float32 features (B, N, d)."""
        xp = array_namespace(features)
        largest = xp.max(xp.abs(features), axis=-1, keepdims=True)
        sound = (largest > 0) & xp.isfinite(largest)
        one = xp.ones_like(largest)
        scaled = xp.where(sound, features, xp.zeros_like(features)) / xp.where(sound, largest, one)
        length = xp.sqrt(xp.sum(scaled * scaled, axis=-1, keepdims=True))
        units = scaled / xp.where(sound, length, one)
        valid = xp.all(sound[:, :, 0], axis=-1)
        affinity = xp.matmul(units, xp.matrix_transpose(units))
        edges = placed(~np.eye(features.shape[1], dtype=np.bool_), features)[None, :, :] & valid[:, None, None]
        affinity = xp.where(edges, affinity, xp.zeros_like(affinity))
        degrees = xp.sum(affinity, axis=-1)
        return cls(affinity, degrees, xp.max(xp.abs(degrees) + xp.sum(xp.abs(affinity), axis=-1), axis=-1), valid)

    def __call__(self, vectors: Array) -> Array:
        """L x / ‖L‖_∞ for vectors (B, N)."""
        xp = array_namespace(vectors)
        mixed = xp.matmul(self.affinity, vectors[:, :, None])[:, :, 0]
        return (self.degrees * vectors - mixed) / xp.where(self.norm > 0, self.norm, xp.ones_like(self.norm))[:, None]

    def take(self, members: NDArray[np.int64]) -> Graphs:
        """The graphs with these numbers."""
        return Graphs(*(take_rows(field, members) for field in self))


def solve_features(features: Array, starts: tuple[Array, Array]) -> tuple[Graphs, Found]:
    """The cosine graphs of float32 features (B, N, d), N ≥ 2, and their Fiedler vectors, sign free, from starts (B, N)
    for the vector and for the probe.
    """
    graphs = Graphs.of(features)
    norm = to_host(graphs.norm).astype(np.float64)
    rounding = limits.ULP / np.clip(np.where(norm > 0, norm, 1.0), None, 1.0)
    return graphs, search(graphs, starts, rounding, limit=limits.MOST_STEPS)

"""What a linear probe is given: rows of unit length, or random Fourier features, with which it is not linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler import draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Fourier", "fourier_views", "unit"]

_FREQUENCIES = 128
_WIDTHS = (1.0, 0.5, 0.25, 0.125)
_BLOCK = 4096


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows (n, d) scaled to length one. Single precision is enough: λ hides a rounding of 10⁻⁷ a thousandfold."""
    found = rows.astype(np.float64) if rows.dtype != np.float16 else rows.astype(np.float32)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


@dataclass(frozen=True)
class Fourier:
    """Random Fourier features (Rahimi and Recht 2007): inner products approximate a Gaussian kernel."""

    mean: NDArray[np.float64]
    """(d,)"""
    frequencies: NDArray[np.float64]
    """(d, D / 2), standardisation and kernel width included."""

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """(n, D) cosines and sines of rows (n, d)."""
        angles = (rows.astype(np.float64) - self.mean) @ self.frequencies
        return np.hstack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def fourier_views(features: NDArray[np.floating], rows: NDArray[np.int64]) -> Iterator[Fourier]:
    """Views of ``features`` with columns standardised over ``rows``, kernels from as wide as the root mean squared
    distance of two rows down to an eighth of it. The frequencies are the same for every store of the width."""
    size, width = len(rows), features.shape[1]
    blocks = [rows[start : start + _BLOCK] for start in range(0, size, _BLOCK)]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum((features[block].astype(np.float64).sum(axis=0) / size for block in blocks), np.zeros(width))
        squares = (((features[block].astype(np.float64) - mean) ** 2).sum(axis=0) / size for block in blocks)
        deviations = np.sqrt(sum(squares, np.zeros(width)))
    varies = (deviations > 1e-9 * np.abs(mean)) & np.isfinite(deviations) & (deviations > 0.0)
    if not varies.any():
        return
    first, second = (draws.uniforms(0, place, 0, np.arange(width * _FREQUENCIES), draws.FOURIER) for place in (0, 1))
    normal = (np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)).reshape(width, _FREQUENCIES)  # Box, Muller
    inverses = np.where(varies, 1.0 / np.where(varies, deviations, 1.0), 0.0) / np.sqrt(2.0 * varies.sum())
    for wide in _WIDTHS:
        yield Fourier(mean, normal * (inverses / wide)[:, None])

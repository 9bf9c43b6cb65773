"""What a linear probe is given: rows of unit length, or random Fourier features, with which it is not linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler import draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Fourier", "fourier_views", "unit"]

_FREQUENCIES = 128
_WIDTHS = (1.0, 0.5, 0.25, 0.125)


def unit(rows: NDArray[np.floating]) -> torch.Tensor:
    """Rows (n, d) scaled to length one. Single precision is enough: λ hides a rounding of 10⁻⁷ a thousandfold."""
    found = torch.from_numpy(rows)
    found = found.float() if found.dtype == torch.float16 else found.double()
    lengths = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    return found.div_(lengths.clamp_(min=float(np.finfo(np.float32).tiny))).float()


@dataclass(frozen=True)
class Fourier:
    """Random Fourier features (Rahimi and Recht 2007): inner products approximate a Gaussian kernel."""

    mean: NDArray[np.float64]
    """(d,)"""
    frequencies: NDArray[np.float64]
    """(d, D / 2), standardisation and kernel width included."""

    def __call__(self, rows: NDArray[Any]) -> torch.Tensor:
        """(n, D) cosines and sines of rows (n, d), float32."""
        centred = torch.from_numpy(rows.astype(np.float64)).sub_(torch.from_numpy(self.mean))
        angles = centred @ torch.from_numpy(self.frequencies)
        return torch.hstack([angles.cos(), angles.sin()]).float()


def fourier_views(rows: NDArray[np.floating]) -> Iterator[Fourier]:
    """Views with columns standardised over ``rows`` (n, d), kernels from as wide as the root mean squared distance of
    two rows down to an eighth of it. The frequencies are the same for every store of the width."""
    size, width = rows.shape
    with np.errstate(over="ignore", invalid="ignore"):
        found = rows.astype(np.float64)
        mean = found.sum(axis=0) / size
        deviations = np.sqrt(((found - mean) ** 2).sum(axis=0) / size)
    varies = (deviations > 1e-9 * np.abs(mean)) & np.isfinite(deviations) & (deviations > 0.0)
    if not varies.any():
        return
    first, second = (draws.uniforms(0, place, 0, np.arange(width * _FREQUENCIES), draws.FOURIER) for place in (0, 1))
    normal = (np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)).reshape(width, _FREQUENCIES)  # Box, Muller
    inverses = np.where(varies, 1.0 / np.where(varies, deviations, 1.0), 0.0) / np.sqrt(2.0 * varies.sum())
    for wide in _WIDTHS:
        yield Fourier(mean, normal * (inverses / wide)[:, None])

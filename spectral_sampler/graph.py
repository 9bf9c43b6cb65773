"""The definition: cosine affinity S, degrees and Laplacian L = diag(S1) − S of a candidate batch, in eager PyTorch.

Every kernel of this package is tested against this text; it is also the fallback where no kernel runs.
``L`` is never changed by the diagonal of S, so S is used without it: degrees are sums over the *other* rows, which keeps
their digits where a self-similarity of 1 would cancel them (nearly orthogonal rows, centred features).

    S_ij = x_i·x_j / (|x_i| |x_j|),   d_i = Σ_{j≠i} S_ij,   (L x)_i = d_i x_i − Σ_{j≠i} S_ij x_j          (GSTDS §3.2)

Shapes: features (…, N, d), affinity (…, N, N), degrees and vectors (…, N).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "DenseLaplacian",
    "FactoredLaplacian",
    "cosine_affinity",
    "degrees",
    "faulty_rows",
    "laplacian",
    "laplacian_norm",
    "unit_rows",
    "working_precision",
]

_NORM_ROWS = 16  # rows of S summed to estimate ‖L‖_∞ where S is never formed


def working_precision(features: Tensor) -> Tensor:
    """The features as float64 where they are float64, and as float32 otherwise."""
    return features if features.dtype == torch.float64 else features.to(torch.float32)


def faulty_rows(features: Tensor) -> Tensor:
    """Rows without a direction, (…, N) bool: those that are all zero or hold a NaN or an infinity in the working precision."""
    largest = working_precision(features).abs().amax(dim=-1)
    return ~((largest > 0) & torch.isfinite(largest))


def unit_rows(features: Tensor) -> Tensor:
    """x_i / |x_i|, shape (…, N, d), in the working precision.

    Each row is divided by its largest magnitude before it is squared, so rows of norm 1e30 do not overflow and rows of norm
    1e-30 or below do not vanish. A faulty row (`faulty_rows`) comes back as zeros.
    """
    rows = working_precision(features)
    largest = rows.abs().amax(dim=-1, keepdim=True)
    faulty = ~((largest > 0) & torch.isfinite(largest))
    # Division and not a product with 1 / largest: the reciprocal of a subnormal number is infinite.
    scaled = rows / largest
    scaled = scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled.masked_fill_(faulty, 0.0)


def cosine_affinity(features: Tensor) -> Tensor:
    """S_ij = cos(x_i, x_j), shape (…, N, N). One product per member: its bits must not depend on its batch neighbours."""
    units = unit_rows(features)
    *batch, count, width = units.shape
    members = units.reshape(-1, count, width)
    affinity = units.new_empty((members.shape[0], count, count))
    for member, target in zip(members, affinity, strict=True):
        torch.mm(member, member.T, out=target)
    return affinity.reshape(*batch, count, count)


def _without_diagonal(affinity: Tensor) -> Tensor:
    others = affinity.clone()
    others.diagonal(dim1=-2, dim2=-1).zero_()
    return others


def degrees(affinity: Tensor) -> Tensor:
    """d_i = Σ_{j≠i} S_ij, shape (…, N)."""
    return _without_diagonal(affinity).sum(dim=-1)


def laplacian(affinity: Tensor) -> Tensor:
    """L = diag(d) − S off the diagonal, shape (…, N, N); the constant vector spans its kernel."""
    others = _without_diagonal(affinity)
    return torch.diag_embed(others.sum(dim=-1)) - others


def laplacian_norm(affinity: Tensor) -> Tensor:
    """‖L‖_∞ = max_i (|d_i| + Σ_{j≠i} |S_ij|), shape (…)."""
    others = _without_diagonal(affinity)
    return (others.sum(dim=-1).abs() + others.abs().sum(dim=-1)).amax(dim=-1)


class DenseLaplacian:
    """L of a batch of graphs, from the affinities (B, N, N), whose diagonals are ignored and overwritten by zeros."""

    def __init__(self, affinity: Tensor) -> None:
        affinity.diagonal(dim1=-2, dim2=-1).zero_()
        self.affinity = affinity
        self.degrees = affinity.sum(dim=-1)
        self.norm = (self.degrees.abs() + affinity.abs().sum(dim=-1)).amax(dim=-1)

    def apply(self, vectors: Tensor) -> Tensor:
        """L x for vectors (B, N)."""
        return self.degrees * vectors - torch.matmul(self.affinity, vectors[:, :, None])[:, :, 0]

    def take(self, members: Tensor) -> DenseLaplacian:
        """The graphs whose numbers are in ``members`` (b,) int64."""
        part = object.__new__(DenseLaplacian)
        part.affinity = self.affinity.index_select(0, members)
        part.degrees = self.degrees.index_select(0, members)
        part.norm = self.norm.index_select(0, members)
        return part


class FactoredLaplacian:
    """The same L without ever forming S: L x = d∘x − U(Uᵀx) with unit rows U (B, N, d), memory O(N·d).

    Here the diagonal of S stays inside both terms (d_i = u_i·Σ_j u_j) and cancels; `degrees` is given without it.
    """

    def __init__(self, units: Tensor) -> None:
        self.units = units
        self.row_sums = torch.matmul(units, units.sum(dim=-2)[:, :, None])[:, :, 0]
        self.degrees = self.row_sums - (units * units).sum(dim=-1)
        self.norm = self._norm()

    def _norm(self) -> Tensor:
        """max (|d_i| + Σ_{j≠i} |S_ij|) over some rows: exact where S ≥ 0, from below otherwise, because the row of the
        largest |d_i| is among them.
        """
        count = self.units.shape[-2]
        spread = torch.arange(0, count, max(1, count // _NORM_ROWS), device=self.units.device)
        norms = []
        for unit, degree in zip(self.units, self.degrees, strict=True):
            rows = torch.cat((degree.abs().argmax()[None], spread))
            part = unit.index_select(0, rows)
            sums = torch.matmul(part, unit.T).abs().sum(dim=-1) - (part * part).sum(dim=-1)
            norms.append((degree.index_select(0, rows).abs() + sums).amax())
        return torch.stack(norms)

    def apply(self, vectors: Tensor) -> Tensor:
        """L x for vectors (B, N)."""
        mixed = torch.matmul(vectors[:, None, :], self.units)
        return self.row_sums * vectors - torch.matmul(self.units, mixed.transpose(-1, -2))[:, :, 0]

    def take(self, members: Tensor) -> FactoredLaplacian:
        """The graphs whose numbers are in ``members`` (b,) int64."""
        part = object.__new__(FactoredLaplacian)
        part.units = self.units.index_select(0, members)
        part.row_sums = self.row_sums.index_select(0, members)
        part.degrees = self.degrees.index_select(0, members)
        part.norm = self.norm.index_select(0, members)
        return part

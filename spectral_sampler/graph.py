"""The definition: cosine affinity S, degrees and Laplacians of a candidate batch, in eager PyTorch.

Every kernel of this package is tested against this text; it is also the fallback where no kernel runs.
The diagonal of S never changes L, so S is used without it: degrees are sums over the *other* rows, which keeps their
digits where a self-similarity of 1 would cancel them (nearly orthogonal rows, centred features).

    S_ij = x_i·x_j / (|x_i| |x_j|),   d_i = Σ_{j≠i} S_ij,   (L x)_i = d_i x_i − Σ_{j≠i} S_ij x_j          (GSTDS §3.2)
    L_sym = D^{-1/2} L D^{-1/2}, for S ≥ 0; its kernel is spanned by D^{1/2} 1                     (Chung 1997, §1.2)

Shapes: features (…, N, d), affinity (…, N, N), degrees and vectors (…, N).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_sampler import limits
from spectral_sampler.errors import argument_error
from spectral_sampler.precision import unloosened

__all__ = [
    "DenseLaplacian",
    "FactoredLaplacian",
    "NormalisedLaplacian",
    "as_features",
    "canonical_sign",
    "cosine_affinity",
    "degrees",
    "exact_product",
    "faulty_rows",
    "gram",
    "laplacian",
    "laplacian_norm",
    "nearest",
    "normalised_laplacian",
    "refuse_faulty",
    "start_vectors",
    "unit_rows",
    "working_precision",
]

_PART = 4096  # rows of the features that are copied to float64 at a time


def as_features(source: Any) -> Tensor:
    """Features as a tensor: real, dense, of shape (N, d) or (B, N, d) with N ≥ 2, or an error that says what is wrong.

    Arrays may have any layout, byte order or real dtype; what torch shares with them is never written to.
    """
    remedy = "Pass real numbers of shape (N, d) or (B, N, d)."
    if isinstance(source, Tensor):
        features = source
        if torch._C._functorch.is_gradtrackingtensor(source) and source.requires_grad:  # noqa: SLF001
            rule = "outside of what torch.func takes gradients of"
            raise argument_error("features", rule, "such a tensor", "There is no gradient: pass features.detach().")
    elif isinstance(source, np.ma.MaskedArray):
        raise argument_error("features", "without a mask", "a masked array", "Pass the rows that are not masked.")
    else:
        array = np.asarray(source)
        if array.dtype.kind not in "biuf":
            raise argument_error("features", "real numbers", f"dtype {array.dtype}", remedy)
        dtype: np.dtype[Any] = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
        features = torch.from_numpy(np.require(array, dtype=dtype, requirements=["C", "W"]))
    if features.is_complex() or features.layout != torch.strided:
        raise argument_error("features", "real and dense", f"{features.dtype}, {features.layout}", remedy)
    if features.dim() not in (2, 3) or 0 in features.shape:
        raise argument_error("features", "of shape (N, d) or (B, N, d), not empty", tuple(features.shape), remedy)
    if features.shape[-2] < 2:
        raise argument_error("features", "at least 2 rows for each graph", features.shape[-2], "One row has no rank.")
    return features.detach()


def working_precision(features: Tensor) -> Tensor:
    """The features as float64 where they are float64, and as float32 otherwise."""
    return features if features.dtype == torch.float64 else features.to(torch.float32)


def faulty_rows(features: Tensor) -> Tensor:
    """Rows without a direction, (…, N) bool: all zero, or with a NaN or an infinity in the working precision."""
    largest = working_precision(features).abs().amax(dim=-1)
    return ~((largest > 0) & torch.isfinite(largest))


def refuse_faulty(features: Tensor, faulty: Tensor) -> None:
    """Say which rows of ``features`` (B, N, d) keep its members ``faulty`` (B,) bool from being solved."""
    numbers = faulty.nonzero()[:, 0].tolist()
    if numbers:
        rows = faulty_rows(features[numbers[0]]).nonzero()[:, 0].tolist()
        got = f"rows {rows[:10]}{' and more' if len(rows) > 10 else ''} of member {numbers[0]}"
        if len(numbers) > 1:
            got += f" (faulty members: {numbers[:10]}{' and more' if len(numbers) > 10 else ''})"
        rule = "finite, with something other than zero in every row"
        raise argument_error("features", rule, got, 'Remove these rows, or pass invalid="mark".')


def unit_rows(features: Tensor) -> Tensor:
    """x_i / |x_i|, shape (…, N, d), in the working precision.

    Each row is divided by its largest magnitude before it is squared, so rows of norm 1e30 do not overflow and rows of
    norm 1e-30 or below do not vanish. A faulty row (`faulty_rows`) comes back as zeros.
    """
    rows = working_precision(features)
    largest = rows.abs().amax(dim=-1, keepdim=True)
    # Division and not a product with 1 / largest: the reciprocal of a subnormal number is infinite.
    units = rows / largest
    units /= torch.linalg.vector_norm(units, dim=-1, keepdim=True)
    faulty = ~((largest > 0) & torch.isfinite(largest))
    return units.masked_fill_(faulty, 0.0) if faulty.any() else units


def cosine_affinity(features: Tensor) -> Tensor:
    """S_ij = cos(x_i, x_j), shape (…, N, N). One product per member: no neighbour may change its bits."""
    units = unit_rows(features)
    *batch, count, width = units.shape
    members = [gram(member) for member in units.reshape(-1, count, width)]
    return torch.stack(members).reshape(*batch, count, count)


def gram(units: Tensor) -> Tensor:
    """U Uᵀ for one member's unit rows U (N, d). The operand is copied where its address is not that of a fresh tensor,
    because matrix products may round differently by alignment.
    """
    units = units if units.data_ptr() % 64 == 0 else units.clone()
    full = unloosened(units)
    return torch.mm(full, full.T).to(units.dtype)


def exact_product(rows: Tensor, vector: Tensor) -> Tensor:
    """L v in float64 for the graph of the features ``rows`` (N, d) and v (N,), S not formed: its diagonal cancels.

    Rows are taken in parts, so that no copy of all of them in float64 is made.
    """
    both = torch.stack((vector, torch.ones_like(vector)), dim=1)
    sums = both.new_zeros(rows.shape[1], 2)  # Uᵀ (v, 1)
    parts = [slice(first, first + _PART) for first in range(0, len(rows), _PART)]
    for part in parts:
        sums += unit_rows(rows[part].double()).T @ both[part]
    products = torch.cat([unit_rows(rows[part].double()) @ sums for part in parts])
    return products[:, 1] * vector - products[:, 0]


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


def normalised_laplacian(affinity: Tensor) -> Tensor:
    """L_sym = D^{-1/2} L D^{-1/2} for weights ≥ 0, shape (…, N, N). A row without edges has zeros, on the diagonal
    too: it is a component of its own (Chung 1997, §1.2).
    """
    others = _without_diagonal(affinity)
    sums = others.sum(dim=-1)
    roots = torch.where(sums > 0, sums, torch.ones_like(sums)).sqrt()
    return torch.diag_embed((sums > 0).to(sums)) - others / (roots[..., :, None] * roots[..., None, :])


def nearest(affinity: Tensor, k: int, slack: float) -> Tensor:
    """The weights (…, N, N) of the pairs of which one is among the k nearest others of the other one, and 0 elsewhere.

    As near as the k-th, to within ``slack``, is among the k nearest: a choice between equals would depend on the order
    of the rows, and tell copies apart. Where there are no more than k others, they all are.
    """
    others = affinity.clone()
    others.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    least = others.topk(min(k, affinity.shape[-1] - 1), dim=-1).values[..., -1:]
    near = others >= least - slack
    return affinity.masked_fill(~(near | near.mT), 0.0)


def laplacian_norm(affinity: Tensor) -> Tensor:
    """‖L‖_∞ = max_i (|d_i| + Σ_{j≠i} |S_ij|), shape (…)."""
    others = _without_diagonal(affinity)
    return (others.sum(dim=-1).abs() + others.abs().sum(dim=-1)).amax(dim=-1)


def start_vectors(indices: Tensor, salt: int = 0) -> Tensor:
    """White noise in [−1, 1), float32 (B, N): a hash of each dataset index, counted from its member's lowest one.

    So a batch in another order starts from the same vector in that order, and a member starts alike wherever it lies.
    x ^= x>>16; x *= 0x7feb352d; x ^= x>>15; x *= 0x846ca68b; x ^= x>>16 on 32 bits (C. Wellons, lowbias32), upper 24.
    """
    word = (indices - indices.amin(dim=-1, keepdim=True) + (1 + salt)) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = ((word ^ (word >> shift)) * factor) & 0xFFFFFFFF
    word = word ^ (word >> 16)
    return (word >> 8).to(torch.float32) * 2.0**-23 - 1.0


def canonical_sign(vector: Tensor, degrees: Tensor, indices: Tensor, norm: Tensor) -> Tensor:
    """±1 for each unit vector (B, N): the small far group is positive, else low degrees, else the lowest dataset index.

    t = √N Σ v³ decides where |t| ≥ 1e-2. Else the correlation of v with the degrees (B, N), where it is ≥ 1e-2 and they
    differ by more than rounding, which ``norm`` = ‖L‖_∞ (B,) tells. Else the row of lowest index (B, N) that is on a
    side: √N |v_i| ≥ 1e-2.
    """
    size = vector.shape[-1]
    skew = size**0.5 * (vector**3).sum(dim=-1)
    centred = degrees - degrees.mean(dim=-1, keepdim=True)
    spread = torch.linalg.vector_norm(centred, dim=-1)
    rounding = torch.finfo(vector.dtype).eps * norm.clamp(min=1.0)  # e · ‖L‖_∞
    uneven = spread > limits.UNEVEN * size**0.5 * rounding
    correlation = (vector * centred).sum(dim=-1) / torch.where(uneven, spread, torch.ones_like(spread))
    on_a_side = torch.where(size**0.5 * vector.abs() >= limits.SIDE, indices, torch.iinfo(torch.int64).max)
    first = vector.gather(-1, on_a_side.argmin(dim=-1, keepdim=True))[:, 0]
    ruling = torch.where(uneven & (correlation.abs() >= limits.SIDE), -correlation, first)
    ruling = torch.where(skew.abs() >= limits.SIDE, skew, ruling)
    return torch.where(ruling < 0, -1.0, 1.0).to(vector.dtype)


@dataclass(frozen=True)
class DenseLaplacian:
    """L of B graphs: affinity (B, N, N) with a zero diagonal, degrees (B, N), norm = ‖L‖_∞ (B,)."""

    affinity: Tensor
    degrees: Tensor
    norm: Tensor

    @classmethod
    def of(cls, affinity: Tensor) -> DenseLaplacian:
        """From weights (B, N, N), whose diagonal is ignored and overwritten by zeros."""
        affinity.diagonal(dim1=-2, dim2=-1).zero_()
        sums = affinity.sum(dim=-1)
        return cls(affinity, sums, (sums.abs() + affinity.abs().sum(dim=-1)).amax(dim=-1))

    def apply(self, vectors: Tensor) -> Tensor:
        """L x for vectors (B, N). A sum and not a batched product, whose bits may depend on the number of members."""
        return self.degrees * vectors - (self.affinity * vectors[:, None, :]).sum(dim=-1)

    def take(self, members: Tensor) -> DenseLaplacian:
        """The graphs whose numbers are in ``members`` (b,) int64."""
        return DenseLaplacian(*(field.index_select(0, members) for field in (self.affinity, self.degrees, self.norm)))


@dataclass(frozen=True)
class NormalisedLaplacian:
    """H L_sym H of B graphs, H the reflection that takes D^{1/2} 1 to a multiple of the constant vector: with that in
    its kernel, it is searched like any other L. H = I − 2 w wᵀ with w along the sum of both, which never cancels.

    matrix: L_sym (B, N, N). degrees: in units of the largest (B, N). norm: ‖L_sym‖_∞ (B,). axis: w (B, N).
    scale: D^{-1/2} in the same units (B, N), 1 for rows without edges.
    """

    matrix: Tensor
    degrees: Tensor
    norm: Tensor
    axis: Tensor
    scale: Tensor

    @classmethod
    def of(cls, affinity: Tensor) -> NormalisedLaplacian:
        """From weights (B, N, N) ≥ 0, whose diagonal is ignored. In float64, then rounded once."""
        exact = affinity.double()
        matrix, sums = normalised_laplacian(exact), degrees(exact)
        largest = sums.amax(dim=-1, keepdim=True)
        parts = sums / torch.where(largest > 0, largest, torch.ones_like(largest))
        kernel = torch.where(largest > 0, parts, torch.ones_like(parts)).sqrt()
        kernel /= torch.linalg.vector_norm(kernel, dim=-1, keepdim=True)
        axis = kernel + kernel.shape[-1] ** -0.5
        axis /= torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
        scale = torch.where(parts > 0, parts, torch.ones_like(parts)).rsqrt()
        norm = matrix.abs().sum(dim=-1).amax(dim=-1)
        return cls(*(field.to(affinity.dtype) for field in (matrix, parts, norm, axis, scale)))

    def reflected(self, vectors: Tensor) -> Tensor:
        """H x for vectors (B, N)."""
        return vectors - 2.0 * (self.axis * vectors).sum(dim=-1, keepdim=True) * self.axis

    def apply(self, vectors: Tensor) -> Tensor:
        """H L_sym H x for vectors (B, N)."""
        return self.reflected((self.matrix * self.reflected(vectors)[:, None, :]).sum(dim=-1))

    def take(self, members: Tensor) -> NormalisedLaplacian:
        """The graphs whose numbers are in ``members`` (b,) int64."""
        return NormalisedLaplacian(*(field.index_select(0, members) for field in vars(self).values()))


class FactoredLaplacian:
    """The same L of one graph without ever forming S: L x = d∘x − U(Uᵀx) with unit rows U (N, d), memory O(N·d).

    Here the diagonal of S stays inside both terms (d_i = u_i·Σ_j u_j) and cancels; `degrees` is given without it.
    """

    def __init__(self, units: Tensor) -> None:
        self.units = units
        self._row_sums = torch.mv(units, units.sum(dim=0))
        self.degrees = (self._row_sums - (units * units).sum(dim=-1))[None]
        self.norm = self._norm()

    def _norm(self) -> Tensor:
        """max (|d_i| + Σ_{j≠i} |S_ij|) over some rows, at least 1. The row of the largest |d_i| is among them, so it is
        exact where S ≥ 0, and from below otherwise. At least 1: the cancelled diagonal leaves its rounding behind.
        """
        count = self.units.shape[0]
        spread = torch.arange(0, count, max(1, count // limits.NORM_ROWS), device=self.units.device)
        rows = torch.cat((self.degrees[0].abs().argmax()[None], spread))
        part = self.units.index_select(0, rows)
        others = torch.mm(part, self.units.T).abs().sum(dim=-1) - (part * part).sum(dim=-1)
        return (self.degrees[0].index_select(0, rows).abs() + others).amax().clamp(min=1.0)[None]

    def apply(self, vectors: Tensor) -> Tensor:
        """L x for one vector as (1, N)."""
        vector = vectors[0]
        return (self._row_sums * vector - torch.mv(self.units, torch.mv(self.units.T, vector)))[None]

    def take(self, members: Tensor) -> FactoredLaplacian:  # noqa: ARG002, one graph is all there is
        """The graph itself."""
        return self

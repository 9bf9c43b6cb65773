"""The Fiedler vector of a candidate batch: argmin of vᵀLv over unit vectors v orthogonal to the constant vector.

Differs from GSTDS §3.2 in: the paper takes the eigenvector of the second smallest eigenvalue of L. With negative
cosines L is indefinite and that may be the constant vector itself. The lowest eigenvector *on the complement of the
constant vector* is the same one for S ≥ 0, always says something, and does not change under S → aS + b, a > 0.

How the vector is searched for: `search`. What a result says about itself: `result`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spectral_sampler import graph, limits, ops
from spectral_sampler.errors import argument_error
from spectral_sampler.graph import start_vectors
from spectral_sampler.limits import Status
from spectral_sampler.result import FiedlerResult, completed, divisor, entry_error, marked, refined_error, reported
from spectral_sampler.search import Defect, search, unit
from spectral_sampler.validation import row_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["LAPLACIANS", "FiedlerResult", "Status", "fiedler_of_affinity", "fiedler_rows", "fiedler_vector"]

LAPLACIANS = ("unnormalised", "normalised")

DENSE_LIMIT = 768  # rows; above it S is never formed. Measured: the two cost the same between 512 and 1024 rows
_CHUNK_BYTES = 1 << 22  # of affinities at a time: larger ones leave the cache, smaller ones are all overhead
_ASYMMETRY = 64  # units of rounding of the largest weight by which mirror images may differ
_BASIS_BYTES = 1 << 28  # of Lanczos vectors of one member; then its run restarts from the Ritz vector

Operator = graph.DenseLaplacian | graph.NormalisedLaplacian | graph.FactoredLaplacian


class _Scaled:
    """L / ‖L‖_∞ of B graphs: the `search.Operator` of eager."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.norm = divisor(operator.norm)

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.operator.apply(vectors) / self.norm[:, None]

    def take(self, members: NDArray[np.int64]) -> _Scaled:
        return _Scaled(self.operator.take(torch.as_tensor(members, device=self.norm.device)))


class _Exact:
    """Residuals in float64 of B graphs whose features ``rows(b)`` gives as (N, d): the `search.Exact` of eager."""

    def __init__(self, rows: Callable[[int], Tensor], norm: Tensor, members: NDArray[np.int64]) -> None:
        self.rows, self.norm, self.members = rows, norm, members

    def __call__(self, vectors: Tensor) -> Defect:
        double = unit(vectors.double())
        pairs = zip(self.members, double, strict=True)
        image = torch.stack([graph.exact_product(self.rows(int(member)), vector) for member, vector in pairs])
        image /= self.norm[:, None]
        value = (double * image).sum(dim=-1)
        rest = image - value[:, None] * double
        rest -= rest.mean(dim=-1, keepdim=True)
        length = torch.linalg.vector_norm(rest, dim=-1)
        return Defect(unit(rest).to(vectors.dtype), length.cpu().numpy(), value.cpu().numpy())

    def take(self, members: NDArray[np.int64]) -> _Exact:
        return _Exact(self.rows, self.norm[torch.as_tensor(members, device=self.norm.device)], self.members[members])


def _solve(
    operator: Operator, indices: Tensor, rounding: Tensor, limit: int | None, exact: _Exact | None = None
) -> FiedlerResult:
    """Solve B graphs. ``rounding`` (B,): the rounding error of one weight in units of ‖L‖_∞."""
    matvec, degrees, size = _Scaled(operator), operator.degrees, indices.shape[1]
    starts = start_vectors(indices).to(degrees), start_vectors(indices, limits.PROBE_SALT).to(degrees)
    found = search(
        matvec, starts, rounding.cpu().double().numpy(), exact=exact,
        limit=limit or max(64, _BASIS_BYTES // (size * degrees.element_size())),
        rounds=limits.ROUNDS if limit is None else 1,
    )  # fmt: skip
    steps, gap, remainder = (torch.from_numpy(part).to(degrees.device) for part in found[1:])
    result = reported(
        found.vector, matvec(found.vector), steps + 1, gap, degrees=degrees, norm=operator.norm, indices=indices,
        rounding=rounding,
    )  # fmt: skip
    if isinstance(operator, graph.NormalisedLaplacian):
        return _of_the_walk(operator, result, indices)
    return result if exact is None else result._replace(error=refined_error(result, remainder))


def _of_the_walk(operator: graph.NormalisedLaplacian, result: FiedlerResult, indices: Tensor) -> FiedlerResult:
    """``result``, of H L_sym H, with y = D^{-1/2} H v of unit length for v.

    If θ is the angle of v to the exact one and φ that of y, sin φ ≤ sin θ · max(D^{-1/2}) / ‖D^{-1/2} H v‖: the error
    grows by as much.
    """
    vector = operator.scale * operator.reflected(result.vector)
    length = torch.linalg.vector_norm(vector, dim=-1)
    vector /= length[:, None]
    vector *= graph.canonical_sign(vector, operator.degrees, indices, operator.norm)[:, None]
    error = (result.error * operator.scale.amax(dim=-1) / length).clamp(max=limits.WORST)
    return result._replace(vector=vector, error=error)


def _solve_rows(rows: Callable[[int], Tensor], indices: Tensor, limit: int | None = None) -> FiedlerResult:
    """Solve the members whose features ``rows(b)`` gives as (N, d), as many at a time as `_CHUNK_BYTES` allow."""
    count, size = indices.shape
    step = max(1, _CHUNK_BYTES // (4 * size * size)) if size <= DENSE_LIMIT else 1
    parts = []
    for first in range(0, count, step):
        members = range(first, min(count, first + step))
        # Members one by one: one's units are dropped before the next one's are made, and no product sees a neighbour.
        units = (graph.unit_rows(rows(member)) for member in members)
        operator: Operator
        if size <= DENSE_LIMIT:
            affinity = torch.stack([graph.gram(each) for each in units])
            valid = (affinity.diagonal(dim1=-2, dim2=-1) > 0.5).all(dim=-1)  # a faulty row is zero, and so its square
            operator = graph.DenseLaplacian.of(torch.where(valid[:, None, None], affinity, torch.zeros_like(affinity)))
        else:
            each = next(units)
            valid = (each != 0).any(dim=-1).all()[None]
            operator = graph.FactoredLaplacian(each if valid else torch.zeros_like(each))
        exact = None
        if size >= limits.REFINED and operator.norm.dtype == torch.float32 and limit is None:
            exact = _Exact(rows, divisor(operator.norm).double(), np.asarray(members))
        result = _solve(operator, indices[first : first + step], entry_error(operator.norm), limit, exact)
        parts.append(marked(result, valid))
    return FiedlerResult(*(torch.cat(field) for field in zip(*parts, strict=True)))


@torch.no_grad()
def fiedler_vector(
    features: Any, *, backend: str = "auto", max_matvecs: int | None = None, invalid: str = "raise"
) -> FiedlerResult:
    """Fiedler vectors of the cosine graphs of ``features``, (N, d) or (B, N, d), a tensor or an array, N ≥ 2.

    Args:
        features: float64 is solved in float64, everything else in float32.
        backend: "auto" or a name; see `spectral_sampler.explain`.
        max_matvecs: most steps of one Lanczos run, for eager only; None goes on until convergence. The probe for λ3 is
            a run of its own, so `num_matvecs` is at most twice as large, plus one for the residual.
        invalid: "raise" refuses rows that are zero or not finite, by number; "mark" gives their member a zero vector
            and `Status.INVALID`. The other members have the same bits either way.
    """
    if invalid not in ("raise", "mark"):
        raise argument_error("invalid", '"raise" or "mark"', repr(invalid), "See fiedler_vector's documentation.")
    if max_matvecs is not None and (not isinstance(max_matvecs, int) or max_matvecs < 1):
        raise argument_error("max_matvecs", "None or a whole number ≥ 1", max_matvecs, "None goes on to convergence.")
    if torch.compiler.is_compiling() and max_matvecs is None:
        return FiedlerResult(*torch.ops.spectral_sampler.fiedler_vector(features, backend, invalid))
    tensor = graph.as_features(features).contiguous()  # sums and products round by the strides of what they are given
    members = tensor if tensor.dim() == 3 else tensor[None]
    count, size, width = members.shape
    indices = torch.arange(count * size, device=members.device).reshape(count, size)
    if max_matvecs is not None and ops.requested(backend) not in ("auto", "eager"):
        raise argument_error("max_matvecs", "None for this backend", max_matvecs, 'Pass backend="eager".')
    read = (torch.float16, torch.bfloat16) if members.device.type == "cpu" else (torch.float16,)  # as they are stored
    rows = members if members.dtype in read else graph.working_precision(members)
    rows = rows.reshape(count * size, width)
    module = None if max_matvecs is not None else ops.solver_module(backend, rows, indices)
    with torch.autocast(members.device.type, enabled=False):
        if module is None:
            result = _solve_rows(members.__getitem__, indices, max_matvecs)
        else:
            result = completed(module.solve(rows, indices))
    if invalid == "raise":
        graph.refuse_faulty(members, (result.status & int(Status.INVALID)) != 0)
    return result if tensor.dim() == 3 else FiedlerResult(*(field[0] for field in result))


@torch.no_grad()
def fiedler_rows(
    features: Tensor, indices: Tensor, *, backend: str = "auto", numbers: Tensor | None = None
) -> FiedlerResult:
    """Fiedler vectors of the candidate batches ``indices`` (B, N) int64 into the rows of ``features`` (M, d).

    ``numbers`` (B, N) int64, in the order of ``indices`` within each member, are what the rows are called elsewhere:
    where ``features`` has a copy of the candidates alone, results on a CPU are to the bit those of the rows where they
    were copied from (eager, native). The kernels of GPUs go by ``indices``, and agree to rounding.

    A member with a faulty row gets a zero vector and `Status.INVALID`, and the others the bits they have without it.
    """
    if indices.dim() != 2 or indices.dtype != torch.int64 or indices.shape[0] < 1 or indices.shape[1] < 2:
        got = f"{indices.dtype} {tuple(indices.shape)}"
        raise argument_error("indices", "int64 of shape (B, N) with N ≥ 2", got, "Stack the candidate batches.")
    features = graph.as_features(features)
    if features.dim() != 2:
        raise argument_error("features", "of shape (M, d)", tuple(features.shape), "Pass the whole dataset.")
    if indices.device.type == "cpu":
        row_numbers(indices, len(features))
    if numbers is not None and (numbers.dtype != torch.int64 or numbers.shape != indices.shape):
        got = f"{numbers.dtype} {tuple(numbers.shape)}"
        raise argument_error("numbers", "int64 of the shape of indices", got, "Leave them out, or one for each row.")
    indices = indices.to(features.device).contiguous()  # the start vector has their strides
    module = ops.solver_module(backend, features, indices)
    with torch.autocast(features.device.type, enabled=False):
        if module is not None:
            if numbers is not None and getattr(module, "NUMBERED", False):
                return completed(module.solve(features, indices, numbers=numbers))
            return completed(module.solve(features, indices))
        known = indices if numbers is None else numbers.to(features.device).contiguous()
        return _solve_rows(lambda member: features.index_select(0, indices[member]), known)


@torch.no_grad()
def fiedler_of_affinity(
    affinity: Tensor,
    *,
    laplacian: str = "unnormalised",
    indices: Tensor | None = None,
    max_matvecs: int | None = None,
) -> FiedlerResult:
    """The same for any symmetric weights (N, N) or (B, N, N), which need not be cosines; the diagonal is ignored.

    Args:
        laplacian: "unnormalised", or "normalised" for weights ≥ 0. `FiedlerResult.vector` is then y = D^{-1/2} u of
            unit length, u the lowest eigenvector of L_sym on the complement of its kernel vector D^{1/2} 1: the relaxed
            normalised cut, L y = θ D y with yᵀ D 1 = 0 (Shi and Malik 2000), and not u itself, whose entries the
            degrees distort (von Luxburg 2007, §8). Residual and gap are those of u and L_sym, the error that of y. A
            row without edges is a component of its own: where there is one such row, y is 1 there and 0 elsewhere.
        indices: (N,) or (B, N), by default positions, number the rows for the start vector and the sign.
    """
    if laplacian not in LAPLACIANS:
        raise argument_error("laplacian", f"one of {LAPLACIANS}", repr(laplacian), 'The papers use "unnormalised".')
    weights = graph.working_precision(graph.as_features(affinity)).contiguous()
    if weights.shape[-1] != weights.shape[-2]:
        shape = tuple(weights.shape)
        raise argument_error("affinity", "of shape (N, N) or (B, N, N)", shape, "Pass symmetric weights.")
    members = weights if weights.dim() == 3 else weights[None]
    largest = members.abs().amax(dim=(-1, -2))
    if not torch.isfinite(largest * (2 * members.shape[1])).all():
        got = "NaN, an infinity, or weights whose sums overflow"
        raise argument_error("affinity", "finite", got, "Check how the weights were made, or scale them down.")
    uneven = (members - members.mT).abs().amax(dim=(-1, -2))
    if (uneven > _ASYMMETRY * torch.finfo(weights.dtype).eps * largest).any():
        got = f"entries that differ from their mirror image by {float(uneven.max()):.3g}"
        raise argument_error("affinity", "symmetric", got, "Pass (S + S.mT) / 2.")
    numbers = torch.arange(members.shape[1], device=members.device)
    numbers = numbers if indices is None else torch.as_tensor(indices, device=members.device)
    if numbers.shape not in (members.shape[1:2], members.shape[:2]) or numbers.is_floating_point():
        got = f"{numbers.dtype} {tuple(numbers.shape)}"
        raise argument_error("indices", "whole numbers of shape (N,) or (B, N)", got, "Number the rows of the weights.")
    numbers = numbers.to(torch.int64).expand(members.shape[:2]).contiguous()
    members = members.clone()
    members.diagonal(dim1=-2, dim2=-1).zero_()
    if laplacian == "normalised" and (members < 0).any():
        remedy = "Clamp it at zero: a negative degree has no root."
        raise argument_error("affinity", "non-negative for the normalised Laplacian", float(members.min()), remedy)
    operator = (graph.NormalisedLaplacian if laplacian == "normalised" else graph.DenseLaplacian).of(members)
    rounding = torch.full_like(operator.norm, torch.finfo(weights.dtype).eps)
    with torch.autocast(members.device.type, enabled=False):
        result = _solve(operator, numbers, rounding, max_matvecs)
    return result if weights.dim() == 3 else FiedlerResult(*(field[0] for field in result))


ops.register_solver(fiedler_vector)

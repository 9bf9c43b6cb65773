"""The Fiedler vector of a candidate batch: argmin of vᵀLv over unit vectors v orthogonal to the constant vector.

Differs from GSTDS §3.2 in: the paper takes the eigenvector of the second smallest eigenvalue of L. With negative cosines L is
indefinite and that may be the constant vector itself; the lowest eigenvector *on the complement of the constant vector* is
the same for S ≥ 0, always carries information, and does not change under S → aS + b, a > 0.

Every result brings its evidence: the residual ‖Lv − θv‖₂ / ‖L‖_∞ computed from L itself, and an estimate of the gap to λ3 from
a second, independent Lanczos run kept away from v, because a single start vector never sees a multiple eigenvalue. The
same run finds out when the first one has settled on a higher eigenvector, and then the first one is done again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectral_sampler import ops
from spectral_sampler.errors import argument_error
from spectral_sampler.graph import DenseLaplacian, FactoredLaplacian, faulty_rows, unit_rows, working_precision
from spectral_sampler.lanczos import Lanczos, Tridiagonal

__all__ = ["FiedlerResult", "Status", "canonical_sign", "fiedler_of_affinity", "fiedler_rows", "fiedler_vector", "start_vectors"]

DENSE_LIMIT = 1024  # rows; above it S is never formed. Measured crossover, see benchmarks
STOP = 1.0  # Lanczos stops where the bound on its residual is below this many ulps of ‖L‖_∞
RESIDUAL_LIMIT = 16.0  # converged means: measured residual ≤ this · N · ulp; LAPACK's test suite accepts 60
GAP_LIMIT = 60.0  # degenerate means: relative gap ≤ this · N · ulp
_CHUNK_BYTES = 1 << 25  # of affinities held at a time
_BASIS_BYTES = 1 << 28  # of Lanczos vectors held at a time for one member; then the run restarts from its Ritz vector
_ROUNDS = 4
_SKEW, _CORRELATION, _SIDE = 1e-2, 1e-2, 1e-2  # thresholds of the sign rule

Operator = DenseLaplacian | FactoredLaplacian
Accept = Callable[[Tensor, Tensor, Tensor], Tensor]


class Status(enum.IntFlag):
    """Bits of `FiedlerResult.status`."""

    CONVERGED = 1
    DEGENERATE = 2  # the gap is within rounding: any unit vector of an eigenspace would do, this one is deterministic
    INDEFINITE = 4  # negative cosines made the lowest eigenvalue negative
    INVALID = 8  # some row has no direction; the vector is zero


class FiedlerResult(NamedTuple):
    """One solve, or B of them: every field has the batch shape of the features, `vector` one more axis of N.

    vector: unit, orthogonal to the constant vector, sign as in `canonical_sign`. value: Rayleigh quotient vᵀLv.
    residual: ‖Lv − θv‖₂ / ‖L‖_∞. num_matvecs: products with L, int64. status: int64 bits of `Status`.
    gap: (λ3 − λ2) / ‖L‖_∞, estimated from below; 0 where degenerate, 2 for N = 2, which has no λ3.
    """

    vector: Tensor
    value: Tensor
    residual: Tensor
    num_matvecs: Tensor
    status: Tensor
    gap: Tensor


def start_vectors(indices: Tensor, salt: int = 0) -> Tensor:
    """White noise in [−1, 1), float32 (B, N), a hash of each dataset index counted from its member's lowest one.

    So a batch in another order starts from the same vector in that order, and a member alone starts as it does among others.
    x ^= x>>16; x *= 0x7feb352d; x ^= x>>15; x *= 0x846ca68b; x ^= x>>16 on 32 bits (C. Wellons, lowbias32), then the upper 24.
    """
    word = (indices - indices.amin(dim=-1, keepdim=True) + (1 + salt)) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = ((word ^ (word >> shift)) * factor) & 0xFFFFFFFF
    word = word ^ (word >> 16)
    return (word >> 8).to(torch.float32) * 2.0**-23 - 1.0


def canonical_sign(vector: Tensor, degrees: Tensor, indices: Tensor, norm: Tensor) -> Tensor:
    """±1 for each unit vector (B, N): the small far group is positive, else low degrees, else the lowest dataset index.

    t = √N Σ v³ decides where |t| ≥ 1e-2; else the correlation of v with the degrees (B, N) where it is ≥ 1e-2 and the degrees
    differ by more than rounding of ‖L‖_∞ (B,); else the row of the lowest index (B, N) that is on a side at all, √N |v_i| ≥ 1e-2.
    """
    size = vector.shape[-1]
    skew = size**0.5 * (vector**3).sum(dim=-1)
    centred = degrees - degrees.mean(dim=-1, keepdim=True)
    spread = torch.linalg.vector_norm(centred, dim=-1)
    uneven = spread > RESIDUAL_LIMIT * size * torch.finfo(vector.dtype).eps * norm
    correlation = (vector * centred).sum(dim=-1) / torch.where(uneven, spread, torch.ones_like(spread))
    side = torch.where(size**0.5 * vector.abs() >= _SIDE, indices, torch.iinfo(torch.int64).max)
    first = vector.gather(-1, side.argmin(dim=-1, keepdim=True))[:, 0]
    ruling = torch.where(uneven & (correlation.abs() >= _CORRELATION), -correlation, first)
    ruling = torch.where(skew.abs() >= _SKEW, skew, ruling)
    return torch.where(ruling < 0, -1.0, 1.0).to(vector.dtype)


# --- the lowest eigenpair -------------------------------------------------------------------------------------------------


def _checkpoints(limit: int) -> Iterator[int]:
    """Depths at which convergence is looked at: a fixed list, so that a member never stops by its neighbours' needs."""
    depth = 8
    while depth < limit:
        yield depth
        depth += max(4, depth // 8 * 2 if depth >= 32 else 4)
    yield limit


def _ritz(run: Tridiagonal) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest Ritz value (b,), bound on its residual (b,) and its coefficients (b, k), in float64 on the CPU."""
    alpha, beta = run.alpha.cpu().double(), run.beta.cpu().double()
    unused = torch.arange(alpha.shape[1]) >= run.steps.cpu()[:, None]
    lower = torch.diag_embed(alpha.masked_fill(unused, 4.0))  # above the spectrum of L / ‖L‖_∞, which lies in [−1, 1]
    lower.diagonal(offset=-1, dim1=-2, dim2=-1).copy_(beta[:, :-1])
    values, vectors = torch.linalg.eigh(lower)
    coefficients = vectors[:, :, 0]
    return values[:, 0], (beta[:, -1] * coefficients[:, -1]).abs(), coefficients


class _Ritz(NamedTuple):
    vector: Tensor
    value: Tensor
    bound: Tensor
    steps: Tensor


class _Scaled:
    """L / ‖L‖_∞, so that every threshold is a pure number."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.norm = torch.where(operator.norm > 0, operator.norm, torch.ones_like(operator.norm))

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.operator.apply(vectors) / self.norm[:, None]

    def take(self, members: Tensor) -> _Scaled:
        return _Scaled(self.operator.take(members))


def _descend(matvec: _Scaled, start: Tensor, deflate: Tensor, accept: Accept, limit: int) -> _Ritz:
    """The lowest Ritz pair of each member once ``accept(value, bound, members)`` holds, or after ``limit`` steps."""
    count, size = start.shape
    result = _Ritz(start.clone(), *(torch.zeros(count, dtype=torch.float64) for _ in range(2)), torch.zeros(count, dtype=torch.int64))
    members = torch.arange(count)
    run = Lanczos(matvec, start, deflate=deflate, tolerance=torch.finfo(start.dtype).eps)
    for depth in _checkpoints(min(limit, run.limit)):
        state = run.extend(depth)
        value, bound, coefficients = _ritz(state)
        done = accept(value, bound, members) | (depth >= min(limit, run.limit))
        if not done.any():
            continue
        which = done.nonzero()[:, 0]
        there, finished = which.to(start.device), members[which]
        mixed = torch.matmul(coefficients[which].to(start)[:, None, :], state.basis.index_select(0, there))[:, 0]
        result.vector[finished.to(start.device)] = mixed
        result.value[finished], result.bound[finished] = value[which], bound[which]
        result.steps[finished] = state.steps.cpu().long()[which]
        if done.all():
            break
        members, rest = members[~done], (~done).nonzero()[:, 0].to(start.device)
        matvec = matvec.take(rest)
        run.take(matvec, lambda array, rest=rest: array.index_select(0, rest))  # type: ignore[misc]
    return result


def _unit_complement(vectors: Tensor) -> Tensor:
    vectors = vectors - vectors.mean(dim=-1, keepdim=True)
    vectors = vectors - vectors.mean(dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, torch.ones_like(length))


def _lowest(operator: Operator, indices: Tensor, rounding: Tensor, max_matvecs: int | None) -> FiedlerResult:
    """Solve B members. ``rounding`` (B,): one ulp of the entries of S over ‖L‖_∞, the unit in which a gap can be told."""
    matvec = _Scaled(operator)
    degrees = operator.degrees
    count, size = degrees.shape
    ulp = torch.finfo(degrees.dtype).eps
    limit = min(size - 1, max(64, _BASIS_BYTES // (size * degrees.element_size())))
    if max_matvecs is not None:
        limit = min(limit, max_matvecs)
    constant = degrees.new_full((count, 1, size), size**-0.5)
    found = _descend(matvec, start_vectors(indices).to(degrees.dtype), constant, lambda _v, bound, _m: bound <= STOP * ulp, limit)
    vector, matvecs = _unit_complement(found.vector), found.steps + 1
    value = found.value
    gap = torch.full((count,), 2.0, dtype=torch.float64)
    smallest = GAP_LIMIT * size * rounding.cpu().double()
    if size > 2:
        def apart(other: Tensor, bound: Tensor, members: Tensor) -> Tensor:
            distance = other - value[members]
            return (bound <= 0.25 * distance) | (bound <= 0.25 * smallest[members]) | (distance + bound < 0)

        away = torch.cat((constant, vector[:, None, :]), dim=1)
        probe = _descend(matvec, start_vectors(indices, salt=0x5EED).to(degrees.dtype), away, apart, limit)
        matvecs = matvecs + probe.steps
        gap = (probe.value - probe.bound - value).clamp(min=0.0)
    image = matvec(vector)
    value = (vector * image).sum(dim=-1)
    residual = torch.linalg.vector_norm(image - value[:, None] * vector, dim=-1)
    vector = vector * canonical_sign(vector, degrees, indices, matvec.norm)[:, None]
    gap = torch.where(gap <= smallest, 0.0, gap).to(vector)
    status = torch.where(residual <= RESIDUAL_LIMIT * size * ulp, int(Status.CONVERGED), 0)
    status = status | torch.where(gap == 0, int(Status.DEGENERATE), 0)
    status = status | torch.where(value < -RESIDUAL_LIMIT * size * rounding, int(Status.INDEFINITE), 0)
    return FiedlerResult(vector, value * operator.norm, residual, matvecs.to(vector.device), status, gap)


# --- from features ----------------------------------------------------------------------------------------------------------


def _dense(rows: Callable[[int], Tensor], members: range, size: int) -> tuple[Operator, Tensor]:
    """The graphs of some members, and which of them are valid; an invalid one becomes a graph without edges."""
    affinity: Tensor | None = None
    for position, member in enumerate(members):
        units = unit_rows(rows(member))
        if affinity is None:
            affinity = units.new_empty((len(members), size, size))
        torch.mm(units, units.T, out=affinity[position])
    assert affinity is not None
    valid = (affinity.diagonal(dim1=-2, dim2=-1) > 0.5).all(dim=-1)  # a faulty row has no length
    affinity.mul_(valid[:, None, None])
    return DenseLaplacian(affinity), valid


def _factored(rows: Callable[[int], Tensor], member: int) -> tuple[Operator, Tensor]:
    units = unit_rows(rows(member))[None]
    valid = (units != 0).any(dim=-1).all(dim=-1)
    return FactoredLaplacian(units.mul_(valid[:, None, None])), valid


def _solve_eager(rows: Callable[[int], Tensor], indices: Tensor, max_matvecs: int | None = None) -> FiedlerResult:
    """Solve the members whose features ``rows(b)`` gives (N, d), a bounded number of bytes at a time."""
    count, size = indices.shape
    step = max(1, _CHUNK_BYTES // (4 * size * size)) if size <= DENSE_LIMIT else 1
    parts = []
    for first in range(0, count, step):
        members = range(first, min(count, first + step))
        operator, valid = _dense(rows, members, size) if size <= DENSE_LIMIT else _factored(rows, first)
        norm = operator.norm
        # An entry of S carries an error of one ulp however small the others are: a norm below 1 does not refine it.
        rounding = torch.finfo(norm.dtype).eps * norm.clamp(min=1.0) / torch.where(norm > 0, norm, torch.ones_like(norm))
        result = _lowest(operator, indices[first : first + step], rounding, max_matvecs)
        status = torch.where(valid, result.status, int(Status.INVALID))
        blank = [torch.where(valid, field, torch.zeros_like(field)) for field in result[1:4]]
        vector = torch.where(valid[:, None], result.vector, torch.zeros_like(result.vector))
        parts.append(FiedlerResult(vector, blank[0], blank[1], blank[2], status, torch.where(valid, result.gap, 0.0)))
    return FiedlerResult(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _as_tensor(features: Any) -> Tensor:
    """A real dense tensor of 2 or 3 axes, none of them empty."""
    remedy = "Pass real numbers of shape (N, d) or (B, N, d)."
    if not isinstance(features, Tensor):
        array = np.asarray(features)
        if array.dtype.kind not in "biuf":
            raise argument_error("features", "numbers", f"dtype {array.dtype}", remedy)
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
        features = torch.from_numpy(array)
    if features.is_complex() or features.layout != torch.strided:
        raise argument_error("features", "real and dense", f"{features.dtype}, {features.layout}", remedy)
    if features.dim() not in (2, 3) or 0 in features.shape:
        raise argument_error("features", "of shape (N, d) or (B, N, d), nothing empty", tuple(features.shape), remedy)
    if features.shape[-2] < 2:
        raise argument_error("features", "at least 2 rows for each graph", features.shape[-2], "One row has no neighbours to rank it by.")
    return features.detach()


def _refuse_faulty(features: Tensor, status: Tensor) -> None:
    invalid = (status & int(Status.INVALID)).nonzero()[:, 0].tolist()
    if invalid:
        rows = faulty_rows(features[invalid[0]]).nonzero()[:, 0].tolist()
        where = f"rows {rows[:10]}{'…' if len(rows) > 10 else ''} of member {invalid[0]}"
        others = f" (and {len(invalid) - 1} more members)" if len(invalid) > 1 else ""
        remedy = 'Remove these rows, or pass invalid="mark".'
        raise argument_error("features", "finite with a non-zero row for each sample", where + others, remedy)


@torch.no_grad()
def fiedler_vector(
    features: Any, *, backend: str = "auto", max_matvecs: int | None = None, invalid: str = "raise"
) -> FiedlerResult:
    """Fiedler vectors of the cosine graphs of ``features``, (N, d) or (B, N, d), a tensor or an array, N ≥ 2.

    Args:
        features: float64 is solved in float64, everything else in float32.
        backend: see `spectral_sampler.explain`.
        max_matvecs: most Lanczos steps for a member; None goes on until it has converged. Eager only.
        invalid: "raise" refuses rows that are zero or not finite, by number; "mark" gives their member a zero vector and
            `Status.INVALID`. The other members have the same bits either way.
    """
    if invalid not in ("raise", "mark"):
        raise argument_error("invalid", '"raise" or "mark"', repr(invalid), "See fiedler_vector's documentation.")
    if max_matvecs is not None and max_matvecs < 1:
        raise argument_error("max_matvecs", "None or at least 1", max_matvecs, "None goes on until convergence.")
    tensor = _as_tensor(features)
    members = tensor if tensor.dim() == 3 else tensor[None]
    count, size, width = members.shape
    indices = torch.arange(count * size, device=members.device).reshape(count, size)
    module = None if max_matvecs is not None else ops.solver_module(backend, members, indices)
    with torch.autocast(members.device.type, enabled=False):
        if module is None:
            result = _solve_eager(members.__getitem__, indices, max_matvecs)
        else:
            result = FiedlerResult(*module.solve(working_precision(members).reshape(count * size, width), indices))
    if invalid == "raise":
        _refuse_faulty(members, result.status)
    return result if tensor.dim() == 3 else FiedlerResult(*(field[0] for field in result))


@torch.no_grad()
def fiedler_rows(features: Tensor, indices: Tensor, *, backend: str = "auto") -> FiedlerResult:
    """Fiedler vectors of the candidate batches ``indices`` (B, N) int64 into the rows of ``features`` (M, d).

    A member with a faulty row gets a zero vector and `Status.INVALID`, and the others the bits they have without it.
    """
    if indices.dim() != 2 or indices.shape[1] < 2 or indices.dtype != torch.int64:
        value = f"{indices.dtype} {tuple(indices.shape)}"
        raise argument_error("indices", "int64 of shape (B, N) with N ≥ 2", value, "Stack the candidate batches.")
    module = ops.solver_module(backend, features, indices)
    with torch.autocast(features.device.type, enabled=False):
        if module is None:
            return _solve_eager(lambda member: features.index_select(0, indices[member]), indices)
        return FiedlerResult(*module.solve(features, indices))


@torch.no_grad()
def fiedler_of_affinity(affinity: Tensor, *, max_matvecs: int | None = None) -> FiedlerResult:
    """The same for any symmetric weights (N, N) or (B, N, N), which need not be cosines; the diagonal is ignored."""
    tensor = working_precision(affinity.detach())
    if tensor.dim() not in (2, 3) or tensor.shape[-1] != tensor.shape[-2] or tensor.shape[-1] < 2:
        raise argument_error("affinity", "of shape (N, N) or (B, N, N), N ≥ 2", tuple(tensor.shape), "Pass symmetric weights.")
    if not torch.isfinite(tensor).all():
        raise argument_error("affinity", "finite", "NaN or an infinity", "Check how the weights were made.")
    members = tensor.clone() if tensor.dim() == 3 else tensor[None].clone()
    count, size, _ = members.shape
    indices = torch.arange(size, device=members.device).expand(count, size)
    operator = DenseLaplacian(members)
    rounding = torch.full_like(operator.norm, torch.finfo(operator.norm.dtype).eps)
    result = _lowest(operator, indices, rounding, max_matvecs)
    return result if tensor.dim() == 3 else FiedlerResult(*(field[0] for field in result))

"""The Fiedler vector of a candidate batch: argmin of vᵀLv over unit vectors v orthogonal to the constant vector.

Differs from GSTDS §3.2 in: the paper takes the eigenvector of the second smallest eigenvalue of L. With negative
cosines L is indefinite and that may be the constant vector itself. The lowest eigenvector *on the complement of the
constant vector* is the same one for S ≥ 0, always says something, and does not change under S → aS + b, a > 0.

Every result brings its evidence: the residual ‖Lv − θv‖₂ / ‖L‖_∞ computed from L itself, and an estimate of the gap to
λ3 from a second Lanczos run with another start vector, kept away from v, because one start vector never sees a multiple
eigenvalue. That run also notices when the first one settled on a higher eigenvector, which is then taken up again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectral_sampler import graph, ops
from spectral_sampler.errors import argument_error
from spectral_sampler.graph import (
    GAP_LIMIT,
    PROBE_SALT,
    RESIDUAL_LIMIT,
    STOP,
    Status,
    canonical_sign,
    start_vectors,
)
from spectral_sampler.lanczos import Lanczos, Tridiagonal, checkpoints

__all__ = ["FiedlerResult", "Status", "fiedler_of_affinity", "fiedler_rows", "fiedler_vector"]

DENSE_LIMIT = 768  # rows; above it S is never formed. Measured: the two cost the same between 512 and 1024 rows
_CHUNK_BYTES = 1 << 22  # of affinities at a time: larger ones leave the cache, smaller ones are all overhead
_BASIS_BYTES = 1 << 28  # of Lanczos vectors of one member; then its run restarts from the Ritz vector
_ROUNDS = 4
_ABOVE = 4.0  # above the spectrum of L / ‖L‖_∞, which lies in [−1, 1]

Operator = graph.DenseLaplacian | graph.FactoredLaplacian


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


class _Scaled:
    """L / ‖L‖_∞ as a function of vectors (B, N), so that every threshold is a pure number."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.norm = torch.where(operator.norm > 0, operator.norm, torch.ones_like(operator.norm))

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.operator.apply(vectors) / self.norm[:, None]

    def take(self, members: Tensor) -> _Scaled:
        return _Scaled(self.operator.take(members))


class _Ritz(NamedTuple):
    """Lowest Ritz pair of each member: vector (b, N) on the device; the rest (b,) on the CPU, in float64."""

    vector: Tensor
    value: Tensor
    bound: Tensor  # on the residual, from the recurrence
    second: Tensor  # second Ritz value, never below λ3
    steps: Tensor


Accept = Callable[[Tensor, Tensor, Tensor], Tensor]  # (value, bound, members) -> bool (b,)


def _eigen(run: Tridiagonal) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of T, in float64 on the CPU. Its order is filled up to a multiple of 4: then every
    member's matrix is aligned alike in memory, on which the last bits of LAPACK may depend.
    """
    alpha, beta = run.alpha.cpu().double(), run.beta.cpu().double()
    count, depth = alpha.shape
    unused = torch.arange(depth) >= run.steps.cpu()[:, None]
    matrix = torch.zeros(count, depth + -depth % 4, depth + -depth % 4, dtype=torch.float64)
    matrix.diagonal(dim1=-2, dim2=-1).fill_(_ABOVE)[:, :depth] = alpha.masked_fill(unused, _ABOVE)
    matrix.diagonal(offset=-1, dim1=-2, dim2=-1)[:, : depth - 1] = beta[:, :-1]  # eigh reads the lower triangle
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors[:, :depth]


def _lowest_ritz(matvec: _Scaled, start: Tensor, deflate: Tensor, accept: Accept, limit: int) -> _Ritz:
    """Run Lanczos on each member until ``accept`` holds, or its space is exhausted, or ``limit`` steps are taken."""
    count = start.shape[0]
    run = Lanczos(matvec, start, deflate=deflate, tolerance=torch.finfo(start.dtype).eps)
    blank = torch.zeros(count, dtype=torch.float64)
    found = _Ritz(torch.zeros_like(start), blank.clone(), blank.clone(), blank.clone(), blank.long())
    members = torch.arange(count)
    for depth in checkpoints(limit := min(limit, run.limit)):
        state = run.extend(depth)
        values, vectors = _eigen(state)
        bound = (state.beta[:, -1].cpu().double() * vectors[:, -1, 0]).abs()
        done = accept(values[:, 0], bound, members) | (depth == limit)
        which, rest = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
        if which.numel():
            basis = state.basis.index_select(0, which.to(start.device))
            mixed = (basis * vectors[which, :, 0].to(start)[:, :, None]).sum(dim=1)
            scalars = (values[which, 0], bound[which], values[which, 1], state.steps.cpu()[which].long())
            for target, part in zip(found, (mixed, *scalars), strict=True):
                target[members[which].to(target.device)] = part
            if not rest.numel():
                break
            members, rest = members[rest], rest.to(start.device)
            matvec = matvec.take(rest)
            run.take(matvec, rest)
    return found


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (B, N) without their constant part, of length 1."""
    for _ in range(2):
        vectors = vectors - vectors.mean(dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, torch.ones_like(length))


def _search(matvec: _Scaled, starts: Tensor, resolution: Tensor, limit: int | None, rounds: int) -> tuple[Tensor, ...]:
    """Unit vectors (b, N), steps taken (b,) and relative gaps (b,), from starts (2, b, N) for v and for the probe.

    resolution (b,): the gap that rounding can still tell from none.
    """
    _, count, size = starts.shape
    ulp = torch.finfo(starts.dtype).eps
    depth = limit or max(64, _BASIS_BYTES // (size * starts.element_size()))
    constant = starts.new_full((count, 1, size), size**-0.5)
    main = _lowest_ritz(matvec, starts[0], constant, lambda _value, bound, _members: bound <= STOP * ulp, depth)
    vector, steps = _unit(main.vector), main.steps
    if size == 2:
        return vector, steps, torch.full((count,), 2.0, dtype=torch.float64)

    def settled(value: Tensor, bound: Tensor, members: Tensor) -> Tensor:
        distance = value - main.value[members]
        return (bound <= 0.25 * torch.maximum(distance, resolution[members])) | (distance + bound < 0)

    probe = _lowest_ritz(matvec, starts[1], torch.cat((constant, vector[:, None]), dim=1), settled, depth)
    steps = steps + probe.steps
    gap = (torch.minimum(probe.value - probe.bound, main.second) - main.value).clamp(0.0, 2.0)
    again = (probe.value < main.value - size * ulp) | (main.bound > STOP * ulp)
    which = again.nonzero()[:, 0]
    if limit is None and rounds > 1 and which.numel():
        there = which.to(starts.device)
        starts = torch.stack((vector + probe.vector, starts[1])).index_select(1, there)
        better = _search(matvec.take(there), starts, resolution[which], limit, rounds - 1)
        vector[there], gap[which] = better[0], better[2]
        steps = steps.index_add(0, which, better[1])
    return vector, steps, gap


def _solve(operator: Operator, indices: Tensor, entry_error: Tensor, limit: int | None) -> FiedlerResult:
    """Solve B graphs. ``entry_error`` (B,): the rounding error of one weight in units of ‖L‖_∞."""
    matvec, degrees, size = _Scaled(operator), operator.degrees, indices.shape[1]
    starts = torch.stack((start_vectors(indices), start_vectors(indices, PROBE_SALT))).to(degrees)
    resolution = GAP_LIMIT * size * entry_error
    vector, steps, gap = _search(matvec, starts, resolution.cpu().double(), limit, _ROUNDS)
    image = matvec(vector)
    value = (vector * image).sum(dim=-1)
    residual = torch.linalg.vector_norm(image - value[:, None] * vector, dim=-1)
    gap = gap.to(degrees)
    gap = torch.where(gap <= resolution, torch.zeros_like(gap), gap)
    bits = {
        Status.CONVERGED: residual <= RESIDUAL_LIMIT * size * entry_error,
        Status.DEGENERATE: gap == 0,
        Status.INDEFINITE: value < -RESIDUAL_LIMIT * size * entry_error,
    }
    status = torch.stack([holds * int(bit) for bit, holds in bits.items()]).sum(dim=0)
    vector = vector * canonical_sign(vector, degrees, indices, operator.norm)[:, None]
    return FiedlerResult(vector, value * matvec.norm, residual, (steps + 1).to(status.device), status, gap)


def _solve_rows(rows: Callable[[int], Tensor], indices: Tensor, limit: int | None = None) -> FiedlerResult:
    """Solve the members whose features ``rows(b)`` gives as (N, d), as many at a time as `_CHUNK_BYTES` allow."""
    count, size = indices.shape
    step = max(1, _CHUNK_BYTES // (4 * size * size)) if size <= DENSE_LIMIT else 1
    parts = []
    for first in range(0, count, step):
        # Members one by one: one's units are dropped before the next one's are made, and no product sees a neighbour.
        units = (graph.unit_rows(rows(member)) for member in range(first, min(count, first + step)))
        operator: Operator
        if size <= DENSE_LIMIT:
            affinity = torch.stack([graph.gram(each) for each in units])
            valid = (affinity.diagonal(dim1=-2, dim2=-1) > 0.5).all(dim=-1)  # a faulty row is zero, and so its square
            operator = graph.DenseLaplacian.of(torch.where(valid[:, None, None], affinity, torch.zeros_like(affinity)))
        else:
            each = next(units)
            valid = (each != 0).any(dim=-1).all()[None]
            operator = graph.FactoredLaplacian(each if valid else torch.zeros_like(each))
        # A cosine carries an error of one ulp however small the others are: a norm below 1 does not refine it.
        norm = torch.where(operator.norm > 0, operator.norm, torch.ones_like(operator.norm))
        entry_error = torch.finfo(norm.dtype).eps / norm.clamp(max=1.0)
        result = _solve(operator, indices[first : first + step], entry_error, limit)
        blank = FiedlerResult(*(torch.zeros_like(field) for field in result))
        blank.status.fill_(int(Status.INVALID))
        keep = (valid[:, None], *[valid] * 5)
        parts.append([torch.where(*each) for each in zip(keep, result, blank, strict=True)])
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
    if max_matvecs is not None and max_matvecs < 1:
        raise argument_error("max_matvecs", "None or at least 1", max_matvecs, "None goes on until convergence.")
    if torch.compiler.is_compiling() and max_matvecs is None:
        return FiedlerResult(*torch.ops.spectral_sampler.fiedler_vector(features, backend, invalid))
    tensor = graph.as_features(features)
    members = tensor if tensor.dim() == 3 else tensor[None]
    count, size, width = members.shape
    indices = torch.arange(count * size, device=members.device).reshape(count, size)
    if max_matvecs is not None and ops.requested(backend) not in ("auto", "eager"):
        raise argument_error("max_matvecs", "None for this backend", max_matvecs, 'Pass backend="eager".')
    rows = members if members.dtype == torch.float16 else graph.working_precision(members)
    rows = rows.reshape(count * size, width)
    module = None if max_matvecs is not None else ops.solver_module(backend, rows, indices)
    with torch.autocast(members.device.type, enabled=False):
        if module is None:
            result = _solve_rows(members.__getitem__, indices, max_matvecs)
        else:
            result = FiedlerResult(*module.solve(rows, indices))
    if invalid == "raise":
        graph.refuse_faulty(members, (result.status & int(Status.INVALID)) != 0)
    return result if tensor.dim() == 3 else FiedlerResult(*(field[0] for field in result))


@torch.no_grad()
def fiedler_rows(features: Tensor, indices: Tensor, *, backend: str = "auto") -> FiedlerResult:
    """Fiedler vectors of the candidate batches ``indices`` (B, N) int64 into the rows of ``features`` (M, d).

    A member with a faulty row gets a zero vector and `Status.INVALID`, and the others the bits they have without it.
    """
    if indices.dim() != 2 or indices.dtype != torch.int64 or indices.shape[0] < 1 or indices.shape[1] < 2:
        got = f"{indices.dtype} {tuple(indices.shape)}"
        raise argument_error("indices", "int64 of shape (B, N) with N ≥ 2", got, "Stack the candidate batches.")
    features = graph.as_features(features)
    if features.dim() != 2:
        raise argument_error("features", "of shape (M, d)", tuple(features.shape), "Pass the whole dataset.")
    if indices.device.type == "cpu" and not 0 <= int(indices.min()) <= int(indices.max()) < len(features):
        got = f"{int(indices.min())} to {int(indices.max())}"
        raise argument_error("indices", f"between 0 and {len(features) - 1}", got, "They count rows of the features.")
    indices = indices.to(features.device)
    module = ops.solver_module(backend, features, indices)
    with torch.autocast(features.device.type, enabled=False):
        if module is not None:
            return FiedlerResult(*module.solve(features, indices))
        return _solve_rows(lambda member: features.index_select(0, indices[member]), indices)


@torch.no_grad()
def fiedler_of_affinity(
    affinity: Tensor, *, indices: Tensor | None = None, max_matvecs: int | None = None
) -> FiedlerResult:
    """The same for any symmetric weights (N, N) or (B, N, N), which need not be cosines; the diagonal is ignored.
    ``indices`` (B, N), by default positions, number the rows for the start vector and the sign."""
    weights = graph.working_precision(graph.as_features(affinity))
    if weights.shape[-1] != weights.shape[-2]:
        shape = tuple(weights.shape)
        raise argument_error("affinity", "of shape (N, N) or (B, N, N)", shape, "Pass symmetric weights.")
    if not torch.isfinite(weights).all():
        raise argument_error("affinity", "finite", "NaN or an infinity", "Check how the weights were made.")
    members = weights if weights.dim() == 3 else weights[None]
    operator = graph.DenseLaplacian.of(members.clone())
    indices = torch.arange(members.shape[1]).expand(members.shape[:2]) if indices is None else indices
    indices = indices.to(members.device)
    entry_error = torch.full_like(operator.norm, torch.finfo(weights.dtype).eps)
    result = _solve(operator, indices, entry_error, max_matvecs)
    return result if weights.dim() == 3 else FiedlerResult(*(field[0] for field in result))


ops.register_solver(fiedler_vector)

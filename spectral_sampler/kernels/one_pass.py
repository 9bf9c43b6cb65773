"""Lanczos on a graph too large to form S, one reading of the features a step.

With the images Y = Uᵀ Q of the basis kept beside it, orthogonalising r = L q against Q turns z = Uᵀ r into the image
of the new vector by linearity, so the step that made r also makes what the next one needs:

    r' = r − Qᵀ h,   z' = z − Yᵀ h,   q_next = r' / β,   y_next = z' / β

An error of Y is multiplied by h / β, and α / β alone is 20 where the spectrum is narrow and far from 0 (positive
features): five steps would lose every digit. Each step therefore works on L − cI, with c the last α, which changes no
Lanczos vector and leaves h / β near 1. Where β itself is small, and at every look at convergence, y is made anew, so
the host reads one number a step. The residual is computed with a fresh y.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from spectral_sampler.graph import canonical_sign, start_vectors, unit_rows

__all__ = ["OnePass", "solve_rows"]

_LOOK = 8  # steps between looks at convergence
_SMALL = 0.05  # a β, in units of ‖L‖_∞, that would magnify the error of y
_SHALLOWEST = 64  # Lanczos vectors before a restart, at least
_BASIS_BYTES = 1 << 28  # of Lanczos vectors and their images
_RESTARTS, _AGAIN = 8, 4
_NORM_ROWS = 16
_CONVERGED, _DEGENERATE, _INDEFINITE, _INVALID = 1, 2, 4, 8  # fiedler.Status
_RESIDUAL_LIMIT, _GAP_LIMIT = 16.0, 8.0  # fiedler's
_CHUNK = 4096


class OnePass(Protocol):
    """What a device offers for one graph: indices (N,) into features (M, d)."""

    def __init__(self, features: Tensor, indices: Tensor) -> None: ...
    def faulty(self) -> Tensor:
        """Is any row without direction?"""

    def mix(self, q: Tensor) -> Tensor:
        """Uᵀ q, (d,)."""

    def step(self, degrees: Tensor, q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """r = degrees∘q − U y and z = Uᵀ r."""


class _Operator:
    """L / ‖L‖_∞ of one graph. The diagonal of S stays inside both terms and cancels."""

    def __init__(self, graph: OnePass, features: Tensor, indices: Tensor) -> None:
        self.graph = graph
        ones = torch.ones(indices.shape, dtype=torch.float32, device=features.device)
        zeros = torch.zeros_like(ones)
        total = graph.mix(ones)
        self.row_sums = -graph.step(zeros, zeros, total)[0]  # r = −U y with y = Uᵀ 1
        self.degrees = self.row_sums - 1.0
        self.size = self._size(features, indices)
        self.shrink = 1.0 / max(self.size, 1e-30)

    def _size(self, features: Tensor, indices: Tensor) -> float:
        """‖L‖_∞ over some rows, the one of the largest degree among them, as `graph.FactoredLaplacian` does."""
        count = indices.shape[0]
        spread = torch.arange(0, count, max(1, count // _NORM_ROWS), device=indices.device)
        rows = torch.cat((self.degrees.abs().argmax()[None], spread))
        part = unit_rows(features.index_select(0, indices[rows]))
        sums = part.new_zeros(rows.shape[0])
        for first in range(0, count, _CHUNK):
            others = unit_rows(features.index_select(0, indices[first : first + _CHUNK]))
            sums += torch.matmul(part, others.T).abs().sum(dim=1)
        return float((self.degrees[rows].abs() + sums - (part * part).sum(dim=1)).amax())

    def step(self, q: Tensor, y: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """(L / ‖L‖_∞ − shift) q and its image."""
        r, z = self.graph.step(self.row_sums - shift * self.size, q, y)
        return r * self.shrink, z * self.shrink


class _Pair(NamedTuple):
    value: float
    vector: Tensor
    bound: float
    second: float  # second Ritz value, never below λ3
    steps: int
    exhausted: bool


Accept = Callable[[float, float], bool]


def _ritz(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, float, int, bool]:
    """Of T up to the first breakdown: values, lowest vector, bound on its residual, rows used, broken down."""
    ulp = torch.finfo(torch.float32).eps
    broken = (beta <= ulp).nonzero()
    used = int(broken[0]) + 1 if len(broken) else len(beta)
    lower = torch.diag_embed(alpha[:used])
    lower.diagonal(-1).copy_(beta[: used - 1])
    values, vectors = torch.linalg.eigh(lower)
    coefficients = vectors[:, 0]
    return values, coefficients, float(beta[used - 1] * coefficients[-1].abs()), used, bool(len(broken))


def _orthogonalise(r: Tensor, z: Tensor, rows: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first = rows @ r
    r = r - first @ rows
    second = rows @ r
    products = first + second
    return r - second @ rows, z - products @ images, products


def _unit(x: Tensor, locked: Tensor) -> Tensor:
    for _ in range(2):
        x = x - (locked @ x) @ locked
    length = torch.linalg.vector_norm(x)
    return x / torch.where(length > 0, length, torch.ones_like(length))


def _descend(operator: _Operator, start: Tensor, locked: Tensor, accept: Accept, deepest: int) -> _Pair:
    """The lowest Ritz pair on the complement of the locked rows (m, N), once it is accepted or the basis is full."""
    fixed, size = locked.shape
    deepest = min(deepest, size - fixed)
    rows = locked.new_zeros((fixed + deepest, size))
    q = _unit(start, locked)
    y = operator.graph.mix(q)
    images = y.new_zeros((fixed + deepest, y.shape[0]))
    rows[:fixed] = locked
    for number, row in enumerate(locked):
        images[number] = operator.graph.mix(row)
    coefficients = torch.zeros((2, deepest), dtype=torch.float32, device=start.device)
    shift, ulp = coefficients.new_zeros(()), torch.finfo(torch.float32).eps
    for depth in range(1, deepest + 1):
        place = fixed + depth
        rows[place - 1], images[place - 1] = q, y
        r, z, products = _orthogonalise(*operator.step(q, y, shift), rows[:place], images[:place])
        beta = torch.linalg.vector_norm(r)
        shift = shift + products[-1]
        coefficients[0, depth - 1], coefficients[1, depth - 1] = shift, beta
        q, y = r / beta.clamp(min=1e-30), z / beta.clamp(min=1e-30)
        length = float(beta)
        if length > ulp and depth % _LOOK and depth < deepest:
            y = y if length > _SMALL else operator.graph.mix(q)
            continue
        alpha, betas = coefficients[:, :depth].cpu().double()
        values, weights, bound, used, broken = _ritz(alpha, betas)
        done = broken or depth == size - fixed
        if done or accept(float(values[0]), bound) or depth == deepest:
            break
        y = operator.graph.mix(q)
    vector = _unit(weights.to(rows) @ rows[fixed : fixed + used], locked)
    second = float(values[1]) if used > 1 else 4.0  # above the spectrum of L / ‖L‖_∞
    return _Pair(float(values[0]), vector, bound, second, used, done)


def _search(operator: _Operator, start: Tensor, locked: Tensor, accept: Accept, deepest: int) -> _Pair:
    """`_descend`, again from its own Ritz vector where the basis was full before it was accepted."""
    steps = 0
    for _ in range(_RESTARTS):
        pair = _descend(operator, start, locked, accept, deepest)
        steps += pair.steps
        if pair.exhausted or accept(pair.value, pair.bound):
            break
        start = pair.vector
    return pair._replace(steps=steps)


def _solve_one(operator: _Operator, indices: Tensor) -> tuple[Tensor, ...]:
    size = indices.shape[0]
    ulp = torch.finfo(torch.float32).eps
    rounding = ulp * max(operator.size, 1.0) * operator.shrink if operator.size > 0 else ulp
    smallest = _GAP_LIMIT * size * rounding
    constant = torch.full((1, size), size**-0.5, dtype=torch.float32, device=operator.degrees.device)
    deepest = max(_SHALLOWEST, _BASIS_BYTES // (4 * size))
    start, steps = start_vectors(indices[None])[0], 0
    for _ in range(_AGAIN):
        found = _search(operator, start, constant, lambda _value, bound: bound <= ulp, deepest)
        value = found.value

        def apart(other: float, bound: float, value: float = value) -> bool:
            return bound <= 0.25 * max(other - value, smallest) or other + bound < value

        away = torch.cat((constant, found.vector[None]))
        probe = _search(operator, start_vectors(indices[None], salt=0x5EED)[0], away, apart, deepest)
        steps += found.steps + probe.steps
        if probe.value + probe.bound >= value:
            break
        start = probe.vector  # the first search had settled on a higher eigenvector
    vector = found.vector
    image, _ = operator.step(vector, operator.graph.mix(vector), torch.zeros_like(operator.degrees[0]))
    quotient = torch.dot(vector, image)
    residual = torch.linalg.vector_norm(image - quotient * vector)
    size_of = torch.full_like(quotient, operator.size)
    vector = vector * canonical_sign(vector[None], operator.degrees[None], indices[None], size_of[None])[0]
    gap = max(min(probe.value - probe.bound, found.second) - value, 0.0)
    gap = 0.0 if gap <= smallest else gap
    # The diagonal of S, 1, cancels inside the operator: where ‖L‖_∞ is smaller, no residual of one ulp of it exists.
    status = _CONVERGED * (residual <= _RESIDUAL_LIMIT * size * rounding).long()
    status = status + (_DEGENERATE if gap == 0.0 else 0) + _INDEFINITE * (quotient < -_RESIDUAL_LIMIT * size * rounding)
    matvecs, told = torch.full_like(status, steps + 1), torch.full_like(quotient, gap)
    return vector, quotient * operator.size, residual, matvecs, status, told


def solve_rows(features: Tensor, indices: Tensor, device_graph: type[OnePass]) -> tuple[Tensor, ...]:
    """Solve indices (B, N), N ≥ 3, into features (M, d), member after member; the outputs are those of a backend's
    ``solve``.
    """
    count, size = indices.shape
    vector = torch.zeros((count, size), dtype=torch.float32, device=features.device)
    value, residual, gap = vector.new_zeros(3, count).unbind()
    matvecs = torch.zeros(count, dtype=torch.int64, device=features.device)
    status = torch.full_like(matvecs, _INVALID)
    for member in range(count):
        graph = device_graph(features, indices[member])
        if graph.faulty():
            continue
        fields = _solve_one(_Operator(graph, features, indices[member]), indices[member])
        for target, field in zip((vector, value, residual, matvecs, status, gap), fields, strict=True):
            target[member] = field
    return vector, value, residual, matvecs, status, gap

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

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from spectral_sampler import limits
from spectral_sampler.graph import start_vectors, unit_rows
from spectral_sampler.result import FiedlerResult, entry_error, marked, reported
from spectral_sampler.search import Accept, Ritz, search

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["OnePass", "solve_rows"]

_LOOK = 8  # steps between looks at convergence
_SMALL = 0.05  # a β, in units of ‖L‖_∞, that would magnify the error of y
_SHALLOWEST = 64  # Lanczos vectors before a restart, at least
_BASIS_BYTES = 1 << 28  # of Lanczos vectors and their images
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
        spread = torch.arange(0, count, max(1, count // limits.NORM_ROWS), device=indices.device)
        rows = torch.cat((self.degrees.abs().argmax()[None], spread))
        part = unit_rows(features.index_select(0, indices[rows]))
        sums = part.new_zeros(rows.shape[0])
        for first in range(0, count, _CHUNK):
            others = unit_rows(features.index_select(0, indices[first : first + _CHUNK]))
            sums += torch.matmul(part, others.T).abs().sum(dim=1)
        return float((self.degrees[rows].abs() + sums - (part * part).sum(dim=1)).amax())

    def __call__(self, vectors: Tensor) -> Tensor:
        """L x / ‖L‖_∞ for x (1, N)."""
        image, _ = self.step(vectors[0], self.graph.mix(vectors[0]), torch.zeros_like(vectors[0, 0]))
        return image[None]

    def take(self, members: NDArray[np.int64]) -> _Operator:  # noqa: ARG002, one graph is all there is
        """The graph itself."""
        return self

    def step(self, q: Tensor, y: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """(L / ‖L‖_∞ − shift) q and its image."""
        r, z = self.graph.step(self.row_sums - shift * self.size, q, y)
        return r * self.shrink, z * self.shrink


def _ritz(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, float, int, bool]:
    """Of T up to the first breakdown: values, lowest vector, bound on its residual, rows used, broken down."""
    broken = (beta <= limits.ULP).nonzero()
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


class _Cycle(NamedTuple):
    """Lanczos until accepted, or the basis is full."""

    values: Tensor
    vector: Tensor
    bound: float
    steps: int
    exhausted: bool


def _cycle(
    operator: _Operator, start: Tensor, locked: Tensor, accept: Callable[[float, float], bool], deepest: int
) -> _Cycle:
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
    shift = coefficients.new_zeros(())
    for depth in range(1, deepest + 1):
        place = fixed + depth
        rows[place - 1], images[place - 1] = q, y
        r, z, products = _orthogonalise(*operator.step(q, y, shift), rows[:place], images[:place])
        beta = torch.linalg.vector_norm(r)
        shift = shift + products[-1]
        coefficients[0, depth - 1], coefficients[1, depth - 1] = shift, beta
        q, y = r / beta.clamp(min=1e-30), z / beta.clamp(min=1e-30)
        length = float(beta)
        if length > limits.ULP and depth % _LOOK and depth < deepest:
            y = y if length > _SMALL else operator.graph.mix(q)
            continue
        alpha, betas = coefficients[:, :depth].cpu().double()
        values, weights, bound, used, broken = _ritz(alpha, betas)
        done = broken or depth == size - fixed
        if done or accept(float(values[0]), bound) or depth == deepest:
            break
        y = operator.graph.mix(q)
    return _Cycle(values, _unit(weights.to(rows) @ rows[fixed : fixed + used], locked), bound, used, done)


def _lowest_ritz(
    operator: _Operator, start: Tensor, locked: Tensor, accept: Accept, limit: int, _: None = None
) -> Ritz:
    """`search.lowest_ritz` of the one graph: cycles, each from the Ritz vector of the one before, until accepted."""
    first, steps = np.zeros(1, dtype=np.int64), 0
    deepest, rows, vector = max(_SHALLOWEST, _BASIS_BYTES // (4 * start.shape[1])), locked[0], start[0]

    def accepted(value: float, bound: float) -> bool:
        return bool(accept(np.array([value]), np.array([bound]), first)[0])

    while True:
        cycle = _cycle(operator, vector, rows, accepted, min(deepest, limit - steps))
        steps, vector = steps + cycle.steps, cycle.vector
        if cycle.exhausted or accepted(float(cycle.values[0]), cycle.bound) or steps >= limit:
            break
    next_value = float(cycle.values[1]) if cycle.steps > 1 else limits.ABOVE
    value, bound, second = (np.array([number]) for number in (float(cycle.values[0]), cycle.bound, next_value))
    return Ritz(vector[None], value, bound, second, np.array([steps]))


def _solve_one(operator: _Operator, indices: Tensor) -> FiedlerResult:
    starts = start_vectors(indices), start_vectors(indices, limits.PROBE_SALT)
    norm = torch.tensor([operator.size], device=indices.device)
    rounding = entry_error(norm)
    found = search(operator, starts, rounding.cpu().double().numpy(), limit=limits.MOST_STEPS, descend=_lowest_ritz)
    steps, gap = (torch.from_numpy(part).to(indices.device) for part in (found.steps, found.gap))
    return reported(
        found.vector, operator(found.vector), steps + 1, gap, degrees=operator.degrees[None], norm=norm,
        indices=indices, rounding=rounding,
    )  # fmt: skip


def solve_rows(features: Tensor, indices: Tensor, device_graph: type[OnePass]) -> FiedlerResult:
    """Solve indices (B, N), N ≥ 3, into features (M, d), member after member."""
    members = []
    for own in indices:
        graph = device_graph(features, own)
        valid = not graph.faulty()
        # A member with a faulty row is solved like the others, on rows of which that one is zero, and then marked.
        result = _solve_one(_Operator(graph, features, own), own[None])
        members.append(marked(result, torch.tensor([valid], device=features.device)))
    return FiedlerResult(*(torch.cat(field) for field in zip(*members, strict=True)))

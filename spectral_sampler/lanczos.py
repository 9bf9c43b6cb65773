"""Batched Lanczos tridiagonalisation with full two-pass reorthogonalisation, written once against the array API.

    A Qᵀ = Qᵀ T + r eᵀ,   Q Qᵀ = I,   T = tridiagonal(β_1…β_{k−1}; α_1…α_k)                (Golub and Van Loan §10.1)

Runs on torch, NumPy, CuPy and array-api-strict. It knows no graph: a symmetric operator A comes as a function of
vectors (B, N). Vectors to stay away from (`deflate`) are removed from *every* new Lanczos vector after its recurrence.
Removing them from the start vector alone is not enough: rounding feeds them, and they take over after 8 to 20 steps.
Orthogonalisation is classical Gram-Schmidt, twice (Giraud, Langou, Rozložník and van den Eshof 2005), by products and
sums and not by batched matrix products, whose last bits depend on the number of members in most libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Array", "Lanczos", "Tridiagonal", "array_namespace", "checkpoints", "placed", "take_rows"]
__all__ += ["tridiagonalise"]

Array = Any  # an array of any library that follows the array API, or of torch
Matvec = Callable[[Array], Array]


class Tridiagonal(NamedTuple):
    """k steps of the recurrence for B members; a member that broke down after s < k steps has zeros from there on.

    alpha: (B, k) diagonal of T. beta: (B, k), beta[:, j] couples steps j and j + 1, and beta[:, k−1] = ‖remainder‖.
    basis: (B, k, N), rows Q. remainder: (B, N), the vector r above. steps: (B,), steps taken by each member.
    """

    alpha: Array
    beta: Array
    basis: Array
    remainder: Array
    steps: Array


def array_namespace(array: Array) -> Any:
    """The module whose functions work on ``array``: what it names itself, else the library its type comes from."""
    named = getattr(array, "__array_namespace__", None)
    if named is not None:
        return named()
    return sys.modules[type(array).__module__.partition(".")[0]]  # torch, and NumPy before 2.0


def _place(like: Array) -> dict[str, Any]:
    """Where new arrays go; NumPy takes no device before 2.0, CuPy none at all."""
    anywhere = array_namespace(like).__name__ in {"numpy", "cupy"}
    return {} if anywhere else {"device": like.device}


def placed(numbers: NDArray[Any], like: Array) -> Array:
    """Numbers of the host as an array of the library and on the device of ``like``."""
    return array_namespace(like).asarray(numbers, **_place(like))


def take_rows(array: Array, members: NDArray[np.int64]) -> Array:
    """The rows of ``array`` with these numbers, in this order."""
    if isinstance(array, np.ndarray):
        return array[members]
    places = placed(members, array)
    of_torch = getattr(array, "index_select", None)
    return array_namespace(array).take(array, places, axis=0) if of_torch is None else of_torch(0, places)


def _zeros(xp: Any, shape: tuple[int, ...], like: Array) -> Array:
    return xp.zeros(shape, dtype=like.dtype, **_place(like))


class Lanczos:
    """The recurrence as a state that can be extended, so that convergence can be looked at in between.

    Args:
        matvec: A x for x (B, N), row by row.
        start: (B, N) start vectors, of any length, not changed.
        deflate: (B, m, N) orthonormal rows to stay orthogonal to, which must be eigenvectors of A.
        tolerance: a remainder no longer than this is a breakdown: an invariant subspace has been found, and this
            member, and no other, stops with zeros.
    """

    def __init__(self, matvec: Matvec, start: Array, *, deflate: Array | None = None, tolerance: float = 0.0) -> None:
        self.xp = array_namespace(start)
        self.matvec = matvec
        self.tolerance = tolerance
        self.depth = 0
        self.deflated = 0 if deflate is None else int(deflate.shape[1])
        self.limit = int(start.shape[1]) - self.deflated  # more orthonormal vectors do not exist
        members, size = start.shape
        self._rows = _zeros(self.xp, (members, self.deflated + min(self.limit, 32), size), start)
        if deflate is not None:
            self._rows[:, : self.deflated, :] = deflate
        self._alpha: list[Array] = []
        self._beta: list[Array] = []
        self._remainder, _ = self._orthogonalise(start)
        self._length = self._norm(self._remainder)
        self.steps = _zeros(self.xp, (members,), start)

    def _norm(self, vectors: Array) -> Array:
        return self.xp.sqrt(self.xp.sum(vectors * vectors, axis=-1))

    def _orthogonalise(self, vectors: Array) -> tuple[Array, Array]:
        """Vectors (B, N) without their parts along the rows so far, and the length of the part along the last row."""
        rows = self._rows[:, : self.deflated + self.depth, :]
        along = 0.0
        if rows.shape[1]:
            for _ in range(2):
                parts = self.xp.sum(rows * vectors[:, None, :], axis=-1)
                vectors = vectors - self.xp.sum(rows * parts[:, :, None], axis=1)
                along = along + parts[:, -1]
        return vectors, along

    def _grow(self) -> None:
        members, capacity, size = self._rows.shape
        if self.deflated + self.depth == capacity:
            rows = _zeros(self.xp, (members, self.deflated + min(self.limit, 2 * capacity), size), self._rows)
            rows[:, :capacity, :] = self._rows
            self._rows = rows

    def _step(self) -> None:
        xp = self.xp
        self._grow()
        running = self._length > 0
        vector = self._remainder / xp.where(running, self._length, xp.ones_like(self._length))[:, None]
        self._rows[:, self.deflated + self.depth, :] = vector
        self.depth += 1
        self.steps = self.steps + xp.where(running, xp.ones_like(self.steps), xp.zeros_like(self.steps))
        remainder, alpha = self._orthogonalise(self.matvec(vector))
        length = self._norm(remainder)
        running = running & (length > self.tolerance)
        self._length = xp.where(running, length, xp.zeros_like(length))
        self._remainder = xp.where(running[:, None], remainder, xp.zeros_like(remainder))
        self._alpha.append(alpha)
        self._beta.append(self._length)

    def extend(self, depth: int) -> Tridiagonal:
        """Go on until ``depth`` steps, or as many as the space has, have been taken."""
        while self.depth < min(depth, self.limit):
            self._step()
        basis = self._rows[:, self.deflated : self.deflated + self.depth, :]
        alpha, beta = self.xp.stack(self._alpha, axis=1), self.xp.stack(self._beta, axis=1)
        return Tridiagonal(alpha, beta, basis, self._remainder, self.steps)

    def take(self, matvec: Matvec, members: NDArray[np.int64]) -> None:
        """Go on with the members numbered ``members`` (b,) alone; ``matvec`` is that of the smaller batch."""
        self.matvec = matvec
        self._rows, self._remainder = take_rows(self._rows, members), take_rows(self._remainder, members)
        self._alpha, self._beta = ([take_rows(part, members) for part in parts] for parts in (self._alpha, self._beta))
        self._length, self.steps = take_rows(self._length, members), take_rows(self.steps, members)


def checkpoints(limit: int) -> Iterator[int]:
    """Depths at which convergence is looked at: a fixed list, so that no member stops by its neighbours' needs."""
    depth = 8
    while depth < limit:
        yield depth
        depth += 4 if depth < 32 else depth // 32 * 8
    yield limit


def tridiagonalise(
    matvec: Matvec, start: Array, depth: int, *, deflate: Array | None = None, tolerance: float = 0.0
) -> Tridiagonal:
    """``depth`` Lanczos steps from ``start`` (B, N); the arguments are those of `Lanczos`."""
    return Lanczos(matvec, start, deflate=deflate, tolerance=tolerance).extend(depth)

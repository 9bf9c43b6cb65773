"""The one-pass step for graphs too large to form S: r = d∘q − U y and z = Uᵀ r from one reading of U, where y = Uᵀ q.

    w_i = u_i·y,   r_i = d_i q_i − w_i,   z = Σ_i r_i u_i

Two products with U would read it twice. Here each row is read once: while it is in registers it gives w_i, hence r_i,
hence its part of z, and the next y follows from z by linearity (`one_pass_fiedler` in the backend). Every program
sums a fixed range of rows in a fixed order and writes its part of z; the parts are added in a fixed order by a second
launch, so the bits do not depend on scheduling. No atomics.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201  (a Triton function's arguments have no Python types)

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from spectral_sampler.kernels.triton_large import launch_scale
from spectral_sampler.kernels.triton_small import aligned, columns, row_pointers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ROWS", "OnePassGraph", "add_parts", "one_pass"]

_PROGRAMS = 256  # parts of z: two for each multiprocessor of the largest chips, and few enough to add quickly
# Rows of U that a program holds at a time, by the padded width: at most 16384 floats, which fit in its registers. One
# choice for a width, whatever N, so that every pair that can be launched is also proved.
ROWS = {128: 32, 256: 32, 512: 32, 1024: 16, 2048: 8, 4096: 4, 8192: 2}
_BLOCK = 128  # numbers of z that one program adds


# Why some arguments are not specialised: see `triton_small.solve_small`. q may be a row of a matrix.
@triton.jit(do_not_specialize=["d", "stride", "N", "per_program"],
            do_not_specialize_on_alignment=["features", "indices", "degrees", "q", "y", "r"])  # fmt: skip
def one_pass(features, indices, scales, inverses, degrees, q, y, r, parts,
             d: tl.int32, stride: tl.int64, N: tl.int32, per_program: tl.int32,
             RT: tl.constexpr, DP: tl.constexpr, MODE: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """Rows of one program, RT at a time. scales, inverses: see `scale_rows`; u_i = row · scale · inverse.

    MODE 0: r and parts of z as above. MODE 1: parts of Uᵀ q only (r is not written; y and degrees are not read).
    """
    program = tl.program_id(0)
    column = tl.arange(0, DP)
    wide = column < columns(d, ALIGNED)
    z = tl.zeros((DP,), dtype=tl.float32)
    if MODE == 0:
        mixed = tl.load(y + column, mask=wide, other=0.0)
    for step in range(0, per_program, RT):
        row = program * per_program + step + tl.arange(0, RT)
        inside = (row < N) & (step + tl.arange(0, RT) < per_program)
        index = tl.load(indices + row, mask=inside, other=0)
        pointers = row_pointers(features, index, stride, ALIGNED)
        block = tl.load(pointers[:, None] + column[None, :], mask=inside[:, None] & wide[None, :], other=0.0).to(
            tl.float32
        )
        scale = tl.load(scales + row, mask=inside, other=0.0)
        inverse = tl.load(inverses + row, mask=inside, other=0.0)
        units = block * scale[:, None] * inverse[:, None]
        weight = tl.load(q + row, mask=inside, other=0.0)
        if MODE == 0:
            weight = tl.load(degrees + row, mask=inside, other=0.0) * weight - tl.sum(units * mixed[None, :], axis=1)
            tl.store(r + row, weight, mask=inside)
        z += tl.sum(units * weight[:, None], axis=0)
    tl.store(parts + program.to(tl.int64) * DP + column, z)


@triton.jit(do_not_specialize=["d", "count", "padded"])
def add_parts(parts, z, d: tl.int32, count: tl.int32, padded: tl.int32, BD: tl.constexpr):
    """z = Σ parts, ``padded`` numbers each, in the order of the programs that wrote them."""
    column = tl.program_id(0) * BD + tl.arange(0, BD)
    total = tl.zeros((BD,), dtype=tl.float32)
    pointers = parts + column
    for _ in range(count):
        total += tl.load(pointers, mask=column < d, other=0.0)
        pointers += padded
    tl.store(z + column, total, mask=column < d)


class OnePassGraph:
    """The graph of one large candidate batch: indices (N,) into features (M, d), on the features' device.

    Work space: 256 parts of z (d floats) and a few vectors of N floats; U is never copied.
    """

    def __init__(self, features: Tensor, indices: Tensor) -> None:
        self.features, self.indices = features, indices
        self.count, self.width = indices.shape[0], features.shape[1]
        self._padded = max(min(ROWS), triton.next_power_of_2(self.width))
        self._per_program = -(-self.count // _PROGRAMS)
        programs = -(-self.count // self._per_program)
        self._parts = features.new_empty((programs, self._padded), dtype=torch.float32)
        self._scales, self._inverses = (field[0, : self.count] for field in launch_scale(features, indices[None], 64))

    def faulty(self) -> Tensor:
        """Is any row without direction? (,) bool."""
        return (self._inverses == 0).any()

    def _launch(self, degrees: Tensor, q: Tensor, y: Tensor, r: Tensor, mode: int) -> Tensor:
        one_pass[(self._parts.shape[0],)](
            self.features, self.indices, self._scales, self._inverses, degrees, q, y, r, self._parts,
            self.width, self.features.stride(0), self.count, self._per_program,
            RT=ROWS[self._padded], DP=self._padded, MODE=mode, ALIGNED=aligned(self.features), num_warps=8,
            maxnreg=255)  # fmt: skip
        z = q.new_empty(self.width)
        add_parts[(-(-self.width // _BLOCK),)](
            self._parts, z, self.width, self._parts.shape[0], self._padded, BD=_BLOCK, num_warps=4)  # fmt: skip
        return z

    def mix(self, q: Tensor) -> Tensor:
        """Uᵀ q, (d,)."""
        return self._launch(q, q, q, q, 1)

    def step(self, degrees: Tensor, q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """r = degrees∘q − U y (N,) and z = Uᵀ r (d,), for y = Uᵀ q."""
        r = torch.empty_like(q)
        return r, self._launch(degrees, q, y, r, 0)

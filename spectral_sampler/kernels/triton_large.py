"""Candidate batches of 129 to 1024 nodes in three launches: scale the rows, form S, solve with the basis in registers.

S (B, NP, NP) goes through global memory (and mostly stays in L2), but never within one launch: the launch that writes
it has ended before the launch that reads it begins, which is the only ordering assumed. One fused launch would need a
barrier to order a program's own global writes and reads; that holds on today's GPUs and could not be shown here.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202  (a Triton function's arguments have no Python types)

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from spectral_sampler.kernels.triton_lanczos import SCRATCH, canonical_sign, solve_member
from spectral_sampler.kernels.triton_small import (
    CHECK,
    REGISTERS,
    accumulate,
    aligned,
    columns,
    product_precision,
    row_pointers,
    row_scale,
    scratch_of,
    store_result,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CHUNK_BYTES",
    "GRAM_TILE",
    "LARGE",
    "SCALE_ROWS",
    "WARPS",
    "Large",
    "gram_tiles",
    "launch_gram",
    "launch_large",
    "launch_scale",
    "padded_size",
    "scale_rows",
    "solve_large",
]


class Large(NamedTuple):
    """How the solver of one padded size is compiled: basis rows, and rows of S at a time."""

    KP: int
    TILE: int


# The basis takes a quarter of the register file, so larger graphs restart from their Ritz vector after fewer steps.
LARGE = {256: Large(64, 16), 512: Large(32, 4), 1024: Large(16, 8)}
WARPS = 8
CHUNK_BYTES = 1 << 28  # of S held at a time
GRAM_TILE = 64  # its side; the padded size is a multiple of it
_DEPTH, _STAGES = 32, 4  # of a Gram tile
SCALE_ROWS = 16
_NARROW = 16  # depth of a tile of fp32, or where rows are read number by number: at 32 those spill on sm_80


# Why some arguments are not specialised: see `triton_small.solve_small`.
@triton.jit(do_not_specialize=["d", "stride", "N", "padded"], do_not_specialize_on_alignment=["features", "indices"])
def scale_rows(features, indices, scales, inverses, d: tl.int32, stride: tl.int64, N: tl.int32, padded: tl.int32,
               ROWS: tl.constexpr, BD: tl.constexpr, SCALED: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """For each node a power of two s and 1 / |s x|, both (B, NP); the second is 0 for padding and for rows without
    direction.
    """
    member = tl.program_id(0).to(tl.int64)
    node = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BD)
    inside = node < N
    d = columns(d, ALIGNED)
    index = tl.load(indices + member * N + node, mask=inside, other=0)
    pointers = row_pointers(features, index, stride, ALIGNED)
    scale = tl.full((ROWS,), 1.0, dtype=tl.float32)
    if SCALED:
        scale = row_scale(pointers, inside, d, ROWS, BD)
    square = tl.zeros((ROWS,), dtype=tl.float32)
    for first in range(0, d, BD):
        mask = inside[:, None] & (first + column < d)[None, :]
        block = (
            tl.load(pointers[:, None] + (first + column)[None, :], mask=mask, other=0.0).to(tl.float32) * scale[:, None]
        )
        square += tl.sum(block * block, axis=1)
    sound = (square > 0.0) & (square < float("inf"))  # a NaN fails both
    tl.store(scales + member * padded + node, scale)
    tl.store(inverses + member * padded + node, tl.where(sound, 1.0 / tl.sqrt_rn(tl.where(sound, square, 1.0)), 0.0))


@triton.jit
def _rows(features, indices, scales, member, node, stride, N, NP: tl.constexpr, ALIGNED: tl.constexpr):
    index = tl.load(indices + member * N + node, mask=node < N, other=0)
    return row_pointers(features, index, stride, ALIGNED), tl.load(scales + member * NP + node)


@triton.jit
def _block(pointers, scale, node, first, d, N, BD: tl.constexpr, SCALED: tl.constexpr):
    column = first + tl.arange(0, BD)
    block = tl.load(pointers[:, None] + column[None, :], mask=(node < N)[:, None] & (column < d)[None, :], other=0.0)
    if SCALED:
        block = block * scale[:, None]
    return block


@triton.jit(do_not_specialize=["d", "stride", "N"], do_not_specialize_on_alignment=["features", "indices"])
def gram_tiles(features, indices, scales, inverses, affinities, d: tl.int32, stride: tl.int64, N: tl.int32,
               NP: tl.constexpr, T: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr, SCALED: tl.constexpr,
               STAGES: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """One T × T tile of S on or below the diagonal, and its mirror image. Entries of rows without direction are
    zero.
    """
    member = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1)
    # pair = i(i+1)/2 + j with j ≤ i; the correction repairs the square root's rounding.
    i = ((tl.sqrt_rn(8.0 * pair + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = i + tl.where((i + 1) * (i + 2) // 2 <= pair, 1, 0) - tl.where(i * (i + 1) // 2 > pair, 1, 0)
    j = pair - i * (i + 1) // 2
    row = i * T + tl.arange(0, T)
    column = j * T + tl.arange(0, T)
    d = columns(d, ALIGNED)
    left, left_scale = _rows(features, indices, scales, member, row, stride, N, NP, ALIGNED)
    right, right_scale = _rows(features, indices, scales, member, column, stride, N, NP, ALIGNED)
    gram = tl.zeros((T, T), dtype=tl.float32)
    for first in tl.range(0, d, BD, num_stages=STAGES):
        a = _block(left, left_scale, row, first, d, N, BD, SCALED)
        b = _block(right, right_scale, column, first, d, N, BD, SCALED)
        gram = accumulate(gram, a, b, PRECISION)
    inverse = tl.load(inverses + member * NP + row)[:, None]
    other = tl.load(inverses + member * NP + column)[None, :]
    keep = (inverse > 0.0) & (other > 0.0) & (row[:, None] != column[None, :])
    affinity = tl.where(keep, gram * inverse * other, 0.0)
    base = affinities + member * NP * NP
    tl.store(base + row[:, None] * NP + column[None, :], affinity)
    if i != j:
        tl.store(base + column[:, None] * NP + row[None, :], tl.trans(affinity))


@triton.jit
def _sums(affinity, node, NP: tl.constexpr, TILE: tl.constexpr):
    """Column sums of S and of |S|, which are its row sums."""
    degree = tl.zeros((NP,), dtype=tl.float32)
    absolute = tl.zeros((NP,), dtype=tl.float32)
    for first in range(0, NP, TILE):
        row = first + tl.arange(0, TILE)
        tile = tl.load(affinity + row[:, None] * NP + node[None, :])
        degree += tl.sum(tile, axis=0)
        absolute += tl.sum(tl.abs(tile), axis=0)
    return degree, absolute


@triton.jit(do_not_specialize=["N", "most"], do_not_specialize_on_alignment=["indices"])
def solve_large(indices, inverses, affinities, scratch, vectors, values, residuals, matvecs, statuses, gaps, errors,
                N: tl.int32, most: tl.int32,
                NP: tl.constexpr, KP: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
                CHECK: tl.constexpr):  # fmt: skip
    """The Fiedler pair of one member from its S, read TILE rows at a time."""
    member = tl.program_id(0).to(tl.int64)
    node = tl.arange(0, NP)
    inside = node < N
    index = tl.load(indices + member * N + node, mask=inside, other=0)
    refused = tl.max(tl.where(inside & (tl.load(inverses + member * NP + node) == 0.0), 1, 0), axis=0)
    affinity = affinities + member * NP * NP
    degree, absolute = _sums(affinity, node, NP, TILE)
    size = tl.max(tl.abs(degree) + absolute, axis=0)
    vector, value, residual, used, gap, unit = solve_member(
        affinity, degree, size, index, inside, node, scratch + member * KP * SCRATCH, N,
        tl.where(refused == 0, most, 1), NP, KP, TILE, ACROSS=False, WIDTH=WIDTH, CHECK=CHECK)  # fmt: skip
    vector = canonical_sign(vector, degree, size, index, inside, N)
    store_result(vectors, values, residuals, matvecs, statuses, gaps, errors, member, node, inside, N, refused,
                 vector, value, size, residual, used, gap, unit)  # fmt: skip


def launch_scale(features: Tensor, indices: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """`scale_rows` for indices (B, N): powers of two and inverse lengths, both (B, N rounded up to ``multiple``)."""
    count, size = indices.shape
    padded = -(-size // multiple) * multiple
    scales = features.new_empty((count, padded), dtype=torch.float32)
    inverses = torch.empty_like(scales)
    scale_rows[(count, padded // SCALE_ROWS)](
        features, indices, scales, inverses, features.shape[1], features.stride(0), size, padded,
        ROWS=SCALE_ROWS, BD=128, SCALED=features.dtype != torch.float16, ALIGNED=aligned(features),
        num_warps=4)  # fmt: skip
    return scales, inverses


def padded_size(size: int) -> int:
    """Rows of S for a graph of ``size``: a multiple of GRAM_TILE, beyond 256 a power of 2, so that kernels are few."""
    return -(-size // GRAM_TILE) * GRAM_TILE if size <= 256 else triton.next_power_of_2(size)


def _depth(features: Tensor) -> int:
    """Columns that a Gram tile takes at a time."""
    return _DEPTH if aligned(features) and features.dtype == torch.float16 else _NARROW


def launch_gram(features: Tensor, indices: Tensor, padded: int, precision: str) -> tuple[Tensor, Tensor]:
    """S (B, P, P) of indices (B, N) and 1 / |x| (B, P), 0 for padding and for rows without direction; P = ``padded``, a
    multiple of GRAM_TILE. Two launches. S is symmetric, with zeros on its diagonal and in the padding.
    """
    count, size = indices.shape
    scales, inverses = launch_scale(features, indices, padded)
    affinities = features.new_empty((count, padded, padded), dtype=torch.float32)
    tiles, stages = padded // GRAM_TILE, _STAGES if aligned(features) else 2
    gram_tiles[(count, tiles * (tiles + 1) // 2)](
        features, indices, scales, inverses, affinities, features.shape[1], features.stride(0), size, NP=padded,
        T=GRAM_TILE, BD=_depth(features), PRECISION=product_precision(features, precision),
        SCALED=features.dtype != torch.float16, STAGES=stages, ALIGNED=aligned(features), num_warps=4,
        num_stages=stages)  # fmt: skip
    return affinities, inverses


def launch_large(features: Tensor, indices: Tensor, outputs: tuple[Tensor, ...], precision: str, most: int) -> None:
    """Solve indices (B, N), 128 < N ≤ 1024, into `fiedler.FiedlerResult`'s fields."""
    size = indices.shape[1]
    padded = max(256, triton.next_power_of_2(size))
    shape = LARGE[padded]
    step = max(1, CHUNK_BYTES // (4 * padded * padded))
    for first in range(0, indices.shape[0], step):
        part = indices[first : first + step]
        affinities, inverses = launch_gram(features, part, padded, precision)
        solve_large[(part.shape[0],)](
            part, inverses, affinities, scratch_of(part, shape.KP), *(field[first : first + step] for field in outputs),
            size, most, NP=padded, KP=shape.KP, TILE=shape.TILE, WIDTH=256, CHECK=CHECK, num_warps=WARPS,
            maxnreg=REGISTERS)  # fmt: skip

"""One Triton program for each candidate batch of up to 128 nodes: indices go in, Fiedler scores come out, in one
launch.

    gather rows → scale → Gram (tl.dot) → S, degrees, ‖L‖_∞ → Lanczos with S and the basis in registers → tridiagonal
    eigenproblem → Ritz vector, residual → probe of λ₃ → sign, status

Neither S nor a gathered copy of the features touches device memory.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202  (a Triton function's arguments have no Python types)

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from spectral_sampler.kernels.triton_lanczos import SCRATCH, canonical_sign, report, solve_member

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CHECK",
    "REGISTERS",
    "SMALL",
    "Small",
    "accumulate",
    "aligned",
    "columns",
    "launch_small",
    "product_precision",
    "row_pointers",
    "row_scale",
    "scratch_of",
    "small_shape",
    "solve_small",
    "store_result",
]


class Small(NamedTuple):
    """How one padded size is compiled: warps, basis rows, shifts tried at a time, columns of the features at a time."""

    warps: int
    KP: int
    WIDTH: int
    BD: int = 32
    STAGES: int = 5


REGISTERS = 255  # a thread: said outright, because ptxas otherwise spills to fit one more program
CHECK = 8  # Lanczos steps between looks at convergence
SMALL = {16: Small(1, 16, 128), 32: Small(2, 32, 128), 64: Small(4, 64, 128), 128: Small(8, 64, 256)}
# Of fp32 features at N = 128: at a depth of 32 all spill somewhere, and the Gram product without tensor cores takes
# registers that 64 basis rows would need on sm_100.
SINGLE_128 = Small(8, 64, 256, BD=16)
IEEE_128 = SINGLE_128._replace(KP=32)


@triton.jit
def columns(d, ALIGNED: tl.constexpr):
    """d, and where it is a multiple of 16 the compiler is told so: it then masks whole vectors of 16 bytes."""
    if ALIGNED:
        d = d // 16 * 16
    return d


@triton.jit
def row_pointers(features, index, stride, ALIGNED: tl.constexpr):
    """Where rows begin; `aligned` says whether the compiler may read 16 bytes at a time from there."""
    pointers = features + index * stride
    if ALIGNED:
        pointers = tl.multiple_of(pointers, 16)
    return pointers


@triton.jit
def row_scale(pointers, inside, d, NP: tl.constexpr, BD: tl.constexpr):
    """A power of two for each row that brings its largest entry near 1, so that squares neither overflow nor vanish.

    A power of two changes no digit. Entries up to 2¹²⁸ are brought below 4, subnormal ones to at least 2⁻²³.
    """
    column = tl.arange(0, BD)
    largest = tl.zeros((NP,), dtype=tl.float32)
    for first in range(0, d, BD):
        mask = inside[:, None] & (first + column < d)[None, :]
        block = tl.load(pointers[:, None] + (first + column)[None, :], mask=mask, other=0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(block).to(tl.float32), axis=1))
    exponent = largest.to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(254 - exponent, 1), 253)
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def _high(x):
    """x rounded to tf32. Truncated instead, what is left out of a sum of products would all have one sign."""
    return ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def accumulate(gram, a, b, PRECISION: tl.constexpr):
    """gram + a bᵀ with fp32 sums. "tf32x3" splits each fp32 number into two tf32 halves and leaves out the product of
    the lows.

    Tensor cores cut off what an addition shifts out. Along all columns that takes 1e-5 from every sum of positive
    products (measured on sm_90: 92 ulp at d = 2048), so each block has sums of its own, which are added with rounding.
    The fma is an addition that Triton does not turn into a dot with an accumulator again.

    The halves are written out here: Triton's own "tf32x3" keeps both of both operands alive and spills at 128 × 128 on
    sm_80.
    """
    if PRECISION == "ieee":
        return tl.dot(a, tl.trans(b), gram, input_precision="ieee")
    part = tl.zeros_like(gram)
    if a.dtype == tl.float16:
        part = tl.dot(a, tl.trans(b), part)  # products of fp16 numbers are exact in fp32
    elif PRECISION == "bf16":
        part = tl.dot(a.to(tl.bfloat16), tl.trans(b.to(tl.bfloat16)), part)
    elif PRECISION == "tf32x3":
        high = _high(a)
        other = _high(b)
        part = tl.dot(high, tl.trans(b - other), part, input_precision="tf32")
        part = tl.dot(a - high, tl.trans(other), part, input_precision="tf32")
        part = tl.dot(high, tl.trans(other), part, input_precision="tf32")
    else:
        part = tl.dot(a, tl.trans(b), part, input_precision=PRECISION)
    return tl.fma(part, 1.0, gram)


@triton.jit
def store_result(vectors, values, residuals, matvecs, statuses, gaps, errors, member, node, inside, N, refused,
                 vector, value, size, residual, used, gap, unit):  # fmt: skip
    """Write one member's result from what `solve_member` measured; a refused member gets zeros and INVALID."""
    residual, status, gap, error = report(value, residual, gap, unit, refused)
    tl.store(vectors + member * N + node, tl.where(refused == 0, vector, 0.0), mask=inside)
    tl.store(values + member, tl.where(refused == 0, value * size, 0.0))
    tl.store(residuals + member, tl.where(refused == 0, residual, 0.0))
    tl.store(matvecs + member, tl.where(refused == 0, used, 0).to(tl.int64))
    tl.store(statuses + member, status.to(tl.int64))
    tl.store(gaps + member, tl.where(refused == 0, gap, 0.0))
    tl.store(errors + member, tl.where(refused == 0, error, 0.0))


# Left to itself Triton compiles anew for each way in which a number is 1 or a multiple of 16 and a pointer is aligned.
# The arguments named here come from the caller and differ from launch to launch. Compiled once for all their values,
# with ALIGNED in place of what is worth knowing about them, the kernels are few enough to be proved one by one.
@triton.jit(do_not_specialize=["d", "stride", "N", "most"], do_not_specialize_on_alignment=["features", "indices"])
def solve_small(features, indices, scratch, vectors, values, residuals, matvecs, statuses, gaps, errors,
                d: tl.int32, stride: tl.int64, N: tl.int32, most: tl.int32,
                NP: tl.constexpr, BD: tl.constexpr, KP: tl.constexpr, WIDTH: tl.constexpr, CHECK: tl.constexpr,
                PRECISION: tl.constexpr, SCALED: tl.constexpr, STAGES: tl.constexpr,
                ALIGNED: tl.constexpr):  # fmt: skip
    """The whole solve of one member; ``most`` bounds the steps of a search. Outputs as `fiedler.FiedlerResult`."""
    member = tl.program_id(0).to(tl.int64)
    node = tl.arange(0, NP)
    column = tl.arange(0, BD)
    inside = node < N
    index = tl.load(indices + member * N + node, mask=inside, other=0)
    d = columns(d, ALIGNED)
    pointers = row_pointers(features, index, stride, ALIGNED)
    gram = tl.zeros((NP, NP), dtype=tl.float32)
    if SCALED:
        scale = row_scale(pointers, inside, d, NP, BD)
    for first in tl.range(0, d, BD, num_stages=STAGES):
        mask = inside[:, None] & (first + column < d)[None, :]
        block = tl.load(pointers[:, None] + (first + column)[None, :], mask=mask, other=0.0)
        if SCALED:
            block = block * scale[:, None]
        gram = accumulate(gram, block, block, PRECISION)
    diagonal = node[:, None] == node[None, :]
    square = tl.sum(tl.where(diagonal, gram, 0.0), axis=1)
    sound = (square > 0.0) & (square < float("inf"))  # a NaN fails both
    refused = tl.max(tl.where(inside & (sound == 0), 1, 0), axis=0)
    inverse = tl.where(sound, 1.0 / tl.sqrt_rn(tl.where(sound, square, 1.0)), 0.0)
    # Without its diagonal, which L does not depend on; a refused member becomes a graph without edges.
    affinity = tl.where((diagonal == 0) & (refused == 0), gram * inverse[:, None] * inverse[None, :], 0.0)
    degree = tl.sum(affinity, axis=1)
    size = tl.max(tl.abs(degree) + tl.sum(tl.abs(affinity), axis=1), axis=0)
    vector, value, residual, used, gap, unit = solve_member(
        affinity, degree, size, index, inside, node, scratch + member * KP * SCRATCH, N, most,
        NP, KP, 0, PRECISION != "ieee", WIDTH, CHECK)  # fmt: skip
    vector = canonical_sign(vector, degree, size, index, inside, N)
    store_result(vectors, values, residuals, matvecs, statuses, gaps, errors, member, node, inside, N, refused,
                 vector, value, size, residual, used, gap, unit)  # fmt: skip


def aligned(features: Tensor) -> bool:
    """Does every row begin at a multiple of 16 bytes and hold a multiple of 16 numbers?"""
    return features.shape[1] % 16 == 0 and features.stride(0) % 16 == 0 and features.data_ptr() % 16 == 0


def product_precision(features: Tensor, precision: str) -> str:
    """What `accumulate` is compiled for: fp16 features are multiplied exactly, in one way only."""
    return "exact" if features.dtype == torch.float16 else precision


def small_shape(features: Tensor, padded: int, precision: str) -> Small:
    """The compiled shape for a padded size."""
    shape = SMALL[padded]
    if padded == 128 and features.dtype != torch.float16:
        shape = IEEE_128 if precision == "ieee" else SINGLE_128
    # Copies ahead of the product take a register for every number that is read on its own, and then sm_80 spills.
    return shape if aligned(features) else shape._replace(STAGES=1)


def scratch_of(indices: Tensor, rows: int) -> Tensor:
    """Room for T of each of the graphs ``indices`` (B, N): see `triton_lanczos`."""
    return torch.empty((indices.shape[0], SCRATCH.value, rows), dtype=torch.float32, device=indices.device)


def launch_small(features: Tensor, indices: Tensor, outputs: tuple[Tensor, ...], precision: str, most: int) -> None:
    """Solve indices (B, N), N ≤ 128, into `fiedler.FiedlerResult`'s fields."""
    count, size = indices.shape
    padded = max(16, triton.next_power_of_2(size))
    shape = small_shape(features, padded, precision)
    solve_small[(count,)](
        features, indices, scratch_of(indices, shape.KP), *outputs, features.shape[1], features.stride(0), size, most,
        NP=padded, BD=shape.BD, KP=shape.KP, WIDTH=shape.WIDTH, CHECK=CHECK,
        PRECISION=product_precision(features, precision), SCALED=features.dtype != torch.float16,
        STAGES=shape.STAGES, ALIGNED=aligned(features), num_warps=shape.warps, num_stages=shape.STAGES,
        maxnreg=REGISTERS)  # fmt: skip

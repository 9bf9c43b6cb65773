"""Modelled times of the kernels: arithmetic, not measurements. Nothing here has run on a GPU.

    floor    = max(flops / peak, bytes / bandwidth), the roofline, of B members on the whole chip
    modelled = waves · (product / one program's share of a multiprocessor + steps · (flops, S traffic, barriers)), at
    least the floor

A wave is what fits on the chip at once by registers, shared memory and warps, as read from the machine code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["CHIPS", "Chip", "modelled"]

_BARRIER_CYCLES = 60  # one barrier with a shared-memory round trip, as published for these chips: 30 to 80
_BARRIERS_A_STEP = 16  # matvec, four Gram-Schmidt reductions, a norm, layout changes; counted in the program text
_LOOK_CYCLES = (
    9000  # one look at convergence: 4 rounds of multisection and the twisted factorisation, about 150 reductions
)
_LOOK_EVERY = 8


@dataclass(frozen=True)
class Chip:
    """Data-sheet numbers: multiprocessors, GHz, GB/s, TFLOP/s of fp32, tf32 and fp16 (dense), L2 bytes a cycle and
    multiprocessor.
    """

    name: str
    multiprocessors: int
    clock: float
    bandwidth: float
    fp32: float
    tf32: float
    fp16: float
    l2: float = 64.0


CHIPS = {
    80: Chip("A100", 108, 1.41, 1555, 19.5, 156, 312),
    90: Chip("H100 SXM", 132, 1.83, 3350, 67, 495, 989),
    100: Chip("B200", 148, 1.85, 8000, 75, 1100, 2250),
}


def _peak(chip: Chip, precision: str) -> float:
    """TFLOP/s of the Gram product."""
    return {"fp16": chip.fp16, "bf16": chip.fp16, "tf32": chip.tf32, "tf32x3": chip.tf32 / 3}.get(precision, chip.fp32)


def modelled(
    arch: int,
    precision: str,
    N: int,
    d: int,
    members: int,
    blocks: int,
    *,
    gram: float,
    steps: int,
    resident: bool = True,
) -> tuple[float, float] | None:
    """(modelled, floor) in microseconds for ``members`` candidate batches, or None where the chip's numbers are not
    known.
    """
    chip = CHIPS.get(arch)
    if chip is None or not blocks or not N:
        return None
    product = 2.0 * N * N * d * gram
    step = 2.0 * N * N + 8.0 * N * 32
    width = 2 if precision == "fp16" else 4
    traffic = members * (N * d * width * gram + N * 12.0 + (0 if resident else 4.0 * N * N))
    flops_time = members * (product / _peak(chip, precision) + steps * step / chip.fp32) * 1e-6
    floor = max(flops_time, traffic / chip.bandwidth * 1e-3)
    waves = math.ceil(members / (chip.multiprocessors * blocks))
    share = chip.multiprocessors * blocks / min(members, chip.multiprocessors * blocks)
    one = chip.multiprocessors * blocks  # programs side by side
    product_time = product * one / (_peak(chip, precision) * 1e6) / min(share, blocks)
    cycles = steps * (_BARRIER_CYCLES * _BARRIERS_A_STEP) + steps // _LOOK_EVERY * _LOOK_CYCLES
    if not resident:
        cycles += steps * 4.0 * N * N / chip.l2
    step_time = steps * step * one / (chip.fp32 * 1e6) / min(share, blocks) + cycles / (chip.clock * 1e3)
    return max(floor, waves * (product_time + step_time)), floor

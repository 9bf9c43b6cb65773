"""Modelled times of the kernels: arithmetic from counts in machine code. Nothing here has run on a GPU.

    floor    = max(flops / peak, bytes / bandwidth), the roofline, of B members on the whole chip
    modelled = waves · (product + steps + looks of one program, beside the others on its multiprocessor)

A wave is what fits on the chip at once by registers, shared memory and warps. A section of the code (`gpu_counts`) that
one program goes through costs

    max(blocks · busy, busy + BARRIER · barriers),  busy = max(warps · instructions / 4, warps · (shuffles + shared))

cycles: four schedulers issue an instruction a cycle each, a multiprocessor does a shuffle or an access to shared memory
of one warp a cycle, and other programs can fill what a program waits. BARRIER and ROW are assumed, at the upper end of
what is published for these chips. The steps are those of a typical candidate batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpu_counts import Section

__all__ = ["CHIPS", "LOOKS", "STEPS", "Chip", "Program", "cuda_step", "modelled", "of_one_warp"]

BARRIER = 60  # cycles of a barrier with the access to shared memory that it orders
ROW = 60  # cycles of one row of T where nothing else is in the way: a division and four dependent operations
STEPS = 41  # with L: 24 of the search, 16 of the probe, 1 for the residual. Measured on a CPU, N = 128: 36 to 49
LOOKS = ((8, 1), (16, 1), (24, 2), (8, 1), (16, 1))  # rows of T at each look, and eigenvalues asked for


class Chip(NamedTuple):
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


class Program(NamedTuple):
    """What one program does: the share of the product S that it makes, in ``precision``, and the sections of its solve,
    none where it solves nothing. ``resident``: S is read once, not at every step.
    """

    N: int
    d: int
    warps: int
    precision: str
    gram: float = 0.0
    sections: dict[str, Section] | None = None
    resident: bool = True
    rounds: int = 4  # of multisection for an eigenvalue: 31 bits, 8 at a time with 256 shifts and 7 with 128


def of_one_warp(section: Section, warps: int) -> Section:
    """A section that one warp goes through while the other ``warps`` − 1 of its block wait: it issues one instruction a
    cycle, and not a quarter of what the block would.
    """
    barriers, shuffles, shared, instructions = section
    return Section(barriers, shuffles / warps, shared / warps, 4 * instructions / warps)


def cuda_step(N: int, rows: int = 16, warps: int = 8) -> Section:
    """A Lanczos step of the CUDA solver, for each of its warps, counted in the text of csrc/cuda/member.cuh: 9 accesses
    for 8 products with L or with basis rows, two for each in the update; 9 shuffles for 8 sums.
    """
    product, projections = N * N / 32, 2 * rows * N / 32
    shared = 1.125 * (product + projections) + 2 * projections
    total = shared + product + 2 * projections
    return Section(5, 9 * (N + 2 * rows) / 8 / warps, shared / warps, 1.2 * total / warps)


def _peak(chip: Chip, precision: str) -> float:
    """TFLOP/s of the Gram product."""
    return {"fp16": chip.fp16, "bf16": chip.fp16, "tf32": chip.tf32, "tf32x3": chip.tf32 / 3}.get(precision, chip.fp32)


def _solve_cycles(program: Program, blocks: float, chip: Chip) -> float:
    """Of one program beside ``blocks`` − 1 others."""

    def cost(name: str, wait: float = 0.0) -> float:
        section = (program.sections or {}).get(name, Section())
        busy = program.warps * max(section.instructions / 4, section.shuffles + section.shared)
        return max(blocks * busy, busy + BARRIER * section.barriers, wait)

    reading = 0.0 if program.resident else 4.0 * program.N**2 / chip.l2
    rows = sum(depth * eigenvalues for depth, eigenvalues in LOOKS)
    rounds = sum(eigenvalues for _, eigenvalues in LOOKS)
    looks = len(LOOKS) * cost("look") + program.rounds * (rounds * cost("round") + rows * cost("row", ROW))
    return STEPS * (cost("step") + reading) + looks + sum(depth for depth, _ in LOOKS) * cost("pivot", ROW)


def modelled(arch: int, program: Program, members: int, blocks: int) -> tuple[float, float] | None:
    """(modelled, floor) in microseconds for ``members`` candidate batches, ``blocks`` programs on a multiprocessor, or
    None where the chip's numbers are not known.
    """
    chip, size = CHIPS.get(arch), program.N
    if chip is None or not blocks or not size:
        return None
    steps = STEPS if program.sections else 0
    product = 2.0 * size * size * program.d * program.gram
    width = 2 if program.precision == "fp16" else 4
    traffic = size * (program.d * width * (program.gram > 0) + 12.0)
    traffic += 4.0 * size * size if bool(steps) != bool(program.gram) else 0.0  # S goes through memory
    arithmetic = product / _peak(chip, program.precision) + steps * (2.0 * size * size + 8.0 * size * 32) / chip.fp32
    floor = members * max(arithmetic * 1e-6, traffic / chip.bandwidth * 1e-3)
    side_by_side = min(members, chip.multiprocessors * blocks)
    waves = math.ceil(members / (chip.multiprocessors * blocks))
    each = side_by_side / chip.multiprocessors  # programs on a multiprocessor
    computing = product * max(each, 1) * chip.multiprocessors / (_peak(chip, program.precision) * 1e6)
    reading = side_by_side * traffic / chip.bandwidth * 1e-3
    solving = _solve_cycles(program, max(each, 1), chip) / (chip.clock * 1e3) if steps else 0.0
    return max(floor, waves * (max(computing, reading) + solving)), floor

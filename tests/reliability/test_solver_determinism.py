"""The same bits: a hundred times, on any number of threads, and on cores that others keep busy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from solver_backends import DOUBLE, EAGER, NATIVE, NATIVE_FACTORED, each_way, members_of, same_bits, widened
from solver_cases import counts, post_relu, sentences
from test_solver_relations import compare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

THREADS = (1, 2, (os.cpu_count() or 1) + 3)  # the last are more than there are cores
THREADED = [EAGER, DOUBLE, NATIVE, NATIVE_FACTORED]  # by torch's threads


def problems(way) -> list:
    """A few members, many members, and graphs large enough that threads share one and that the vector is refined."""
    if way.slow:
        return [members_of(widened(way, post_relu(0, 10, 12)[None]))]
    shapes = [(sentences, 2, 48, 96), (counts, 8, 20, 64), (post_relu, 1, 200, 130)]
    stacks = [np.stack([build(seed, size, width) for seed in range(n)]) for build, n, size, width in shapes]
    return [members_of(widened(way, stack)) for stack in stacks]


def check_repeats(one, way, runs: int) -> None:
    """``runs`` times the same."""
    asked = problems(way)
    found = way.solve(asked * (1 + runs))
    for run, result in enumerate(found[len(asked) :]):
        one.check(same_bits(result, found[run % len(asked)]), f"{way.name}: other bits in run {run}")


@each_way
def test_repeated_runs(way, line, number):
    way.skip_if_unusable()
    one = line("solver", f"repeated runs, {way.name}: the same bits")
    check_repeats(one, way, number(5 if "interpreted" in way.name else 100, 100))


@contextlib.contextmanager
def threads(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_threads(one, way, runs: int) -> None:
    """Bits where they are promised (csrc/fiedler.h). Eager takes torch's matrix product for S, which splits its sums by
    the number of threads: there, the vector within the reported error."""
    asked = problems(way)
    with threads(1):
        expected = way.solve(asked)
    for number in THREADS:
        with threads(number):
            found = [result for _ in range(runs) for result in way.solve(asked)]
        for run, result in enumerate(found):
            one_thread, label = expected[run % len(asked)], f"{way.name}, {number} threads, run {run}"
            if way.backend == "eager" or way.dtype == torch.float64:
                compare(one, (one_thread, result), False, float(torch.finfo(way.dtype).eps), label)
            else:
                one.check(same_bits(result, one_thread), f"{label}: other bits")


@pytest.mark.parametrize("way", THREADED, ids=lambda way: way.name)
def test_threads(way, line, number):
    way.skip_if_unusable()
    bits = "native" in way.name
    rest = ("the same bits",) if bits else ("the same vector", 1.0, "of the reported error")
    check_threads(
        line("solver", f"1, 2 and more threads than cores, {way.name}: {rest[0]}", *rest[1:]), way, number(3, 50)
    )


@contextlib.contextmanager
def busy_cores(number: int):
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def check_busy(one, way, seconds: float) -> None:
    """Half of the time on two threads, half on more than there are cores."""
    asked = problems(way)
    for number in THREADS[1:]:
        with threads(number):
            expected = way.solve(asked)
            with busy_cores(2):
                end = time.monotonic() + seconds / 2
                while True:
                    alike = [same_bits(*pair) for pair in zip(way.solve(asked), expected, strict=True)]
                    one.check(all(alike), f"{way.name}: other bits beside busy processes, {number} threads")
                    if time.monotonic() > end:
                        break


@pytest.mark.parametrize("way", [EAGER, NATIVE], ids=lambda way: way.name)
def test_busy_cores(way, line, number):
    way.skip_if_unusable()
    check_busy(line("solver", f"two busy processes beside it, {way.name}: the same bits"), way, number(4, 60))

"""The whole case table, by every way to solve that this machine has."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_backends import each_way, members_of, widened
from solver_cases import CASES
from solver_lines import SolverLines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

BLOCK = 20  # seeds at a time
REDUCED = {"eager, S not formed": 4, "cupy's on array-api-strict": 1, "triton, interpreted": 1}  # seeds, else BLOCK
BARE = 800  # entries of S or of the features that Triton's interpreter takes a third of a second for


@lru_cache(len(CASES))
def stacked(number: int, first: int) -> np.ndarray:
    return np.stack([CASES[number].builder(seed) for seed in range(first, first + BLOCK)])


@lru_cache(len(CASES))
def truth(number: int, first: int) -> checks.Truth:
    return checks.truth_of_features(stacked(number, first))


def entries(number: int) -> int:
    size, width = stacked(number, 0).shape[1:]
    return size * max(size, width)


def truth_for(way, number: int, seeds: range) -> checks.Truth:
    found = checks.taken(truth(number, seeds.start), np.arange(len(seeds)))
    return checks.in_float64(found) if way.dtype == torch.float64 else found


def check_cases(lines: SolverLines, way, numbers, blocks: list[range]) -> None:
    for seeds in blocks:
        features = [stacked(number, seeds.start)[: len(seeds)] for number in numbers]
        results = way.solve([members_of(widened(way, each)) for each in features])
        for number, result in zip(numbers, results, strict=True):
            case = CASES[number]
            label = f"{case.name}, seeds from {seeds.start}"
            lines.count(way, result, truth_for(way, number, seeds), label, case.expectation, seeds)


@each_way
def test_case_table(way, line, number):
    lines = SolverLines.opened(line, "case table", way)
    way.skip_if_unusable()
    seeds = number(REDUCED.get(way.name, BLOCK), BLOCK if way.slow else 5 * BLOCK)
    blocks = [range(first, min(first + BLOCK, seeds)) for first in range(0, seeds, BLOCK)]
    most = number(BARE, 12_000) if "interpreted" in way.name else 10**9
    check_cases(lines, way, [case for case in range(len(CASES)) if entries(case) <= most], blocks)
    lines.close()

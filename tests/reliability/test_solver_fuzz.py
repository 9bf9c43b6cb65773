"""Random graphs of random kinds: every ratio, status and sign, by every way that solves one in milliseconds.

    python -m pytest -m slow tests/reliability/test_solver_fuzz.py [--full]

``FUZZ_SEED=7`` in the environment takes other graphs than the committed seed does.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_backends import WAYS, solve_one
from solver_cases import fuzzed
from solver_lines import SolverLines

from spectral_sampler import limits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SEED = int(os.environ.get("FUZZ_SEED", "1"))
MEMBERS = 50
LARGE, FEW = 20, 5  # every so many batches one is of so few graphs, but large enough to be refined
FAST = [way for way in WAYS if not way.slow]


def batch(number: int) -> np.ndarray:
    rng = np.random.default_rng([number, SEED])
    large = number % LARGE == LARGE - 1
    size = int(rng.integers(limits.REFINED, 300)) if large else int(rng.integers(2, 49))
    width = int(rng.integers(1, 65))
    return np.stack([fuzzed(rng, size, width) for _ in range(FEW if large else MEMBERS)])


def test_fuzzed_graphs(line, number):
    usable = [way for way in FAST if way.unusable() is None]
    lines = {way.name: SolverLines.opened(line, "fuzzed graphs", way) for way in usable}
    graphs, batches = number(3_000, 100_000), 0
    while graphs > 0:
        features = batch(batches)
        truth = checks.truth_of_features(features)
        for way in usable:
            known = checks.in_float64(truth) if way.dtype == torch.float64 else truth
            label = f"batch {batches} of seed {SEED}, {features.shape[1:]}"
            lines[way.name].count(way, solve_one(way, features), known, label)
        batches, graphs = batches + 1, graphs - len(features)
    for each in lines.values():
        each.close()

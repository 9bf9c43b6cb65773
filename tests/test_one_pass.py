"""The one-pass recurrence for graphs too large to form S, with its device's part played by torch on the host."""

from __future__ import annotations

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_cases import CASES, gaussian, positive, post_relu

from spectral_sampler.fiedler import FiedlerResult, Status
from spectral_sampler.graph import unit_rows
from spectral_sampler.kernels import one_pass


class HostGraph:
    """`OnePass` by two products with U."""

    def __init__(self, features, indices):
        self.units = unit_rows(features[indices])

    def faulty(self):
        return (self.units == 0).all(dim=1).any()

    def mix(self, q):
        return self.units.T @ q

    def step(self, degrees, q, y):
        r = degrees * q - self.units @ y
        return r, self.units.T @ r


def solve(members) -> FiedlerResult:
    """Features (B, N, d)."""
    count, size, width = members.shape
    table = torch.from_numpy(members.reshape(-1, width))
    return FiedlerResult(*one_pass.solve_rows(table, torch.arange(count * size).reshape(count, size), HostGraph))


@pytest.mark.parametrize("group", ["degenerate", "disconnected", "signed", "structured", "realistic"])
def test_cases(group):
    for case in (case for case in CASES if case.group == group):
        members = np.stack([case.builder(seed) for seed in range(2)])
        result = solve(members)
        truth = checks.truth_of_features(members)
        checks.check_ratios(result, truth, case.name)
        checks.check_status(result, truth, case.name)


@pytest.mark.parametrize("kind", [positive, gaussian])
@pytest.mark.parametrize("size", [3, 70, 300])
def test_sizes(kind, size):
    # Positive features lose every digit in five steps where the recurrence is not shifted.
    members = kind(size, 31)(0)[None]
    result, truth = solve(members), checks.truth_of_features(members)
    checks.check_ratios(result, truth)
    checks.check_status(result, truth)
    checks.check_sign(result, truth)


def test_a_full_basis_restarts(monkeypatch):
    monkeypatch.setattr(one_pass, "_BASIS_BYTES", 0)
    monkeypatch.setattr(one_pass, "_SHALLOWEST", 24)
    members = gaussian(400, 300)(1)[None]
    result = solve(members)
    assert int(result.num_matvecs) > 2 * 24 + 1
    checks.check_ratios(result, checks.truth_of_features(members))


def test_a_faulty_row_marks_its_member_and_no_other():
    members = np.stack([post_relu(seed, 20, 12) for seed in range(3)])
    good = solve(members)
    members[1, 3] = np.nan
    result = solve(members)
    assert result.status.tolist()[1] == int(Status.INVALID)
    assert not result.vector[1].any()
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(result, good, strict=True))

"""Random graphs, every ratio of `solver_checks` on each; tiny weighted graphs of every degenerate kind."""

from __future__ import annotations

import numpy as np
import pytest
import solver_checks as checks
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_cases import fuzzed

from spectral_sampler.fiedler import fiedler_of_affinity, fiedler_vector

GRAPHS, MEMBERS = 500, 50  # tests/reliability has thousands


@pytest.mark.parametrize("seed", range(GRAPHS // MEMBERS))
def test_fuzzed_graphs(seed):
    rng = np.random.default_rng([seed, 1])
    size, width = int(rng.integers(2, 49)), int(rng.integers(1, 65))
    features = np.stack([fuzzed(rng, size, width) for _ in range(MEMBERS)])
    result = fiedler_vector(features, backend="eager")
    truth = checks.truth_of_features(features)
    assert checks.check_ratios(result, truth, f"N={size}, d={width}") == MEMBERS * len(checks.TOLERANCE)
    checks.check_status(result, truth, f"N={size}, d={width}")
    checks.check_sign(result, truth, label=f"N={size}, d={width}")


@st.composite
def weighted_graphs(draw):
    size = draw(st.integers(2, 12))
    weights = draw(st.sampled_from([[0, 1], [-1, 0, 1], [0, 0, 0, 1], [1, 2], [0, 1e-3, 1], [0, 1e-7, 1]]))
    edges = size * (size - 1) // 2
    values = draw(st.lists(st.sampled_from(weights), min_size=edges, max_size=edges))
    affinity = np.zeros((size, size))
    affinity[np.triu_indices(size, 1)] = values
    return affinity + affinity.T


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(weighted_graphs(), st.sampled_from([torch.float32, torch.float64]))
def test_small_weighted_graphs(affinity, dtype):
    weights = torch.from_numpy(affinity).to(dtype)[None]
    result = fiedler_of_affinity(weights)
    truth = checks.truth_of_affinity(weights.double().numpy(), torch.finfo(dtype).eps)
    checks.check_ratios(result, truth)
    checks.check_status(result, truth)
    checks.check_sign(result, truth)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(weighted_graphs(), st.floats(-4, 4, width=32), st.floats(0.125, 8, width=32))
def test_affine_change_of_the_weights_keeps_the_vector(affinity, shift, factor):
    """S → aS + b, a > 0, leaves the eigenvectors of L on 1's complement as they are, and their order."""
    weights = torch.from_numpy(affinity)
    one, two = fiedler_of_affinity(weights), fiedler_of_affinity(factor * weights + shift)
    if one.gap > 1e-6 and two.gap > 1e-6:
        assert abs(float(one.vector @ two.vector)) == pytest.approx(1.0, abs=1e-8)

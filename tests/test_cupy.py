"""The CuPy path without a GPU: the same solver on NumPy and on array-api-strict's second device, and CuPy's own
names.
"""

from __future__ import annotations

import ast
import inspect

import array_api_strict
import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_cases import CASES, positive, post_relu

from spectral_sampler.fiedler import FiedlerResult, Status
from spectral_sampler.graph import start_vectors
from spectral_sampler.kernels import array_solver, cupy

SECOND = array_api_strict.Device("device1")  # mixing it with host arrays is an error, as with a GPU's
HOST = array_api_strict.Device("CPU_DEVICE")


def to_host(array) -> np.ndarray:
    return np.asarray(array) if isinstance(array, np.ndarray) else np.asarray(array.to_device(HOST))


def solve(features: np.ndarray, *, strict: bool) -> FiedlerResult:
    """Features (B, N, d) through `array_solver` and `cupy.finish`, as `cupy.solve` does it."""
    members, size, _ = features.shape
    indices = torch.arange(members * size).reshape(members, size)
    arrays = [features.astype(np.float32), start_vectors(indices).numpy(), start_vectors(indices, 0x5EED).numpy()]
    xp = array_api_strict if strict else np
    if strict:
        arrays = [array_api_strict.asarray(array, device=SECOND) for array in arrays]
    solved = array_solver.solve_features(xp, arrays[0], (arrays[1], arrays[2]), to_host)
    if strict:
        assert solved.vector.device == SECOND
    device = (solved.value, solved.residual, solved.degrees, solved.norm, solved.valid)
    numbers = tuple(torch.from_numpy(to_host(part).copy()) for part in device)
    return FiedlerResult(*cupy.finish(solved, torch.from_numpy(to_host(solved.vector).copy()), numbers, indices))


@pytest.mark.parametrize("strict", [False, True], ids=["numpy", "second device"])
@pytest.mark.parametrize("group", sorted({case.group for case in CASES}))
def test_cases(group, strict):
    for case in (case for case in CASES if case.group == group):
        seeds = range(1 if strict else 3)
        features = np.stack([case.builder(seed) for seed in seeds])
        if features.shape[1] > 200 and strict:
            continue  # ten times slower there, and nothing that smaller graphs do not show
        result = solve(features, strict=strict)
        checks.check_all(result, torch.from_numpy(features), case.expectation, seeds, case.name)


def test_a_faulty_row_marks_its_member_and_no_other():
    clean = np.stack([post_relu(seed, 12, 20) for seed in range(3)])
    good = solve(clean, strict=False)
    for value in (np.nan, np.inf, 0.0):
        features = clean.copy()
        features[1, 4] = value
        result = solve(features, strict=False)
        assert result.status.tolist()[1] == int(Status.INVALID)
        for field, expected in zip(result, good, strict=True):
            assert not field[1].any() or field is result.status
            assert torch.equal(field[[0, 2]], expected[[0, 2]])


def test_a_start_without_the_fiedler_vector_is_noticed_by_the_probe():
    features = positive(40, 12)(0)
    units = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float64)
    truth = checks.truth_of_features(features[None])
    assert units.shape == (40, 12)
    start = truth.vectors[0] @ np.r_[0.0, np.ones(38)]  # every eigenvector but the lowest
    probe = np.random.default_rng(0).normal(size=40)
    solved = array_solver.solve_features(
        np, features[None], (start[None].astype(np.float32), probe[None].astype(np.float32)), to_host
    )
    overlap = abs(solved.vector[0].astype(np.float64) @ truth.vectors[0][:, 0])
    assert overlap > 1 - 1e-5


def test_cupy_has_every_function_used():
    library = pytest.importorskip("cupy", reason="cupy is not installed (pip install cupy-cuda13x)")
    from spectral_sampler import lanczos

    for module in (array_solver, lanczos):
        tree = ast.parse(inspect.getsource(module))
        names = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("xp", "self.xp", "graphs.xp")
        }
        assert names
        assert [name for name in names if not hasattr(library, name)] == []


def test_says_what_is_missing():
    reason = cupy.unusable_reason()
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert reason is not None
    assert "pip install cupy" in reason or "CUDA" in reason

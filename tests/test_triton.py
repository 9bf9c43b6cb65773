"""The Triton kernels run by Triton's interpreter on the CPU, between guard pages, against float64.

The interpreter computes tl.dot in fp32 whatever precision is asked for: what tf32 and bf16 do to a ranking is
emulated in test_gpu_precision.py, and that tensor-core instructions come out is shown by benchmarks/prove_gpu.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_cases import CASES, gaussian, positive, post_relu

from spectral_sampler.fiedler import FiedlerResult, Status, fiedler_rows

triton = pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
SEEDS = 20  # of a case in the slow run; the interpreter takes seconds for one
UPSTREAM = "only 0-dimensional arrays can be converted to Python scalars"  # seen with Triton 3.6.0 and NumPy 2.4, 2.5
OLD = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 8)
WORKER = Path(__file__).with_name("triton_worker.py")


def run_worker(
    folder: Path, problems: list[tuple[np.ndarray, np.ndarray]], *fault: str
) -> subprocess.CompletedProcess[str]:
    arrays = {}
    for key, (features, indices) in enumerate(problems):
        arrays |= {f"{key}/features": features, f"{key}/indices": indices}
    np.savez(folder / "problems.npz", **arrays)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), str(folder / "problems.npz"), str(folder / "results.npz"), *fault]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def solve_all(folder: Path, problems: list[tuple[np.ndarray, np.ndarray]]) -> list[FiedlerResult]:
    done = run_worker(folder, problems)
    if UPSTREAM in done.stderr and "triton/runtime/interpreter.py" in done.stderr and OLD:
        pytest.skip(f"the interpreter of Triton {triton.__version__} fails with NumPy {np.__version__}: {UPSTREAM}")
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "results.npz") as results:
        return [
            FiedlerResult(*(torch.from_numpy(results[f"{key}/{number}"]) for number in range(7)))
            for key in range(len(problems))
        ]


def rows(count: int, size: int) -> np.ndarray:
    return np.arange(count * size, dtype=np.int64).reshape(count, size)


def _cost(case) -> int:
    """Entries of S and of the features: the interpreter takes seconds where it is large."""
    size, width = case.builder(0).shape
    return size * max(size, width)


CHEAP = [case for case in CASES if _cost(case) <= 12_000]
COSTLY = [case for case in CASES if _cost(case) > 12_000]


def check_cases(cases, folder, seeds):
    builders = {}
    for case in cases:
        builders[case.name] = case.builder
        if case.expectation.same_bits_as is not None:
            builders[case.expectation.same_bits_as] = case.expectation.same_bits_as
    members = {name: np.stack([builder(seed) for seed in seeds]) for name, builder in builders.items()}
    problems = [(stack.reshape(-1, stack.shape[2]), rows(*stack.shape[:2])) for stack in members.values()]
    solved = dict(zip(builders, solve_all(folder, problems), strict=True))
    for case in cases:
        checks.check_all(solved[case.name], torch.from_numpy(members[case.name]), case.expectation, seeds, case.name)
        if case.expectation.same_bits_as is not None:
            same = solved[case.expectation.same_bits_as]
            assert all(torch.equal(a, b) for a, b in zip(solved[case.name], same, strict=True)), case.name


def test_cases(tmp_path):
    """One graph of each of up to 48 rows, and of what is kept otherwise than as it was given; the slow test has twenty
    of each, and the others."""
    kept = {"rows subnormal", "half precision", "giant entry"}
    chosen = [case for case in CHEAP if _cost(case) <= 2_500 or case.name in kept]
    assert len(chosen) == 34
    check_cases(chosen, tmp_path, range(1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", CHEAP, ids=lambda case: case.name)
def test_cases_with_twenty_seeds(case, tmp_path):
    check_cases([case], tmp_path, range(SEEDS))


@pytest.mark.slow
@pytest.mark.hours
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", COSTLY, ids=lambda case: case.name)
def test_costly_cases(case, tmp_path):
    check_cases([case], tmp_path, range(2))


SIZES = [2, 3, 17, 64, 100, 127, 128, 129, 200, 256, 511, 1024]
WIDTHS = [1, 31, 384, 1280, 2048]


def check_shape(size, width, dtype, folder):
    kind = gaussian if size % 2 and width > 1 else positive
    table = kind(size + 7, width)(0).astype(dtype)
    indices = np.random.default_rng(size).permutation(size + 7)[None, :size]
    (result,) = solve_all(folder, [(table, indices)])
    label = f"N={size} d={width}"
    truth = checks.truth_of_features(table[indices])
    assert checks.check_ratios(result, truth, label) == len(checks.TOLERANCE)
    checks.check_status(result, truth, label)
    checks.check_sign(result, truth, indices, label)


@pytest.mark.slow
@pytest.mark.hours
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", SIZES)
def test_shapes(size, width, tmp_path):
    check_shape(size, width, np.float32, tmp_path)


@pytest.mark.parametrize(("size", "width"), [(2, 1), (17, 31), (64, 384), (128, 100), (200, 31)])
@pytest.mark.slow
def test_half_storage(size, width, tmp_path):
    check_shape(size, width, np.float16, tmp_path)


@pytest.mark.parametrize(
    ("size", "values"),
    [(12, (np.nan, np.inf, -np.inf, 0.0)), pytest.param(130, (np.nan,), marks=pytest.mark.slow)],
)
def test_a_faulty_row_marks_its_member_and_no_other(size, values, tmp_path):
    table = np.concatenate([post_relu(seed, size, 20) for seed in range(1 + len(values))])
    for member, value in enumerate(values, 1):
        table[member * size + 5] = value
    alone, result = solve_all(tmp_path, [(table, rows(1, size)), (table, rows(1 + len(values), size))])
    assert result.status.tolist()[1:] == [int(Status.INVALID)] * len(values)
    for field, good in zip(result, alone, strict=True):
        assert not field[1:].any() or field is result.status
        assert torch.equal(field[:1], good)


def test_repeated_runs_and_other_neighbours_give_the_same_bits(tmp_path):
    table = np.concatenate([post_relu(seed, 12, 16) for seed in range(2)])
    results = solve_all(tmp_path, [(table, rows(2, 12)), (table, rows(2, 12)), (table, rows(2, 12)[1:])])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert all(torch.equal(a[1:], b) for a, b in zip(results[0], results[2], strict=True))


def test_starts_and_ranks_as_eager_does(tmp_path):
    table = np.concatenate([post_relu(seed, 40, 48) for seed in range(2)])
    (result,) = solve_all(tmp_path, [(table, rows(2, 40))])
    eager = fiedler_rows(torch.from_numpy(table), torch.from_numpy(rows(2, 40)), backend="eager")
    for ours, theirs in zip(result.vector, eager.vector, strict=True):
        assert set(ours.topk(12).indices.tolist()) == set(theirs.topk(12).indices.tolist())


@pytest.mark.slow
@pytest.mark.hours
@pytest.mark.timeout(1800)
def test_matrix_free(tmp_path):
    table = positive(1040, 24)(1)
    indices = np.random.default_rng(1).permutation(1040)[None, :1030]
    (result,) = solve_all(tmp_path, [(table, indices)])
    truth = checks.truth_of_features(table[indices])
    assert checks.check_ratios(result, truth) == len(checks.TOLERANCE)
    checks.check_status(result, truth)
    checks.check_sign(result, truth, indices)


@pytest.mark.parametrize("size", [16, 130])
def test_guard_pages_catch_an_overrun(size, tmp_path):
    done = run_worker(tmp_path, [(post_relu(0, size, 2048), rows(1, size))], "overrun")
    assert done.returncode == -11, (done.returncode, done.stderr[-500:])

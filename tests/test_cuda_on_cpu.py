"""The CUDA kernels, unmodified, executed on the CPU against float64; then the checker itself, with planted bugs.

Executed: fibers in seeded random orders over NaN-poisoned shared memory, ThreadSanitizer, AddressSanitizer. Not
modelled: tensor cores (these kernels use none), the memory model, real scheduling; tests/gpu has those.
"""

from __future__ import annotations

import platform
import shutil

import cuda_on_cpu
import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_cases import CASES, gaussian, positive, post_relu

from spectral_sampler.fiedler import Status, fiedler_rows

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the fibers are written for x86-64"),
]
FLOAT_SHARED, HALF_SHARED, FLOAT_GLOBAL, ALL_SHARED = 0, 1, 2, 3
SEEDS = 20


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return cuda_on_cpu.build(tmp_path_factory.mktemp("fibers") / "run", "fibers")


def rows(count: int, size: int) -> np.ndarray:
    return np.arange(count * size, dtype=np.int64).reshape(count, size)


def check_case(case, seeds, program, folder):
    members = np.stack([case.builder(seed) for seed in seeds])
    count, size, width = members.shape
    options = {"seed": size, "threads": 128, "storage": FLOAT_SHARED if size <= 200 else FLOAT_GLOBAL}
    run = cuda_on_cpu.solve(program, folder, members.reshape(-1, width), rows(count, size), **options)
    assert run.result is not None, f"{case.name}: {run.message}"
    checks.check_all(run.result, torch.from_numpy(members), case.expectation, seeds, case.name)


@pytest.mark.parametrize("seeds", [4, pytest.param(SEEDS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case, seeds, program, tmp_path):
    for first in range(0, seeds, 4):
        check_case(case, range(first, first + 4), program, tmp_path)


@pytest.mark.parametrize(
    ("size", "width"),
    [
        pytest.param(size, width, marks=[pytest.mark.slow] if size * width > 1_000_000 else [])
        for size in (2, 3, 17, 64, 100, 127, 128, 129, 200, 256, 511, 1024)
        for width in (1, 31, 384, 1280, 2048)
    ],
)
def test_shapes(size, width, program, tmp_path):
    table = (gaussian if size % 2 and width > 1 else positive)(size + 7, width)(0)
    indices = np.random.default_rng(size).permutation(size + 7)[None, :size]
    storage = FLOAT_SHARED if size <= 200 else FLOAT_GLOBAL
    run = cuda_on_cpu.solve(program, tmp_path, table, indices, storage=storage, threads=128)
    assert run.result is not None, run.message
    truth = checks.truth_of_features(table[indices])
    assert checks.check_ratios(run.result, truth) == len(checks.TOLERANCE)
    checks.check_status(run.result, truth)
    checks.check_sign(run.result, truth, indices)


def path(size: int) -> np.ndarray:
    """Row i has its ones at i and i + 1. S is the path graph, whose low eigenvalues lie close: the basis fills up."""
    return np.eye(size, size + 1, dtype=np.float32) + np.eye(size, size + 1, 1, dtype=np.float32)


def check_as_shipped(table, members, storage, program, folder):
    """With exactly the threads, basis and bound of launch.cu; one block takes all members, as its grid may have it."""
    size = len(table) // members
    run = cuda_on_cpu.solve(
        program, folder, table, rows(members, size), storage=storage, seed=size, **cuda_on_cpu.shipped()
    )
    assert run.result is not None, run.message
    truth = checks.truth_of_features(table[rows(members, size)])
    assert checks.check_ratios(run.result, truth) == members * len(checks.TOLERANCE)
    checks.check_status(run.result, truth)
    checks.check_sign(run.result, truth, rows(members, size))
    return run.result


@pytest.mark.parametrize(
    ("size", "storage"),
    [(2, ALL_SHARED), (100, ALL_SHARED), (200, FLOAT_SHARED), (237, FLOAT_SHARED), (300, FLOAT_GLOBAL)],
)
def test_parameters_that_are_shipped(size, storage, program, tmp_path):
    check_as_shipped(gaussian(2 * size, 64)(0), 2, storage, program, tmp_path)


def test_rows_of_affinities_may_lie_apart(program, tmp_path):
    table = post_relu(2)
    for storage in (ALL_SHARED, FLOAT_GLOBAL):
        dense, apart = (
            cuda_on_cpu.solve(program, tmp_path, table, rows(2, 24), storage=storage, pitch=pitch).result
            for pitch in (24, 64)
        )
        assert all(torch.equal(a, b) for a, b in zip(dense, apart, strict=True))


def test_where_the_basis_lies_changes_no_bit(program, tmp_path):
    table, options = post_relu(3), {"capacity": 20}  # short enough to restart
    far, near = (
        cuda_on_cpu.solve(program, tmp_path, table, rows(1, 48), storage=storage, **options).result
        for storage in (FLOAT_SHARED, ALL_SHARED)
    )
    assert all(torch.equal(a, b) for a, b in zip(far, near, strict=True))


@pytest.mark.parametrize(("size", "storage"), [(200, FLOAT_SHARED), (256, FLOAT_GLOBAL)])
def test_parameters_that_are_shipped_where_the_basis_fills_up(size, storage, program, tmp_path):
    result = check_as_shipped(path(size), 1, storage, program, tmp_path)
    shipped = cuda_on_cpu.shipped()
    assert 2 * shipped["capacity"] < int(result.num_matvecs) < shipped["most"], "nothing restarted, or it was cut off"


@pytest.mark.slow
def test_a_search_that_the_bound_on_its_steps_ends_reports_its_residual(program, tmp_path):
    shipped = cuda_on_cpu.shipped()
    run = cuda_on_cpu.solve(program, tmp_path, path(512), rows(1, 512), storage=FLOAT_GLOBAL, **shipped)
    assert int(run.result.num_matvecs) > shipped["most"]
    found = checks.ratios(run.result, checks.truth_of_features(path(512)[None]))
    assert 4 < found["residual"] <= 1.1 * found["reported"] + 1, found


@pytest.mark.parametrize(("size", "storage"), [(237, FLOAT_SHARED), (334, HALF_SHARED)])
def test_shared_memory_of_sm_90_holds_what_launch_h_says(size, storage, program, tmp_path):
    for count, fits in ((size, True), (size + 1, False)):
        table = positive(count, 5)(0)
        options = {"storage": storage, **cuda_on_cpu.shipped()}
        run = cuda_on_cpu.solve(program, tmp_path, table, rows(1, count), **options)
        assert run.code == 0 if fits else "too much shared memory" in run.message, run.message


@pytest.mark.parametrize("storage", [ALL_SHARED, FLOAT_GLOBAL])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_any_order_of_threads_gives_the_same_bits(storage, dtype, program, tmp_path):
    table, indices = positive(70, 37)(0).astype(dtype), np.random.default_rng(0).permutation(70)[:66].reshape(3, 22)
    options = {"storage": storage, "threads": 96, "grid": 2}
    runs = [cuda_on_cpu.solve(program, tmp_path, table, indices, seed=seed, **options) for seed in range(4)]
    for run in runs:
        assert all(torch.equal(a, b) for a, b in zip(run.result, runs[0].result, strict=True))
    checks.check_ratios(runs[0].result, checks.truth_of_features(table[indices]))
    checks.check_sign(runs[0].result, checks.truth_of_features(table[indices]), indices)


@pytest.mark.parametrize("width", [19, 40])  # read number by number, and in vectors with a part of a stage left over
@pytest.mark.parametrize("size", [63, 64, 65, 129])
def test_graph(size, width, program, tmp_path):
    table = gaussian(size, width)(3)
    run = cuda_on_cpu.solve(program, tmp_path, table, rows(1, size), seed=size)
    units = table.astype(np.float64) / np.linalg.norm(table.astype(np.float64), axis=1, keepdims=True)
    cosines = units @ units.T * (1 - np.eye(size))
    np.testing.assert_allclose(run.affinity[0], cosines, atol=2e-6)
    np.testing.assert_array_equal(run.affinity[0], run.affinity[0].T)
    np.testing.assert_allclose(run.degrees[0], cosines.sum(axis=1), atol=2e-6 * size)


def test_half_storage_of_affinities_keeps_nearly_the_same_rows(program, tmp_path):
    table = np.concatenate([post_relu(seed, 64, 96) for seed in range(8)])
    run = cuda_on_cpu.solve(program, tmp_path, table, rows(8, 64), storage=HALF_SHARED, threads=128)
    exact = fiedler_rows(torch.from_numpy(table).double(), torch.from_numpy(rows(8, 64)), backend="eager")
    kept = [
        len(set(a.topk(20).indices.tolist()) & set(b.topk(20).indices.tolist())) / 20
        for a, b in zip(run.result.vector, exact.vector, strict=True)
    ]
    assert np.mean(kept) >= 0.97, kept


def test_a_short_basis_restarts(program, tmp_path):
    table = post_relu(5)
    run = cuda_on_cpu.solve(program, tmp_path, table, rows(1, 48), capacity=12)
    assert int(run.result.num_matvecs) > 2 * 12
    checks.check_ratios(run.result, checks.truth_of_features(table[None]))


def test_a_faulty_row_marks_its_member_and_no_other(program, tmp_path):
    clean = np.concatenate([post_relu(seed, 12, 20) for seed in range(3)])
    good = cuda_on_cpu.solve(program, tmp_path, clean, rows(3, 12)).result
    for value in (np.nan, np.inf, -np.inf, 0.0):
        table = clean.copy()
        table[17] = value
        result = cuda_on_cpu.solve(program, tmp_path, table, rows(3, 12)).result
        assert result.status.tolist()[1] == int(Status.INVALID)
        for field, expected in zip(result, good, strict=True):
            assert not field[1].any() or field is result.status
            assert torch.equal(field[[0, 2]], expected[[0, 2]])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["thread", "address"])
def test_sanitizers_find_nothing(mode, tmp_path):
    program = cuda_on_cpu.build(tmp_path / "run", mode)
    cases = ((ALL_SHARED, np.float32, 9), (FLOAT_SHARED, np.float32, 24), (FLOAT_GLOBAL, np.float16, 40))
    for storage, dtype, width in cases:
        table = positive(16, width)(0).astype(dtype)
        run = cuda_on_cpu.solve(program, tmp_path, table, rows(2, 8), storage=storage)
        assert run.code == 0, run.message[-3000:]
        checks.check_ratios(run.result, checks.truth_of_features(table[rows(2, 8)]))


# Each bug: file, the sound text, the planted text, the mode that sees it.
BUGS = {
    "one half of the scratch for every sum": ("primitives.cuh", "    turn_ ^= 1;\n", "", "thread"),
    "no barrier after a matvec": (
        "member.cuh",
        "(shrink_ * factor); });\n  __syncthreads();\n",
        "(shrink_ * factor); });\n",
        "thread",
    ),
    "a barrier in a divergent branch": (
        "fiedler.cuh",
        "numbers_[1] = beta * fabsf(weights_[slot]);\n  }\n  __syncthreads();\n",
        "numbers_[1] = beta * fabsf(weights_[slot]);\n    __syncthreads();\n  }\n",
        "fibers",
    ),
    "no barrier after a look": (
        "fiedler.cuh",
        "numbers_[1] = beta * fabsf(weights_[slot]);\n  }\n  __syncthreads();\n",
        "numbers_[1] = beta * fabsf(weights_[slot]);\n  }\n",
        "fibers",
    ),
    "the lanes that go forwards and backwards are not waited for": (
        "tridiagonal.cuh",
        "  __syncwarp();\n  float least",
        "  float least",
        "thread",
    ),
    "one stage for both turns": ("graph.cuh", "spare = stage + 2 * S::kFloats;", "spare = stage;", "thread"),
    "a sum over half a warp": (
        "primitives.cuh",
        "for (int step = kWarp / 2; step > 0; step /= 2) value += ",
        "for (int step = kWarp / 4; step > 0; step /= 2) value += ",
        "fibers",
    ),
    "no guard on the lane that writes": (
        "member.cuh",
        "if (lane() % 4 == 0 && first + place < rows) write",
        "if (first + place < rows) write",
        "thread",
    ),
    "shared memory one vector short": (
        "member.cuh",
        "constexpr int kVectors = 4,",
        "constexpr int kVectors = 3,",
        "address",
    ),
    "room for the sums of four warps": (
        "primitives.cuh",
        "constexpr int kWarps = 32;",
        "constexpr int kWarps = 4;",
        "thread",
    ),
    "one basis row too many": ("fiedler.cuh", "slot + 1 >= capacity_;", "slot + 1 > capacity_;", "address"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_caught(name, tmp_path):
    file, sound, planted, mode = BUGS[name]
    kernels = tmp_path / "kernels"
    shutil.copytree(cuda_on_cpu.KERNELS, kernels)
    text = (kernels / file).read_text(encoding="utf-8")
    assert text.count(sound) == 1, "the kernel changed: plant the bug anew"
    (kernels / file).write_text(text.replace(sound, planted), encoding="utf-8")
    program = cuda_on_cpu.build(tmp_path / "run", mode, kernels)
    table = positive(10, 40 if "stage" in name else 9)(0)
    # Four warps are enough for a small block: only the one that is shipped is too large for them.
    options = {"capacity": 6} if "basis" in name else cuda_on_cpu.shipped() if "four warps" in name else {}
    for seed in range(1, 11):  # threads do not race in every run
        run = cuda_on_cpu.solve(program, tmp_path, table, rows(1, 10), storage=FLOAT_GLOBAL, seed=seed, **options)
        if run.code:
            assert mode == "fibers" or "Sanitizer" in run.message
            return
        try:  # it ran to the end: then the numbers must be wrong
            checks.check_ratios(run.result, checks.truth_of_features(table[rows(1, 10)]))
        except AssertionError:
            return
    pytest.fail(f"{name} is not seen")

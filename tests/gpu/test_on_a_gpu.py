"""What only a GPU can show: launches, numerics of tensor cores, determinism, streams, memory. `make test-gpu`.

Every test is skipped with its reason where there is no CUDA device; the table of problems is checked everywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import solver_checks as checks
from solver_cases import CASES, gaussian, positive, post_relu

from spectral_sampler import ops
from spectral_sampler.fiedler import FiedlerResult, Status, fiedler_rows
from spectral_sampler.kernels.device_store import DeviceRows

BACKENDS = ("triton", "cuda", "cupy")
LARGEST = {"triton": 1_000_000, "cuda": 1024, "cupy": 1024}
PROBLEMS = [
    *((size, 384) for size in (2, 3, 17, 64, 100, 127, 128, 129, 200, 256, 511, 1024, 4096)),
    *((100, width) for width in (1, 31, 1280, 2048)),
]
# Mean share of the kept set, as emulated on the CPU (tests/test_gpu_precision.py).
OVERLAP = {"ieee": 0.998, "tf32x3": 0.998, "tf32": 0.99, "bf16": 0.98}


def test_the_table_names_every_size_and_width_that_is_promised():
    assert {size for size, _ in PROBLEMS} >= {2, 3, 17, 64, 100, 127, 128, 129, 200, 256, 511, 1024}
    assert {width for _, width in PROBLEMS} >= {1, 31, 384, 1280, 2048}
    assert set(BACKENDS) < set(ops.BACKENDS)


@pytest.fixture(params=BACKENDS)
def backend(request):
    reason = ops.unusable_reason(request.param)
    if not torch.cuda.is_available() or reason is not None:
        pytest.skip(reason or "torch sees no CUDA device")
    return request.param


def on_gpu(features, indices, backend) -> FiedlerResult:
    tensor = torch.from_numpy(np.ascontiguousarray(features)).cuda()
    result = fiedler_rows(tensor, torch.from_numpy(indices).cuda(), backend=backend)
    return FiedlerResult(*(field.cpu() for field in result))


def rows(count: int, size: int) -> np.ndarray:
    return np.arange(count * size, dtype=np.int64).reshape(count, size)


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "width"), PROBLEMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_agrees_with_float64(size, width, dtype, backend):
    if size > LARGEST[backend]:
        pytest.skip(f"{backend} takes at most {LARGEST[backend]} nodes")
    kind = gaussian if size % 2 and width > 1 else positive
    table = kind(size + 9, width)(0).astype(dtype)
    indices = np.stack([np.random.default_rng(seed).permutation(size + 9)[:size] for seed in range(2)])
    result = on_gpu(table, indices, backend)
    truth = checks.truth_of_features(table[indices])
    checks.check_ratios(result, truth)
    checks.check_status(result, truth)
    checks.check_sign(result, truth, indices)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case, backend):
    seeds = range(20)
    features = np.stack([case.builder(seed) for seed in seeds])
    result = on_gpu(features.reshape(-1, features.shape[-1]), rows(*features.shape[:2]), backend)
    checks.check_all(result, torch.from_numpy(features), case.expectation, seeds, case.name)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [30, 128, 200, 600])
def test_a_hundred_runs_give_the_same_bits(size, backend):
    table, indices = positive(8 * size, 64)(0), rows(8, size)
    first = on_gpu(table, indices, backend)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(on_gpu(table, indices, backend), first, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_faulty_row_marks_its_member_and_no_other(value, backend):
    clean = np.concatenate([post_relu(seed, 48, 96) for seed in range(3)])
    good = on_gpu(clean, rows(3, 48), backend)
    table = clean.copy()
    table[60] = value
    result = on_gpu(table, rows(3, 48), backend)
    assert result.status.tolist()[1] == int(Status.INVALID)
    for field, expected in zip(result, good, strict=True):
        assert torch.equal(field[[0, 2]], expected[[0, 2]])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", OVERLAP)
def test_precisions_keep_the_stated_share(precision, monkeypatch):
    reason = ops.unusable_reason("triton")
    if not torch.cuda.is_available() or reason is not None:
        pytest.skip(reason or "torch sees no CUDA device")
    monkeypatch.setenv("SPECTRAL_SAMPLER_PRECISION", precision)
    table = np.concatenate([post_relu(seed, 128, 512) for seed in range(16)])
    found = on_gpu(table, rows(16, 128), "triton").vector
    exact = fiedler_rows(torch.from_numpy(table).double(), torch.from_numpy(rows(16, 128)), backend="eager").vector
    kept = [
        len(set(a.topk(38).indices.tolist()) & set(b.topk(38).indices.tolist())) / 38
        for a, b in zip(found, exact, strict=True)
    ]
    assert np.mean(kept) >= OVERLAP[precision], kept


@pytest.mark.gpu
@pytest.mark.parametrize("budget", [None, 0])
def test_the_training_stream_is_not_waited_on(budget, backend):
    table, indices = torch.from_numpy(positive(2000, 256)(0)), torch.from_numpy(rows(8, 128))
    store = DeviceRows(table, "cuda", budget=budget)
    store.solve(indices, lambda f, i: tuple(fiedler_rows(f, i, backend=backend)))  # compiles, copies
    training = torch.cuda.Stream()
    with torch.cuda.stream(training):
        torch.cuda._sleep(2_000_000_000)  # about a second of a busy stream
        busy = torch.cuda.Event()
        busy.record(training)
    found = store.solve(indices, lambda f, i: tuple(fiedler_rows(f, i, backend=backend)))
    assert not busy.query(), "the solve waited for the training stream"
    expected = fiedler_rows(table, indices, backend="eager").vector
    assert (found[0] * expected).sum(dim=1).abs().min() > 0.99


@pytest.mark.gpu
def test_a_thousand_solves_leak_nothing(backend):
    table, indices = torch.from_numpy(positive(512, 64)(0)).cuda(), torch.from_numpy(rows(4, 128)).cuda()
    fiedler_rows(table, indices, backend=backend)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(1000):
        fiedler_rows(table, indices, backend=backend)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before

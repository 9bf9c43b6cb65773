"""Streams and memory beside a training run on the same GPU: what is about time, and runs alone. `make test-gpu`."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from solver_cases import positive

from spectral_sampler.fiedler import fiedler_rows
from spectral_sampler.kernels.device_store import DeviceRows

CYCLES = 2_000_000_000  # about a second


def rows(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.arange(count * size).reshape(count, size))


@pytest.mark.gpu
@pytest.mark.parametrize("budget", [None, 0], ids=["resident", "gathered"])
@pytest.mark.parametrize("stream", ["default", "another"])
def test_the_training_stream_is_not_waited_on(stream, budget, backend):
    """The legacy default stream, where training runs unless told otherwise, waits for and holds up blocking streams."""
    table, indices = torch.from_numpy(positive(2000, 256)(0)), rows(8, 128)
    store = DeviceRows(table, "cuda", budget=budget)
    store.solve(indices, lambda f, i: tuple(fiedler_rows(f, i, backend=backend)))  # compiles, copies
    training = torch.cuda.default_stream() if stream == "default" else torch.cuda.Stream()
    with torch.cuda.stream(training):
        torch.cuda._sleep(CYCLES)
        busy = torch.cuda.Event()
        busy.record(training)
    with ThreadPoolExecutor(1) as thread:  # look-ahead's is new each time
        found = thread.submit(store.solve, indices, lambda f, i: tuple(fiedler_rows(f, i, backend=backend))).result()
    assert not busy.query(), "the solve waited for the training stream"
    torch.cuda.synchronize()
    expected = fiedler_rows(table, indices, backend="eager").vector
    assert (found[0] * expected).sum(dim=1).abs().min() > 0.99


def taken(backend: str) -> int:
    """Bytes in use by torch, and by CuPy's own pool where that is the backend."""
    torch.cuda.synchronize()
    pool = importlib.import_module("cupy").get_default_memory_pool().used_bytes() if backend == "cupy" else 0
    return torch.cuda.memory_allocated() + pool


@pytest.mark.gpu
def test_many_solves_leak_nothing(backend):
    table, indices = torch.from_numpy(positive(512, 64)(0)).cuda(), rows(4, 128).cuda()
    for _ in range(2):
        fiedler_rows(table, indices, backend=backend)
    before = taken(backend)
    for _ in range(100 if backend == "cupy" else 1000):  # some milliseconds each, or some hundredths of one
        fiedler_rows(table, indices, backend=backend)
    assert taken(backend) <= before


@pytest.mark.gpu
def test_a_leak_in_cupys_pool_would_be_seen(usable):
    usable("cupy")
    cupy = importlib.import_module("cupy")
    before = taken("cupy")
    kept = cupy.zeros(1 << 20, dtype=cupy.uint8)
    assert taken("cupy") >= before + kept.nbytes

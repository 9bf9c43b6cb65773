"""Losses reported from a GPU: the same choices as from the host, and no step waits."""

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore, RHOLoss, SpectralBatchSampler

ROWS = np.arange(256)
STORE = ReferenceStore.from_arrays(np.eye(8, dtype=np.float32)[ROWS % 8] + 0.1, losses=ROWS % 5 / 4)


@pytest.fixture(autouse=True)
def _device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def trained(device, *, indices_too=False):
    sampler = SpectralBatchSampler(STORE, 32, selection=RHOLoss())
    lists = []
    for _ in range(3):
        for step, rows in enumerate(sampler):
            lists.append(rows)
            losses = (torch.tensor(rows, device=device).float() * 7 + step) % 11
            if indices_too:
                sampler.observe(torch.tensor(rows, device=device), losses)
            else:
                sampler.observe_next(losses)
            losses.zero_()
    return lists


def test_reports_from_a_gpu_are_those_from_the_host():
    assert trained("cuda") == trained("cuda", indices_too=True) == trained("cpu")


def test_reporting_does_not_wait():
    sampler = SpectralBatchSampler(STORE, 32, selection=RHOLoss())
    rows = next(iter(sampler))
    torch.cuda._sleep(2_000_000_000)  # about a second
    busy = torch.cuda.Event()
    busy.record()
    sampler.observe_next(torch.ones(len(rows), device="cuda"))
    assert not busy.query()

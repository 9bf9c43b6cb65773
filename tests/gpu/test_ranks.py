"""Gathering by NCCL, which takes tensors of the current device alone; one rank, because there is one device."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from spectral_sampler.gathering import gathered


@pytest.fixture
def nccl():
    if not (torch.cuda.is_available() and distributed.is_available() and distributed.is_nccl_available()):
        pytest.skip("needs a CUDA device and NCCL")
    distributed.init_process_group("nccl", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.parametrize("capacity", [2, 8])  # below and above what there is
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_nccl_carries_every_bit(nccl, home, capacity):
    indices = torch.tensor([2**60 + 1, 3, 5], device=home)
    losses = torch.tensor([0.1, float("nan"), 1e-300], dtype=torch.float64, device=home, requires_grad=True)
    rows, values = gathered(indices, losses, capacity=capacity)
    assert rows.tolist() == indices.tolist()
    assert [value.hex() for value in values.tolist()] == [value.hex() for value in losses.tolist()]

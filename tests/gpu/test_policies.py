"""Policies on the learner's device choose what they choose on the host."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from spectral_sampler import ReferenceStore
from spectral_sampler.sampler.learner import Learner
from spectral_sampler.selection import (
    EL2N,
    JEST,
    UDS,
    BayesianSelection,
    DivBS,
    Forgetting,
    GradientNorm,
    OnlineSelection,
    RHOLoss,
)

M, N, C, D = 300, 64, 10, 32
generator = np.random.default_rng(0)
STORE = ReferenceStore.from_arrays(
    generator.normal(size=(M, 9)).astype(np.float32),
    losses=generator.exponential(size=M),
    labels=generator.integers(C, size=M),
)
ZERO_SHOT = generator.normal(size=(M, C))
POLICIES = {
    "rho": RHOLoss,
    "joint": lambda: JEST(joint=True),
    "bayesian": lambda: BayesianSelection(ZERO_SHOT, samples=32),
    "gradient-norm": lambda: GradientNorm(gate=False),
    "divbs": DivBS,
    "uds": lambda: UDS(memory=40, width=6),
    "el2n": lambda: EL2N(0.1),
    "forgetting": Forgetting,
}


@pytest.fixture(autouse=True)
def _device():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")


def calls(name, device, steps=6, state=None):
    online = OnlineSelection(POLICIES[name](), 0.3, store=STORE)
    if state is not None:
        online.load_state_dict(state)
    lists = []
    for step in range(online.calls, steps):
        rows = np.random.default_rng(step)
        logits = torch.tensor(rows.normal(size=(N, C)), dtype=torch.float32)
        logits[step, 0] = float("nan")
        labels, features = rows.integers(C, size=N), torch.tensor(rows.normal(size=(N, D)), dtype=torch.float32)
        with torch.autocast(device, dtype=torch.bfloat16):
            kept = online(
                indices=rows.permutation(M)[:N],
                logits=logits.to(device).requires_grad_(),
                labels=torch.from_numpy(labels).to(device),
                features=features.to(device),
            )
        assert kept.device.type == online.weights.device.type == device
        lists.append(kept.tolist())
    return lists, online


@pytest.mark.gpu
@pytest.mark.parametrize("name", POLICIES)
def test_choices_are_those_of_the_host(name):
    lists, online = calls(name, "cuda")
    assert lists == calls(name, "cpu")[0]
    assert online.statistics()["spectral/nonfinite_total"] == 6
    _, half = calls(name, "cuda", 3)
    assert calls(name, "cpu", state=half.state_dict())[0] == lists[3:], "saved on one device and resumed on another"


@pytest.mark.gpu
def test_a_learner_on_the_device():
    network = nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, C))
    inputs = torch.tensor(generator.normal(size=(M, D)), dtype=torch.float32)
    data = TensorDataset(inputs, torch.from_numpy(STORE.labels))
    expected = Learner(network, data, JEST(joint=True))(list(range(N)))
    found = Learner(network.cuda(), data, JEST(joint=True))(list(range(N)))
    for name, value in found.given.items():
        assert value.is_cuda
        assert torch.allclose(value.cpu(), expected.given[name], rtol=1e-4, atol=1e-5)

"""A module that belongs to somebody else: found out about, run, and left exactly as it was."""

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from spectral_sampler.modules import called, frozen, global_randomness_kept, home_device, last_linear_input, moved

X = torch.linspace(-1, 1, 48).reshape(8, 6)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))


class OutOfOrder(nn.Module):
    """The last linear layer registered is the first that runs; one never runs."""

    def __init__(self):
        super().__init__()
        self.head, self.idle, self.body = nn.Linear(4, 3), nn.Linear(9, 9), nn.Linear(6, 4)

    def forward(self, rows):
        return self.head(input=torch.relu(self.body(rows)))


def test_every_flag_is_put_back_also_after_an_error():
    model = network().train()
    model[1].eval()
    flags = [part.training for part in model.modules()]
    for fails in (False, True):
        try:
            with frozen(model) as home:
                assert not any(part.training for part in model.modules())
                assert home == torch.device("cpu")
                model[3].training = True  # a forward that does so is put right too
                if fails:
                    raise ArithmeticError
        except ArithmeticError:
            assert fails
        assert [part.training for part in model.modules()] == flags


def test_an_overridden_train_is_not_run():
    class Folding(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("folds its adapter")

    with frozen(nn.Sequential(Folding(6, 3))) as _:
        pass


def test_gradients_survive_a_forward_within_the_callers_autocast():
    """Cast weights are kept for as long as autocast lasts: those cast without gradient would starve training (not
    since torch's pull request 165068, which came after 2.9)."""
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad(), frozen(model):
            assert not torch.is_autocast_cache_enabled()
            model(X)
        model(X).sum().backward()
    assert torch.is_autocast_cache_enabled()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_device_is_that_of_the_first_tensor_and_only_a_named_one_moves():
    assert home_device(nn.ReLU()) == torch.device("cpu")
    assert home_device(nn.BatchNorm1d(3, affine=False, device="meta")) == torch.device("meta")
    spread = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3, device="meta"))
    with frozen(spread) as home:
        assert home == torch.device("cpu")
    assert [part.weight.device.type for part in spread] == ["cpu", "meta"]
    moves = []
    model = network()
    model.to = moves.append
    with frozen(model, "cpu"):
        assert moves == []
    with frozen(model, "meta") as home:
        assert moves == [home] == [torch.device("meta")]
    assert moves == [torch.device("meta"), torch.device("cpu")]


def test_the_last_linear_layer_that_runs():
    model = OutOfOrder()
    with last_linear_input(model) as seen:
        model(X)
    assert torch.equal(seen[0], torch.relu(model.body(X)))
    assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("kind", ["wrapped", "in place", "a part of it", "data parallel", "compiled data parallel"])
@pytest.mark.parametrize("validated", [False, True])
def test_wrapped_modules(kind, validated):
    plain = network().eval()
    with torch.no_grad():
        expected, outputs = plain[:4](X), plain(X)
    model = {
        "wrapped": lambda: torch.compile(plain, backend="eager"),
        "in place": lambda: plain.compile(backend="eager") or plain,
        "a part of it": lambda: plain[4].compile(backend="eager") or plain,
        "data parallel": lambda: nn.DataParallel(plain),
        "compiled data parallel": lambda: torch.compile(nn.DataParallel(plain), backend="eager"),
    }[kind]()
    if validated:  # it was compiled in eval mode without hooks
        with torch.no_grad():
            model(X)
    model.train()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad(), frozen(model), last_linear_input(model) as seen:
        logits = called(model, X)
    assert torch.equal(seen[0], expected)
    assert torch.equal(logits, outputs)
    assert all(part.training for part in model.modules())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "nothing is compiled for it"
    torch._dynamo.reset()


def test_wrappers_that_talk_to_others_are_not_called():
    class Parallel(nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

        def forward(self, *given):
            raise AssertionError("waits for the other processes")

    plain = network().eval()
    assert torch.equal(called(Parallel(plain), X), plain(X))
    assert torch.equal(called(torch.compile(Parallel(plain), backend="eager"), X), plain(X))


def test_how_inputs_are_handed_over():
    def add(first, second=0):
        return first, second

    model = nn.Identity()
    model.forward = add
    assert called(model, {"first": 1, "second": 2}) == (1, 2)
    assert all(part is X for part in called(model, [X, X]))
    assert called(model, ("a", "b")) == (("a", "b"), 0)


def test_moved_reaches_everything():
    class Pair(NamedTuple):
        left: torch.Tensor
        right: str

    packed = nn.utils.rnn.pack_sequence([X[0], X[1]])
    batch = {"pair": Pair(X, "text"), "list": [X, (X, 3)], "packed": packed}
    there = moved(batch, torch.device("meta"))
    assert isinstance(there["pair"], Pair)
    assert there["pair"].right == "text"
    assert there["list"][1][1] == 3
    for part in (there["pair"].left, there["list"][0], there["list"][1][0], there["packed"].data):
        assert part.device.type == "meta"


def test_global_generators_are_put_back():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with global_randomness_kept():
        draw()
    assert draw() == expected

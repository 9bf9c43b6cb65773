"""A module that belongs to somebody else: found out about, run, and left exactly as it was."""

import collections
import dataclasses
import random
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from spectral_sampler.errors import ArgumentError
from spectral_sampler.modules import (
    called,
    check_module,
    first_two,
    frozen,
    global_randomness_kept,
    home_device,
    last_linear_input,
    logits_of,
    moved,
    penultimate,
)

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
    assert not any(part._forward_hooks for part in model.modules())


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


class Model(nn.Module):
    """A body of one linear layer and a head, put together by ``run(self, hidden)``."""

    def __init__(self, head, run=lambda self, hidden: self.head(hidden)):
        super().__init__()
        self.body, self.run = nn.Linear(6, 5), run
        self.head = head
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, rows):
        return self.run(self, self.hidden(rows))

    def hidden(self, rows):
        return torch.tanh(self.body(rows))


class Adapter(nn.Module):
    """As adapters of low rank are made: around a layer, with two small ones beside it."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.down, self.up = base_layer, nn.Linear(5, 2, bias=False), nn.Linear(2, 3, bias=False)
        self.in_features, self.out_features = 5, 3

    def forward(self, rows):
        return self.base_layer(rows) + self.up(self.down(rows))


class OwnLinear(nn.Module):
    in_features, out_features = 5, 3

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 5))

    def forward(self, rows):
        return nn.functional.linear(rows, self.matrix)


def quantised(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})[0]


def scripted(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(layer)


def found(model):
    with torch.no_grad(), frozen(model), last_linear_input(model) as seen:
        outputs = called(model, X)
        return penultimate(seen, outputs) if seen else None


@dataclasses.dataclass
class Held:
    logits: torch.Tensor


@dataclasses.dataclass(slots=True)
class Slots:
    scores: torch.Tensor


RIGHT = {
    "plain": Model(nn.Linear(5, 3)),
    "subclass": Model(nn.modules.linear.NonDynamicallyQuantizableLinear(5, 3)),
    "adapter": Model(Adapter(nn.Linear(5, 3))),
    "quantised": Model(quantised(nn.Linear(5, 3))),
    "own layer": Model(OwnLinear()),
    "softmax": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden).softmax(1)),
    "logarithm": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden).log_softmax(1)),
    "temperature": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden) / 7),
    "half softmax": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden).half().log_softmax(1)),
    "clamped": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden).clamp(-0.3, 0.2)),
    "other precision": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden).half()),
    "one output": Model(nn.Linear(5, 1), lambda self, hidden: self.head(hidden).squeeze(1)),
    "probability": Model(nn.Linear(5, 1), lambda self, hidden: self.head(hidden).sigmoid()),
    "one token": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden[:, None])[:, 0]),
    "last token": Model(nn.Linear(5, 3), lambda self, hidden: self.head(torch.stack([hidden + 1, hidden], 1))[:, -1]),
    "beside hidden states": Model(nn.Linear(5, 3), lambda self, hidden: (hidden, (hidden, self.head(hidden)))),
    "mapping": Model(nn.Linear(5, 3), lambda self, hidden: {"loss": 0.0, "out": self.head(hidden)}),
    "dataclass": Model(nn.Linear(5, 3), lambda self, hidden: [Held(self.head(hidden))]),
    "slots": Model(nn.Linear(5, 3), lambda self, hidden: Slots(self.head(hidden))),
    "not a number": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden) * torch.nan),
    "by keyword": Model(nn.Linear(5, 3), lambda self, hidden: self.head(input=hidden)),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_the_layer_that_made_the_output(kind):
    model = RIGHT[kind]
    with torch.no_grad():
        assert torch.equal(found(model), model.hidden(X))
    assert not any(part._forward_hooks for part in model.modules())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.attention = nn.Linear(6, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, rows):
        rows = self.body(rows)[:, None]
        return self.attention(rows, rows, rows, need_weights=False)[0][:, 0]


class Deep(nn.Module):
    """Says that it is 5 to 3, and is two layers."""

    in_features, out_features = 5, 3

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, rows):
        return self.layers(rows).relu()


EARLIER = {
    "convolution": Model(nn.Conv1d(5, 3, 1), lambda self, hidden: self.head(hidden[:, :, None])[:, :, 0]),
    "function": Model(nn.Linear(5, 3), lambda self, hidden: nn.functional.linear(hidden, self.head.weight)),
    "forward by hand": Model(nn.Linear(5, 3), lambda self, hidden: self.head.forward(hidden)),
    "tied": Model(nn.Embedding(3, 5), lambda self, hidden: hidden @ self.head.weight.T),
    "scripted head": Model(scripted(nn.Linear(5, 3))),
    "attention": Attention(),
    "ensemble": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden) + self.head(hidden.flip(1))),
    "ensemble of softmaxes": Model(
        nn.Linear(5, 3), lambda self, hidden: (self.head(hidden).softmax(1) + self.head(hidden.flip(1)).softmax(1)) / 2
    ),
    "class weights": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden) * torch.tensor([1, -1, 3])),
    "residual": Model(nn.Linear(5, 5), lambda self, hidden: self.head(hidden) + 9 * hidden.flip(1)),
    "nothing to compare": Model(nn.Linear(5, 3), lambda self, hidden: str(self.head(hidden))),
    "other samples": Model(nn.Linear(5, 3), lambda self, hidden: self.head(hidden).mean(0, keepdim=True)),
    "scripted": scripted(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))),
}


@pytest.mark.parametrize("kind", EARLIER)
def test_an_earlier_layer_is_not_taken_for_it(kind):
    assert found(EARLIER[kind]) is None


def test_a_head_of_several_layers_is_not_taken_for_one():
    model = Model(Deep())
    with torch.no_grad():
        hidden = model.head.layers[:2](model.hidden(X))
    rows = found(model)
    assert rows is None or torch.equal(rows, hidden)


def test_each_tokens_inputs_are_given_where_each_has_outputs():
    model = Model(nn.Linear(5, 3), lambda self, hidden: self.head(torch.stack([hidden + 1, hidden], 1)))
    assert found(model).shape == (8, 2, 5)


FORMS = {
    "itself": lambda logits: logits,
    "attribute": Held,
    "mapping": lambda logits: {"loss": logits.sum(), "hidden": logits.T, "logits": logits},
    "single entry": lambda logits: {"out": logits, "loss": logits.sum(), "name": "x"},
    "slots": Slots,
    "tuple": lambda logits: (logits.sum(), logits, logits.T),
    "list": lambda logits: [None, logits],
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found(form):
    assert logits_of(FORMS[form](X)) is X


@pytest.mark.parametrize("outputs", [{"a": X, "b": X}, (X.sum(),), [], {}, None, "text", {"logits": None}, object()])
def test_what_has_no_logits(outputs):
    assert logits_of(outputs) is None


class Names(nn.Module):
    def forward(self, image, mask=None, *, target=0):
        return image, mask, target


def test_mappings_are_arguments_by_name():
    model = Names()
    assert called(model, {"image": 1, "mask": 2, "index": 7, "idx": 7}) == (1, 2, 0)
    assert called(torch.compile(model, backend="eager"), {"image": 1, "target": 3}) == (1, None, 3)
    assert called(nn.DataParallel(model), {"pixels": 1, "index": 7}) == (1, None, 0), (
        "the only input, whatever its name"
    )
    message = r"^split must be given for data sets whose samples are mappings, got keys image, masque\. .*Names.forward"
    with pytest.raises(ArgumentError, match=message):
        called(model, {"image": 1, "masque": 2})
    model.forward = lambda **given: given
    assert called(model, {"image": 1, "masque": 2, "index": 7}) == {"image": 1, "masque": 2}


@pytest.mark.parametrize("name", ["label", "labels", "target", "targets"])
def test_mappings_are_split_into_inputs_and_labels(name):
    for mapping in (dict, collections.UserDict):
        assert first_two(mapping({"a": 1, name: 2, "b": 3})) == ({"a": 1, "b": 3}, 2)
    assert first_two({"a": 1}) == ({"a": 1}, None)
    other = "label" if name != "label" else "target"
    with pytest.raises(
        ArgumentError, match=rf"^split must be given for .* several labels, got keys {name}, {other}\. Pass"
    ):
        first_two({name: 1, other: 2})


def test_models_that_have_no_weights_yet_are_refused():
    check_module("model", network())
    with pytest.raises(ArgumentError, match=r"^model must be a torch.nn.Module, got function. Pass"):
        check_module("model", lambda rows: rows)
    with pytest.raises(
        ArgumentError, match=r"^learner must be a model that has its weights, got 0.weight without a sha"
    ):
        check_module("learner", nn.Sequential(nn.LazyLinear(3)))

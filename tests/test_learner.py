"""learner=: anybody's module on anybody's samples, forwarded and left as it was."""

import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from spectral_sampler.errors import ArgumentError
from spectral_sampler.sampler.learner import Learner
from spectral_sampler.selection import JEST, GradientNorm, RHOLoss

M, C, D = 40, 3, 6
INPUTS = torch.tensor(np.random.default_rng(0).normal(size=(M, D)), dtype=torch.float32)
LABELS = torch.arange(M) % C
DATA = TensorDataset(INPUTS, LABELS)
ROWS = [7, 3, 30, 11]


def as_it_is(logits):
    return logits


class Network(nn.Module):
    """Batch normalisation, dropout, and an output of any form."""

    def __init__(self, wrap=as_it_is):
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Linear(5, C)
        self.body = nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5))
        self.wrap = wrap

    def forward(self, rows):
        return self.wrap(self.head(self.body(rows)))


def expected(network, rows=INPUTS[ROWS]):
    with torch.no_grad():
        hidden = network.eval().body(rows)
        return network.head(hidden), hidden


def same(outputs, network):
    logits, hidden = expected(network)
    assert torch.equal(outputs.logits, logits)
    assert outputs.embeddings is None or torch.equal(outputs.embeddings, hidden)
    assert outputs.seconds > 0
    return True


def test_logits_and_the_input_of_the_layer_that_ran_last():
    network = Network()
    outputs = Learner(network, DATA, JEST(joint=True))(ROWS)
    assert same(outputs, network)
    assert outputs.embeddings is not None
    assert outputs.given == {"logits": outputs.logits, "embeddings": outputs.embeddings}
    assert Learner(network, DATA, GradientNorm())(ROWS).embeddings is None, "nobody asked"


class Pair(NamedTuple):
    loss: torch.Tensor
    logits: torch.Tensor


class HasLogits:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: {"logits": logits},
        HasLogits,
        lambda logits: Pair(logits.sum(), logits),
        lambda logits: (logits.sum(), logits, (logits,)),
        lambda logits: [logits],
        lambda logits: (logits, logits[:, :2]),
        lambda logits: {"out": logits, "loss": logits.sum()},
        lambda logits: {"hidden": logits.T, "logits": logits},
    ],
    ids=["mapping", "attribute", "named tuple", "loss first", "list", "two heads", "out", "two tensors"],
)
def test_forms_of_output(wrap):
    network = Network(wrap)
    assert same(Learner(network, DATA, JEST(joint=True))(ROWS), network)


class Whole:
    """Batches are read in one call alone."""

    def __getitem__(self, row):
        raise AssertionError("one by one")

    def __getitems__(self, rows):
        return [DATA[row] for row in rows]


class Mappings:
    def __init__(self, *names):
        self.names = names

    def __getitem__(self, row):
        return {"rows": INPUTS[row], **dict.fromkeys(self.names, LABELS[row])}


def padded(samples):
    width = max(len(row) for row, _ in samples)
    rows = torch.stack([nn.functional.pad(row, (0, width - len(row))) for row, _ in samples])
    return rows, torch.stack([label for _, label in samples])


class Ragged:
    def __getitem__(self, row):
        return (INPUTS[row] if row == ROWS[0] else INPUTS[row][: 2 + row % 3]), LABELS[row]


@pytest.mark.parametrize(
    "data",
    [
        Whole(),
        Mappings(),
        Mappings("label"),
        Mappings("labels", "index"),
        Mappings("target", "idx"),
        INPUTS,
        [tuple(row) for row in DATA],
    ],
    ids=["getitems", "mapping", "label", "labels", "target", "inputs alone", "list"],
)
def test_kinds_of_samples(data):
    network = Network()
    assert same(Learner(network, data, JEST(joint=True))(ROWS), network)


def test_samples_of_different_lengths_by_collate_fn():
    network, learner = Network(), Learner(Network(), Ragged(), GradientNorm(), padded)
    rows, _ = padded([Ragged()[row] for row in ROWS])
    assert torch.equal(learner(ROWS).logits, expected(network, rows)[0])


def test_labels_are_passed_where_forward_names_them():
    class Asks(Network):
        def forward(self, rows, labels=None):
            assert labels.tolist() == LABELS[ROWS].tolist()
            return super().forward(rows)

    network = Asks()
    assert Learner(network, Mappings("labels", "label"), GradientNorm())(ROWS).logits.shape == (4, C)


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_left_as_it_was(fails):
    def stop(logits):
        raise ArithmeticError

    network = Network(stop if fails else as_it_is).train()
    network.body[1].eval()  # frozen batch normalisation inside a network in training
    flags = {name: part.training for name, part in network.named_modules()}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    learner = Learner(network, DATA, JEST(joint=True))
    if fails:
        with pytest.raises(ArithmeticError):
            learner(ROWS)
    else:
        learner(ROWS)
    assert {name: part.training for name, part in network.named_modules()} == flags
    assert not any(part._forward_pre_hooks for part in network.modules())
    if not fails:
        network(INPUTS)  # a training step: the frozen statistics must not move
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_reading_draws_nothing_that_training_would_have_drawn():
    class Augmented:
        def __getitem__(self, row):
            return INPUTS[row] + torch.randn(D) + np.random.rand(), LABELS[row]

    learner = Learner(Network(), Augmented(), GradientNorm())
    torch.manual_seed(3)
    np.random.seed(3)
    first = learner(ROWS).logits
    assert torch.equal(learner(ROWS).logits, first)
    assert torch.equal(torch.rand(4), torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert np.random.rand() == np.random.RandomState(3).rand()


@pytest.mark.parametrize("compiled", [False, True])
def test_within_the_training_loops_own_contexts(compiled):
    network = Network()
    module = torch.compile(network, backend="eager") if compiled else network
    learner = Learner(module, DATA, JEST(joint=True))
    plain = expected(network)
    with torch.no_grad():
        module.eval()(INPUTS[ROWS])  # a validation pass
    network.train()
    for state in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with state():
            outputs = learner(ROWS)
        assert torch.equal(outputs.logits, plain[0])
        assert torch.equal(outputs.embeddings, plain[1])
        assert not outputs.logits.requires_grad
        assert not outputs.embeddings.requires_grad, "no graph is kept"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert learner(ROWS).logits.dtype == torch.bfloat16
        network(INPUTS[ROWS]).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters()), "cast weights were kept without grad"
    torch._dynamo.reset()


def test_functions():
    logits = torch.zeros(4, C, requires_grad=True)
    assert not Learner(lambda rows: logits, None, RHOLoss())(ROWS).logits.requires_grad
    outputs = Learner(lambda rows: (np.zeros((4, C)), INPUTS[rows]), None, JEST(joint=True))(ROWS)
    assert torch.equal(outputs.embeddings, INPUTS[ROWS])
    assert Learner(lambda rows: {"logits": logits}, None, RHOLoss())(ROWS).logits.shape == (4, C)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits.sort(1).values,
        lambda logits: logits * torch.tensor([1.0, -1.0, 2.0]),
        lambda logits: logits + nn.functional.linear(logits, torch.ones(C, C).tril()),
    ],
    ids=["reordered", "scaled by class", "a layer more"],
)
def test_inputs_of_a_layer_that_did_not_make_the_logits_are_no_embeddings(wrap):
    network = Network(wrap)
    message = (
        r"^learner must be a module whose logits its last nn\.Linear makes, .*, got Network\. Pass a function from "
    )
    with pytest.raises(ArgumentError, match=message):
        Learner(network, DATA, JEST(joint=True))(ROWS)
    assert Learner(network, DATA, GradientNorm())(ROWS).embeddings is None, "nobody asked"


def test_logarithms_of_probabilities_have_embeddings():
    network = Network(lambda logits: logits.log_softmax(1))
    outputs = Learner(network, DATA, JEST(joint=True))(ROWS)
    assert torch.equal(outputs.embeddings, expected(network)[1])
    assert torch.equal(outputs.logits, expected(network)[0].log_softmax(1))


def test_samples_that_forward_does_not_take_are_named():
    with pytest.raises(
        ArgumentError, match=r"^dataset must be of samples that hold what Network\.forward names, got keys m"
    ):
        Learner(Network(), Mappings("mask"), GradientNorm())(ROWS)


def test_a_module_without_weights_is_refused():
    with pytest.raises(
        ArgumentError, match=r"^learner must be a model that has its weights, got weight without a shape"
    ):
        Learner(nn.LazyLinear(C), DATA, GradientNorm())


def test_it_pickles_and_holds_no_state():
    learner = Learner(Network(), DATA, JEST(joint=True))
    before = pickle.dumps(learner)
    learner(ROWS)
    assert pickle.dumps(learner) == before
    assert torch.equal(pickle.loads(before)(ROWS).logits, learner(ROWS).logits)


@pytest.mark.parametrize(
    ("learner", "found"),
    [
        (lambda rows: torch.zeros(len(rows)), r"\(4,\)"),
        (lambda rows: torch.zeros(3, C), r"\(3, 3\)"),
        (lambda rows: {"scores": 1}, "NoneType"),
        (Network(lambda logits: logits[:, :, None]), r"\(4, 3, 1\)"),
        (Network(lambda logits: (logits.sum(),)), "NoneType"),
    ],
)
def test_outputs_that_are_no_logits_are_named(learner, found):
    message = rf"^learner must be one that puts out logits of shape \(4, classes\), got {found}\. Pass a function"
    with pytest.raises(ArgumentError, match=message):
        Learner(learner, DATA, GradientNorm())(ROWS)

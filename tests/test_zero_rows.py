"""What a store does not take as it is: rows of zeros, labels that are no class numbers, layers that nobody saw run."""

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.extraction import Encoder, extract
from spectral_sampler.extraction.forward import cross_entropy
from spectral_sampler.store import ReferenceStore, checks

ROWS, WIDTH = 40, 8
ZERO = [3, 17, 39]


def planted(dtype="f4", rows=ZERO, value=0.0):
    features = np.random.default_rng(0).random((ROWS, WIDTH)).astype(dtype)
    features[rows] = value
    return features


class Same(Encoder):
    def forward(self, rows):
        return rows


@pytest.mark.parametrize("given", ["f2", "f4", "f8"])
@pytest.mark.parametrize("dtype", [None, "float16", "float32"])
@pytest.mark.parametrize("kind", ["array", "tensor", "list", "strided"])
def test_they_become_unit_vectors_of_equal_entries(given, dtype, kind, caplog):
    features = planted(given)
    whole = {"array": features, "tensor": torch.from_numpy(features), "list": features.tolist(), "strided": features}[
        kind
    ]
    whole = np.asfortranarray(whole) if kind == "strided" else whole
    with caplog.at_level(logging.WARNING, "spectral_sampler"):
        store = ReferenceStore.from_arrays(whole, dtype=dtype, zero_rows="uniform")
    others = np.delete(np.arange(ROWS), ZERO)
    np.testing.assert_array_equal(store.features[others], features[others].astype(store.features.dtype))
    np.testing.assert_allclose(store.features[ZERO], np.full((3, WIDTH), WIDTH**-0.5), rtol=1e-3)
    assert "3 rows of zeros stored as unit vectors of equal entries: rows 3, 17, 39" in caplog.text
    assert not np.asarray(features)[ZERO].any(), "the caller's array is the caller's"
    assert ReferenceStore.from_arrays(store.features).features is store.features, "nothing is left to refuse"


def test_without_any_nothing_is_copied_or_said(caplog):
    features = planted(rows=[])
    with caplog.at_level(logging.DEBUG, "spectral_sampler"):
        assert ReferenceStore.from_arrays(features, zero_rows="uniform").features is features
    assert caplog.text == ""


def test_rows_that_become_zero_in_the_stored_type(caplog):
    features = planted("f4", [5], 1e-9)
    features[8] = 0
    with caplog.at_level(logging.WARNING, "spectral_sampler"):
        store = ReferenceStore.from_arrays(features, dtype="float16", zero_rows="uniform")
    assert np.ptp(store.features[[5, 8]]) == 0
    assert store.features[5, 0] == np.float16(WIDTH**-0.5)
    assert "2 rows of zeros" in caplog.text
    assert "rows 5, 8" in caplog.text
    wide = ReferenceStore.from_arrays(features, dtype="float32", zero_rows="uniform")
    np.testing.assert_array_equal(wide.features[5], features[5])


def test_row_numbers_survive_the_blocks(monkeypatch, caplog):
    monkeypatch.setattr(checks, "_BLOCK_BYTES", WIDTH * 8 * 7)  # seven rows a block
    with caplog.at_level(logging.WARNING, "spectral_sampler"):
        store = ReferenceStore.from_arrays(planted("f8"), zero_rows="uniform")
    assert "rows 3, 17, 39" in caplog.text
    assert np.ptp(store.features[ZERO]) == 0


def test_other_faults_are_still_refused():
    features = planted()
    features[7] = np.nan
    with pytest.raises(ArgumentError, match=r"^features must be finite, got NaN or Inf in row 7\. "):
        ReferenceStore.from_arrays(features, zero_rows="uniform")
    features[7] = 1e6
    with pytest.raises(ArgumentError, match=r"got overflow in row 7\. "):
        ReferenceStore.from_arrays(features, dtype="float16", zero_rows="uniform")


@pytest.mark.parametrize(("value", "dtype"), [(0, None), (1e-9, "float16")])
def test_refusing_is_the_default_and_names_the_way_out(value, dtype):
    with pytest.raises(ArgumentError, match=r'in rows 3, 17, 39\. .*zero_rows="uniform"'):
        ReferenceStore.from_arrays(planted(value=value), dtype=dtype)


@pytest.mark.parametrize("policy", [True, None, "drop", 0])
def test_other_policies_are_refused(policy, tmp_path):
    with pytest.raises(ArgumentError, match=r"^zero_rows must be 'refuse' or 'uniform', got "):
        ReferenceStore.from_arrays(planted(), zero_rows=policy)
    with pytest.raises(ArgumentError, match=r"^zero_rows must be 'refuse' or 'uniform', got "):
        extract(Same(), list(torch.from_numpy(planted())), tmp_path, loss=None, zero_rows=policy)


def test_an_extraction_stores_the_same_says_it_once_and_remembers_the_choice(tmp_path, caplog):
    data = list(torch.from_numpy(planted()))
    with pytest.raises(ArgumentError, match=r'only zeros in row 3\. .*zero_rows="uniform"'):
        extract(Same(), data, tmp_path, loss=None, batch_size=8)
    with caplog.at_level(logging.WARNING, "spectral_sampler"):
        store = extract(Same(), data, tmp_path, loss=None, batch_size=8, zero_rows="uniform")
    lines = [record.getMessage() for record in caplog.records if "of zeros" in record.getMessage()]
    assert lines == ["3 rows of zeros stored as unit vectors of equal entries: rows 3, 17, 39"]
    expected = ReferenceStore.from_arrays(planted(), dtype="float16", zero_rows="uniform")
    np.testing.assert_array_equal(store.features, expected.features)
    assert extract(Same(), data, tmp_path, loss=None, zero_rows="uniform").fingerprint == store.fingerprint
    with pytest.raises(StoreError, match=r"made of something else \(zero_rows differ\)"):
        extract(Same(), data, tmp_path, loss=None, batch_size=8)


def test_a_dead_network_can_be_a_reference(tmp_path):
    """ReLU leaves many rows of nothing in a network that was not trained."""
    model = nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4, WIDTH) - 0.5)
        model[0].bias.zero_()
    inputs = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0))
    dead = ~model[:2](inputs).detach().bool().any(1)
    store = extract(model, TensorDataset(inputs, torch.zeros(64, dtype=torch.int64)), tmp_path, zero_rows="uniform")
    assert 0 < dead.sum() < 64
    assert (store.features[dead.numpy()] == np.float16(0.5)).all()
    assert np.isfinite(store.losses).all()


class Sparse:
    """As a matrix of scipy.sparse: NumPy takes it for one object."""

    def toarray(self):
        raise AssertionError("may not fit into memory")


class Category:
    dtype = "category"
    codes = np.arange(3)


WHAT_LABELS_ARE = {
    "strings": (["cat", "dog", "cat"], r"dtype <U3\. Number the classes"),
    "bytes": ([b"cat", b"dog", b"cat"], r"dtype \|S3\. Number the classes"),
    "names as objects": (np.array(["cat", "dog", "cat"], object), r"objects \(str\)\. Number the classes"),
    "integers as objects": (
        np.array([1, 2, 3], object),
        r"objects \(int\)\. Cast class numbers with \.astype\('int64'\)",
    ),
    "holes": ([1, None, 2], r"objects \(NoneType, int\) with no class in row 1\. Give .*ignore_index=-1"),
    "named holes": (
        ["cat", None, float("nan")],
        r"objects \(NoneType, float, str\) with no class in rows 1, 2\. Give .*ignore_index=-1",
    ),
    "missing numbers": ([1.0, np.nan, np.nan], r"dtype float64 with no class in rows 1, 2\. Give .*ignore_index=-1"),
    "floats": ([1.0, 2.0, 0.0], r"dtype float64\. Cast class numbers with \.astype\('int64'\)"),
    "targets": ([0.5, 2.0, 1.25], r"dtype float64 with fractions in rows 0, 2\. Leave labels out .* regression"),
    "dates": (np.array(["2020-01-01"] * 3, "M8[D]"), r"dtype datetime64\[D\]\. Number the classes"),
    "categories": (Category(), r"categories \(Category\)\. Pass \.codes"),
    "one-hot": (np.eye(3), r"shape \(3, 3\)\. Pass \.argmax\(1\)"),
    "one-hot tensor": (torch.eye(3, dtype=torch.int64), r"shape \(3, 3\)\. Pass \.argmax\(1\)"),
    "column": (torch.ones(3, 1, dtype=torch.int64), r"shape \(3, 1\)\. Pass \.reshape\(-1\)"),
    "mapping": ({"fine": [1, 2, 3], "coarse": [0, 0, 1]}, r"keys fine, coarse\. Pass the one"),
    "too few": ([1, 2], r"shape \(2,\)\. Pass them in the order"),
}


@pytest.mark.parametrize("kind", WHAT_LABELS_ARE)
def test_what_is_said_of_labels_is_of_use(kind):
    labels, sentence = WHAT_LABELS_ARE[kind]
    with pytest.raises(ArgumentError, match=rf"^labels must be .*, got {sentence}"):
        ReferenceStore.from_arrays(np.eye(3), labels=labels)


def test_pandas_categories():
    pandas = pytest.importorskip("pandas")
    names = pandas.Series(["b", "a", "b"], dtype="category")
    for labels, remedy in ((names, r"\.cat\.codes"), (names.array, r"\.codes"), (pandas.Index(names), r"\.codes")):
        with pytest.raises(
            ArgumentError, match=rf"^labels must be integers, got categories \(.*\)\. Pass {remedy} of it"
        ):
            ReferenceStore.from_arrays(np.eye(3), labels=labels)
    assert ReferenceStore.from_arrays(np.eye(3), labels=names.cat.codes).labels.tolist() == [1, 0, 1]
    with pytest.raises(ArgumentError, match=r"with no class in row 1\. "):
        ReferenceStore.from_arrays(np.eye(3), labels=pandas.array([1, None, 2], dtype="Int64"))


def test_sparse_and_masked_arrays_and_lists_of_tensors():
    for argument in ("features", "losses"):
        given = {"features": np.eye(3), "losses": np.ones(3), argument: Sparse()}
        with pytest.raises(ArgumentError, match=rf"^{argument} must be a dense array, got Sparse\. Call \.toarray\(\)"):
            ReferenceStore.from_arrays(**given)
    masked = np.ma.masked_array(np.eye(3), np.eye(3, k=1, dtype=bool))
    with pytest.raises(ArgumentError, match=r"^features must be without masked values"):
        ReferenceStore.from_arrays(masked)
    rows = [torch.ones(2, requires_grad=True), torch.tensor([1.0, 2.0], dtype=torch.float32)]
    assert ReferenceStore.from_arrays(rows).features.tolist() == [[1, 1], [1, 2]]
    with pytest.raises(ArgumentError, match=r"^features must be a rectangular array"):
        ReferenceStore.from_arrays([torch.ones(2), torch.ones(3)])


def data_with(labels):
    inputs = torch.randn(len(labels), WIDTH, generator=torch.Generator().manual_seed(0))
    return [(row, label) for row, label in zip(inputs, labels, strict=True)]


REFUSED_LABELS = {
    "strings": (["cat", "dog"] * 6, r"labels tuple\. Number the classes"),
    "one-hot": (list(torch.eye(12)), r"labels \(12, 12\)\. Pass \.argmax\(1\)"),
    "floats": ([0.0, 1.0] * 6, r"labels \(12,\) torch.float64\. Cast class numbers"),
    "targets": ([0.3, 1.0] * 6, r"labels \(12,\) torch.float64\. Leave labels out"),
    "column": ([torch.tensor([1])] * 12, r"labels \(12, 1\)\. Pass \.reshape\(-1\)"),
    "mapping": ([{"fine": 1, "coarse": 0}] * 12, r"labels dict\. Pass the one of its values"),
}


@pytest.mark.parametrize("kind", REFUSED_LABELS)
def test_labels_of_samples_that_are_no_classes(kind, tmp_path, caplog):
    labels, sentence = REFUSED_LABELS[kind]
    data, model = data_with(labels), nn.Linear(WIDTH, 3)
    with pytest.raises(
        ArgumentError, match=rf"^loss must be .*, got 'cross_entropy' for outputs \(12, 3\) and {sentence}"
    ):
        extract(model, data, tmp_path / "a")
    with caplog.at_level(logging.WARNING, "spectral_sampler"):
        store = extract(model, data, tmp_path / "b", loss=None, batch_size=5)
    assert store.labels is None
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, "it is said once, not for every batch"
    assert lines[0].startswith("the store will have no labels, which selections by class need: labels must be ")


def test_class_numbers_of_any_container_are_taken(tmp_path):
    data = data_with(list(range(3)) * 4)
    model = nn.Linear(WIDTH, 3)
    first = extract(model, data, tmp_path / "0")
    for name, container in (("1", list), ("2", np.array), ("3", torch.tensor), ("4", tuple)):

        def collate(samples, container=container):
            return torch.stack([row for row, _ in samples]), container([label for _, label in samples])

        store = extract(model, data, tmp_path / name, collate_fn=collate)
        assert store.labels.tolist() == list(range(3)) * 4
        np.testing.assert_array_equal(store.losses, first.losses)


def test_probabilities_are_not_taken_for_logits(tmp_path):
    model = nn.Sequential(nn.Linear(WIDTH, 3), nn.Softmax(1))
    with pytest.raises(
        ArgumentError, match=r"^loss must be a function of probabilities for this model, got 'cross_entr"
    ):
        extract(model, data_with([0, 1, 2] * 4), tmp_path, batch_size=1)
    with pytest.raises(ArgumentError, match=r"^loss must be a function of probabilities for this model"):
        cross_entropy(model[0](torch.randn(9, WIDTH)).softmax(1).bfloat16(), torch.arange(9) % 3)
    assert cross_entropy(torch.tensor([[0.3, 0.705]]), torch.tensor([1])).shape == (1,), "logits, by a hair"
    logarithms = extract(nn.Sequential(model[0], nn.LogSoftmax(1)), data_with([0, 1, 2] * 4), tmp_path / "a")
    plain = extract(model[0], data_with([0, 1, 2] * 4), tmp_path / "b")
    np.testing.assert_allclose(logarithms.losses, plain.losses, rtol=1e-5)


def scripted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(model)


class Classifier(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.body, self.head = nn.Linear(WIDTH, 5), head

    def forward(self, rows):
        return self.head(self.body(rows))


@pytest.mark.parametrize("part", ["whole", "head", "exported"])
def test_modules_whose_layers_cannot_be_watched(part, tmp_path):
    head, data = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), data_with([0, 1, 2] * 4)
    model = {
        "whole": lambda: scripted(Classifier(head)),
        "head": lambda: Classifier(scripted(head)),
        "exported": lambda: torch.export.export(Classifier(head), (torch.randn(12, WIDTH),)).module(),
    }[part]()
    with pytest.raises(ArgumentError, match=r"^model must be one .*\. Pass the model as it was before it was scripted"):
        extract(model, data, tmp_path / "a")

    def features(model, inputs):
        return inputs, model(inputs)

    store = extract(model, data, tmp_path / "b", features=features, dtype="float32")
    np.testing.assert_array_equal(store.features, np.stack([row for row, _ in data]))
    assert len(store.losses) == 12


def test_an_encoder_stays_one_in_a_wrapper(tmp_path):
    class Twice(Encoder):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, rows):
            return 2 * self.layer(rows)

    encoder = Twice()
    data = data_with([0, 1, 2] * 4)
    plain = extract(encoder, data, tmp_path / "a", loss=None).features
    for name, wrap in (("b", nn.DataParallel), ("c", lambda model: torch.compile(model, backend="eager"))):
        np.testing.assert_array_equal(extract(wrap(encoder), data, tmp_path / name, loss=None).features, plain)
        with pytest.raises(ArgumentError, match=r"^loss must be None for a model without a classifier"):
            extract(wrap(encoder), data, tmp_path / "d")
    torch._dynamo.reset()


def test_a_function_for_features_that_returns_too_much(tmp_path):
    with pytest.raises(ArgumentError, match=r"^features must be a \(B, d\) tensor, got tuple\. Pass features=function"):
        extract(nn.Linear(WIDTH, 3), data_with([0, 1, 2]), tmp_path, features=lambda model, inputs: (inputs,) * 3)


def test_the_features_of_two_outputs_are_not_taken_for_logits(tmp_path):
    class Both(Classifier):
        def forward(self, rows):
            hidden = self.body(rows)
            return hidden, self.head(hidden)

    model, data = Both(nn.Linear(5, 3)), data_with([0, 1, 2] * 4)
    with pytest.raises(
        ArgumentError, match=r"^model must be one whose output is made by the last nn.Linear that it runs"
    ):
        extract(model, data, tmp_path / "a")
    store = extract(model, data, tmp_path / "b", loss=lambda outputs, labels: outputs[1].square().sum(1))
    np.testing.assert_allclose(store.features, model(torch.stack([row for row, _ in data]))[0].detach(), atol=1e-3)

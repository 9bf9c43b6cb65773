"""A frozen model over a data set: the right numbers, nothing of the caller's changed, every refusal a sentence."""

import logging
import random
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.extraction import Encoder, extract
from spectral_sampler.store import ReferenceStore

ROWS, WIDTH, CLASSES = 103, 8, 3


def a_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = [nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5)]
        return nn.Sequential(*first, nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))


def a_dataset(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    return TensorDataset(torch.randn(rows, WIDTH, generator=generator), labels)


def expected(model, dataset, batch_size=32):
    """Penultimate features and losses, written out without hooks."""
    model = model.eval()
    inputs, labels = dataset.tensors
    with torch.no_grad():
        features = torch.cat([model[:6](part) for part in inputs.split(batch_size)])
        losses = torch.cat(
            [
                -model(part).log_softmax(1)[torch.arange(len(part)), y]
                for part, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
            ]
        )
    return features, losses, labels


def test_features_losses_and_labels_are_the_models(tmp_path):
    model, dataset = a_model(), a_dataset()
    features, losses, labels = expected(model, dataset)
    store = ReferenceStore.from_model(model.train(), dataset, tmp_path, batch_size=32)  # its dropout must not act
    assert store.features.dtype == np.float16
    np.testing.assert_array_equal(store.features, features.numpy().astype("f2"))
    np.testing.assert_allclose(store.losses, losses.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(store.labels, labels.numpy())
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == store.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "features.npy",
        "labels.npy",
        "losses.npy",
        "manifest.json",
    ]


def test_float32_features_are_exact(tmp_path):
    model, dataset = a_model(), a_dataset()
    store = extract(model, dataset, tmp_path, batch_size=32, dtype="float32")
    np.testing.assert_array_equal(store.features, expected(model, dataset)[0].numpy())


def test_the_last_linear_is_the_last_that_runs_not_the_last_declared(tmp_path):
    class Tangled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(5, CLASSES), nn.Linear(WIDTH, 5)

        def forward(self, inputs):
            return self.head(self.body(inputs))

    model, dataset = Tangled(), a_dataset()
    store = extract(model, dataset, tmp_path, dtype="float32")
    np.testing.assert_array_equal(store.features, model.body(dataset.tensors[0]).detach().numpy())


def test_the_model_comes_back_as_it_was(tmp_path):
    model = a_model().train()
    model[1].eval()  # frozen batch normalisation: flags may be mixed
    flags = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    extract(model, a_dataset(), tmp_path / "a")
    with pytest.raises(RuntimeError, match="stop"):
        extract(model, a_dataset(), tmp_path / "b", loss=stopping)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(torch.randn(4, WIDTH, requires_grad=True)).sum().backward()  # nothing was left in inference mode


def stopping(outputs, labels):
    raise RuntimeError("stop")


class Drawing(Dataset):
    """Draws from every global generator and keeps the tensors it makes."""

    def __init__(self, rows=40):
        self.rows, self.kept = rows, {}

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        random.random(), np.random.rand(), torch.rand(1)
        return self.kept.setdefault(index, torch.full((WIDTH,), float(index + 1))), index % CLASSES


@pytest.mark.parametrize("workers", [0, 2])
def test_global_randomness_is_untouched(tmp_path, workers):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    extract(a_model(), Drawing(), tmp_path, num_workers=workers)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_tensors_that_a_dataset_keeps_can_still_be_trained_on(tmp_path):
    dataset = Drawing(rows=200)  # most of them are not among the 64 that are probed
    extract(a_model(), dataset, tmp_path)
    assert len(dataset.kept) == 200
    assert not any(tensor.is_inference() for tensor in dataset.kept.values())


def test_workers_change_no_bit(tmp_path):
    stores = [extract(a_model(), a_dataset(), tmp_path / str(n), batch_size=16, num_workers=n) for n in (0, 2)]
    assert stores[0].fingerprint == stores[1].fingerprint


class Augmented(Drawing):
    def __getitem__(self, index):
        return torch.rand(WIDTH), 0


def test_augmentation_is_seen_and_refused(tmp_path):
    sentence = r"dataset must be free of random augmentation, got a sample 0 that differs between two readings. Pass"
    with pytest.raises(ArgumentError, match=sentence):
        extract(a_model(), Augmented(), tmp_path / "s")
    assert not (tmp_path / "s").exists()


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize("dataset", [Stream(), iter([1]), {1, 2}, object()])
def test_streams_are_refused(tmp_path, dataset):
    with pytest.raises(ArgumentError, match=r"^dataset must be map-style, with __len__ and __getitem__, got"):
        extract(a_model(), dataset, tmp_path)


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"^dataset must be non-empty, got length 0"):
        extract(a_model(), a_dataset(0), tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "hinge"}, "loss must be 'cross_entropy', a function"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be an int of at least 1, got 2.0"),
        ({"num_replicas": 2, "rank": 2}, "rank must be below num_replicas"),
        ({"rank": -1}, "rank must be an int of at least 0"),
        ({"dtype": "bfloat16"}, "dtype must be float16 or float32, got bfloat16"),
        ({"loss": lambda outputs, labels: outputs.sum()}, "loss must be one value per sample"),
        ({"loss": lambda outputs, labels: -outputs.abs().sum(1)}, "losses .* negative values in rows 0, 1"),
        ({"split": "labels"}, "split must be a function or None, got 'labels'"),
        ({"features": -2}, "features must be a function or None, got -2"),
        ({"collate_fn": []}, r"collate_fn must be a function or None, got \[\]"),
        ({"num_workers": -1}, "num_workers must be an int of at least 0, got -1"),
        ({"split": lambda batch: batch[0]}, r"split must be a function\(batch\) -> .*, got Tensor"),
        ({"split": lambda batch: (*batch, 1)}, r"split must be a function\(batch\) -> .*, got 3 parts"),
        ({"features": lambda model, inputs: inputs.view(-1, 2, 4)}, r"features must be a \(B, d\) tensor"),
        ({"features": lambda model, inputs: inputs[1:]}, "features must be one row per sample"),
        ({"features": lambda model, inputs: inputs * 1e5}, "range of float16, got overflow in rows 0,"),
        ({"features": lambda model, inputs: inputs * 1e-9}, "range of float16, got underflow to zero in rows 0,"),
        ({"features": lambda model, inputs: inputs * 0}, "non-zero in every row, got only zeros in rows 0,"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_in_a_sentence(tmp_path, options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        extract(a_model(), a_dataset(), tmp_path, **{"loss": None, **options})
    with pytest.raises(StoreError):
        ReferenceStore.open(tmp_path)


def test_rows_are_numbered_in_the_data_set_not_in_the_batch(tmp_path):
    dataset = a_dataset()
    dataset.tensors[0][77] = float("nan")
    with pytest.raises(ArgumentError, match="features must be finite, got NaN or Inf in row 77"):
        extract(a_model(), dataset, tmp_path, batch_size=10)


def test_a_model_without_a_linear_and_one_that_maps_patches(tmp_path):
    with pytest.raises(ArgumentError, match=r"model must be one that runs an nn\.Linear, got Tanh"):
        extract(nn.Tanh(), a_dataset(), tmp_path, loss=None)
    patches = TensorDataset(torch.randn(6, 4, WIDTH))
    with pytest.raises(ArgumentError, match=r"features must be a \(B, d\) tensor, got \(6, 4, 8\)"):
        extract(nn.Linear(WIDTH, 2), patches, tmp_path, loss=None)


def test_labels_of_other_classes_are_seen(tmp_path):
    dataset = a_dataset()
    dataset.tensors[1][50] = CLASSES
    with pytest.raises(ArgumentError, match="'cross_entropy' for labels 0 to 3 and 3 outputs"):
        extract(a_model(), dataset, tmp_path)


@pytest.mark.parametrize("also_outputs", [False, True])
def test_a_function_for_features_and_one_for_losses(tmp_path, also_outputs):
    def features(model, inputs):
        return (inputs * 2, model(inputs)) if also_outputs else inputs * 2

    def loss(outputs, labels):
        return (outputs.argmax(1) != labels).float()

    model, dataset = a_model().eval(), a_dataset()
    store = extract(model, dataset, tmp_path, features=features, loss=loss, dtype="float32")
    np.testing.assert_array_equal(store.features, dataset.tensors[0].numpy() * 2)
    np.testing.assert_array_equal(store.losses, (model(dataset.tensors[0]).argmax(1) != dataset.tensors[1]).numpy())


def test_criteria_of_torch_are_losses_too(tmp_path):
    model, dataset = a_model(), a_dataset()
    store = extract(model, dataset, tmp_path, loss=nn.CrossEntropyLoss(reduction="none"), batch_size=32)
    np.testing.assert_allclose(store.losses, expected(model, dataset)[1].numpy(), rtol=1e-5, atol=1e-6)


class Doubling(Encoder):
    def forward(self, inputs):
        return 2 * inputs


def test_an_encoder_gives_its_output_and_another_model_the_losses(tmp_path):
    dataset, classifier = a_dataset(), a_model()
    with pytest.raises(ArgumentError, match="loss must be None for a model without a classifier"):
        extract(Doubling(), dataset, tmp_path / "a")
    assert extract(Doubling(), dataset, tmp_path / "b", loss=None).losses is None
    store = extract(Doubling(), dataset, tmp_path / "c", loss_model=classifier.train(), dtype="float32")
    np.testing.assert_array_equal(store.features, 2 * dataset.tensors[0].numpy())
    assert classifier.training
    np.testing.assert_allclose(store.losses, expected(classifier, dataset, ROWS)[1].numpy(), rtol=1e-5, atol=1e-6)


def test_batches_of_other_shapes(tmp_path):
    inputs, labels = a_dataset().tensors
    model = a_model()
    whole = extract(model, a_dataset(), tmp_path / "0").fingerprint
    mappings = [{"0": x, "y": y} for x, y in zip(inputs, labels, strict=True)]
    with pytest.raises(
        ArgumentError, match="split must be given for data sets whose samples are mappings, got keys 0, y"
    ):
        extract(model, mappings, tmp_path / "1")
    store = extract(model, mappings, tmp_path / "1", split=lambda batch: (batch["0"], batch["y"]))
    assert store.fingerprint == whole
    bare = extract(model, list(inputs), tmp_path / "2", loss=None)
    assert (bare.losses, bare.labels) == (None, None)
    np.testing.assert_array_equal(bare.features, store.features)
    with pytest.raises(ArgumentError, match="loss must be None for a data set without labels"):
        extract(model, list(inputs), tmp_path / "3")
    regression = TensorDataset(inputs, torch.rand(ROWS))
    assert extract(model, regression, tmp_path / "4", loss=None).labels is None
    with pytest.raises(
        ArgumentError, match=r"'cross_entropy' for outputs \(103, 3\) and labels \(103,\) torch.float32"
    ):
        extract(model, regression, tmp_path / "5")


def test_several_inputs_and_texts(tmp_path):
    class Adding(Encoder):
        def forward(self, first, second):
            return first + second

    pairs = [((torch.full((2,), n + 1.0), torch.ones(2)), n) for n in range(5)]
    store = extract(Adding(), pairs, tmp_path / "a", loss=None)
    assert (store.features[:, 0].tolist(), store.labels.tolist()) == ([2, 3, 4, 5, 6], [0, 1, 2, 3, 4])

    class Lengths(Encoder):
        def forward(self, texts):
            return torch.tensor([[float(len(text))] for text in texts])

    for name, texts in (("b", [("one", 1), ("three", 2)]), ("c", ["one", "three"])):
        assert extract(Lengths(), texts, tmp_path / name, loss=None).features.tolist() == [[3], [5]]


def test_a_finished_store_is_opened_again_without_running_the_model(tmp_path):
    calls = []
    model = a_model()
    model.register_forward_hook(lambda *_: calls.append(1))
    first = extract(model, a_dataset(), tmp_path, batch_size=32)
    ran = len(calls)
    again = extract(model.train(), a_dataset(), tmp_path, batch_size=32)
    assert len(calls) == ran > 0
    assert again.fingerprint == first.fingerprint
    assert extract(model, a_dataset(), tmp_path, batch_size=50).fingerprint == first.fingerprint
    assert len(calls) == ran


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": a_model(1)}, "model"),
        ({"model": nn.Sequential(*a_model()[:5], nn.ReLU(), a_model()[6])}, "model"),  # the same weights
        ({"dataset": a_dataset(seed=1)}, "probes, labels"),
        ({"dataset": a_dataset(rows=99)}, "length, probes, labels"),
        ({"dataset": Subset(a_dataset(), range(ROWS))}, "layers"),
        ({"version": "2"}, "version"),
        ({"loss": None}, "loss"),
        ({"dtype": "float32"}, "dtype"),
        ({"loss_model": a_model(1)}, "loss_model"),
        ({"features": lambda model, inputs: inputs}, "features"),
    ],
)
def test_a_store_of_something_else_is_refused_and_says_what_differs(tmp_path, change, named):
    arguments = {"model": a_model(), "dataset": a_dataset(), "path": tmp_path}
    first = extract(**arguments)
    with pytest.raises(
        StoreError, match=rf"made of something else \({named} differ\)\. Pass another path, or overwrite"
    ):
        extract(**{**arguments, **change})
    assert ReferenceStore.open(tmp_path).fingerprint == first.fingerprint
    replaced = extract(**{**arguments, **change}, overwrite=True)
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == replaced.fingerprint
    assert extract(**{**arguments, **change}).fingerprint == replaced.fingerprint


def test_a_store_from_arrays_is_not_taken_for_an_extraction(tmp_path):
    ReferenceStore.from_arrays(np.eye(3)).save(tmp_path)
    with pytest.raises(StoreError, match="made of something else"):
        extract(a_model(), a_dataset(), tmp_path)


def test_a_damaged_store_is_extracted_again(tmp_path, caplog):
    first = extract(a_model(), a_dataset(), tmp_path)
    with (tmp_path / "features.npy").open("r+b") as file:
        file.seek(500)
        file.write(b"\xff")
    with caplog.at_level(logging.WARNING):
        again = extract(a_model(), a_dataset(), tmp_path)
    assert "extracting again" in caplog.text
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == again.fingerprint == first.fingerprint


def test_the_source_is_recorded_and_survives(tmp_path):
    store = extract(a_model(), a_dataset(), tmp_path, version="mine")
    source = ReferenceStore.open(tmp_path).source
    assert source == store.source
    assert source["version"] == "mine"
    assert source["length"] == ROWS
    assert re.fullmatch("[0-9a-f]{64}", source["model"])
    assert source["layers"] == ["torch.utils.data.dataset.TensorDataset None"]


def test_the_bar_is_drawn_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tqdm")
    extract(a_model(), a_dataset(), tmp_path / "a", batch_size=10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    extract(a_model(), a_dataset(), tmp_path / "b", batch_size=10)
    assert "11/11" in capsys.readouterr().err
    extract(a_model(), a_dataset(), tmp_path / "c", batch_size=10, progress=False)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    extract(a_model(), a_dataset(), tmp_path / "d", batch_size=10)
    assert capsys.readouterr().err == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_is_lent_to_a_device_and_comes_home(tmp_path):
    model, dataset = a_model(), a_dataset()
    store = extract(model, dataset, tmp_path, batch_size=32, device="cuda", dtype="float32")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    np.testing.assert_allclose(store.features, expected(model, dataset)[0].numpy(), rtol=1e-3, atol=1e-4)
    assert store.source["device"] == "cuda"

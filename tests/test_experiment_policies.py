"""Every policy and every schedule trains in the comparison, with what it needs given to it."""

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore
from spectral_sampler.experiment import POLICIES, Cell, Places, Settings, run_cell
from spectral_sampler.experiment.cell import budgets
from spectral_sampler.experiment.corruption import Corruption, corrupt
from spectral_sampler.experiment.policies import FRESH, policy_named
from spectral_sampler.experiment.policy import Material, candidates
from spectral_sampler.experiment.reference import Reference
from spectral_sampler.experiment.samples import Task, TensorSamples, TextSamples
from spectral_sampler.experiment.settings import SCHEDULES
from spectral_sampler.experiment.zero_shot import PLACEHOLDER, class_name_logits, with_zero_shot
from spectral_sampler.selection import BayesianSelection, Uniform

SETTINGS = Settings.of("digits", train_size=400, epochs=3, schedule="constant", reference_epochs=3)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_trains(policy, places):
    result = run_cell(Cell(SETTINGS, policy, 0), places)
    statistics, batches = result["statistics"], 3 * (400 // 64)
    assert result["steps"] == batches
    assert np.isfinite(result["curve"][-1]["test_loss"])
    needs = POLICIES[policy]().needs
    if policy in {"infobatch", "seta"}:
        assert 0.5 * batches * 19 < result["samples"] < batches * 19, "it prunes on top of the keep ratio"
    else:
        assert result["samples"] == budgets(SETTINGS, 400).sum() == pytest.approx(batches * 64 * 0.3, rel=0.02)
    looks = bool(needs & {"logits", "embeddings"}) or policy in FRESH
    assert (statistics.get("spectral/forwarded_total", 0) == batches * 64) == looks
    assert (statistics["spectral/observed_share"] > 0) == ("learner_losses" in needs and not looks)


def test_a_learner_looks_at_the_candidates_without_augmentation():
    class Augmented(TensorSamples):
        def __getitem__(self, row):
            raise AssertionError("augmented")

        def plain(self):
            return TensorSamples(self.inputs, self.labels)

    inputs, labels = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)), np.arange(64) % 3
    reference = Reference(ReferenceStore.from_arrays(inputs, labels=labels), {}, np.zeros((64, 3)))
    train, corrupted = Augmented(inputs, labels), corrupt(labels, Corruption(), 3, 0)
    task = Task("blobs", train, train, train, ("a", "b", "c"))
    material = Material(SETTINGS, 0, task, corrupted, train, reference, torch.nn.Linear(5, 3))
    batches = candidates(policy_named("gradient-norm"), material, np.arange(64))
    assert batches.statistics()["spectral/forwarded_total"] == 0
    list(batches)
    assert batches.statistics()["spectral/forwarded_total"] == 64


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "constant"])
def test_every_schedule_trains(schedule, places):
    settings = Settings.of("digits", train_size=800, epochs=8, schedule=schedule, reference_epochs=3)
    result = run_cell(Cell(settings, "uniform", 0), places)
    share = result["samples"] / (8 * (800 // 64) * 64)
    if "aimd" in schedule:
        assert 0.18 < share < 0.88
        assert result["statistics"]["spectral/observed_share"] > 0
    else:
        assert share == pytest.approx(0.30, abs=0.012), "rounded down to whole samples"


def test_the_predictor_of_the_bayesian_selection_is_put_in_place():
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    filled = with_zero_shot(POLICIES["bayesian"](), logits)
    assert filled.zero_shot is logits
    own = BayesianSelection(logits)
    uniform = Uniform()
    assert with_zero_shot(own, logits + 1) is own
    assert with_zero_shot(uniform, logits) is uniform
    assert POLICIES["bayesian"]().zero_shot is PLACEHOLDER


def test_class_names_become_logits():
    vectors = {"cat": [1.0, 0.0, 0.0], "dog": [0.0, 2.0, 0.0]}
    seen = []

    def encode(samples):
        assert isinstance(samples, TextSamples)
        seen.append((samples.texts, samples.digest()))
        return np.array([vectors[text] for text in samples.texts])

    rows = np.array([[3.0, 0, 4], [0, 0.5, 0]])
    assert class_name_logits(rows, ("cat", "dog"), encode) == pytest.approx(20 * np.array([[0.6, 0.0], [0.0, 1.0]]))
    assert class_name_logits(rows, ("dog", "cat"), encode) == pytest.approx(20 * np.array([[0.0, 0.6], [1.0, 0.0]]))
    assert [texts for texts, _ in seen] == [["cat", "dog"], ["dog", "cat"]]
    assert seen[0][1] != seen[1][1], "or the cache would mistake one list of names for another"

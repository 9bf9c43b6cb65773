"""The arena: its commands can be run, its tables are of the strongest control, one training can be made again."""

import shlex
import sys

import pytest

from benchmarks import arena, study, tables
from spectral_sampler.cli.options import settings
from spectral_sampler.cli.program import parser
from spectral_sampler.experiment.policies import CONTROLS, chosen_policies
from spectral_sampler.experiment.report import write_json


@pytest.mark.parametrize("name", arena.RUNS)
def test_every_command_can_be_run(name):
    arguments = parser().parse_args(shlex.split(arena.RUNS[name]))
    chosen = settings(arguments)
    assert chosen.schedule == "constant"
    assert chosen_policies(arguments.policies.split(","))[: len(CONTROLS)] == CONTROLS
    condition = name.removeprefix(f"{chosen.data}")
    noisy = chosen.label_noise + chosen.confusion_noise
    assert (noisy > 0) == ("noise" in condition or "confusion" in condition)


def test_no_two_comparisons_are_the_same():
    assert len(set(arena.RUNS.values())) == len(arena.RUNS)
    for data in arena.TUNED_ON:
        assert data in arena.DATA


def cells(**accuracies):
    return [
        {"policy": policy.replace("_", "-"), "seed": seed, "test_balanced_accuracy": value, "test_accuracy": value / 2,
         "samples": 10, "learner_flops": 1.0, "wrong_label_share": 0.0}
        for policy, values in accuracies.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip


@pytest.fixture
def committed(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ARENA", tmp_path)
    monkeypatch.setattr(tables, "GRID", ["digits-clean", "digits-noise20"])
    names = ["full", "uniform", "small", "clean-once", "a", "b"]
    first = cells(full=(0.99, 0.99), uniform=(0.70, 0.71), small=(0.80, 0.81), clean_once=(0.75, 0.76), a=(0.83, 0.84),
                  b=(0.60, 0.61))  # fmt: skip
    second = cells(full=(0.99, 0.99), uniform=(0.70, 0.71), small=(0.75, 0.76), clean_once=(0.85, 0.86), a=(0.70, 0.99))
    write_json(tmp_path / "digits-clean.json", {"cells": first, "policies": names})
    write_json(tmp_path / "digits-noise20.json", {"cells": second, "policies": names})


@pytest.mark.usefixtures("committed")
def test_differences_are_to_the_strongest_control_of_each_condition():
    lines = [[entry.strip() for entry in line.split("|")[1:-1]] for line in tables.arena("digits").splitlines()]
    assert lines[0] == ["policy", "clean", "noise20"]
    table = {line[0]: line[1:] for line in lines[2:]}
    assert [entry.partition(",")[0] for entry in table["*strongest control*"]] == ["small", "clean-once"]
    assert table["a"][0] == "**+3.00 ± 0.00**"
    assert table["a"][1].startswith("-1.00 ±")
    assert "**" not in table["a"][1]
    assert table["small"][0] == ""
    assert table["small"][1] == "**-10.00 ± 0.00**"
    assert table["b"] == ["**-20.00 ± 0.00**", ""]


@pytest.mark.usefixtures("committed")
def test_standings_count_what_is_clear():
    lines = [[entry.strip() for entry in line.split("|")[1:-1]] for line in tables.standing("digits").splitlines()]
    table = {line[0]: line[1:] for line in lines[2:]}
    assert table["a"][:3] == ["2", "1 / 0", "+1.00"]
    assert table["a"][4:] == ["1 / 0", "+0.50"], "by plain accuracy"
    assert table["b"] == ["1", "0 / 1", "-20.00", "-20.00 ± 0.00 (digits clean)", "0 / 1", "-10.00"]
    assert table["small"][:2] == ["2", "0 / 1"], "it is the strongest of one"


def test_a_training_is_made_again_beside_the_committed_one(tmp_path):
    command, committed = "compare --data digits --train-size 100 --epochs 2 --schedule constant", tmp_path / "tiny.json"
    said = study.redo(command, committed, "small", 3, tmp_path)
    assert said.endswith("not trained before")
    accuracy = float(said.split()[-5])
    cell = {"policy": "small", "seed": 3, "test_accuracy": 0.5, "commit": "abc"}
    write_json(committed, {"cells": [cell]})
    said = study.redo(command, committed, "small", 3, tmp_path)
    assert said == f"tiny, small, seed 3: {accuracy:.2f} %, 50.00 % at abc"


@pytest.mark.parametrize(
    ("policy", "seed", "message"),
    [
        ("smal", "3", "policies must be names out of"),
        ("small", "-1", "SEED must be a whole number"),
        ("small", "x", "SEED"),
    ],
)
def test_a_training_that_is_none_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys, policy, seed, message):
    monkeypatch.setattr(sys, "argv", ["arena", "tiny", "--redo", policy, seed])
    command = "compare --data digits --train-size 100 --epochs 2 --schedule constant"
    with pytest.raises(SystemExit):
        study.main({"tiny": command}, tmp_path, tmp_path / "work", "")
    assert message in capsys.readouterr().err

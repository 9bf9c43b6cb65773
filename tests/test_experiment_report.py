"""The table, the verdict, the pictures and the JSON, from trainings whose numbers are known."""

import json
import math
import re
import statistics
import subprocess

import numpy as np
import pytest

pytest.importorskip("scipy")

from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment.report import estimate, read_json, rows, table, verdict, write_json

POLICIES = ["full", "full-equal-compute", "uniform", "loss-weighted", "saln", "gstds"]
ACCURACIES = {
    "full": [0.90, 0.92, 0.91],
    "full-equal-compute": [0.88, 0.87, 0.89],
    "uniform": [0.85, 0.88, 0.86],
    "loss-weighted": [0.84, 0.89, 0.85],
    "saln": [0.70, 0.74, 0.71],
    "gstds": [0.90, 0.93, 0.909],
}
T_975_2 = 4.302652729911275  # Student's t, two degrees of freedom, from a printed table


def cell(policy: str, seed: int, noisy: bool = False) -> dict:
    samples = 1000 if policy == "full" else 300
    accuracy = ACCURACIES[policy][seed]
    curve = [
        {"step": 10 * k, "samples": samples * k // 3, "training_loss": 1.0 / k, "test_accuracy": accuracy * k / 3,
         "test_loss": 1.0}
        for k in (1, 2, 3)
    ]  # fmt: skip
    found = {
        "policy": policy, "seed": seed, "samples": samples, "test_accuracy": accuracy, "curve": curve,
        "learner_flops": 1e6 * samples, "seconds": {"selection": 1.0 + seed, "data": 0.5, "training": 2.0},
        "wrong_label_share": 0.1 if noisy else 0.0,
        "selected_per_class": [[samples // 6, samples // 6]] * 3,
        "corruption": {"rows_per_class": [60, 40]},
    }  # fmt: skip
    if policy in {"saln", "gstds"}:
        kinds = ["spectral", "weighted", "rejected", "rejected"]
        found["pictured_batch"] = {
            "batch": 1, "points": [[0, 1], [1, 0], [2, 2], [3, 1]], "variance_shares": [0.5, 0.3],
            "labels": [0, 1, 0, 1],
            "moments": [{"epoch": epoch, "keep_ratio": 0.5, "kinds": kinds} for epoch in (1, 3)],
        }  # fmt: skip
    return found


@pytest.fixture
def results() -> dict:
    return {
        "settings": {"data": "digits", "epochs": 3, "schedule": "sigmoid"},
        "policies": POLICIES,
        "seeds": [0, 1, 2],
        "classes": ["cat", "dog"],
        "keep_ratios": [0.2, 0.3, 0.4],
        "cells": [cell(policy, seed) for policy in POLICIES for seed in range(3)],
    }


def test_estimates_are_t_intervals():
    values = ACCURACIES["uniform"]
    found = estimate(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.half_width == pytest.approx(T_975_2 * statistics.stdev(values) / math.sqrt(3))
    assert math.isnan(estimate([0.5]).half_width)
    assert not estimate([0.5]).clear_of_zero
    assert estimate([0.1, 0.1001]).clear_of_zero
    assert not estimate([0.1, -0.09]).clear_of_zero


def test_the_tables_numbers_recomputed(results):
    lines = {line.policy: line for line in rows(results["cells"], POLICIES)}
    assert list(lines) == POLICIES
    for policy, line in lines.items():
        assert line.accuracy.mean == pytest.approx(statistics.mean(ACCURACIES[policy]))
        paired = [a - b for a, b in zip(ACCURACIES[policy], ACCURACIES["uniform"], strict=True)]
        if policy == "uniform":
            assert line.difference is None
        else:
            assert line.difference.mean == pytest.approx(statistics.mean(paired))
            assert line.difference.half_width == pytest.approx(T_975_2 * statistics.stdev(paired) / math.sqrt(3))
        assert line.samples_ratio == (1.0 if policy == "full" else 0.3)
        assert line.seconds == {"selection": 2.0, "data": 0.5, "training": 2.0}
    text = table(list(lines.values())).splitlines()
    assert len({len(line) for line in text[:-1]}) == 1  # columns line up
    full = next(line for line in text if line.startswith("full "))
    assert "91.00 ± 2.48" in full
    assert "1,000" in full
    assert "100.0 %" in full


def test_differences_are_paired_over_common_seeds_only(results):
    cells = [entry for entry in results["cells"] if (entry["policy"], entry["seed"]) != ("uniform", 1)]
    gstds = {line.policy: line for line in rows(cells, POLICIES)}["gstds"]
    assert gstds.difference.mean == pytest.approx(((0.90 - 0.85) + (0.909 - 0.86)) / 2)


def test_the_verdict_names_winners_losers_and_the_undecided(results):
    text = verdict(rows(results["cells"], POLICIES))
    won, lost, undecided = text.splitlines()[:3]
    assert won == "gstds (+4.97 ± 0.14 points) beats uniform selection at the same number of samples."
    assert lost.startswith("saln (-14.67 ± ")
    assert "loses to uniform" in lost
    assert undecided == "Not decided by these seeds: loss-weighted."
    assert "Training on everything" in text
    alone = verdict(rows([entry for entry in results["cells"] if entry["seed"] == 0], POLICIES))
    assert "No policy beats uniform" in alone
    assert "Not decided by these seeds: loss-weighted, saln and gstds." in alone


def test_wrong_labels_get_a_column():
    assert "wrong labels" in table(rows([cell("uniform", 0, noisy=True)], ["uniform"]))
    assert "wrong labels" not in table(rows([cell("uniform", 0)], ["uniform"]))


def test_json_comes_back_as_it_was_and_is_written_whole_or_not_at_all(tmp_path, results):
    path = tmp_path / "deep" / "results.json"
    results["odd"] = {"empty": {}, "list": [], "text": 'a "b"\n [é] @', "none": None, "nested": [[1], [2.5, []]]}
    write_json(path, results)
    assert read_json(path) == results
    assert json.loads(path.read_text()) == results
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"accuracy": float("nan")})
    assert path.read_text() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    path.write_text(before[:-40])
    with pytest.raises(ArgumentError, match="path must be a readable JSON file"):
        read_json(path)


def test_figures_show_every_policy(tmp_path, results):
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    axes = figures.accuracy_figure(results).axes[0]
    assert [line.get_label() for line in axes.get_lines()] == POLICIES
    assert len(axes.collections) == len(POLICIES)  # bands
    gstds = axes.get_lines()[-1]
    assert gstds.get_xdata().tolist() == [100, 200, 300]
    assert gstds.get_ydata()[-1] == pytest.approx(100 * statistics.mean(ACCURACIES["gstds"]))
    assert len({line.get_color() for line in axes.get_lines()}) == len(POLICIES)
    schedule = figures.schedule_figure(results).axes[0]
    assert schedule.get_lines()[0].get_ydata().tolist() == [0.2, 0.3, 0.4]
    assert schedule.get_lines()[1].get_ydata() == pytest.approx([0.3, 0.3])


def test_class_figure_shows_shares_of_what_was_offered(results):
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    curves, bars = figures.class_figure(results, "gstds").axes
    assert [line.get_label() for line in curves.get_lines()] == [
        "most selected: dog",
        "least selected: cat",
        "all classes",
    ]
    assert curves.get_lines()[0].get_ydata() == pytest.approx([125.0] * 3)  # 50 of 40 offered an epoch
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([125.0, 250 / 3])
    assert [text.get_text() for text in bars.get_xticklabels()] == ["dog", "cat"]


def test_pictured_batch_has_a_point_for_every_candidate_in_both_panels(results):
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    figure = figures.pictured_batch_figure(results, "gstds")
    for axes in figure.axes:
        assert sum(len(points.get_offsets()) for points in axes.collections) == 4
        assert len(axes.collections) == 3
    assert figures.pictured_batch_figure(results, "uniform") is None


def test_saved_pictures_are_not_empty(tmp_path, results):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    from spectral_sampler.experiment import figures

    paths = figures.save_figures(results, tmp_path)
    names = ["accuracy", "keep-ratio", "classes-saln", "batch-saln", "classes-gstds", "batch-gstds"]
    assert [path.stem for path in paths] == names
    for path in paths:
        with image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 300
        assert 0.005 < (pixels < 250).mean() < 0.6


def test_the_commit_is_that_of_the_package_alone(tmp_path):
    from spectral_sampler.experiment.runner import _commit

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "result.json").write_text("1")
    assert _commit(package) is None, "no repository"
    git("init", "-q")
    git("add", "result.json")
    git("commit", "-q", "-m", "m")
    assert _commit(package) is None, "a repository of something else"
    git("add", ".")
    git("commit", "-q", "-m", "n")
    found = _commit(package)
    assert re.fullmatch(r"[0-9a-f]{12}", found)
    (tmp_path / "result.json").write_text("2")
    assert _commit(package) == found
    (package / "__init__.py").write_text("x = 1")
    assert _commit(package) == found + "-dirty"

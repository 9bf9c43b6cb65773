"""The table, the verdict, the pictures and the JSON, from trainings whose numbers are known."""

import json
import math
import re
import statistics
import subprocess

import numpy as np
import pytest

pytest.importorskip("scipy")

from comparison_cases import ACCURACIES, POLICIES, cell, comparison

from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment.report import (
    estimate,
    footnote,
    headline,
    leader,
    pays,
    read_json,
    rows,
    table,
    verdict,
    write_json,
)

T_975_2 = 4.302652729911275  # Student's t, two degrees of freedom, from a printed table


@pytest.fixture
def results() -> dict:
    return comparison()


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


@pytest.mark.parametrize(("spread", "shown"), [(0.01, True), (0.03, True), (0.06, False), (0.5, False), (0.0, True)])
def test_no_interval_wider_than_the_scale_is_printed(spread, shown):
    found = estimate([0.47 - spread / 2, 0.47 + spread / 2])  # half-width 12.7 · spread / 2
    assert found.half_width == pytest.approx(6.353102 * spread, abs=1e-6)
    assert found.too_wide is not shown
    expected = f"47.00 ± {100 * found.half_width:.2f}" if shown else "47.00 ± –"
    assert found.percent() == expected
    assert found.percent(signed=True) == f"+{expected}"


def test_a_single_seed_has_no_interval():
    assert estimate([0.5]).too_wide
    assert estimate([0.5]).percent() == "50.00 ± –"


def _widths(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"± (\d+\.\d+)", text)]


def test_too_wide_intervals_are_dashes_in_table_and_verdict_and_the_footnote_says_why(results):
    cells = [dict(entry) for entry in results["cells"] if entry["seed"] < 2]
    for entry in cells:
        if entry["policy"] == "saln":
            entry["test_accuracy"] = 0.40 + 0.15 * entry["seed"]  # ± 95 points
    lines = rows(cells, POLICIES)
    text = table(lines)
    saln = next(line for line in text.splitlines() if line.startswith("saln "))
    assert saln.count("± –") == 2
    assert "47.50 ± –" in saln
    assert max(_widths(text + verdict(lines))) <= 25.0
    assert text.splitlines()[-1].endswith(
        "± –: too few seeds for an interval within ± 25 points; more seeds narrow it."
    )
    assert "2 seeds" in text
    assert len({len(line) for line in text.splitlines()[:-1]}) == 1
    assert "± –:" not in footnote(rows(results["cells"], POLICIES))
    alone = rows([entry for entry in cells if entry["seed"] == 0], POLICIES)
    assert "Means over 1 seed, " in footnote(alone)
    assert not _widths(table(alone) + verdict(alone) + headline(alone))


def test_the_headline_names_a_winner_only_where_there_is_one(results):
    lines = rows(results["cells"], POLICIES)
    assert pays(lines)
    assert headline(lines) == (
        "gstds beats as many samples chosen at random here: +4.97 ± 0.14 points. "
        "It reaches 91.3 % with 30 % of the samples; all of them give 91.0 %."
    )
    without = rows([entry for entry in results["cells"] if entry["policy"] != "gstds"], POLICIES)
    assert not pays(without)
    assert headline(without).startswith(
        "No selection clearly beats as many samples chosen at random here (best: loss-weig"
    )
    assert leader(rows([entry for entry in results["cells"] if entry["policy"] == "uniform"], POLICIES)) is None


def test_the_leader_is_clear_of_zero_where_any_is(results):
    cells = [dict(entry) for entry in results["cells"]]
    for entry in cells:
        if entry["policy"] == "saln":
            entry["test_accuracy"] = [0.99, 0.80, 0.999][entry["seed"]]  # higher on average, and undecided
    lines = rows(cells, POLICIES)
    differences = {line.policy: line.difference for line in lines}
    assert differences["saln"].mean > differences["gstds"].mean
    assert leader(lines).policy == "gstds"
    assert leader(lines[:2]) is None, "controls that take everything are no selection"


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


def test_bands_stay_within_the_scale_and_two_seeds_have_none(results):
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    spread = [0.93, 0.999, 0.98]  # ± 8.8 points around 97
    for entry in results["cells"]:
        entry["curve"][-1]["test_accuracy"] = spread[entry["seed"]]
        entry["curve"][0]["test_accuracy"] = [0.001, 0.05, 0.002][entry["seed"]]
        entry["curve"][1]["test_accuracy"] = [0.1, 0.5, 0.9][entry["seed"]]  # ± 99 points
    axes = figures.accuracy_figure(results).axes[0]
    heights = np.concatenate([path.vertices[:, 1] for band in axes.collections for path in band.get_paths()])
    assert heights.min() == 0.0
    assert heights.max() == 100.0
    middle = axes.get_lines()[0].get_xdata()[1]
    assert not any((path.vertices[:, 0] == middle).any() for path in axes.collections[0].get_paths())
    results["cells"] = [entry for entry in results["cells"] if entry["seed"] < 2]
    results["seeds"] = [0, 1]
    axes = figures.accuracy_figure(results).axes[0]
    assert not axes.collections
    assert "too few for bands" in axes.get_title(loc="left")


def test_differences_are_drawn_with_their_intervals_or_a_dash(results):
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    axes = figures.difference_figure(results).axes[0]
    names = [policy for policy in POLICIES if policy != "uniform"]
    assert [text.get_text() for text in axes.get_yticklabels()] == names[::-1]
    gstds = axes.containers[0]
    assert gstds.lines[0].get_xdata() == pytest.approx([4.966667])
    ends = [segment[:, 0] for segment in gstds.lines[2][0].get_segments()]
    assert ends[0] == pytest.approx([4.966667 - 0.143422, 4.966667 + 0.143422], abs=1e-4)
    assert not axes.texts
    results["cells"] = [entry for entry in results["cells"] if entry["seed"] == 0]
    axes = figures.difference_figure(results).axes[0]
    assert [text.get_text() for text in axes.texts] == ["± –"] * 5
    assert not any(bars.lines[2] for bars in axes.containers)


def test_every_line_has_a_legend_and_a_dollar_is_no_formula(results, tmp_path):
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    results["classes"] = ["$\\frac{", "a$b$c"]
    curves, bars = figures.class_figure(results, "gstds").axes
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["all classes: 100 %"]
    assert len(curves.get_legend().get_texts()) == 3
    for path in figures.save_figures(results, tmp_path):
        assert path.stat().st_size > 5_000


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
    selections = ["classes-loss-weighted", "classes-saln", "batch-saln", "classes-gstds", "batch-gstds"]
    assert [path.stem for path in paths] == ["accuracy", "keep-ratio", *selections]
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

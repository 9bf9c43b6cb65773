"""A comparison as a whole: controls, resume after a kill, the JSON that redoes it."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")

from processes import quick_comparisons

from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import CONTROLS, Comparison, Places, Settings, compare
from spectral_sampler.experiment.report import read_json, write_json

SETTINGS = Settings.of("digits", epochs=2, train_size=128, schedule="constant")
WALL_CLOCK = ("seconds", "clock", "total_seconds", "statistics")


def outcome(results):
    """Everything that must not depend on when and how often it was computed."""
    return [{name: value for name, value in cell.items() if name not in WALL_CLOCK} for cell in results["cells"]]


@pytest.fixture(scope="module", autouse=True)
def quick():
    with quick_comparisons():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def results(folder):
    comparison = Comparison(
        SETTINGS, ["gstds"], [0, 1], folder / "out", Places(cache=folder / "cache"), 2, command="spectral-sampler …"
    )
    return compare(comparison)


def test_controls_are_there_unasked_and_everything_is_recorded(results, folder):
    assert results["policies"] == [*CONTROLS, "gstds"]
    assert [(cell["policy"], cell["seed"]) for cell in results["cells"]] == [
        (policy, seed) for seed in (0, 1) for policy in results["policies"]
    ]
    assert read_json(folder / "out" / "results.json") == results
    assert Settings(**results["settings"]) == SETTINGS
    assert results["circumstances"]["command"] == "spectral-sampler …"
    assert {"python", "torch", "numpy"} <= set(results["circumstances"]["versions"])
    assert results["circumstances"]["date"].endswith("+00:00")
    assert results["rows"] == {"train": 128, "held_out": 400, "test": 597}
    assert len(results["keep_ratios"]) == 2 * (128 // 64)


def test_resuming_runs_only_what_is_missing(results, folder):
    cells = folder / "out" / "cells"
    (cells / "gstds-seed1.json").unlink()
    (cells / "uniform-seed0.json").write_text("{")  # torn by something else than us
    before = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    said = []
    places = Places(cache=folder / "cache")
    again = compare(Comparison(SETTINGS, ["gstds"], [0, 1], folder / "out", places, 1, resume=True), said.append)
    assert outcome(again) == outcome(results)
    assert said[0] == "20 of 22 trainings are finished already."
    changed = {path.name for path in cells.iterdir() if before.get(path.name) != path.stat().st_mtime_ns}
    assert changed == {"gstds-seed1.json", "uniform-seed0.json"}


def test_killed_in_the_middle_and_resumed_equals_undisturbed(results, folder, tmp_path):
    command = [
        sys.executable, "-m", "spectral_sampler", "compare", "--policies", "gstds", "--seeds", "2", "--epochs", "2",
        "--train-size", "128", "--schedule", "constant", "--jobs", "1",
        "--out", str(tmp_path), "--cache", str(folder / "cache"), "--resume",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("cells/*.json"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # the workers too
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.json")}
    assert len(finished) >= 2
    places, said = Places(cache=folder / "cache"), []
    resumed = compare(Comparison(SETTINGS, ["gstds"], [0, 1], tmp_path, places, 2, resume=True), said.append)
    assert said[0] == f"{len(finished)} of 22 trainings are finished already."
    assert outcome(resumed) == outcome(results)
    for path in tmp_path.glob("cells/*.json"):
        assert finished.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns


def test_without_curves_the_trainings_are_the_same(results, folder, tmp_path):
    places = Places(cache=folder / "cache")
    quick = Comparison(SETTINGS, ["gstds"], [0], tmp_path, places, 1, resume=True, curves=False)
    for cell, full in zip(compare(quick)["cells"], results["cells"], strict=False):
        assert len(cell["curve"]) == 1
        assert "pictured_batch" not in cell
        assert (cell["key"], cell["test_accuracy"], cell["samples"]) == (
            full["key"], full["test_accuracy"], full["samples"],
        )  # fmt: skip
    said = []
    compare(quick._replace(policies=[]), said.append)
    assert said[0] == "10 of 10 trainings are finished already."
    said.clear()
    compare(quick._replace(policies=[], curves=True), said.append)
    assert not any("finished already" in line for line in said), "curves are wanted, and these have none"


def test_other_settings_do_not_reuse_trainings(results, folder):
    from spectral_sampler.experiment.cell import Cell
    from spectral_sampler.experiment.runner import _finished

    path = folder / "out" / "cells" / "gstds-seed0.json"
    comparison = Comparison(SETTINGS, ["gstds"], [0], folder / "out", resume=True)
    assert _finished(comparison, Cell(SETTINGS, "gstds", 0), path)
    other = Settings.of("digits", epochs=3, train_size=128, schedule="constant")
    assert not _finished(comparison, Cell(other, "gstds", 0), path)
    assert not _finished(comparison._replace(resume=False), Cell(SETTINGS, "gstds", 0), path)


def test_errors_of_a_worker_arrive_as_they_are(tmp_path):
    settings = Settings.of("digits", train_size=50, candidate_batch_size=64, epochs=1, schedule="constant")
    with pytest.raises(ArgumentError, match="candidate-batch-size must be at most the number of training rows"):
        compare(Comparison(settings, [], [0], tmp_path, Places(cache=tmp_path), 1))


LATER = [{"equal": "flops"}, {"confusion_noise": 0.2}, {"overlap": 0.2}, {"optimizer": "sgd"}, {"validation": 0.1}]


@pytest.mark.parametrize("made", [{}, {"overlap": 0.3}], ids=["the first ones", "later ones"])
@pytest.mark.parametrize("change", LATER)
def test_resuming_with_settings_that_came_later_replaces_nothing(tmp_path, made, change):
    """A setting that is not in the record of the folder had its default there."""
    there, wanted = (Settings.of("digits", **{**made, **part}) for part in ({}, change))
    write_json(tmp_path / "settings.json", {"settings": there.record()})
    write_json(tmp_path / "cells" / "gstds-seed0.json", {"key": "of these settings"})
    with pytest.raises(ArgumentError, match=rf"They differ in .*{next(iter(change))}.*: pass another --out"):
        compare(Comparison(wanted, ["gstds"], [0], tmp_path, resume=True))
    assert read_json(tmp_path / "cells" / "gstds-seed0.json") == {"key": "of these settings"}

"""The latency checks cannot rot: they collect, cheap ones run, wrong answers fail, and no selection is forgotten."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("sklearn")

from processes import python

from benchmarks import conftest, problems, render, test_bench_online, test_bench_sampler, test_bench_solver
from spectral_sampler import ArgumentError, selection
from spectral_sampler.experiment.policies import POLICIES
from spectral_sampler.selection.needs import forwards_candidates

ROOT = Path(__file__).parent.parent
FILES = sorted(path.name for path in (ROOT / "benchmarks").glob("test_*.py"))
CHEAP = (
    "test_bench_solver.py::test_solve[32-native]",
    "test_bench_sampler.py::test_next[saln-16]",
    "test_bench_online.py::test_online[jest-joint-10]",
)


def run(*arguments, names=("",)):
    places = [str(ROOT / "benchmarks" / name) for name in names]
    code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    return python(code, "-q", "--benchmark-disable", *arguments, *places)


@pytest.mark.slow
def test_all_collect():
    finished = run("--collect-only")
    assert finished.returncode == 0, finished.stdout
    assert [name for name in FILES if f"benchmarks/{name}::" not in finished.stdout] == []


@pytest.mark.slow
def test_cheap_ones_run():
    finished = run(names=CHEAP)
    assert finished.returncode == 0, finished.stdout
    assert f"{len(CHEAP)} passed" in finished.stdout


def test_a_bad_file_of_features_is_refused_in_one_sentence(tmp_path):
    finished = run("--features", str(tmp_path / "missing.npy"))
    lines = [line for line in (finished.stdout + finished.stderr).splitlines() if line]
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert len(lines) == 1
    assert "--features must be a file written by numpy.save, got" in lines[0]


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.ones((511, 3)), "--features must be of at least 512 rows, got 511"),
        (np.ones(600), r"features must be a non-empty \(M, d\) array"),
        (np.full((600, 3), np.nan), "features must be finite"),
        (np.array([{}] * 600), "--features must be a file written by numpy.save"),
    ],
    ids=["few", "flat", "nan", "objects"],
)
def test_features_that_make_no_store_are_refused(tmp_path, array, sentence):
    np.save(tmp_path / "own.npy", array, allow_pickle=True)
    with pytest.raises(ArgumentError, match=sentence):
        conftest._opened(str(tmp_path / "own.npy"))


def test_features_are_taken_as_they_are(tmp_path):
    features = np.random.default_rng(0).random((600, 3), dtype=np.float32)
    np.save(tmp_path / "own.npy", features)
    assert np.array_equal(conftest._opened(str(tmp_path / "own.npy")).features, features)


@pytest.mark.parametrize("solver", ["eager", "NumPy cosine + eigh"])
def test_a_wrong_vector_fails(solver):
    members, size = test_bench_solver.MEMBERS[1024], 1024
    case = problems.problem("", problems.rectified(2048, 64), members, size)
    right = {**test_bench_solver.OURS, **test_bench_solver.THEIRS}[solver](case.store, case.indices)
    test_bench_solver._check(solver, case, right, None)
    with pytest.raises(AssertionError):
        test_bench_solver._check(solver, case, np.roll(right, 1, axis=1), None)


def test_every_selection_has_its_rows():
    # A guard takes the time of what it guards.
    exported = {getattr(selection, name) for name in selection.__all__ if name not in {"Selection", "Guarded"}}
    exported = {each for each in exported if isinstance(each, type) and hasattr(each, "select")}
    timed = {type(POLICIES[name]()) for name in test_bench_sampler.SELECTIONS}
    assert exported == timed
    in_loop = {type(POLICIES[name]()) for name in test_bench_online.SELECTIONS}
    assert {type(policy) for policy in (make() for make in POLICIES.values()) if forwards_candidates(policy)} <= in_loop


def test_the_page_of_figures_is_the_one_its_file_gives():
    found = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())
    assert render.document(found) == (ROOT / "docs/performance.md").read_text(encoding="utf-8"), "run make bench"

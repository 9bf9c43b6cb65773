"""Which properties passed, for the matrix in docs/frameworks.md."""

import json
import os
import platform
from pathlib import Path

import pytest
import torch
from plays import FRAMEWORKS, Played

_passed = {}


def pytest_sessionfinish():
    """Writes the file that ``python -m benchmarks.framework_matrix`` reads, where one is asked for."""
    place = os.environ.get("FRAMEWORK_RESULTS")
    if place and _passed:
        file = Path(place)
        kept = json.loads(file.read_text(encoding="utf-8"))["frameworks"] if file.exists() else {}
        kept = {name: row for name, row in kept.items() if name not in _passed}  # of one that was not run this time
        found = {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]}
        found["frameworks"] = {**kept, **_passed}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def played(tmp_path_factory):
    """The plays of a framework by its name; they are played once."""
    known = {}

    def of(name):
        if not FRAMEWORKS[name].installed:
            pytest.skip(f"needs {FRAMEWORKS[name].package}")
        if name not in known:
            known[name] = Played(FRAMEWORKS[name], tmp_path_factory.mktemp(name))
        return known[name]

    return of


@pytest.fixture
def passed():
    """To be called at the end of a test: (name, ranks, property)."""

    def note(name, ranks, what):
        framework = FRAMEWORKS[name]
        row = _passed.setdefault(name, {"version": framework.version, "passed": {}})
        row["passed"].setdefault(str(ranks), []).append(what)

    return note

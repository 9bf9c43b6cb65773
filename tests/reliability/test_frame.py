"""The table cannot look better than what was found: a line with a failure, or without a check, fails its test."""

import json

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

TESTS = """
import pytest

def test_holds(line):
    line("g", "holds", limit=2, unit="units").passed(3, worst=1.5)

def test_beyond(line):
    one = line("g", "beyond", limit=2, unit="units")
    one.passed(1, worst=1.0)
    one.passed(1, worst=float("nan"))

def test_counted(line):
    one = line("g", "counted")
    one.check(True, "fine")
    one.check(False, "seed 7 is wrong")

def test_raises(line):
    line("g", "raises").passed(5)
    raise ValueError

def test_empty(line):
    line("g", "empty")

def test_skipped(line):
    line("g", "skipped")
    pytest.skip("no database")

def test_numbers(number):
    assert number(1, 2) == FULL
"""


@pytest.mark.parametrize("full", [False, True])
def test_lines(pytester, request, full):
    pytester.makeconftest((request.path.parent / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(TESTS.replace("FULL", "2" if full else "1"))
    options = ["--full"] if full else []
    # Every one of the four has passed its call but "raises"; the others fail as their line is closed.
    result = pytester.runpytest_inprocess("--record", "kept.json", "-p", "no:cacheprovider", *options)
    result.assert_outcomes(passed=5, failed=1, errors=3, skipped=1)
    result.stdout.fnmatch_lines(["*seed 7 is wrong*", "*the line 'empty' has checked nothing*"])
    kept = json.loads((pytester.path / "kept.json").read_text(encoding="utf-8"))
    found = {one["name"]: (one["checks"], one["failures"], one["worst"], one["skipped"]) for one in kept["lines"]}
    assert found.pop("beyond")[:2] == (2, 1)
    assert found == {
        "holds": (3, 0, 1.5, ""),
        "counted": (2, 1, None, ""),
        "raises": (5, 1, None, ""),
        "empty": (0, 0, None, ""),
        "skipped": (0, 0, None, "Skipped: no database"),
    }

"""The lines of docs/reliability.md: what was checked how often, what failed, and the worst value that was seen.

    python -m pytest -m slow tests/reliability [--full] [--record FILE]

A test opens a line with the fixture ``line`` and counts on it; without ``--full`` the numbers are those of CI.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))  # for solver_cases and the like, where only this folder is collected
SHOWN = 20  # failures that are told in full

_lines = []


@dataclass
class Line:
    """One line of the table. ``worst`` is the largest value seen, in ``unit``, which ``limit`` bounds."""

    group: str
    name: str
    limit: float | None
    unit: str
    checks: int = 0
    failures: int = 0
    worst: float | None = None
    seconds: float = 0.0
    skipped: str = ""
    told: list[str] = field(default_factory=list, repr=False)

    def passed(self, checks: int = 1, worst: float | None = None) -> None:
        """``checks`` more that held; ``worst`` is checked against the line's limit."""
        self.checks += checks
        if worst is not None:
            self.worst = worst if self.worst is None else max(self.worst, worst)
            if self.limit is not None and not worst <= self.limit:
                self.failures += 1
                self.told.append(f"{worst:g} {self.unit} exceed {self.limit:g}")

    def failed(self, what: str) -> None:
        """One more that did not hold; the test goes on, and fails at its end."""
        self.checks += 1
        self.failures += 1
        self.told.append(what)

    def check(self, holds: bool, what: str) -> None:
        """One check, told by ``what`` where it does not hold."""
        self.passed() if holds else self.failed(what)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the numbers of a long run, not those of CI")
    parser.addoption("--record", metavar="FILE", help="write the lines as JSON")


@pytest.fixture
def number(request):
    """``number(reduced, full)``: how many, by --full."""
    full = request.config.getoption("--full", False)
    return lambda reduced, complete: complete if full else reduced


@pytest.fixture
def line(request):
    """``line(group, name, limit=None, unit="")`` opens a `Line`; its failures fail the test when it has ended."""
    opened, started = [], time.perf_counter()

    def open_line(group, name, limit=None, unit=""):
        opened.append(Line(group, name, limit, unit))
        _lines.append(opened[-1])
        return opened[-1]

    yield open_line
    outcome = getattr(request.node, "outcome", None)
    for one in opened:
        one.seconds = (time.perf_counter() - started) / len(opened)
        if outcome is not None and outcome.failed and not one.failures:
            one.failures += 1
        if outcome is not None and outcome.skipped:
            one.skipped = str(outcome.longrepr[2])
    told = [text for one in opened for text in one.told]
    if told:
        pytest.fail("\n".join(told[:SHOWN]) + (f"\nand {len(told) - SHOWN} more" if len(told) > SHOWN else ""))
    for one in opened:
        assert one.checks or one.skipped or one.failures, f"the line {one.name!r} has checked nothing"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.outcome = report
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """A process of pytest-xdist has ended: what it has counted is ours."""
    _lines.extend(Line(**one) for one in getattr(node, "workeroutput", {}).get("lines", ()))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["lines"] = [asdict(one) for one in _lines]
        return
    place = session.config.getoption("--record", None)
    if not place or not _lines:
        return
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, check=False, text=True, cwd=TESTS
    )
    found = {
        "command": shlex.join(["python", "-m", "pytest", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds": round(sum(one.seconds for one in _lines), 1),
        "lines": [{k: v for k, v in asdict(one).items() if k != "told"} for one in _lines],
    }
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _processor():
    """Its name as Linux has it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return names[0] if names else platform.machine()

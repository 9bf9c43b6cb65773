"""A pytest plugin: a row of the device check for every test that ends (``-p benchmarks.device_check.pytest_rows``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.device_check.session import Session

if TYPE_CHECKING:
    import pytest


class Rows:
    """Writes what the tests came to."""

    def __init__(self) -> None:
        self.session = Session.from_environment()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            why = {} if report.passed else {"why": report.longreprtext[-600:]}
            self.session.row(test=report.nodeid, came_to=report.outcome, seconds=report.duration, **why)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers report to the process that writes
        config.pluginmanager.register(Rows())

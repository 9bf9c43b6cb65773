"""The backends of a GPU, and `pytest tests/gpu --require-gpu`: where a device is, a skipped test has shown nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from spectral_sampler import ops

sys.path.insert(0, str(Path(__file__).parent.parent))  # for solver_cases, where only this folder is collected
BACKENDS = ("triton", "cuda", "cupy")


def pytest_addoption(parser):
    parser.addoption("--require-gpu", action="store_true", help="a skipped test is a failure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    # Collected from above this folder the option is not known; an expected failure is reported as a skip, too.
    if report.skipped and item.config.getoption("--require-gpu", False) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"--require-gpu, but this test was skipped: {report.longrepr[2]}"
    return report


@pytest.fixture
def usable():
    """Called with a backend's name: skips the test with the reason where that cannot run."""

    def check(name):
        reason = ops.unusable_reason(name)
        if not torch.cuda.is_available() or reason is not None:
            pytest.skip(reason or "torch sees no CUDA device")

    return check


@pytest.fixture(params=BACKENDS)
def backend(request, usable):
    usable(request.param)
    return request.param

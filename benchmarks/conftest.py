"""What the latency checks share: the option --features, one thread, and the limits printed above the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from benchmarks import measure, problems
from spectral_sampler import ArgumentError, ReferenceStore
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (32, 64, 128, 256, 512, 1024)  # candidates of one batch, N
SAMPLES = (100_000, 1_000_000)  # of a whole data set, M
FEWEST, MOST = 512, 1 << 17  # rows of a file: four candidate batches of 128; what is copied several times over
OWN, LIMITS = pytest.StashKey["ReferenceStore | None"](), pytest.StashKey[list[str]]()


def pytest_addoption(parser):
    parser.addoption("--features", metavar="FILE.npy", help="run on these features (M, d) instead of synthetic ones")


def _opened(path: str) -> ReferenceStore:
    """The rows of a .npy file, without a copy where their type allows; ArgumentError if they cannot make a store."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        remedy = f"It cannot be read: {str(error).rstrip('.')}."
        raise argument_error("--features", "a file written by numpy.save", path, remedy) from None
    store = ReferenceStore.from_arrays(found)
    if len(store) < FEWEST:
        raise argument_error("--features", f"of at least {FEWEST} rows", len(store), "Give features of more samples.")
    return store


def pytest_configure(config):
    path = config.getoption("--features", None)  # unknown where pytest starts above this folder
    try:
        config.stash[OWN] = None if path is None else _opened(path)
    except ArgumentError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[LIMITS] = []


def pytest_generate_tests(metafunc):
    """With --features the sizes are those that the file has rows for."""
    own = metafunc.config.stash[OWN]
    if "size" in metafunc.fixturenames:
        metafunc.parametrize("size", [size for size in SIZES if own is None or size <= len(own)])
    if "samples" in metafunc.fixturenames:
        metafunc.parametrize("samples", SAMPLES if own is None else [len(own)])


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[LIMITS]:
        terminalreporter.section("the limit beside the speed")
        for line in config.stash[LIMITS]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # NumPy's and SciPy's
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def own(request) -> ReferenceStore | None:
    """What --features names."""
    return request.config.stash[OWN]


@pytest.fixture(scope="session")
def rows(own) -> torch.Tensor:
    """Features (M, d): synthetic ones, or of the user's every k-th row, so that all of a sorted file is seen."""
    return problems.rectified(4096, 512) if own is None else own.features_tensor[:: -(-len(own) // MOST)].contiguous()


@pytest.fixture(scope="session")
def rates() -> dict[str, float]:
    """What the hardware does in a second; see `measure.rates`."""
    return measure.rates()


@pytest.fixture
def beside_limit(benchmark, request) -> Callable[[str, float, str], None]:
    """``beside_limit(rate, amount, what)``, after the benchmark: its fastest round as a multiple of the limit."""

    def note(rate: str, amount: float, what: str) -> None:
        if benchmark.stats is not None:  # None with --benchmark-disable
            times = benchmark.stats.stats.min * request.getfixturevalue("rates")[rate] / amount
            benchmark.extra_info[what] = times
            request.config.stash[LIMITS].append(f"{benchmark.group}, {request.node.name}: {times:.2f} × {what}")

    return note

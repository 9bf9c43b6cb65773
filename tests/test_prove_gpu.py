"""The gate for GPU machine code: what it refuses, and a reduced run of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TRITON = "3.8.0"
GOOD = {
    "kernel": "k", "arch": 90, "warps": 8, "registers": 240, "stack": 0, "spill": 0, "shared": 81920,
    "blocks": 1,
    "ops": Counter(HGMMA=12, FFMA=300), "tensor_cores": 12, "tensor_cores_due": True, "modelled_us": 1.0,
    "floor_us": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def gate():
    specification = importlib.util.spec_from_file_location("prove_gpu", BENCHMARKS / "prove_gpu.py")
    module = importlib.util.module_from_spec(specification)
    path = list(sys.path)
    specification.loader.exec_module(module)
    sys.path[:] = path
    return module


def test_a_sound_kernel_passes(gate):
    assert gate.verdict(GOOD) == []
    assert gate.show(GOOD, []).endswith(" ok")


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"stack": 16}, "spills"),
        ({"spill": 8}, "spills"),
        ({"ops": Counter(LDL=1)}, "spills"),
        ({"ops": Counter(STL=1)}, "spills"),
        ({"shared": 228 * 1024}, "does not fit"),
        ({"blocks": 0}, "does not fit"),
        ({"tensor_cores": 0}, "no tensor-core instruction"),
    ],
)
def test_a_faulty_kernel_is_refused(gate, fault, word):
    assert gate.verdict(GOOD | fault) == [word]


def test_occupancy_is_the_least_of_registers_memory_and_warps(gate):
    assert gate.occupancy(255, 0, 8, 90) == 1
    assert gate.occupancy(128, 0, 8, 90) == 2
    assert gate.occupancy(32, 100 * 1024, 4, 90) == 2
    assert gate.occupancy(32, 0, 4, 90) == 16


@pytest.mark.slow
def test_a_reduced_run_refuses_nothing(tmp_path):
    triton = pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
    if triton.__version__ != TRITON:
        pytest.skip(f"the gate is pinned to triton {TRITON} and this is {triton.__version__}")
    options = [
        "--quick",
        "--only",
        "triton",
        "--arch",
        "90",
        "--match",
        "NP=64",
        "--json",
        str(tmp_path / "proof.json"),
    ]
    command = [sys.executable, str(BENCHMARKS / "prove_gpu.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kernels compiled, 0 refused." in done.stdout
    assert '"measured": false' in (tmp_path / "proof.json").read_text(encoding="utf-8")

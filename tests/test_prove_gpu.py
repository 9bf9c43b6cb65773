"""The gate for GPU machine code: what it refuses, and a reduced run of it."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from unittest import mock

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
GOOD = {
    "kernel": "k", "arch": 90, "warps": 8, "registers": 240, "stack": 0, "spill": 0, "shared": 81920,
    "blocks": 1,
    "ops": Counter(HGMMA=12, FFMA=300), "tensor_cores": 12, "tensor_cores_due": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def gate():
    with mock.patch.object(sys, "path", [str(BENCHMARKS), *sys.path]):
        yield importlib.import_module("prove_gpu")


@pytest.fixture(scope="module")
def problems(gate):
    """The module that writes down what the launchers ask for."""
    pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
    return importlib.import_module("gpu_problems")


@pytest.fixture(scope="module")
def proved(problems):
    return {problem.identity for problem in problems.triton_problems(90)}


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
        ({"read_only_loads": True}, "loads past the ordering of a barrier"),
    ],
)
def test_a_faulty_kernel_is_refused(gate, fault, word):
    assert gate.verdict(GOOD | fault) == [word]


def test_spills_are_refused_under_the_pinned_triton_only(gate):
    assert gate.refused(["spills"], pinned=True)
    assert not gate.refused(["spills"], pinned=False)
    assert gate.refused(["spills", "does not fit"], pinned=False)
    assert not gate.refused([], pinned=True)


def test_occupancy_is_the_least_of_registers_memory_and_warps(gate):
    assert gate.occupancy(255, 0, 8, 90) == 1
    assert gate.occupancy(128, 0, 8, 90) == 2
    assert gate.occupancy(32, 100 * 1024, 4, 90) == 2
    assert gate.occupancy(32, 0, 4, 90) == 16


def launches(problems, width, size, *, dtype=torch.float32, precision=None, gap=0, shift=0, arch=90):
    with problems.recorded(arch) as found:
        problems.launch(problems.features_like(width, dtype, gap=gap, shift=shift), size, precision)
    return found


def graph_launches(problems, width, size, *, dtype, precision, gap, shift):
    with problems.recorded(90) as found:
        problems.launch_graphs(problems.features_like(width, dtype, gap=gap, shift=shift), size, precision)
    return found


def test_whatever_is_launched_has_been_proved(problems, proved):
    draw, seen = random.Random(0), set()
    for _ in range(400):
        size = int(2 ** draw.choice([draw.uniform(1, 10), draw.uniform(10.01, 13)]))
        width = int(2 ** draw.uniform(0, 13))
        width = draw.choice([1, width, -(-width // 16) * 16])
        dtype = draw.choice([torch.float16, torch.float32, torch.float64 if size <= 1024 else torch.float32])
        precision = draw.choice([None, "tf32x3", "ieee", "tf32", "bf16"])
        gap, shift = draw.choice([0, 1, 16]), draw.choice([0, 1, 16])
        options = {"dtype": dtype, "precision": precision, "gap": gap, "shift": shift}
        found = launches(problems, width, size, **options)
        assert found
        found += graph_launches(problems, width, size, **options)
        for problem in found:
            assert problem.identity in proved, (problem.label, size, width, dtype, precision, gap, shift)
        seen |= {problem.identity for problem in found}
    assert len(seen) > 0.7 * len(proved)  # and little is proved that is never launched


@pytest.mark.parametrize("choice", ["warps", "stages", "rows", "hints"])
def test_a_launch_that_has_not_been_proved_is_seen(problems, proved, monkeypatch, choice):
    from spectral_sampler.kernels import triton_matrixfree, triton_small

    def unproved():
        return [each for size in (64, 1025) for each in launches(problems, 512, size) if each.identity not in proved]

    assert not unproved()
    kernel, shape = triton_small.solve_small, triton_small.SMALL[64]
    if choice == "warps":
        monkeypatch.setitem(triton_small.SMALL, 64, shape._replace(warps=8))
    elif choice == "stages":
        monkeypatch.setitem(triton_small.SMALL, 64, shape._replace(STAGES=3))
    elif choice == "rows":
        monkeypatch.setitem(triton_matrixfree.ROWS, 512, 64)
    else:  # Triton would look at d again
        (parameter,) = (each for each in kernel.params if each.name == "d")
        monkeypatch.setattr(parameter, "do_not_specialize", False)
        monkeypatch.setattr(kernel, "device_caches", defaultdict(kernel.create_binder))
    assert unproved()


@pytest.mark.parametrize("size", [100, 512, 1030])
@pytest.mark.parametrize("width", [1, 31, 2048])
def test_types_and_hints_are_those_of_tritons_specialiser(problems, size, width):
    from triton._C.libtriton import native_specialize_impl
    from triton.backends.compiler import BaseBackend
    from triton.runtime import JITFunction

    run, arguments = JITFunction.run, []

    def noting(kernel, *values, **options):
        arguments.append(values)
        return run(kernel, *values, **options)

    with mock.patch.object(JITFunction, "run", noting):
        found = launches(problems, width, size)
    for problem, values in zip(found, arguments, strict=True):
        assert len(values) + len(problem.constants) == len(problem.kernel.params)
        for place, (value, parameter) in enumerate(zip(values, problem.kernel.params, strict=False)):
            flags = (not parameter.do_not_specialize, not parameter.do_not_specialize_on_alignment)
            kind, hint = native_specialize_impl(BaseBackend, value, False, *flags)
            assert problem.signature[parameter.name] == (parameter.annotation_type or kind), parameter.name
            told = problem.attributes.get((place,), [])
            assert told == ([["tt.divisibility", 16]] if hint == "D" else []), parameter.name


def test_numbers_that_vary_between_launches_do_not_make_another_kernel(problems):
    (one,), (other,) = launches(problems, 1, 65), launches(problems, 31, 128, gap=1)
    assert one.identity == other.identity
    assert [one.signature[name] for name in ("d", "stride", "N", "most")] == ["i32", "i64", "i32", "i32"]
    assert (one.options.num_warps, one.options.num_stages, one.options.maxnreg) == (8, 1, 255)
    assert [problem.options.num_stages for problem in launches(problems, 64, 200)] == [3, 4, 3]


@pytest.mark.parametrize(
    ("width", "gap", "shift", "dtype", "expected"),
    [
        (2048, 0, 0, torch.float32, True),
        (64, 16, 4, torch.float32, True),
        (64, 16, 4, torch.float16, False),  # 8 bytes after an aligned address
        (64, 0, 1, torch.float32, False),
        (64, 8, 0, torch.float32, False),
        (100, 28, 0, torch.float32, False),
        (1, 0, 0, torch.float16, False),
    ],
)
def test_alignment_is_promised_only_where_it_holds(problems, width, gap, shift, dtype, expected):
    for size in (20, 200, 1100):
        found = launches(problems, width, size, dtype=dtype, gap=gap, shift=shift)
        promises = [problem.named["ALIGNED"] for problem in found if "ALIGNED" in problem.named]
        assert set(promises) == {expected}


def test_a_row_of_the_tridiagonal_matrix_costs_no_barrier_and_no_shuffle(gate, problems):
    pytest.importorskip("triton", "3.8", "an older Triton does not tell what was inlined where")
    counts = importlib.import_module("gpu_counts")
    (sections,) = counts.triton_counts(90, "fp16 fp16 NP=128", gate.tools_of_triton()).values()
    assert set(sections) == set(counts.SECTIONS)
    for name in ("row", "pivot"):
        assert sections[name].barriers == sections[name].shuffles == 0 < sections[name].instructions
    assert 0 < sections["step"].barriers <= 20
    assert sections["late"].barriers > 0  # what most steps pass over is not in the step


def test_no_nvcc_is_a_failure_unless_only_triton_is_asked_for(gate, monkeypatch, tmp_path):
    pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no nvcc"):
        gate.main(["--quick", "--arch", "90", "--match", "no such kernel"])
    with pytest.raises(SystemExit, match="Nothing to prove"):
        gate.main(["--quick", "--arch", "90", "--match", "no such kernel", "--only", "triton"])


@pytest.mark.slow
def test_a_reduced_run_refuses_nothing(tmp_path):
    triton = pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
    options = [
        "--quick",
        "--only",
        "triton",
        "--arch",
        "90",
        "--match",
        "solve_small fp32 tf32x3",
        "--json",
        str(tmp_path / "proof.json"),
    ]
    command = [sys.executable, str(BENCHMARKS / "prove_gpu.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kernels compiled, 0 refused, " in done.stdout
    assert f'"triton": "{triton.__version__}"' in (tmp_path / "proof.json").read_text(encoding="utf-8")

"""The CuPy path without a GPU: the same solver on NumPy and on array-api-strict's second device, and CuPy's own
names.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import inspect
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_cases import CASES, positive, post_relu

from spectral_sampler import lanczos, limits, ops, search
from spectral_sampler.fiedler import FiedlerResult, Status
from spectral_sampler.graph import start_vectors
from spectral_sampler.kernels import array_solver, cupy
from spectral_sampler.search import to_host


def array_api_strict() -> types.ModuleType:
    """Mixing its second device with host arrays is an error, as with a GPU's. Skips the test where it is missing."""
    return pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")


def solve(features: np.ndarray, *, strict: bool) -> FiedlerResult:
    """Features (B, N, d) through `array_solver` and `cupy.finish`, as `cupy.solve` does it."""
    members, size, _ = features.shape
    indices = torch.arange(members * size).reshape(members, size)
    arrays = [features.astype(np.float32), *(start_vectors(indices, salt).numpy() for salt in (0, limits.PROBE_SALT))]
    if strict:
        second = array_api_strict().Device("device1")
        arrays = [array_api_strict().asarray(array, device=second) for array in arrays]
    graphs, found = array_solver.solve_features(arrays[0], (arrays[1], arrays[2]))
    if strict:
        assert found.vector.device == second
    return cupy.finish(graphs, found, indices, lambda array: torch.from_numpy(to_host(array).copy()))


@pytest.mark.parametrize("strict", [False, True], ids=["numpy", "second device"])
@pytest.mark.parametrize("group", sorted({case.group for case in CASES}))
def test_cases(group, strict):
    for case in (case for case in CASES if case.group == group):
        seeds = range(1 if strict else 3)
        features = np.stack([case.builder(seed) for seed in seeds])
        if features.shape[1] > 200 and strict:
            continue  # ten times slower there, and nothing that smaller graphs do not show
        result = solve(features, strict=strict)
        checks.check_all(result, torch.from_numpy(features), case.expectation, seeds, case.name)


def test_a_faulty_row_marks_its_member_and_no_other():
    clean = np.stack([post_relu(seed, 12, 20) for seed in range(3)])
    good = solve(clean, strict=False)
    for value in (np.nan, np.inf, 0.0):
        features = clean.copy()
        features[1, 4] = value
        result = solve(features, strict=False)
        assert result.status.tolist()[1] == int(Status.INVALID)
        for field, expected in zip(result, good, strict=True):
            assert not field[1].any() or field is result.status
            assert torch.equal(field[[0, 2]], expected[[0, 2]])


def test_a_start_without_the_fiedler_vector_is_noticed_by_the_probe():
    features = positive(40, 12)(0)
    units = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float64)
    truth = checks.truth_of_features(features[None])
    assert units.shape == (40, 12)
    start = truth.vectors[0] @ np.r_[0.0, np.ones(38)]  # every eigenvector but the lowest
    probe = np.random.default_rng(0).normal(size=40)
    _, found = array_solver.solve_features(
        features[None], (start[None].astype(np.float32), probe[None].astype(np.float32))
    )
    overlap = abs(found.vector[0].astype(np.float64) @ truth.vectors[0][:, 0])
    assert overlap > 1 - 1e-5


def calls(module) -> dict[str, set[str]]:
    """Every function of CuPy that the source names, with the keywords it is called with."""
    called: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        function = node.func if isinstance(node, ast.Call) else node
        if isinstance(function, ast.Attribute):
            owner, _, name = ast.unparse(function).replace("self.xp", "xp").replace("graphs.xp", "xp").partition(".")
            if owner in ("xp", "cupy") and name and not name.startswith("__"):
                keywords = node.keywords if isinstance(node, ast.Call) else []
                called.setdefault(name, set()).update(keyword.arg for keyword in keywords if keyword.arg)
    return called


def missing(library, called: dict[str, set[str]]) -> list[str]:
    """What the library lacks of it. Its ufuncs name their keywords nowhere; none is called with one."""
    faults = []
    for name, keywords in called.items():
        try:
            function = functools.reduce(getattr, name.split("."), library)
        except AttributeError:
            faults.append(name)
            continue
        if keywords:
            known = inspect.signature(function).parameters
            faults += [f"{name}({keyword}=)" for keyword in sorted(keywords) if keyword not in known]
    return faults


@pytest.mark.parametrize("module", [array_solver, lanczos, search, cupy], ids=lambda module: module.__name__)
def test_cupy_has_every_function_and_keyword_used(module):
    library = pytest.importorskip("cupy", reason="cupy is not installed (pip install cupy-cuda13x)")
    called = calls(module)
    expected = {array_solver: "matrix_transpose", lanczos: "zeros", search: "concat", cupy: "cuda.ExternalStream"}
    assert expected[module] in called, "the source is no longer read aright"
    # `device` is passed to other libraries only: `lanczos._place`.
    assert [fault for fault in missing(library, called) if not fault.endswith("(device=)")] == []


def test_a_library_that_lacks_a_name_or_a_keyword_is_noticed():
    called = {"matrix_transpose": set(), "sum": {"axis", "keepdims"}, "cuda.Device": set()}
    library = types.SimpleNamespace(sum=lambda array, axis=None: array, cuda=types.SimpleNamespace())
    assert missing(library, called) == ["matrix_transpose", "sum(keepdims=)", "cuda.Device"]


@pytest.fixture
def a_device(monkeypatch):
    """torch says that it has CUDA and a device."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def plant(monkeypatch, version: str) -> None:
    library = types.ModuleType("cupy")
    library.__version__ = version
    library.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", library)


@pytest.mark.parametrize("version", ["9.6.0", "13.6.0", "14.0.1"])
def test_an_older_cupy_is_refused_in_one_sentence(version, a_device, monkeypatch):
    plant(monkeypatch, version)
    assert cupy.unusable_reason() == (
        f"cupy must be 14.1 or newer, got {version} (pip install --upgrade cupy-cuda13x, or cupy-cuda12x)"
    )
    assert ops.unusable_reason("cupy", "cuda") == cupy.unusable_reason()  # so "auto" goes on to the next backend


@pytest.mark.parametrize("version", ["14.1.0", "14.10.0rc1", "15.0.0b1"])
def test_a_new_enough_cupy_is_taken(version, a_device, monkeypatch):
    plant(monkeypatch, version)
    assert cupy.unusable_reason() is None


def test_a_cupy_that_cannot_be_imported_is_a_reason(a_device, monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("import library_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert cupy.unusable_reason() == 'cupy is installed but cannot be imported (python -c "import cupy" says why)'


def test_the_extras_ask_for_the_version_that_is_checked():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.findall(r'"(cupy-cuda1[23]x)>=([0-9.]+)[";]', text)
    assert {name for name, _ in asked} == {"cupy-cuda12x", "cupy-cuda13x"}
    assert {tuple(map(int, version.split("."))) for _, version in asked} == {cupy._OLDEST}


def test_says_what_is_missing():
    reason = cupy.unusable_reason()
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert reason is not None
    assert "pip install cupy" in reason or "CUDA" in reason

"""Backend names, their order of precedence, falling back and refusing to."""

from __future__ import annotations

import importlib.util
import threading
from types import SimpleNamespace

import pytest
import torch
from processes import python

from spectral_sampler import ReferenceStore, ops, preference
from spectral_sampler.errors import ArgumentError, BackendUnavailable
from spectral_sampler.fiedler import fiedler_rows, fiedler_vector

FEATURES = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(12).reshape(2, 6)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv(ops.ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def plugged(monkeypatch):
    """A dictionary of backend modules that stand in for the installed ones; any other is absent."""
    modules: dict[str, SimpleNamespace] = {}

    def kernel(name):
        if name not in modules:
            raise ModuleNotFoundError("not built")
        return modules[name]

    monkeypatch.setattr(ops, "kernel", kernel)
    return modules


def backend(reason=None, **more):
    calls = []

    def solve(features, indices):
        calls.append((features, indices))
        one = torch.ones(indices.shape[:1])
        return torch.ones(indices.shape), one, one, one.long(), one.long(), one

    return SimpleNamespace(unusable_reason=lambda: reason, solve=solve, calls=calls, **more)


def test_auto_prefers_native_on_the_cpu_and_falls_back_to_eager(plugged):
    assert ops.resolve("auto", "cpu") == "eager"
    plugged["native"] = backend(reason="no compiler was there")
    assert ops.resolve("auto", "cpu") == "eager"
    plugged["native"] = backend()
    assert ops.resolve("auto", "cpu") == "native"
    assert ops.resolve("auto", "cpu", torch.float16) == "native"
    assert ops.resolve("auto", "cpu", torch.float64) == ops.resolve("auto", "cpu", torch.int64) == "eager"
    assert ops.resolve("auto", "cuda") == "eager"
    assert ops.resolve("auto", "meta") == "eager"


def test_auto_on_cuda_takes_the_first_usable(plugged):
    plugged.update(cupy=backend(), cuda=backend(reason="was built without nvcc"), native=backend())
    assert ops.resolve("auto", "cuda:1") == "cupy"
    plugged["cuda"] = backend()
    assert ops.resolve("auto", "cuda:1") == "cuda"
    plugged["triton"] = backend()
    assert ops.resolve("auto", "cuda:1") == "triton"


@pytest.mark.parametrize("name", ["native", "triton", "cuda", "cupy"])
def test_an_explicit_request_never_falls_back(plugged, name):
    with pytest.raises(BackendUnavailable, match=f'"{name}".*not built'):
        ops.resolve(name, "cpu")
    plugged[name] = backend(reason="it is Tuesday")
    with pytest.raises(BackendUnavailable, match="it is Tuesday"):
        fiedler_rows(FEATURES, INDICES, backend=name)
    wrong = "cuda" if name == "native" else "cpu"
    plugged[name] = backend()
    with pytest.raises(BackendUnavailable, match=f"on {wrong}"):
        ops.resolve(name, wrong)
    with pytest.raises(BackendUnavailable, match="float64"):
        ops.resolve(name, "cuda" if wrong == "cpu" else "cpu", torch.float64)


def test_precedence(plugged, monkeypatch):
    plugged["native"] = backend()
    assert ops.resolve("auto", "cpu") == "native"
    monkeypatch.setenv(ops.ENVIRONMENT_VARIABLE, "eager")
    assert ops.resolve("auto", "cpu") == "eager"
    with ops.use_backend("native"):
        assert ops.resolve("auto", "cpu") == "native"
        assert ops.resolve("eager", "cpu") == "eager"
        with ops.use_backend("eager"):
            assert ops.resolve("auto", "cpu") == "eager"
        assert ops.resolve("auto", "cpu") == "native"
        with ops.use_backend("auto"):
            assert ops.requested() == "auto"
    assert ops.resolve("auto", "cpu") == "eager"


def test_use_backend_stays_in_its_thread_and_ends_with_an_error():
    seen = []

    def look_from_another_thread():
        with ops.use_backend("eager"):
            thread = threading.Thread(target=lambda: seen.append(ops.requested()))
            thread.start()
            thread.join()
            seen.append(ops.requested())
            raise KeyError

    with pytest.raises(KeyError):
        look_from_another_thread()
    assert seen == ["auto", "eager"]
    assert ops.requested() == "auto"


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ArgumentError, match="backend must be"):
        ops.resolve("numpy", "cpu")
    with pytest.raises(ArgumentError, match="backend must be"), ops.use_backend("gpu"):
        pass
    monkeypatch.setenv(ops.ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(ArgumentError, match=ops.ENVIRONMENT_VARIABLE):
        ops.resolve("auto", "cpu")


def test_auto_follows_the_table_by_size_and_passes_over_what_declines_a_shape(plugged, monkeypatch):
    every = preference.Row("cpu", "host", None, None, 1, ("cupy", "native"), None)
    rows = (every._replace(max_nodes=6, order=("native",)), every)
    monkeypatch.setattr(preference, "table", lambda: rows)
    plugged["native"] = backend()
    plugged["cupy"] = backend(DEVICES=("cpu",))
    wide = torch.arange(12).reshape(1, 12)
    assert ops.solver_module("auto", FEATURES, INDICES) is plugged["native"]
    assert ops.solver_module("auto", FEATURES, wide) is plugged["cupy"]
    plugged["cupy"].unsupported = lambda features, indices: "too many rows"
    assert ops.solver_module("auto", FEATURES, wide) is plugged["native"]
    plugged["native"].unsupported = lambda features, indices: "too many rows"
    assert ops.solver_module("auto", FEATURES, wide) is None
    with pytest.raises(BackendUnavailable, match="too many rows"):
        ops.solver_module("native", FEATURES, wide)
    assert '"auto" on cpu to N = 6 means native' in ops.explain()


def test_a_backend_is_looked_for_once(monkeypatch):
    ops.solver_module("auto", FEATURES, INDICES)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail(f"looked for {name} again"))
    ops.solver_module("auto", FEATURES, INDICES)


def test_the_backend_is_called(plugged):
    plugged["native"] = backend()
    result = fiedler_rows(FEATURES, INDICES)
    assert result.vector.eq(1).all()
    assert plugged["native"].calls[0][0].data_ptr() == FEATURES.data_ptr(), "features were copied"
    batch = fiedler_vector(FEATURES.reshape(2, 6, 5))
    features, indices = plugged["native"].calls[1]
    assert torch.equal(features[indices], FEATURES.reshape(2, 6, 5))
    assert batch.vector.shape == (2, 6)
    assert fiedler_vector(FEATURES).vector.shape == (12,)
    assert fiedler_vector(FEATURES.double()).vector.dtype == torch.float64, "float64 is eager's"
    assert len(plugged["native"].calls) == 3
    fiedler_vector((FEATURES * 100).long())
    assert plugged["native"].calls[3][0].dtype == torch.float32, "integers are solved as float32"


def test_a_backend_may_decline_shapes(plugged):
    plugged["native"] = backend(unsupported=lambda features, indices: f"N = {indices.shape[1]} is odd")
    assert not fiedler_rows(FEATURES, INDICES).vector.eq(1).all()
    with pytest.raises(BackendUnavailable, match="N = 6 is odd"):
        fiedler_rows(FEATURES, INDICES, backend="native")


def test_max_matvecs_is_eagers(plugged):
    plugged["native"] = backend()
    assert int(fiedler_vector(FEATURES, max_matvecs=2).num_matvecs) <= 5
    with pytest.raises(ArgumentError, match="max_matvecs"):
        fiedler_vector(FEATURES, max_matvecs=2, backend="native")


def test_explain_names_every_backend(plugged):
    plugged["native"] = backend(reason="no compiler was there")
    plugged["cupy"] = backend()
    text = ops.explain()
    for words in ("eager   usable", "native  not usable: no compiler was there", "cupy    usable", "not built"):
        assert words in text
    assert '"auto" on cpu means eager' in text
    assert '"auto" on cuda to N = 1024 means cupy' in text
    assert "H200" not in text  # rows of a device that is not here say nothing


def test_explain_says_why_the_cpu_solves_and_how_to_ask_for_the_gpu(plugged, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "the CPU, because torch sees no CUDA device\n" in ops.explain()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "the CPU, because this process has not used a CUDA device so far; ask for the GPU with" in ops.explain()
    monkeypatch.setattr(ops, "in_use", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Card")
    assert "the CPU, because nothing has been measured on Card; ask for the GPU with" in ops.explain()
    row = preference.Row("Card", "host", None, None, 1, ("triton",), "2027-01-01, Card")
    monkeypatch.setattr(preference, "table", lambda: (row,))
    text = ops.explain()
    assert '"auto" on Card with features on the host means eager' in text
    assert "on the CPU, and on Card from N = 1024 or where training waits" in text


def test_explain_says_which_backend_given_features_get_and_what_their_dtype_costs(plugged):
    plugged["native"] = backend()

    def last(features):
        return ops.explain(features).splitlines()[-1]

    assert last(FEATURES) == "these features (float32, 12 × 5, on cpu) are solved by native"
    assert last(FEATURES.numpy()) == last(ReferenceStore.from_arrays(FEATURES)) == last(FEATURES)
    assert (
        "solved by eager, not by native: it takes bfloat16, float16, float32 features and these are float64; in float64"
        in last(FEATURES.double())
    )
    with ops.use_backend("native"):
        assert "native" in last(FEATURES)
        assert 'Backend "native" cannot be used: it takes' in last(FEATURES.double())
    plugged["native"] = backend(reason="no compiler was there")
    assert last(FEATURES).endswith("solved by eager, not by native: no compiler was there")
    assert "float64 features are solved by eager" in ops.explain()


def test_explain_of_the_real_installation():
    lines = ops.explain().splitlines()
    assert [line.split()[0] for line in lines[: len(ops.BACKENDS)]] == list(ops.BACKENDS)


def test_solving_on_the_cpu_touches_no_gpu_and_loads_no_gpu_library():
    code = (
        "import sys, torch, spectral_sampler.fiedler as f; loaded = set(sys.modules);"
        "assert not any(m.startswith('spectral_sampler.kernels.') for m in loaded);"
        "f.fiedler_vector(torch.rand(8, 4));"
        "assert not torch.cuda.is_initialized();"
        "assert not {'triton', 'cupy', 'scipy', 'spectral_sampler.kernels.triton'} & set(sys.modules)"
    )
    finished = python(code)
    assert finished.returncode == 0, finished.stderr

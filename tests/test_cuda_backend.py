"""What `kernels/cuda.py` says of a machine, without a device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from spectral_sampler.kernels import cuda, native


@pytest.fixture
def ready(monkeypatch):
    """A machine with a device and the compiled kernels."""
    monkeypatch.setattr(native, "unusable_reason", lambda: None)
    monkeypatch.setattr(cuda, "compiled", lambda: True)
    monkeypatch.setattr(cuda, "device_missing", lambda: None)


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
def test_the_symbol_of_the_stream_is_found_in_the_torch_that_is_loaded(ready):
    assert cuda.unusable_reason() is None


@pytest.mark.parametrize("library", ["libtorch_cuda.so", "libno_such_library.so"])
def test_a_torch_without_the_symbol_of_the_stream_is_a_reason(ready, monkeypatch, library):
    load = cuda.ctypes.CDLL
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name, **mode: load(name and library, **mode))
    monkeypatch.setattr(cuda, "_STREAM", "no_such_symbol")
    assert cuda.unusable_reason() == "this torch does not export no_such_symbol"


@pytest.mark.parametrize(("size", "usable", "parts"), [(100, True, 1), (100, True, 2), (100, False, 0), (300, True, 1)])
def test_triton_makes_the_graphs_where_it_can(monkeypatch, size, usable, parts):
    """Which operators are called, with what, and that the parts of a large batch come back as one."""
    features, indices = torch.rand(400, 8), torch.arange(3 * size).reshape(3, size) % 400
    outputs = [torch.arange(3.0) for _ in range(7)]
    asked = []

    def graphs(rows, places):
        for part in places.split(3 if parts == 1 else 2):
            yield rows.new_zeros(len(part), 128, 128), rows.new_ones(len(part), 128), part

    def of_graph(affinity, lengths, part, form):
        asked.append((tuple(affinity.shape), tuple(lengths.shape), form))
        start = 0 if len(asked) == 1 else 2
        return tuple(field[start : start + len(part)] for field in outputs)

    operators = SimpleNamespace(fiedler=lambda *_: tuple(outputs), fiedler_of_graph=of_graph)
    monkeypatch.setattr(cuda.torch.ops, "spectral_sampler", operators, raising=False)
    monkeypatch.setattr(cuda.triton, "unusable_reason", lambda: None if usable else "no")
    monkeypatch.setattr(cuda.triton, "graphs", graphs)
    solved = cuda.solve(features, indices)
    assert all(torch.equal(a, b) for a, b in zip(solved, outputs, strict=True))
    assert [shape[0] for shape, _, _ in asked] == {0: [], 1: [3], 2: [2, 1]}[parts]

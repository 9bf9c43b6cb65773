"""Rows for a device, as far as the host can tell: resident or gathered, threads, budget. Streams: tests/gpu."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from solver_cases import positive

from spectral_sampler import ReferenceStore, ops
from spectral_sampler.errors import ArgumentError
from spectral_sampler.fiedler import fiedler_rows
from spectral_sampler.kernels import device_store
from spectral_sampler.kernels.device_store import BUDGET_VARIABLE, DeviceRows
from spectral_sampler.selection import spectral


def eager(features, indices):
    return fiedler_rows(features, indices, backend="eager")


@pytest.fixture
def problem():
    features = torch.from_numpy(positive(200, 16)(0))
    indices = torch.from_numpy(np.random.default_rng(0).permutation(200)[:120].reshape(4, 30))
    return features, indices


def test_nothing_is_copied_before_the_first_use(problem):
    rows = DeviceRows(problem[0], "cpu")
    assert rows.resident is None
    rows.solve(problem[1], eager)
    assert rows.resident


def test_resident_rows_give_the_same_bits(problem):
    features, indices = problem
    assert all(
        torch.equal(a, b)
        for a, b in zip(DeviceRows(features, "cpu").solve(indices, eager), eager(*problem), strict=True)
    )


def test_a_budget_that_is_too_small_gathers(problem):
    features, indices = problem
    rows = DeviceRows(features, "cpu", budget=features.nbytes - 1)
    seen = []

    def solver(part, places):
        seen.append((part.shape, part.data_ptr()))
        assert torch.equal(part[places], features[indices])
        return eager(part, places)

    vector, *_ = rows.solve(indices, solver)
    assert rows.resident is False
    assert seen[0][0] == (120, 16)
    expected = eager(features, indices).vector
    assert (vector * expected).sum(dim=1).min() > 1 - 1e-5


def test_gathering_a_smaller_batch_after_a_larger_one(problem):
    features, indices = problem
    rows = DeviceRows(features, "cpu", budget=0)
    kept = [rows.solve(part, lambda f, i: (f[i],))[0] for part in (indices, indices[:1], indices[2:])]
    assert torch.equal(kept[0], features[indices])
    assert torch.equal(kept[1], features[indices[:1]])
    assert torch.equal(kept[2], features[indices[2:]])


@pytest.mark.parametrize("budget", [None, 0])
def test_threads_take_turns(problem, budget):
    features, indices = problem
    rows, found = DeviceRows(features, "cpu", budget=budget), {}

    def work(member):
        for _ in range(5):
            found[member] = rows.solve(indices[member : member + 1], lambda f, i: (f[i],))[0]

    threads = [threading.Thread(target=work, args=(member,)) for member in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([found[member] for member in range(4)]), features[indices])


def test_refuses_a_negative_budget(problem):
    with pytest.raises(ArgumentError, match="budget must be None or at least 0 bytes, got -1"):
        DeviceRows(problem[0], "cpu", budget=-1)


@pytest.mark.parametrize(("missing", "resident"), [(0, True), (1, False)])
def test_the_budget_comes_from_the_environment_where_none_is_given(problem, monkeypatch, missing, resident):
    features, indices = problem
    monkeypatch.setenv("SPECTRAL_SAMPLER_DEVICE_MEMORY", str(features.nbytes - missing))
    rows = DeviceRows(features, "cpu")
    rows.solve(indices, eager)
    assert rows.resident is resident
    monkeypatch.setenv("SPECTRAL_SAMPLER_DEVICE_MEMORY", "lots")
    with pytest.raises(ArgumentError, match=r"^SPECTRAL_SAMPLER_DEVICE_MEMORY must be a number of bytes, got 'lots'"):
        DeviceRows(features, "cpu").solve(indices, eager)


def test_scores_come_by_way_of_the_device_where_its_backend_is_named(problem, monkeypatch):
    features, indices = problem
    store = ReferenceStore.from_arrays(features)
    here = spectral.fiedler_scores(store, indices.numpy(), score="signed", backend="eager")
    assert store not in spectral._ON_DEVICE
    for number in (0, 1):
        device = torch.device("cpu", number)
        monkeypatch.setattr(ops, "device_for", lambda _backend, _device, device=device: device)
        there = spectral.fiedler_scores(store, indices.numpy(), score="signed", backend="eager")
        assert spectral._ON_DEVICE[store][device].resident
        assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    assert len(spectral._ON_DEVICE[store]) == 2


def test_gathered_members_do_not_depend_on_who_shares_the_call(problem, monkeypatch):
    features, indices = problem
    together = DeviceRows(features, "cpu", budget=0).solve(indices, eager)
    alone = [DeviceRows(features, "cpu", budget=0).solve(row[None], eager) for row in indices]
    monkeypatch.setattr(device_store, "_GATHERED_BYTES", 2 * 30 * 16 * 4 + 1)
    calls = []
    rows = DeviceRows(features, "cpu", budget=0)
    parts = rows.solve(indices, lambda part, places: calls.append(len(part)) or eager(part, places))
    assert calls == [60, 60], "rows are gathered as far as the buffer goes"
    for field, single, part in zip(together, zip(*alone, strict=True), parts, strict=True):
        assert torch.equal(field, torch.cat(single))
        assert torch.equal(field, part)


@pytest.mark.parametrize(("quarters", "resident"), [(4, True), (3.9, False)])
def test_what_is_free_at_the_first_call_bounds_the_copy(problem, monkeypatch, caplog, quarters, resident):
    features, indices = problem
    monkeypatch.delenv(BUDGET_VARIABLE, raising=False)
    asked = []
    rows = DeviceRows(features, "cpu")
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: asked.append(device) or (quarters * features.nbytes, 1)
    )
    with monkeypatch.context() as on_cuda:
        on_cuda.setattr(DeviceRows, "_on_cuda", True)
        on_cuda.setattr(torch.cuda, "Stream", lambda _device: None)
        rows._prepare()
    rows.solve(indices, eager)
    rows.solve(indices, eager)
    assert asked == [rows.device]
    assert rows.resident is resident
    assert len(caplog.records) == (not resident), "said once, and only where it does not fit"


def test_a_copy_that_finds_no_memory_leaves_the_rows_gathered(problem, monkeypatch, caplog):
    features, indices = problem
    rows = DeviceRows(features, "cpu", budget=features.nbytes)
    original = torch.Tensor.to

    def full(tensor, *arguments, **options):
        if tensor is features:
            raise torch.OutOfMemoryError("planted")
        return original(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", full)
    vector, *_ = rows.solve(indices, eager)
    rows.solve(indices, eager)
    assert rows.resident is False
    assert (vector * eager(features, indices)[0]).sum(dim=1).min() > 1 - 1e-5
    assert [record.getMessage().count("could not be had") for record in caplog.records] == [1]


def test_the_wait_blocks_instead_of_spinning(problem, monkeypatch):
    features, indices = problem
    rows, calls = DeviceRows(features, "cpu"), []

    class Event:
        def __init__(self, **options):
            calls.append(options)

        def record(self, stream):
            calls.append(stream)

        def synchronize(self):
            calls.append("waited")

    rows.solve(indices, eager)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(rows, "_side", contextlib.nullcontext)
    rows._stream = "its own"
    rows.solve(indices, eager)
    assert calls == [{"blocking": True}, "its own", "waited"]


def test_a_default_device_of_the_training_loop_does_not_matter(problem):
    features, indices = problem
    expected = DeviceRows(features, "cpu", budget=0).solve(indices, lambda f, i: (f[i],))[0]
    with torch.device("meta"):
        found = DeviceRows(features, "cpu", budget=0).solve(indices, lambda f, i: (f[i],))[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["auto", "eager", "triton", "cuda", "cupy"])
def test_features_stay_where_they_are_unless_a_usable_gpu_backend_was_named(name, monkeypatch):
    host, device = torch.device("cpu"), torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert ops.device_for(name, device) == device
    monkeypatch.setattr(ops, "unusable_reason", lambda _name: None)
    assert ops.device_for(name, host) == (host if name in ("auto", "eager") else device)
    monkeypatch.setattr(ops, "unusable_reason", lambda _name: "not here")
    assert ops.device_for(name, host) == host
    with ops.use_place(lambda: device):
        assert ops.device_for(name, host) == device
    with ops.use_place(lambda: None):
        assert ops.device_for(name, host) == host

"""Rows for a device, as far as the host can tell: resident or gathered, threads, budget. Streams: tests/gpu."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from solver_cases import positive

from spectral_sampler import ReferenceStore, ops
from spectral_sampler.errors import ArgumentError
from spectral_sampler.fiedler import fiedler_rows
from spectral_sampler.kernels.device_store import DeviceRows
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
    monkeypatch.setattr(ops, "device_for", lambda _backend, _device: torch.device("cpu", 0))
    there = spectral.fiedler_scores(store, indices.numpy(), score="signed", backend="eager")
    assert spectral._ON_DEVICE[store].resident
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("name", ["auto", "eager", "triton", "cuda", "cupy"])
def test_features_stay_where_they_are_unless_a_usable_gpu_backend_was_named(name, monkeypatch):
    host, device = torch.device("cpu"), torch.device("cuda")
    assert ops.device_for(name, device) == device
    monkeypatch.setattr(ops, "unusable_reason", lambda _name: None)
    assert ops.device_for(name, host) == (host if name in ("auto", "eager") else device)
    monkeypatch.setattr(ops, "unusable_reason", lambda _name: "not here")
    assert ops.device_for(name, host) == host

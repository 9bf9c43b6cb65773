"""Selections inside the training loop, by the number of classes: what comes on top of forwarding the candidates."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from benchmarks.planted import CHOSEN_BY_LOSS, Planted, plant
from spectral_sampler import OnlineSelection

CANDIDATES, RATIO, KEPT = 128, 0.3, 38
SELECTIONS = ("gradient-norm", "bayesian", "rho-loss", "jest", "jest-joint", "divbs", "uds", "el2n")
TOO_LARGE = {("bayesian", 32_000): "two (C, C) factors in float64 take 16 GB"}


@cache
def _planted(rows: torch.Tensor, classes: int) -> Planted:
    return plant(rows[:CANDIDATES].numpy(), classes)


@pytest.mark.benchmark(max_time=0.5, min_rounds=3)
@pytest.mark.parametrize("classes", [10, 1_000, 32_000])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_online(benchmark, rows, selection, classes):
    if (selection, classes) in TOO_LARGE:
        pytest.skip(TOO_LARGE[selection, classes])
    planted = _planted(rows, classes)
    online = OnlineSelection(planted.policy(selection), RATIO, store=planted.store)
    candidates, marked = torch.arange(CANDIDATES), set(planted.marks.nonzero()[0])
    outputs = {"logits": torch.from_numpy(planted.logits), "labels": torch.from_numpy(planted.store.labels)}
    features = torch.from_numpy(planted.embeddings)
    benchmark.group = f"{CANDIDATES} candidates in the loop, {classes:,} classes"
    kept = benchmark(lambda: online(indices=candidates, features=features, **outputs))
    assert len(set(kept.tolist())) == len(kept) == KEPT
    assert selection not in CHOSEN_BY_LOSS or marked <= set(kept.tolist())
    assert online.weights.isfinite().all()

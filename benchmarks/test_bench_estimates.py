"""Estimates of a whole store beside plain implementations that hold it in float64."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from spectral_sampler.estimates import clustering
from spectral_sampler.estimates.leave_one_out import leave_one_out

ROWS, WIDTH, CLASSES = 40_000, 256, 50


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, ROWS)
    features = generator.normal(size=(CLASSES, WIDTH))[labels] + generator.normal(size=(ROWS, WIDTH))
    return features.astype(np.float16), labels


def _ours(features, labels, _):
    found = leave_one_out(features, np.arange(ROWS), labels, CLASSES)
    return np.concatenate([scores for _, scores in found.scores(np.arange(ROWS))])


def _numpy(features, labels, penalty):
    """All at once in float64, for one penalty."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    counts, targets = np.bincount(labels), np.eye(CLASSES)[labels]
    weights = np.sqrt(counts.max() / counts[labels])
    weights *= ROWS / weights.sum()
    rows -= weights @ rows / ROWS
    moment = (rows.T * weights) @ rows
    inverse = np.linalg.inv(moment + penalty * np.linalg.eigvalsh(moment).max() * np.eye(WIDTH))
    seen = rows @ inverse
    own = weights * ((seen * rows).sum(axis=1) + 1.0 / ROWS)
    scores = seen @ ((rows.T * weights) @ targets) + weights @ targets / ROWS
    return (scores - own[:, None] * targets) / (1.0 - own[:, None])


@pytest.mark.parametrize("way", [_ours, _numpy])
def test_leave_one_out(benchmark, problem, way):
    features, labels = problem
    penalty = leave_one_out(features, np.arange(ROWS), labels, CLASSES).penalty
    benchmark.group = f"leave-one-out scores of {ROWS:,} rows, d={WIDTH}, {CLASSES} classes"
    found = benchmark.pedantic(way, args=(features, labels, penalty), rounds=3, warmup_rounds=1)
    wanted = _numpy(features, labels, penalty)
    assert np.abs(found - wanted).max() < 5e-3 * wanted.std()


@pytest.mark.parametrize("way", ["mini-batches", "KMeans in float64"])
def test_clustering(benchmark, problem, way, monkeypatch):
    features, _ = problem
    monkeypatch.setattr(clustering, "_WHOLE", 0 if way == "mini-batches" else 1 << 60)
    benchmark.group = f"k-means of {ROWS:,} rows, d={WIDTH}, k={CLASSES}"
    found = benchmark.pedantic(clustering.cluster, args=(features, CLASSES), rounds=1)
    plain = KMeans(CLASSES, n_init=1, random_state=1).fit(features.astype(np.float32))
    assert (found.distances**2).sum() < 1.1 * plain.inertia_

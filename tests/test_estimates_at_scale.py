"""Estimates of many rows: read by blocks, in bounded memory, alike on any number of threads, and not in silence."""

import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from spectral_sampler.estimates import (
    blocks,
    clustering,
    label_noise,
    leave_one_out,
    progress,
    side_by_side,
    transitions,
)
from spectral_sampler.estimates.clustering import cluster
from spectral_sampler.estimates.label_noise import estimate
from spectral_sampler.selection import sensitivity


def noisy(rows=10_000, width=24, classes=6, seed=0):
    """Features (rows, width) of overlapping clusters in float16, and labels of which a tenth is wrong."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, rows)
    features = generator.normal(size=(classes, width))[truth] + generator.normal(size=(rows, width))
    wrong = generator.random(rows) < 0.1
    return features.astype(np.float16), (truth + wrong * generator.integers(1, classes, rows)) % classes


class Rows:
    """What reads rows by index, is no array, and knows the most it was asked for at once."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype, self.most = rows, rows.shape, rows.dtype, 0

    def __len__(self):
        return len(self.rows)

    def __array__(self, *_, **__):
        raise AssertionError("all rows at once")

    def __getitem__(self, key):
        found = self.rows[key]
        self.most = max(self.most, len(found))
        return found


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_label_noise_is_the_same_on_any_number_of_threads(threads):
    features, labels = noisy()
    answers = []
    for number in (1, 2, 4):
        threads(number)
        answers.append(estimate(features, labels))
        assert torch.get_num_threads() == number
    for other in answers[1:]:
        assert np.array_equal(other.doubts, answers[0].doubts), "bit by bit"
        assert np.array_equal(other.joint, answers[0].joint)
        assert (other.share, other.unseen) == (answers[0].share, answers[0].unseen)


def test_blocks_are_the_whole(monkeypatch):
    features, labels = noisy(4000)
    labels[::7] = -1
    whole = estimate(features, labels)
    rows = Rows(features)
    monkeypatch.setattr(leave_one_out, "_BLOCK", 300)
    monkeypatch.setattr(label_noise, "_BLOCK", 300)
    monkeypatch.setattr(leave_one_out, "_JUDGES", 500)
    judged = estimate(rows, labels)
    assert rows.most <= 1000, "twice the judges, where they lie close together"
    monkeypatch.setattr(leave_one_out, "_JUDGES", 4096)
    parts = estimate(Rows(features), labels)
    assert np.mean(parts.suspects() != whole.suspects()) < 1e-3
    known = labels != -1
    assert parts.doubts[known] == pytest.approx(whole.doubts[known], rel=1e-3, abs=1e-3)
    assert np.isneginf(parts.doubts[~known]).all()
    assert judged.share == pytest.approx(whole.share, abs=0.01)


def exact(features, labels, penalty):
    """Leave-one-out scores in float64, all at once."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    counts = np.bincount(labels)
    weights = np.sqrt(counts.max() / counts[labels])
    weights *= len(rows) / weights.sum()
    rows -= weights @ rows / len(rows)
    moment, targets = (rows.T * weights) @ rows, np.eye(len(counts))[labels]
    inverse = np.linalg.inv(moment + penalty * np.linalg.eigvalsh(moment).max() * np.eye(len(moment)))
    scores = rows @ inverse @ ((rows.T * weights) @ targets) + weights @ targets / len(rows)
    own = weights * (((rows @ inverse) * rows).sum(axis=1) + 1.0 / len(rows))
    return (scores - own[:, None] * targets) / (1.0 - own[:, None])


@pytest.mark.parametrize(("size", "least", "most"), [(20_000, 0, 64), (250, 64, 160)])
def test_leverages_look_at_as_many_directions_as_scores_notice(size, least, most):
    features, labels = noisy(size, 160, 5)
    found = leave_one_out.leave_one_out(features, np.arange(size), labels, 5)
    assert least <= found.rank <= most
    wanted = exact(features, labels, found.penalty)
    for rank, near in ((found.rank, True), (160, True), *([(0, False)] if least else [])):
        scores = np.concatenate([s for _, s in found._replace(rank=rank).scores(np.arange(size))])
        assert (np.abs(scores - wanted).max() < 2e-3 * wanted.std()) == near


def test_rounding_does_not_grow_where_no_probability_changes():
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 4
    scores = np.eye(4)[labels] + 0.05 * generator.normal(size=(400, 4))
    scores += (1.0 - scores.sum(axis=1, keepdims=True)) / 4.0  # as a probe's
    found = transitions.fit(scores, labels)
    assert np.abs(found.matrix).max() < 10.0
    assert transitions.fit(scores * (1.0 + 1e-9), labels).scale == pytest.approx(found.scale, rel=1e-6)


def test_rows_that_lie_apart_are_not_read_with_those_between():
    rows = Rows(np.arange(2000.0).reshape(1000, 2))
    for wanted in ([5], [3, 4, 5], [3, 5, 6], [0, 999], [7, 2], [4, 4]):
        assert np.array_equal(blocks.read(rows, np.array(wanted)), rows.rows[wanted])
    assert rows.most <= 4


def test_what_fails_beside_others_is_raised_here(threads):
    threads(2)
    started = []

    def function(item):
        started.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    assert [pair[1] for pair in side_by_side.side_by_side(function, range(3))] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        list(side_by_side.side_by_side(function, range(100)))
    assert max(started) < 10, "and the rest is left"
    inside = [number for _, number in side_by_side.side_by_side(lambda _: torch.get_num_threads(), range(4))]
    assert inside == [1] * 4


def test_a_thread_that_cannot_be_started_leaves_no_other_waiting(threads, monkeypatch):
    """The interpreter would wait for it at its end."""
    threads(3)
    start, started = threading.Thread.start, []

    def fails(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(side_by_side.side_by_side(str, range(9)))
    assert not started[0].is_alive()
    monkeypatch.undo()
    numbers = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert numbers == [3, 3]


# Clustering


def spots(rows=4000, seed=0):
    generator = np.random.default_rng(seed)
    return (30 * generator.normal(size=(10, 6))[np.arange(rows) % 10] + generator.normal(size=(rows, 6))).astype("f4")


@pytest.mark.parametrize("power", [1, 2])
def test_mini_batches_cluster_as_well_and_read_blocks(monkeypatch, threads, power):
    features = spots() + 1000.0
    whole = cluster(features, 10, power=power)
    monkeypatch.setattr(clustering, "_WHOLE", 0)
    monkeypatch.setattr(clustering, "_SAMPLE", 2400)
    monkeypatch.setattr(clustering, "_BATCH", 1800)
    answers, rows = [], Rows(features)
    for number in (1, 2, 4):
        threads(number)
        answers.append(cluster(rows, 10, power=power, seed=3))
    found = answers[0]
    assert rows.most <= 2 * 400
    assert (found.distances**power).sum() < 1.05 * (whole.distances**power).sum()
    direct = np.linalg.norm(features[found.medoids][:, None] - features[None, :50], axis=2)
    assert np.array_equal(found.labels[found.medoids], np.arange(len(found.medoids)))
    assert np.isfinite(direct).all()
    for other in answers[1:]:
        assert np.array_equal(other.labels, found.labels)
        assert other.distances == pytest.approx(found.distances, rel=1e-5)


def test_leverage_scores_by_blocks_keep_the_rank(monkeypatch):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(500, 4)) @ generator.normal(size=(4, 9)) * 10.0 ** np.arange(-4, 5)
    left, _, _ = np.linalg.svd(rows, full_matrices=False)
    monkeypatch.setattr(sensitivity, "_NUMBERS", 90)
    found = sensitivity.leverage_scores(Rows(rows))
    assert found == pytest.approx((left[:, :4] ** 2).sum(axis=1), rel=1e-6)
    assert found.sum() == pytest.approx(4.0)


# Memory and progress

LIMITED = """
import resource, sys
import numpy as np, torch
import sklearn.cluster
from spectral_sampler.estimates.clustering import cluster
from spectral_sampler.estimates.label_noise import estimate
from spectral_sampler.estimates import side_by_side
features = np.load(sys.argv[1], mmap_mode="r")
torch.set_num_threads(2)
list(side_by_side.side_by_side(lambda one: torch.ones(500, 500) @ torch.ones(500, 500), range(4)))
lines = open("/proc/self/status").read().splitlines()
held = int(next(line for line in lines if line.startswith("VmData")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (held + (int(sys.argv[3]) << 20),) * 2)
if sys.argv[2] == "cluster":
    assert len(cluster(features, 4).medoids) == 4
elif sys.argv[2] == "estimate":
    assert estimate(features, np.arange(len(features)) % 100).accuracy < 0.1
else:
    np.array(features, dtype=np.float64)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc, RLIMIT_DATA")
@pytest.mark.parametrize(("what", "fits"), [("cluster", True), ("estimate", True), ("whole", False)])
def test_memory_is_that_of_blocks(tmp_path, what, fits):
    """The features are 100 MB as they are and 400 MB in float64."""
    generator = np.random.default_rng(0)
    np.save(tmp_path / "features.npy", generator.integers(0, 1 << 14, (200_000, 256), dtype=np.uint16).view(np.float16))
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "features.npy"), what, "350"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode == 0) == fits, ended.stderr[-2000:]


def said(caplog):
    return [record.getMessage() for record in caplog.records if "% done, about" in record.getMessage()]


def test_a_long_estimate_says_how_far_it_is_and_a_short_one_nothing(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    features, labels = noisy(10_000)
    estimate(features, labels)
    cluster(spots(), 10)
    assert said(caplog) == []
    monkeypatch.setattr(progress, "_PERIOD", 0.0)
    estimate(features, labels)
    lines = said(caplog)
    assert len(lines) >= 5
    shares = [int(line.split()[2]) for line in lines]
    assert all(line.startswith("label noise: ") and line.endswith(" s left") for line in lines)
    assert shares == sorted(shares)
    assert shares[0] < 60
    assert 80 <= shares[-1] <= 100
    caplog.clear()
    cluster(spots(), 10, power=1)
    assert said(caplog)[-1] == "clustering: 100 % done, about 0 s left"

"""UDS: the score against sums written out, the memory, the projection."""

import numpy as np
import pytest
import torch

from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import UDS, CandidateBatch
from spectral_sampler.selection.uds import projected

N, C = 24, 5


def offered(seed=0, classes=C, **changes):
    generator = np.random.default_rng(seed)
    batch = CandidateBatch(generator.permutation(500)[:N].astype(np.int64), logits=generator.normal(size=(N, classes)))
    return batch._replace(batch=seed, **changes)


def nuclear_norm(row):
    return np.linalg.svd(row[None], compute_uv=False).sum()


@pytest.mark.parametrize(("diversity", "memory"), [(1.0, 20), (0.0025, 7), (3.0, 1024), (0.0, 4)])
def test_score_and_memory_over_a_run(diversity, memory):
    selection, remembered, full = UDS(diversity, memory=memory), [], False
    for step in range(12):
        batch = offered(step)
        distances = [np.mean([np.linalg.norm(row - old) for old in remembered] or [0.0]) for row in batch.logits]
        expected = np.array([nuclear_norm(row) for row in batch.logits]) + diversity * np.array(distances)
        assert selection.scores(batch) == pytest.approx(expected, rel=1e-9)
        choice = selection.select(batch, 6)
        assert choice.positions.tolist() == np.argsort(-expected)[:6].tolist()
        assert selection.select(batch, 6).positions.tolist() == choice.positions.tolist(), "looking moves nothing"
        selection.trained(batch, choice)
        full |= len(remembered) + 6 > memory
        remembered = [*remembered, *batch.logits[choice.positions]][-memory:]
        assert selection.state_dict()["buffer"].numpy() == pytest.approx(np.array(remembered))
    assert full == (memory < 72)


def test_what_was_trained_on_lately_is_less_wanted():
    batch = offered(1)
    unit = batch._replace(logits=batch.logits / np.linalg.norm(batch.logits, axis=1, keepdims=True))
    selection, first = UDS(), unit._replace(logits=np.tile(unit.logits[:1], (N, 1)))
    selection.trained(first, selection.select(first, 8))
    distances = np.linalg.norm(unit.logits - unit.logits[0], axis=1)
    assert selection.select(unit, 5).positions.tolist() == np.argsort(-distances)[:5].tolist()
    assert selection.scores(unit)[0] == pytest.approx(1.0, abs=1e-6), "the distance of a copy is zero"


def test_the_projection_keeps_distances_and_is_the_same_in_every_step():
    rows = torch.tensor(np.random.default_rng(0).normal(size=(40, 3000)))
    found = projected(rows, 256, 7)
    assert found.shape == (40, 256)
    assert torch.equal(found, projected(rows, 256, 7))
    assert not torch.equal(found, projected(rows, 256, 8))
    assert torch.equal(projected(rows, 3000, 7), rows)
    ratio = torch.pdist(found) / torch.pdist(rows)
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    assert 0.8 < ratio.min() < ratio.max() < 1.2
    signs = projected(torch.eye(3000, dtype=torch.float64), 256, 7) * 16
    assert signs.abs().unique().tolist() == [1.0]
    assert abs(signs.mean()) < 5 / np.sqrt(signs.numel())
    assert abs((signs[:, 0] * signs[:, 1]).mean()) < 5 / np.sqrt(3000)


def test_many_classes_are_compared_in_few_dimensions():
    selection, batch, second = UDS(width=16), offered(0, 300), offered(1, 300)
    choice = selection.select(batch, 6)
    selection.trained(batch, choice)
    buffer = projected(torch.tensor(batch.logits[choice.positions]), 16, 0).numpy()
    rows = projected(torch.tensor(second.logits), 16, 0).numpy()
    distances = np.linalg.norm(rows[:, None] - buffer[None], axis=2).mean(1)
    assert selection.scores(second) == pytest.approx(np.linalg.norm(second.logits, axis=1) + distances)
    with pytest.raises(ArgumentError, match=r"^logits must be as wide as those remembered, 16 after projection, got 5"):
        selection.select(offered(2, 5), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diversity": -1}, r"^diversity must be a number in \[0, inf\), got -1\. "),
        ({"memory": 0}, r"^memory must be a whole number of at least 1, got 0\. "),
        ({"width": 1.5}, r"^width must be a whole number of at least 1, got 1\.5\. "),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        UDS(**arguments)

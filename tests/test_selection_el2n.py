"""EL2N: the scores, the hardest first, the hardest share left out and back."""

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import EL2N, CandidateBatch, OnlineSelection

N, C = 30, 4


def offered(seed=0, **changes):
    generator = np.random.default_rng(seed)
    batch = CandidateBatch(
        generator.permutation(500)[:N].astype(np.int64),
        logits=3 * generator.normal(size=(N, C)),
        labels=generator.integers(C, size=N),
    )
    return batch._replace(**changes)


def scores(batch):
    exponentials = np.exp(batch.logits)
    return np.linalg.norm(exponentials / exponentials.sum(1, keepdims=True) - np.eye(C)[batch.labels], axis=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 11, N])
def test_the_hardest(seed, budget):
    batch = offered(seed)
    assert EL2N().select(batch, budget).positions.tolist() == np.argsort(-scores(batch))[:budget].tolist()


@pytest.mark.parametrize(("offset", "out"), [(0.1, 3), (0.2, 6), (0.65, 19), (0.99, 29), (0.03, 0)])
@pytest.mark.parametrize("budget", [1, 11, 25, N])
def test_the_hardest_share_is_left_out_while_there_are_others(offset, out, budget):
    batch = offered(1)
    order = np.argsort(-scores(batch))
    expected = [*order[out:], *order[:out][::-1]][:budget]
    assert EL2N(offset).select(batch, budget).positions.tolist() == expected


def test_wrong_labels_are_what_is_left_out():
    batch = offered(2)
    right = batch._replace(logits=batch.logits * 0.1 + 6 * np.eye(C)[batch.labels])
    wrong = right._replace(labels=np.where(np.arange(N) < 3, (batch.labels + 1) % C, batch.labels))
    assert set(EL2N().select(wrong, 10).positions[:3].tolist()) == {0, 1, 2}
    assert not {0, 1, 2} & set(EL2N(0.1).select(wrong, 27).positions.tolist())


def test_in_the_loop():
    batch = offered(3)
    store = ReferenceStore.from_arrays(np.ones((500, 2)))
    online = OnlineSelection(EL2N(0.1), 0.3, store=store)
    kept = online(indices=batch.indices, logits=torch.tensor(batch.logits), labels=batch.labels)
    assert kept.tolist() == np.argsort(-scores(batch))[3:12].tolist()


@pytest.mark.parametrize("offset", [1.0, -0.1, float("nan"), "x", True])
def test_bad_offset(offset):
    with pytest.raises(ArgumentError, match=r"^offset must be a number in \[0, 1\), got .*\. It is the share"):
        EL2N(offset)

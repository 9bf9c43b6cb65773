"""Forgetting: the events counted by hand, from logits and from losses, and what follows from them."""

import itertools
import math

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore, SpectralBatchSampler
from spectral_sampler.selection import CandidateBatch, Forgetting, OnlineSelection
from spectral_sampler.selection.forgetting import outcomes

M, N, C = 60, 20, 3
STORE = ReferenceStore.from_arrays(np.ones((M, 2)), labels=np.arange(M) % C)


def batch_of(indices, right, **place):
    """Losses of 0.1 where ``right`` is 1, of 2 where it is 0, unknown where it is −1."""
    losses = np.array([{1: 0.1, 0: 2.0, -1: np.nan}[one] for one in right])
    return CandidateBatch(np.asarray(indices), learner_losses=losses, **place)


class Book:
    """Every sample's history as a list, and what Toneva et al. make of it."""

    def __init__(self):
        self.of = {}

    def hear(self, indices, right):
        for index, one in zip(indices, right, strict=True):
            if one != -1:
                self.of.setdefault(int(index), []).append(one)

    def events(self, index):
        history = self.of.get(int(index), [])
        if 1 not in history:
            return math.inf
        return sum(before > after for before, after in itertools.pairwise(history))


def test_the_most_forgotten_by_a_history_written_down():
    generator, selection, book = np.random.default_rng(0), Forgetting(), Book()
    seen = set()
    for step in range(60):
        indices = generator.permutation(M)[:N]
        right = generator.choice([-1, 0, 1], size=N, p=[0.1, 0.4, 0.5])
        batch = batch_of(indices, right, batch=step)
        before = selection.select(batch, N).positions.tolist()
        assert selection.select(batch, N).positions.tolist() == before, "looking moves nothing"
        book.hear(indices, right)
        expected = sorted(range(N), key=lambda row: (-book.events(indices[row]), batch.ties()[row]))
        assert before == expected
        assert selection.select(batch, 7).positions.tolist() == expected[:7]
        selection.trained(batch, selection.select(batch, 7))
        seen |= {book.events(index) for index in indices}
    assert {0, 1, 2, 5, math.inf} <= seen


def test_right_is_the_only_largest_logit_or_a_loss_below_ln_2():
    logits = torch.tensor([[2.0, 1, 0], [1, 1, 0], [0, 1, 2], [0, -math.inf, -math.inf], [0.4, 0.3, 0.3]])
    labels = np.zeros(5, dtype=np.int64)
    batch = CandidateBatch(np.arange(5), logits=logits, labels=labels)
    assert outcomes(batch).tolist() == [1, 0, 0, 1, 1]
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none").double().numpy()
    assert outcomes(CandidateBatch(np.arange(5), learner_losses=losses)).tolist() == [1, 0, 0, 1, 0]
    two = np.array([math.log(2), np.nextafter(math.log(2), 0), np.nan])
    assert outcomes(CandidateBatch(np.arange(3), learner_losses=two)).tolist() == [0, 1, -1]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_a_loss_below_ln_2_is_never_a_wrong_one(kind):
    logits = torch.tensor(2 * np.random.default_rng(0).normal(size=(4000, C))).to(kind)
    labels = np.arange(4000) % C
    batch = CandidateBatch(np.arange(4000), logits=logits, labels=labels)
    losses = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(labels), reduction="none").numpy()
    by_loss = outcomes(CandidateBatch(np.arange(4000), learner_losses=losses))
    assert np.all(outcomes(batch)[by_loss == 1] == 1)
    assert 0 < np.mean(outcomes(batch) != by_loss) < 0.2


def test_in_a_sampler_it_follows_what_is_observed():
    """Half of the samples change sides every epoch, the others stay right: those are left out in the end."""
    sampler = SpectralBatchSampler(STORE, N, keep_ratio=0.5, selection=Forgetting(), seed=1)
    for epoch in range(8):
        for rows in sampler:
            right = np.where(np.asarray(rows) < M // 2, epoch % 2 == 0, True)
            sampler.observe(rows, np.where(right, 0.1, 2.0))
    chosen = np.concatenate(list(sampler))
    offered = np.concatenate([sampler.selection_at(sampler.epoch - 1, number)[0] for number in range(3)])
    assert np.mean(chosen < M // 2) > 0.8 > np.mean(offered < M // 2)


def test_in_the_loop_all_candidates_count_not_only_those_trained_on():
    online = OnlineSelection(Forgetting(), 0.1, store=STORE)
    labels = STORE.labels[:N]
    for step in range(4):
        logits = np.eye(C)[(labels + (step % 2) * (np.arange(N) >= 10)) % C]
        kept = online(indices=np.arange(N), logits=logits, labels=labels)
    assert set(kept.tolist()) <= set(range(10, N))
    state = online.policy.state_dict()
    assert state["events"].tolist() == [0] * 10 + [2] * 10
    assert state["outcome"].tolist() == [1] * 10 + [0] * 10


def test_a_loaded_record_is_its_own():
    first, second = Forgetting(), Forgetting()
    first.trained(batch_of([3, 1], [1, 0]), None)
    second.load_state_dict(first.state_dict())
    second.trained(batch_of([3, 9], [0, 1]), None)
    assert first.state_dict()["events"].tolist() == [0, 0, 0, 0]
    assert second.state_dict()["events"].tolist() == [0, 0, 0, 1] + [0] * 6
    assert second.state_dict()["outcome"].tolist() == [-1, 0, -1, 0, -1, -1, -1, -1, -1, 1]

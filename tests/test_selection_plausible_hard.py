"""PlausibleHard: its weights, its suspects, its doubts, and how evenly it draws."""

import numpy as np
import pytest
from scipy import stats

from spectral_sampler import PlausibleHard, ReferenceStore, SpectralBatchSampler, Uniform, draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import CandidateBatch

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 2])
LOSSES = np.array([0.0, 0.1, 0.5, 1.0, 0.2, 0.7, 0.05, 3.0, 1.5, 0.9])  # ln 3 = 1.0986: 7 and 8 are suspects
SEEN = np.array([0.3, np.nan, 2.0, 0.01, 0.6, np.nan, 0.0, 1.0, 1.0, 4.0])
SUSPECTS = {7, 8}


def make_store(losses=LOSSES, labels=LABELS):
    rows = np.random.default_rng(0).random((len(losses), 3)) + 0.1
    return ReferenceStore.from_arrays(rows, losses=losses, labels=labels)


def offered(policy, store, seed=0, epoch=0, seen=SEEN):
    indices = np.arange(len(store))
    scores = policy.score(store, indices[None], backend="auto")
    return CandidateBatch(
        indices, scores.values[0], float(scores.error[0]), store.losses.astype(np.float64), learner_losses=seen,
        seed=seed, epoch=epoch,
    )  # fmt: skip


def reference_weights(floor, balance):
    """The definition, written again."""
    weights = []
    for loss, seen, label in zip(LOSSES, SEEN, LABELS, strict=True):
        unknown = 1.0 if np.isnan(seen) else 1 - np.exp(-seen)
        rarity = (max(np.bincount(LABELS)) / sum(label == LABELS)) ** balance
        weights.append(0.0 if loss > np.log(3) else (1 - np.exp(-loss) + floor) * (unknown + floor) * rarity)
    return np.array(weights) / sum(weights)


@pytest.mark.parametrize(("floor", "balance"), [(0.2, 1.0), (1.0, 0.0), (0.05, 0.5)])
def test_the_first_draw_has_the_stated_probabilities(floor, balance):
    policy, store = PlausibleHard(floor, balance=balance), make_store()
    drawn = [int(policy.select(offered(policy, store, seed), 1).positions[0]) for seed in range(4000)]
    counts = np.bincount(drawn, minlength=len(LOSSES))
    expected = reference_weights(floor, balance)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], 4000 * expected[possible]).pvalue > 1e-3
    other = reference_weights(3 * floor, balance)[possible]  # what a wrong floor would give is noticed
    assert stats.chisquare(counts[possible], 4000 * other).pvalue < 1e-3


def test_suspects_come_last_by_loss_and_weigh_nothing():
    policy, store = PlausibleHard(), make_store()
    for seed in range(50):
        choice = policy.select(offered(policy, store, seed), 8)
        assert not SUSPECTS & set(choice.positions.tolist())
        assert choice.weights is None
    choice = policy.select(offered(policy, store), 9)
    assert choice.positions[-1] == 8  # of losses 1.5 and 3.0
    assert choice.weights.tolist() == [1.0] * 8 + [0.0]
    assert policy.select(offered(policy, store), 10).positions[-2:].tolist() == [8, 7]


def test_the_cut_is_a_guess_among_the_classes_that_occur():
    store = make_store(labels=np.where(LABELS == 2, 5, LABELS))  # still three classes
    suspects = np.flatnonzero(np.isneginf(PlausibleHard().score(store, np.arange(10)[None], backend="auto").values[0]))
    assert set(suspects) == SUSPECTS
    values = PlausibleHard(cut=0.6).score(store, np.arange(10)[None], backend="auto").values[0]
    assert set(np.flatnonzero(np.isneginf(values))) == set(np.flatnonzero(LOSSES > 0.6))


def test_a_reference_worse_than_a_guess_is_not_believed():
    losses = LOSSES + 1.0
    assert losses.mean() > np.log(3)
    policy, store = PlausibleHard(), make_store(losses)
    batch = offered(policy, store)
    assert np.isinf(batch.error)
    assert np.allclose(np.exp(batch.scores), (5 / np.bincount(LABELS))[LABELS])
    drawn = [int(policy.select(offered(policy, store, seed), 1).positions[0]) for seed in range(3000)]
    by_class = np.bincount(LABELS[drawn])
    assert stats.chisquare(by_class).pvalue > 1e-3  # every class alike, whatever the losses
    assert policy.select(batch, 10).weights is None
    assert np.isneginf(PlausibleHard(cut=1.2).score(store, np.arange(10)[None], backend="auto").values).any()


def test_unobserved_samples_count_as_unlearnt():
    policy, store = PlausibleHard(), make_store()
    nothing, much = np.full(10, np.nan), np.full(10, 50.0)
    for seed in range(20):
        first = policy.select(offered(policy, store, seed, seen=nothing), 4)
        second = policy.select(offered(policy, store, seed, seen=much), 4)
        assert first.positions.tolist() == second.positions.tolist()


def test_draws_are_more_even_over_epochs_than_independent_ones():
    size, epochs = 400, 20
    store = make_store(np.full(size, 0.3), np.arange(size) % 4)
    sampler = SpectralBatchSampler(store, candidate_batch_size=40, keep_ratio=0.3, selection=PlausibleHard(), seed=3)
    counts = np.zeros(size)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        counts[np.concatenate(list(sampler))] += 1
    assert counts.sum() == size * epochs * 0.3
    independent = epochs * 0.3 * 0.7
    assert counts.var() < 0.55 * independent  # not 0: which of a batch are drawn depends on the others in it
    others = SpectralBatchSampler(store, candidate_batch_size=40, keep_ratio=0.3, selection=Uniform(), seed=3)
    control = np.zeros(size)
    for epoch in range(epochs):
        others.set_epoch(epoch)
        control[np.concatenate(list(others))] += 1
    assert control.var() > 0.75 * independent


def test_recurring_draws_are_uniform_in_an_epoch_and_even_over_them():
    indices = np.arange(5000)
    table = np.stack([draws.recurring(1, epoch, indices, 2) for epoch in range(40)])
    assert table.min() > 0.0
    assert table.max() < 1.0
    for row in table[::8]:
        assert stats.kstest(row, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(table[7][:-1], table[7][1:])[0, 1]) < 0.06
    hits = (table < 0.3).sum(0)
    independent = np.stack([draws.uniforms(1, epoch, 0, indices, 2) for epoch in range(40)])
    assert abs(hits - 12).max() <= 2
    assert abs((independent < 0.3).sum(0) - 12).max() > 5


def test_weights_reach_the_training_loop():
    store = make_store()
    sampler = SpectralBatchSampler(
        store, candidate_batch_size=10, keep_ratio=0.9, selection=PlausibleHard(), min_keep=1
    )
    (kept,) = list(sampler)
    assert sampler.weights_for(kept).tolist() == [0.0 if row in SUSPECTS else 1.0 for row in kept]
    assert sum(row in SUSPECTS for row in kept) == 1


def test_refusals():
    with pytest.raises(ArgumentError, match=r"^floor must be a number in \(0, inf\), got 0"):
        PlausibleHard(0)
    with pytest.raises(ArgumentError, match=r"^balance must be a number in \[0, inf\), got -1"):
        PlausibleHard(balance=-1)
    with pytest.raises(ArgumentError, match=r"^cut must be a number in \(0, inf\), got 'x'"):
        PlausibleHard(cut="x")
    with pytest.raises(ArgumentError, match=r"labels"):
        SpectralBatchSampler(
            ReferenceStore.from_arrays(np.eye(4) + 0.1, losses=np.ones(4)), candidate_batch_size=2, keep_ratio=0.5,
            selection=PlausibleHard(),
        )  # fmt: skip
    store = ReferenceStore.from_arrays(np.eye(4) + 0.1, losses=np.ones(4))
    with pytest.raises(ArgumentError, match=r"^store must be a reference store with labels and losses"):
        PlausibleHard().score(store, np.arange(4)[None], backend="auto")
    assert repr(PlausibleHard(0.5, cut=2)) == "PlausibleHard(floor=0.5, balance=1.0, cut=2.0)"

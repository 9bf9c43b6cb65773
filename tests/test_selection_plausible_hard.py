"""PlausibleEven and PlausibleHard: weights, suspects, doubts, and how evenly they draw."""

import numpy as np
import pytest
from scipy import stats

from spectral_sampler import PlausibleEven, PlausibleHard, ReferenceStore, SpectralBatchSampler, Uniform, draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import CandidateBatch
from spectral_sampler.selection.label_noise import estimate

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 2] * 200)
SMALL = np.array([0.0, 0.02, 0.1, 0.3, 0.05, 0.2, 0.01, 0.06, 0.08, 0.25])  # ln 3 = 1.0986: nobody is a suspect
HARD = np.where(
    np.arange(2000) % 50 == 7, 1.3, np.tile(SMALL, 200)
)  # a few suspects, no more than a calibrated model has
WRONG = np.where(np.isin(np.arange(2000) % 10, [7, 8]), 3.5 + 1e-4 * np.arange(2000), np.tile(SMALL, 200))
TEN = np.arange(10)
SUSPECTS = {7, 8}


def make_store(losses=WRONG, labels=LABELS):
    rows = np.random.default_rng(0).random((len(losses), 3)) + 0.1
    return ReferenceStore.from_arrays(rows, losses=losses, labels=labels)


def offered(policy, store, seed=0, epoch=0, indices=TEN):
    scores = policy.score(store, indices[None], backend="auto")
    return CandidateBatch(
        indices, scores.values[0], float(scores.error[0]), store.losses[indices].astype(np.float64), seed=seed,
        epoch=epoch,
    )  # fmt: skip


def reference_weights(losses, floor, balance, *, excluded):
    """The definition, written again."""
    weights = []
    for loss, label in zip(losses[:10], LABELS[:10], strict=True):
        rarity = (max(np.bincount(LABELS)) / sum(label == LABELS)) ** balance
        weights.append(0.0 if excluded and loss > np.log(3) else (1 - np.exp(-loss) + floor) * rarity)
    return np.array(weights) / sum(weights)


@pytest.mark.parametrize(("floor", "balance"), [(0.2, 1.0), (0.4, 0.0), (0.05, 0.5)])
@pytest.mark.parametrize(("losses", "excluded"), [(WRONG, True), (HARD, False)])
def test_the_first_draw_has_the_stated_probabilities(losses, excluded, floor, balance):
    policy, store = PlausibleHard(floor, balance=balance), make_store(losses)
    drawn = [int(policy.select(offered(policy, store, seed), 1).positions[0]) for seed in range(4000)]
    counts = np.bincount(drawn, minlength=10)
    expected = reference_weights(losses, floor, balance, excluded=excluded)
    possible = expected > 0
    assert possible.all() != excluded
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], 4000 * expected[possible]).pvalue > 1e-3
    other = reference_weights(losses, 3 * floor, balance, excluded=excluded)[possible]  # a wrong floor is noticed
    assert stats.chisquare(counts[possible], 4000 * other).pvalue < 1e-3


@pytest.mark.parametrize("losses", [WRONG, HARD])
def test_without_the_preference_for_hard_samples_only_classes_and_suspects_count(losses):
    store, indices = make_store(losses), np.arange(200)[None]
    even = PlausibleEven(balance=0.5).score(store, indices, backend="auto").values
    flat = PlausibleHard(floor=1e9, balance=0.5).score(store, indices, backend="auto").values
    suspect = np.isneginf(flat)
    assert np.array_equal(np.isneginf(even), suspect)
    assert suspect.any() == (losses is WRONG)
    assert even[~suspect] == pytest.approx(flat[~suspect] - np.log(1e9), abs=1e-6)
    rarity = 1000 / np.bincount(LABELS)[LABELS[indices]]
    assert np.exp(even[~suspect]) == pytest.approx(rarity[~suspect] ** 0.5)
    assert repr(PlausibleEven()) == "PlausibleEven(balance=1.0, tolerance=0.5)"


def test_wrong_suspects_come_last_by_loss_and_weigh_nothing():
    policy, store = PlausibleHard(), make_store()
    for seed in range(50):
        choice = policy.select(offered(policy, store, seed), 8)
        assert not SUSPECTS & set(choice.positions.tolist())
        assert choice.weights is None
    choice = policy.select(offered(policy, store), 9)
    assert choice.positions[-1] == 7  # of losses 3.5007 and 3.5008
    assert choice.weights.tolist() == [1.0] * 8 + [0.0]
    assert policy.select(offered(policy, store), 10).positions[-2:].tolist() == [7, 8]


def test_tolerance_is_the_share_of_wrong_suspects_that_is_put_up_with():
    doubt = estimate(WRONG, 3).doubt
    assert 0.5 < doubt <= 1.0
    for tolerance, excluded in ((doubt - 1e-3, True), (doubt + 1e-3, False), (1.0, False)):
        policy = PlausibleHard(tolerance=tolerance)
        assert np.isneginf(policy.score(make_store(), TEN[None], backend="auto").values).any() == excluded
    assert 0.0 < estimate(HARD, 3).doubt < 0.5
    hard = PlausibleHard(tolerance=0.0).score(make_store(HARD), TEN[None], backend="auto").values[0]
    assert np.flatnonzero(np.isneginf(hard)).tolist() == [7], "no doubt at all is put up with"


def test_the_guess_is_among_the_classes_that_occur():
    store = make_store(labels=np.where(LABELS == 2, 5, LABELS))  # still three classes
    suspects = np.flatnonzero(np.isneginf(PlausibleHard().score(store, TEN[None], backend="auto").values[0]))
    assert set(suspects) == SUSPECTS


def test_a_reference_no_better_than_a_guess_is_not_asked():
    generator = np.random.default_rng(0)
    losses = -np.log(generator.dirichlet(np.full(3, 4.0), 2000)[:, 0])
    assert (losses[:10] > np.log(3)).any()
    policy, store = PlausibleHard(), make_store(losses)
    batch = offered(policy, store)
    assert np.allclose(np.exp(batch.scores), (1000 / np.bincount(LABELS))[LABELS[:10]])
    drawn = [int(policy.select(offered(policy, store, seed), 1).positions[0]) for seed in range(3000)]
    by_class = np.bincount(LABELS[drawn])
    assert stats.chisquare(by_class).pvalue > 1e-3  # every class alike, whatever the losses
    assert policy.select(batch, 10).weights is None


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


def test_further_passes_of_an_epoch_draw_anew():
    store = make_store(np.full(400, 0.3), np.arange(400) % 4)
    options = {"candidate_batch_size": 40, "keep_ratio": 0.2, "emit": "constant", "batch_size": 40, "seed": 3}
    even = SpectralBatchSampler(store, selection=PlausibleHard(), **options)
    drawn = np.concatenate(list(even))
    assert len(drawn) == 400
    assert len(set(drawn.tolist())) > 273, "more than independent draws reach"


def test_class_numbers_may_be_any():
    store = make_store(labels=LABELS * 1000 - 7)
    same = make_store()
    values = [PlausibleHard().score(one, TEN[None], backend="auto").values for one in (store, same)]
    assert np.array_equal(*values)


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
    sampler = SpectralBatchSampler(store, candidate_batch_size=2000, keep_ratio=0.9, selection=PlausibleHard())
    (kept,) = list(sampler)
    wrong = WRONG[kept] > np.log(3)
    assert sampler.weights_for(kept).tolist() == np.where(wrong, 0.0, 1.0).tolist()
    assert wrong.sum() == 1800 - 1600


def test_refusals():
    with pytest.raises(ArgumentError, match=r"^floor must be a number in \(0, inf\), got 0"):
        PlausibleHard(0)
    with pytest.raises(ArgumentError, match=r"^balance must be a number in \[0, inf\), got -1"):
        PlausibleHard(balance=-1)
    with pytest.raises(ArgumentError, match=r"^tolerance must be a number in \[0, 1\], got 'x'"):
        PlausibleHard(tolerance="x")
    with pytest.raises(ArgumentError, match=r"labels"):
        SpectralBatchSampler(
            ReferenceStore.from_arrays(np.eye(4) + 0.1, losses=np.ones(4)), candidate_batch_size=2, keep_ratio=0.5,
            selection=PlausibleHard(),
        )  # fmt: skip
    store = ReferenceStore.from_arrays(np.eye(4) + 0.1, losses=np.ones(4))
    with pytest.raises(ArgumentError, match=r"^store must be a reference store with labels and losses"):
        PlausibleHard().score(store, np.arange(4)[None], backend="auto")
    assert repr(PlausibleHard(0.5, tolerance=1)) == "PlausibleHard(floor=0.5, balance=1.0, tolerance=1.0)"

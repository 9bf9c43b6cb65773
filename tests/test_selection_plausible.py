"""PlausibleEven and PlausibleLearnable: weights, suspects, preference, and how evenly they draw."""

import gc
import weakref

import numpy as np
import pytest
from scipy import stats

from spectral_sampler import PlausibleEven, PlausibleLearnable, ReferenceStore, SpectralBatchSampler, Uniform, draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.estimates.label_noise import estimate
from spectral_sampler.selection import CandidateBatch, plausible_even
from spectral_sampler.selection.importance import draw_by_chances, inclusion_probabilities

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 2] * 200)
TEN = np.arange(10)
SUSPECTS = {7, 8}
LOSSES = np.tile([0.0, 0.02, 0.1, 0.3, 0.05, 0.2, 0.01, 0.06, 0.08, 0.25], 200)


def make_store(*, wrong=True, labels=LABELS, seed=0):
    """Three classes that features tell apart; with ``wrong``, rows 7 and 8 of every ten look like another class."""
    generator = np.random.default_rng(seed)
    names = np.unique(labels)
    looks = np.searchsorted(names, labels)
    if wrong:
        looks = np.where(
            np.isin(np.arange(len(labels)) % 10, [7, 8]), (looks + 1 + np.arange(len(labels)) // 10 % 2) % 3, looks
        )
    features = np.eye(3)[looks] + 0.15 * generator.random((len(labels), 3))
    return ReferenceStore.from_arrays(features, losses=np.resize(LOSSES, len(labels)), labels=labels)


def offered(policy, store, seed=0, epoch=0, indices=TEN, learner_losses=None):
    scores = policy.score(store, indices[None], backend="auto")
    return CandidateBatch(
        indices, scores.values[0], float(scores.error[0]), store.losses[indices].astype(np.float64),
        learner_losses=learner_losses, seed=seed, epoch=epoch,
    )  # fmt: skip


def probabilities(balance, *, excluded, preference=None):
    """The definition, written again."""
    believed = LABELS[~np.isin(np.arange(len(LABELS)) % 10, list(SUSPECTS if excluded else ()))]
    weights = [(max(np.bincount(believed)) / sum(label == believed)) ** balance for label in LABELS[:10]]
    weights = np.array(weights) * (1.0 if preference is None else preference)
    if excluded:
        weights[list(SUSPECTS)] = 0.0
    return weights / weights.sum()


def assert_drawn_by(policy, store, expected, unlike, **known):
    drawn = [int(policy.select(offered(policy, store, seed, **known), 1).positions[0]) for seed in range(4000)]
    counts, possible = np.bincount(drawn, minlength=10), expected > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], 4000 * expected[possible]).pvalue > 1e-3
    assert stats.chisquare(counts[possible], 4000 * unlike[possible]).pvalue < 1e-3, "what is not stated is noticed"


@pytest.mark.parametrize("wrong", [True, False])
def test_the_first_draw_has_the_stated_probabilities(wrong):
    store = make_store(wrong=wrong)
    share = estimate(store.features, store.labels).share
    assert share == pytest.approx(0.2 if wrong else 0.0, abs=0.03)
    expected, unlike = (probabilities(balance, excluded=wrong) for balance in (0.5, 1.5))
    assert_drawn_by(PlausibleEven(balance=0.5), store, expected, unlike)


def test_the_first_draw_follows_learnability():
    learner = np.array([0.3, 0.02, 0.5, 0.1, 0.25, np.nan, 0.01, 9.0, 9.0, np.inf])
    excess = learner - LOSSES[:10]
    known = np.isfinite(excess) & ~np.isin(TEN, list(SUSPECTS))
    excess = np.where(np.isfinite(excess), excess, excess[known].max())  # tried, and by no suspect's measure
    expected, unlike = (probabilities(1.0, excluded=True, preference=np.exp(excess / t)) for t in (0.4, 0.8))
    assert_drawn_by(PlausibleLearnable(0.4, balance=1), make_store(), expected, unlike, learner_losses=learner)


def test_without_learner_losses_nothing_is_preferred():
    store, unknown = make_store(), np.full(10, np.nan)
    for seed in range(20):
        even = PlausibleEven()
        learnable = PlausibleLearnable()
        first = even.select(offered(even, store, seed), 6).positions
        second = learnable.select(offered(learnable, store, seed, learner_losses=unknown), 6).positions
        assert first.tolist() == second.tolist()


def test_extreme_losses_are_ranked():
    learner = np.array([1e4, 1e3, 0.0, 0.0, -1e4, 0.0, 0.0, 1e6, 1e6, 0.0])
    choice = PlausibleLearnable().select(offered(PlausibleLearnable(), make_store(), learner_losses=learner), 7)
    assert choice.positions[:2].tolist() == [0, 1]
    assert 4 not in choice.positions


def test_suspects_come_last_by_doubt_and_weigh_nothing():
    policy, store = PlausibleEven(), make_store()
    doubts = estimate(store.features, store.labels).doubts
    first, second = sorted(SUSPECTS, key=lambda row: doubts[row])
    for seed in range(50):
        choice = policy.select(offered(policy, store, seed), 8)
        assert not SUSPECTS & set(choice.positions.tolist())
        assert choice.weights is None
    choice = policy.select(offered(policy, store), 9)
    assert choice.positions[-1] == first
    assert choice.weights.tolist() == [1.0] * 8 + [0.0]
    assert choice.zero_weight_draws == 1
    assert policy.select(offered(policy, store), 10).positions[-2:].tolist() == [first, second]


def test_the_share_of_suspects_may_be_given():
    store = make_store()
    indices = np.arange(2000)[None]
    excluded = {share: (PlausibleEven(label_noise=share).score(store, indices, backend="auto").values < -1e5).sum()
                for share in (None, 0.0, 0.05, 0.1)}  # fmt: skip
    assert excluded[None] == pytest.approx(400, abs=60)
    assert [excluded[share] for share in (0.0, 0.05, 0.1)] == [0, 100, 200]


def test_features_that_know_nothing_exclude_nobody():
    generator = np.random.default_rng(0)
    store = ReferenceStore.from_arrays(generator.random((2000, 3)), labels=LABELS)
    batch = offered_without_losses(PlausibleEven(balance=1), store)
    assert np.allclose(np.exp(batch.scores), (1000 / np.bincount(LABELS))[LABELS[:10]])
    assert PlausibleEven().select(batch, 10).weights is None


def offered_without_losses(policy, store, indices=TEN):
    return CandidateBatch(indices, policy.score(store, indices[None], backend="auto").values[0])


@pytest.mark.parametrize("policy", [PlausibleEven, PlausibleLearnable])
def test_draws_are_more_even_over_epochs_than_independent_ones(policy):
    size, epochs = 400, 20
    store = make_store(wrong=False, labels=np.arange(size) % 3)
    sampler = SpectralBatchSampler(store, candidate_batch_size=40, keep_ratio=0.3, selection=policy(), seed=3)
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
    store = make_store(wrong=False, labels=np.arange(400) % 3)
    options = {"candidate_batch_size": 40, "keep_ratio": 0.2, "emit": "constant", "batch_size": 40, "seed": 3}
    drawn = np.concatenate(list(SpectralBatchSampler(store, selection=PlausibleEven(), **options)))
    assert len(drawn) == 400
    assert len(set(drawn.tolist())) > 273, "more than independent draws reach"


def uneven(imbalance, rows, classes=10):
    """Labels of classes whose sizes fall to 1 / imbalance of the largest."""
    shares = imbalance ** (-np.arange(classes) / (classes - 1))
    return np.repeat(np.arange(classes), np.round(rows * shares / shares.sum()).astype(int))


def shown_by(policy, labels, epochs, **options):
    """How often every row was drawn."""
    store = ReferenceStore.from_arrays(np.eye(labels.max() + 1)[labels], losses=np.zeros(len(labels)), labels=labels)
    sampler = SpectralBatchSampler(store, selection=policy, **options)
    times = np.zeros(len(labels))
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        times[np.concatenate(list(sampler))] += 1
    return times


@pytest.mark.parametrize("policy", [PlausibleEven, PlausibleLearnable])
@pytest.mark.parametrize(("imbalance", "keep_ratio"), [(10, 0.1), (10, 0.3), (100, 0.02), (100, 0.1)])
def test_every_class_is_shown_equally_often_as_far_as_candidates_allow(policy, imbalance, keep_ratio):
    labels, epochs = uneven(imbalance, 40000), 6
    times = shown_by(policy(balance=1, label_noise=0), labels, epochs, candidate_batch_size=1000, keep_ratio=keep_ratio)
    shown, sizes = np.bincount(labels, times), np.bincount(labels)
    wanted, whole = np.zeros(10), np.zeros(10, dtype=bool)
    for _ in range(10):  # classes that are too small are shown whole, and leave the more to the others
        wanted = np.where(whole, sizes * epochs, (times.sum() - sizes[whole].sum() * epochs) / (~whole).sum())
        whole |= wanted > sizes * epochs
    ample = wanted < 0.8 * sizes * epochs
    assert shown[ample] == pytest.approx(wanted[ample], rel=0.05 if keep_ratio > 0.02 else 0.13)
    assert shown[whole] == pytest.approx(wanted[whole], rel=0.1)
    assert whole.sum() == {(10, 0.1): 0, (10, 0.3): 1, (100, 0.02): 0, (100, 0.1): 2}[imbalance, keep_ratio]


def test_uneven_classes_stay_uneven_unless_asked_and_one_line_asks(caplog):
    labels, epochs = uneven(10, 4000), 6
    times = shown_by(PlausibleEven(label_noise=0), labels, epochs, candidate_batch_size=500, keep_ratio=0.3)
    shown = np.bincount(labels, times)
    assert shown / shown.sum() == pytest.approx(np.bincount(labels) / len(labels), rel=0.1)
    (asked,) = [record.getMessage() for record in caplog.records if "uneven" in record.getMessage()]
    most, fewest = np.bincount(labels).max(), np.bincount(labels).min()
    assert asked.startswith(
        f"classes are uneven ({most / fewest:.3g} : 1) and are drawn as they are; pass balance=1 if"
    )


def said_of(selection, labels, caplog):
    caplog.clear()
    store = ReferenceStore.from_arrays(np.random.default_rng(0).random((len(labels), 4)), labels=labels)
    for _ in range(2):
        selection.score(store, TEN[None], backend="auto")
    return sum("uneven" in record.getMessage() for record in caplog.records)


def test_whoever_said_what_counts_and_whose_classes_are_even_is_not_asked(caplog):
    even, twice = np.arange(300) % 3, np.resize([0, 0, 1], 300)
    assert said_of(PlausibleEven(label_noise=0), even, caplog) == 0
    assert said_of(PlausibleEven(label_noise=0), twice, caplog) == 1
    assert said_of(PlausibleLearnable(label_noise=0), twice, caplog) == 1
    for balance in (0, 0.5, 1):
        assert said_of(PlausibleEven(balance=balance, label_noise=0), twice, caplog) == 0
    unlabelled = np.where(np.arange(300) < 200, -1, even)
    assert said_of(PlausibleEven(label_noise=0), unlabelled, caplog) == 0, "no class of theirs"


def test_uneven_classes_are_drawn_as_evenly_over_epochs():
    labels, epochs = uneven(10, 6000), 20
    times = shown_by(PlausibleEven(balance=1, label_noise=0), labels, epochs, candidate_batch_size=500, keep_ratio=0.1)
    for name in range(10):
        share = times[labels == name].mean() / epochs
        assert times[labels == name].var() < 0.4 * epochs * share * (1 - share)


def test_equal_classes_are_drawn_as_by_one_draw_after_the_other():
    store = make_store(wrong=False, labels=np.arange(399) % 3)
    for seed in range(50):
        batch = offered_without_losses(PlausibleEven(label_noise=0), store, np.arange(30))._replace(seed=seed)
        uniforms = draws.recurring(seed, 0, np.arange(30), plausible_even._STREAM)
        assert PlausibleEven().select(batch, 12).positions.tolist() == np.argsort(-uniforms)[:12].tolist()


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_chances_are_as_stated(count):
    weights = np.array([1.0, 1.0, 0.5, 2.0, 4.0, 20.0, 0.2, 1.0, 3.0, 1.5])
    chances, drawn, generator = inclusion_probabilities(weights, count), np.zeros(10), np.random.default_rng(0)
    for _ in range(20000):
        drawn[draw_by_chances(np.log(weights), count, generator.random(10))] += 1
    assert chances.sum() == pytest.approx(count)
    assert drawn / 20000 == pytest.approx(chances, rel=0.06, abs=0.008)
    assert (drawn[chances == 1] == 20000).all()


@pytest.mark.parametrize("logits", [[0.0, -1e5, 1e5, -700.0], [-900.0, -1e4, -700.0, -9000.0]])
def test_logits_of_any_size_are_ranked(logits):
    for count in range(5):
        drawn = draw_by_chances(np.array(logits), count, np.array([0.2, 0.9, 0.5, 0.1]))
        assert set(drawn.tolist()) == set(np.argsort(np.negative(logits))[:count].tolist())


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


def test_observed_losses_and_weights_go_through_the_sampler():
    store = make_store()
    sampler = SpectralBatchSampler(store, candidate_batch_size=2000, keep_ratio=0.9, selection=PlausibleLearnable())
    assert sampler.listens
    (kept,) = list(sampler)
    wrong = estimate(store.features, store.labels).suspects()
    weights = sampler.weights_for(kept)
    assert weights.tolist() == np.where(wrong[kept], 0.0, 1.0).tolist()
    assert weights.sum() == (~wrong).sum() < 1800
    assert sampler.statistics()["spectral/zero_weight_draws"] == 1800 - (~wrong).sum()
    sought = np.flatnonzero(~wrong)[::10]
    sampler.observe(np.arange(2000), np.where(np.isin(np.arange(2000), sought), 5.0, 0.0))
    again = SpectralBatchSampler(store, candidate_batch_size=2000, keep_ratio=0.1, selection=PlausibleLearnable())
    again.observe(np.arange(2000), np.where(np.isin(np.arange(2000), sought), 5.0, 0.0))
    (kept,) = list(again)
    assert set(sought) <= set(kept)


def test_a_batch_that_is_kept_whole_weighs_its_suspects_nothing():
    store = make_store()
    accused = estimate(store.features, store.labels).suspects()
    for look_ahead in (0, 4):
        sampler = SpectralBatchSampler(
            store, candidate_batch_size=500, keep_ratio=1.0, selection=PlausibleEven(), lookahead=look_ahead
        )
        kept = np.concatenate(list(sampler))
        assert sorted(kept) == list(range(2000))
        assert np.array_equal(sampler.weights_for(kept).numpy() == 0.0, accused[kept])


def test_suspects_of_equal_doubt_take_turns():
    features = np.concatenate([make_store().features, make_store().features])
    store = ReferenceStore.from_arrays(features, labels=np.tile(LABELS, 2))
    indices = np.array([2007, 7, 0, 1, 2, 3])
    offered = offered_without_losses(PlausibleEven(), store, indices)
    orders = {tuple(indices[PlausibleEven().select(offered._replace(epoch=e), 6).positions[-2:]]) for e in range(10)}
    assert orders == {(7, 2007), (2007, 7)}


def test_what_is_known_of_a_store_goes_with_it():
    store = make_store()
    PlausibleEven().score(store, TEN[None], backend="auto")
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None


def test_refusals():
    with pytest.raises(ArgumentError, match=r"^temperature must be a number in \(0, inf\), got 0"):
        PlausibleLearnable(0)
    with pytest.raises(ArgumentError, match=r"^balance must be a number in \[0, inf\), got -1"):
        PlausibleLearnable(balance=-1)
    with pytest.raises(ArgumentError, match=r"^label_noise must be a number in \[0, 1\), got 1"):
        PlausibleEven(label_noise=1)
    store = ReferenceStore.from_arrays(np.eye(4) + 0.1)
    with pytest.raises(ArgumentError, match=r"labels"):
        SpectralBatchSampler(store, candidate_batch_size=2, keep_ratio=0.5, selection=PlausibleEven())
    with pytest.raises(ArgumentError, match=r"^store must be a reference store with labels"):
        PlausibleEven().score(store, np.arange(4)[None], backend="auto")
    assert repr(PlausibleEven(balance=0.5)) == "PlausibleEven(balance=0.5, label_noise=None)"
    assert (
        repr(PlausibleLearnable(label_noise=0.1))
        == "PlausibleLearnable(temperature=0.25, balance=None, label_noise=0.1)"
    )

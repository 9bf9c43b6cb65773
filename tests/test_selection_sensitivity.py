"""SensitivitySampling: the published probabilities, the (1 ± ε) guarantee, the proposal, leverage scores beside it."""

import math
import sys

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore, SpectralBatchSampler, draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.estimates.clustering import cluster
from spectral_sampler.selection import SensitivitySampling
from spectral_sampler.selection.protocol import EpochRequest
from spectral_sampler.selection.sensitivity import leverage_scores, subset_size, weighted_subset

M, D, K = 1500, 5, 12


def make_store(seed=0, size=M):
    """Clusters of very different losses; inside a cluster the loss varies smoothly, Lipschitz in the embedding."""
    generator = np.random.default_rng(seed)
    own = generator.choice(K, size=size, p=np.arange(1, K + 1) ** 2.0 / (np.arange(1, K + 1) ** 2.0).sum())
    centres = 10 * generator.normal(size=(K, D))
    features = centres[own] + generator.normal(size=(size, D))
    losses = 8.0 / (own + 1) ** 2 + 0.02 * np.linalg.norm(features - centres[own], axis=1) ** 2
    return ReferenceStore.from_arrays(features.astype(np.float32), losses=losses.astype(np.float32))


@pytest.mark.parametrize("power", [1, 2])
def test_probabilities_against_the_paper(power):
    store = make_store()
    found = cluster(store.features, K, power=power, seed=4)
    rows, losses = store.features.astype(np.float64), store.losses.astype(np.float64)
    smoothness = 0.05
    expected = np.empty(M)
    centres = [None] * K
    for one in range(K):
        members = np.flatnonzero(found.labels == one)
        centre = rows[members].mean(0)
        if power == 1:
            for _ in range(200):
                away = np.linalg.norm(rows[members] - centre, axis=1)
                centre = (rows[members] / away[:, None]).sum(0) / (1 / away).sum()
        centres[one] = centre
        away = np.linalg.norm(rows[members] - centre, axis=1)
        nearest = members[np.argmin(away)]
        expected[members] = losses[nearest] + smoothness * away**power
    expected /= expected.sum()
    selection = SensitivitySampling(K, power=power, smoothness=smoothness, seed=4)
    got = selection.sensitivities(store)
    assert got.probabilities == pytest.approx(expected, rel=2e-3)
    assert got.losses_seen == K
    distances = np.linalg.norm(rows[:, None] - np.array(centres)[None], axis=2)
    assert found.labels.tolist() == distances.argmin(1).tolist()


def test_k_medians_lowers_the_sum_of_distances():
    generator = np.random.default_rng(1)
    rows = np.concatenate([generator.normal(size=(300, 3)), 30 + generator.standard_cauchy(size=(300, 3))])
    rows = np.clip(rows, -300, 300)
    assert cluster(rows, 4, power=1, seed=0).distances.sum() < 0.99 * cluster(rows, 4, power=2, seed=0).distances.sum()


def test_only_few_losses_are_asked_for_and_the_slope_is_their_quantile():
    store, asked = make_store(1), []

    def losses(indices):
        asked.append(indices)
        return store.losses[indices]

    selection = SensitivitySampling(K, losses=losses, quantile=0.9)
    got = selection.sensitivities(ReferenceStore.from_arrays(store.features))
    probes = math.ceil(math.log(100 * K) / -math.log(0.1))
    assert [len(indices) for indices in asked] == [K, K * probes]
    assert got.losses_seen == K * (1 + probes)
    found = cluster(store.features, K, seed=0)
    for one in range(K):
        own = asked[1][found.labels[asked[1]] == one]
        assert len(set(own.tolist())) == probes
        slopes = np.abs(store.losses[own] - store.losses[found.medoids[one]]) / found.distances[own] ** 2
        members = np.flatnonzero(found.labels == one)
        expected = np.quantile(slopes.astype(np.float64), 0.9, method="higher") * found.distances[members] ** 2
        assert got.spread[members] == pytest.approx(expected, rel=1e-4)
    assert selection.needs == {"features"}
    assert SensitivitySampling().needs == {"features", "losses"}


@pytest.mark.parametrize("error", [0.5, 0.2, 0.1])
def test_size_and_guarantee(error):
    assert subset_size(error) == math.ceil(error**-2 * (2 + 2 * error / 3))
    store = make_store(2)
    losses, total = store.losses.astype(np.float64), float(store.losses.sum())
    selection = SensitivitySampling(K)
    bound = error * (total + 2 * selection.sensitivities(store).spread.sum())
    uniform = np.full(M, 1 / M)
    within = uniform_within = 0
    ours, plain = [], []
    for seed in range(300):
        selection.seed = seed
        subset = selection.subset(store, error=error)
        assert len(subset.indices) == subset_size(error)
        ours.append(subset.weights @ losses[subset.indices])
        within += abs(ours[-1] - total) <= bound
        indices, weights = weighted_subset(uniform, subset_size(error), seed=seed)
        plain.append(weights @ losses[indices])
        uniform_within += abs(plain[-1] - total) <= bound
    assert within == 300
    assert abs(np.mean(ours) - total) < 4 * np.std(ours) / np.sqrt(300)
    assert np.var(ours) < 0.25 * np.var(plain), "lower variance than uniform draws"
    assert uniform_within < 300, "the bound is no matter of course"


def test_draws_follow_the_probabilities_with_replacement():
    probabilities = np.array([0.5, 0.0, 0.3, 0.2])
    subset = weighted_subset(probabilities, 20_000, seed=1)
    counts = np.bincount(subset.indices, minlength=4)
    assert counts[1] == 0
    assert counts == pytest.approx(20_000 * probabilities, abs=350)
    assert subset.weights == pytest.approx(1 / (20_000 * probabilities[subset.indices]))
    assert weighted_subset(probabilities, 5, seed=2).indices.tolist() != subset.indices[:5].tolist()


@pytest.mark.parametrize("power", [1, 2])
def test_copies_of_differing_loss_do_not_make_slopes_out_of_rounding(power):
    generator = np.random.default_rng(0)
    rows = generator.random((60, 8)).astype(np.float32)[np.repeat(np.arange(60), 10)] + 0.1
    spread = generator.normal(size=rows.shape).astype(np.float32) * 1e-3 * (np.arange(600) % 10 == 9)[:, None]
    store = ReferenceStore.from_arrays(rows + spread, losses=generator.exponential(size=600))
    found = SensitivitySampling(60, power=power).sensitivities(store)
    assert found.spread.max() < 100 * store.losses.max()


def test_degenerate_losses_fall_back_to_uniform():
    store = ReferenceStore.from_arrays(np.eye(3, dtype=np.float32)[np.arange(90) % 3], losses=np.zeros(90))
    assert SensitivitySampling(3).sensitivities(store).probabilities == pytest.approx(np.full(90, 1 / 90))


def proposals(store, selection, epochs, batches=8, size=64):
    for epoch in range(epochs):
        order = draws.permutation(0, epoch, len(store))
        yield selection.propose(EpochRequest(store, order, batches, size, None, 0, epoch, 0.0))


def test_proposed_batches_are_distinct_and_unbiased():
    store, selection = make_store(3), SensitivitySampling(K)
    assert selection.proposes
    losses = store.losses.astype(np.float64)
    probabilities = selection.sensitivities(store).probabilities
    counts, means, first = np.zeros(M), [], np.zeros(M)
    for proposal in proposals(store, selection, 150):
        assert proposal.batches.shape == proposal.weights.shape == (8, 64)
        for row, weights in zip(proposal.batches, proposal.weights, strict=True):
            assert len(set(row.tolist())) == 64
            counts[row] += 1
            means.append((weights * losses[row]).mean())
        first[proposal.batches[0]] += 1
        free = 64 * probabilities[proposal.batches] < 0.99
        assert proposal.weights[free] == pytest.approx(1 / (M * probabilities[proposal.batches][free]), rel=0.02)
    means = np.array(means)
    assert abs(means.mean() - losses.mean()) < 4 * means.std() / np.sqrt(len(means))
    plain = [losses[draws.permutation(7, e, M)[:64]].mean() for e in range(300)]
    assert means.var() < 0.2 * np.var(plain)
    chances = np.minimum(1, 64 * probabilities)
    for observed, trials in ((counts, 1200), (first, 150)):  # over all batches, and in one place of the epoch
        deviation = (observed - trials * chances) / np.sqrt(trials * chances * (1 - chances) + 1e-9)
        assert np.mean(np.abs(deviation) < 4) > 0.99
    deviation = (counts - 1200 * 64 / M) / np.sqrt(1200 * 64 / M)
    assert np.mean(np.abs(deviation) < 4) < 0.85, "the control cannot tell the chances from equal ones"


def test_an_epoch_of_one_batch_has_exact_chances_too():
    losses = np.array([1.0, 2, 3, 4, 5, 6, 7, 12])
    store = ReferenceStore.from_arrays(np.eye(8, dtype=np.float32), losses=losses)
    selection, counts, epochs = SensitivitySampling(8), np.zeros(8), 6000
    for proposal in proposals(store, selection, epochs, batches=1, size=3):
        counts[proposal.batches[0]] += 1
    chances = 3 * losses / losses.sum()
    assert np.all(np.abs(counts - epochs * chances) < 4 * np.sqrt(epochs * chances * (1 - chances)))


@pytest.mark.parametrize(("power", "smoothness"), [(2, None), (1, None), (2, 0.05)])
def test_the_learners_losses_decide_every_epoch_anew(power, smoothness):
    store = make_store()
    selection = SensitivitySampling(K, losses="learner", quantile=0.8, power=power, smoothness=smoothness)
    assert selection.needs == {"features", "learner_losses"}
    request = EpochRequest(store, draws.permutation(0, 1, M), 8, 64, np.full(M, np.nan), 0, 1, 0.0)
    assert selection.propose(request) is None, "nothing known yet: the order as it is"
    found = cluster(store.features, K, power=power, seed=0)
    spans = found.distances**power
    generator = np.random.default_rng(5)
    for epoch in (1, 2):
        losses = generator.exponential(size=M) * (1 + found.labels) ** epoch
        losses[generator.random(M) < 0.3] = np.nan
        losses[found.labels == 3] = np.nan
        mass = np.empty(M)
        for one in range(K):
            members = found.labels == one
            own = losses[members & np.isfinite(losses)]
            mean = own.mean() if len(own) else np.nanmean(losses)
            known = np.isfinite(losses[members])
            slopes = np.abs(losses[members] - mean)[known] / spans[members][known]
            slope = np.quantile(slopes, 0.8) if known.any() else 0.0
            mass[members] = mean + (slope if smoothness is None else smoothness) * spans[members]
        probabilities = mass / mass.sum()
        proposal = selection.propose(request._replace(epoch=epoch, learner_losses=losses))
        free = 64 * probabilities[proposal.batches] < 0.9
        assert free.mean() > 0.5
        expected = 1 / (M * probabilities[proposal.batches][free])
        ratio = proposal.weights[free] / expected
        assert ratio.max() / ratio.min() == pytest.approx(1.0, abs=1e-6), "in proportion, whatever the cap leaves over"
        assert ratio.mean() == pytest.approx(1.0, rel=0.2)


def test_a_cluster_of_copies_has_no_slope_for_the_learner_either():
    generator = np.random.default_rng(0)
    rows = 10 * np.eye(6)[np.arange(600) % 6]
    rows += generator.normal(size=rows.shape) * (np.arange(600) % 6 > 2)[:, None]  # the others are exact copies
    losses = generator.exponential(size=600)
    request = EpochRequest(
        ReferenceStore.from_arrays(rows.astype(np.float32)), np.arange(600), 8, 60, losses, 0, 0, 0.0
    )
    proposal = SensitivitySampling(6, losses="learner").propose(request)
    for one in range(3):
        copies = proposal.batches % 6 == one
        assert copies.any()
        assert np.ptp(proposal.weights[copies]) == pytest.approx(0.0, abs=1e-9), "the cluster's mean alone"
    assert np.ptp(proposal.weights[proposal.batches % 6 == 4]) > 0.1


def test_one_selection_serves_several_stores():
    first, second = make_store(0), make_store(1)
    selection = SensitivitySampling(K)
    one, two, again = (selection.sensitivities(store).probabilities for store in (first, second, first))
    assert np.array_equal(one, again)
    assert not np.allclose(one, two)
    assert np.array_equal(two, SensitivitySampling(K).sensitivities(second).probabilities)


def test_an_epoch_begun_in_the_dark_is_resumed_in_the_dark():
    def make():
        return SpectralBatchSampler(make_store(), 64, selection=SensitivitySampling(K, losses="learner"))

    sampler, resumed = make(), make()
    iterator = iter(sampler)
    next(iterator)
    sampler.observe(range(M), np.random.default_rng(0).exponential(size=M))
    state = sampler.state_dict(full=True)
    rest, following = list(iterator), list(sampler)
    resumed.load_state_dict(state)
    assert list(resumed) == rest
    assert list(resumed) == following
    assert list(make())[1:] == rest, "the order as it is"


def test_leverage_scores_beside_sensitivity_on_linear_regression():
    """As in the paper: few rows of a regression, chosen by either; both beat uniform rows where rows differ."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(M, D)) * np.where(generator.random(M) < 0.03, 12.0, 0.5)[:, None]
    y = x @ np.arange(1.0, D + 1) + 0.3 * np.abs(x[:, 0]) * generator.normal(size=M)
    scores = leverage_scores(x)
    assert scores == pytest.approx(np.diag(x @ np.linalg.inv(x.T @ x) @ x.T))
    assert scores.sum() == pytest.approx(D)
    assert leverage_scores(np.repeat(x, 2, axis=1)).sum() == pytest.approx(D), "rank deficient: the rank"
    store = ReferenceStore.from_arrays(np.c_[x, y].astype(np.float32), losses=(y**2).astype(np.float32))
    sensitivity = SensitivitySampling(20).sensitivities(store).probabilities
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    excess = {}
    for name, p in (("uniform", np.full(M, 1 / M)), ("leverage", scores / scores.sum()), ("sensitivity", sensitivity)):
        values = []
        for seed in range(40):
            subset = weighted_subset(p, 60, seed=seed)
            root = np.sqrt(subset.weights)
            found = np.linalg.lstsq(root[:, None] * x[subset.indices], root * y[subset.indices], rcond=None)[0]
            values.append(((x @ found - y) ** 2).sum() / ((x @ best - y) ** 2).sum() - 1)
        excess[name] = np.mean(values)
    assert excess["leverage"] < 0.5 * excess["uniform"]
    assert excess["sensitivity"] < 0.7 * excess["uniform"]


def test_without_scikit_learn_the_error_names_the_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"scikit-learn.*pip install 'spectral-sampler\[experiment\]'"):
        SensitivitySampling(3).sensitivities(make_store())


def learner_proposal(losses, memo=None):
    selection = SensitivitySampling(K, losses="learner")
    return selection.propose(EpochRequest(make_store(), np.arange(M), 8, 64, losses, 0, 0, 0.0, memo))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SensitivitySampling(losses="learned"),
            r'^losses must be an array, a function, None or "learner", got',
        ),
        (
            lambda: SensitivitySampling(K, losses="learner").subset(make_store(), size=3),
            r"^losses must be an array, a function or None for a subset, got 'learner'",
        ),
        (lambda: learner_proposal(np.full(M, -1.0)), r"^losses must be at least 0 where given to observe, got -1"),
        (
            lambda: learner_proposal(None, torch.ones(2, 4)),
            rf"^state must be that of {K} clusters, got 4",
        ),
        (lambda: SensitivitySampling(0), r"^clusters must be a whole number of at least 1, got 0"),
        (lambda: SensitivitySampling(power=3), r"^power must be 1 or 2, got 3"),
        (lambda: SensitivitySampling(smoothness=-1), r"^smoothness must be"),
        (lambda: SensitivitySampling(quantile=1.0), r"^quantile must be a number in \(0, 1\), got 1\.0"),
        (lambda: subset_size(0.0), r"^error must be a number in \(0, 1\), got 0\.0"),
        (lambda: weighted_subset(np.ones(3) / 3, 0), r"^size must be a whole number"),
        (lambda: SensitivitySampling(3).subset(make_store()), r"^size must be given, or error instead"),
        (lambda: SensitivitySampling(M + 1).sensitivities(make_store()), r"^clusters must be at most 1500"),
        (lambda: SensitivitySampling(3, losses=np.full(M, np.nan)).sensitivities(make_store()), r"^losses must be one"),
        (
            lambda: SensitivitySampling(3).sensitivities(ReferenceStore.from_arrays(np.eye(4, dtype=np.float32))),
            r"^store must be one with losses",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()

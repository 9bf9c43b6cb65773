"""Mix: shares of a budget, and what two selections have in common as one (`Hybrid`)."""

import copy
import io
import math

import numpy as np
import pytest
import torch

from spectral_sampler import (
    GSTDS,
    JEST,
    SALN,
    ArgumentError,
    BayesianSelection,
    Chain,
    GradientNorm,
    Guarded,
    Herding,
    InfoBatch,
    KCentre,
    Leverage,
    LossWeighted,
    Mix,
    OnlineSelection,
    PlausibleEven,
    PlausibleLearnable,
    ReferenceStore,
    RHOLoss,
    SensitivitySampling,
    SpectralBatchSampler,
    SpectralStrata,
    Uniform,
    curate,
)
from spectral_sampler.fiedler import Status
from spectral_sampler.likelihood import gradient_norms
from spectral_sampler.selection import CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.leverage import ridge_leverage
from spectral_sampler.selection.offered import chosen, learnt, offered
from spectral_sampler.selection.protocol import leaves

M, N, C = 240, 24, 4
generator = np.random.default_rng(3)
LABELS = generator.integers(C, size=M)
STORE = ReferenceStore.from_arrays(
    generator.normal(size=(M, 8)).astype(np.float32) + 2.0 * np.eye(8, dtype=np.float32)[LABELS],
    losses=generator.exponential(size=M),
    labels=LABELS,
)
UNEVEN = ReferenceStore.from_arrays(np.random.default_rng(4).standard_t(2, size=(M, 8)).astype(np.float32))
ZERO_SHOT = generator.normal(size=(M, C))


def lists(selection, epochs=2, **options):
    sampler = SpectralBatchSampler(STORE, N, selection=selection, **{"keep_ratio": 0.5, "seed": 5, **options})
    return [batch for _ in range(epochs) for batch in sampler]


def decisions(selection, **options):
    sampler = SpectralBatchSampler(STORE, N, selection=selection, **{"keep_ratio": 0.5, "seed": 5, **options})
    return [sampler.selection_at(epoch, batch) for epoch in range(3) for batch in range(len(sampler))]


class Scored(Selection):
    """The highest of a column of its own; remembers what it was offered and told."""

    def __init__(self, factor, name="scored", *, error=0.0, status=Status.CONVERGED, needs=()):
        self.factor, self.name, self.error, self.status = factor, name, error, int(status)
        self.needs, self.offers, self.told = frozenset({"features", *needs}), [], []

    def score(self, store, indices, *, backend):
        count = len(indices)
        return Scores(
            self.factor * indices.astype(float), np.full(count, self.error), np.full(count, self.status),
            np.full(count, 3),
        )  # fmt: skip

    def select(self, batch, budget):
        self.offers.append(batch)
        return Choice(np.argsort(-batch.scores)[:budget], np.zeros(budget, dtype=np.int8), certified=batch.error < 1.0)

    def trained(self, batch, choice):
        self.told.append((batch, choice))

    def state_dict(self):
        return {"told": len(self.told)} if self.told else {}


# the budget


def test_half_by_fiedler_score_and_half_by_loss_is_gstds():
    """GSTDS (arXiv 2507.04269), put together from its two halves: same sets, order and kinds."""
    ours, published = Mix(SALN(), LossWeighted(), share=0.5), GSTDS()
    for (indices, mine, ratio), (same, theirs, _) in zip(decisions(ours), decisions(published), strict=True):
        assert indices.tolist() == same.tolist()
        assert ratio == 0.5
        assert mine.positions.tolist() == theirs.positions.tolist()
        assert mine.kinds.tolist() == theirs.kinds.tolist() == [0] * 6 + [1] * 6
        assert mine.certified == theirs.certified


@pytest.mark.parametrize("make", [SALN, LossWeighted, PlausibleEven, SpectralStrata])
def test_all_or_nothing(make):
    assert lists(Mix(Uniform(), make(), share=0.0)) == lists(make())
    if make is SALN:  # no draw but of ties
        assert lists(Mix(make(), Uniform(), share=1.0)) == lists(make())


def test_nobody_twice_and_each_by_whom_it_should_be():
    for indices, choice, _ in decisions(Mix(Scored(1.0), Mix(Scored(1.0), Scored(-1.0), share=0.5), share=1 / 3)):
        order = np.argsort(-indices)  # the third 4 of 12: the lowest of what is left
        assert choice.positions.tolist() == [*order[:8].tolist(), *order[: 24 - 5 : -1][:4].tolist()]


@pytest.mark.parametrize(("share", "budget"), [(0.3, 10), (0.7, 10), (0.29, 100), (0.25, 3), (0.1, 5), (0.5, 7)])
def test_a_share_is_met_exactly_or_on_average(share, budget):
    size, first = 120, Scored(1.0)
    mix, counts = Mix(first, Uniform(), share=share), []
    for number in range(400):
        scores = np.stack([np.arange(size, dtype=float), np.zeros(size)], axis=1)
        batch = CandidateBatch(np.arange(size), scores=scores, error=np.array([0.0, np.nan]), seed=1, batch=number)
        kinds = mix.select(batch, budget).kinds
        counts.append(int((kinds == 0).sum()))
    exact = share * budget
    assert set(counts) <= {math.floor(exact + 1e-9), math.ceil(exact - 1e-9)}
    assert np.mean(counts) == pytest.approx(exact, abs=4 * 0.5 / 20)


# what they know


def test_each_part_has_its_own_scores_and_none_where_it_scores_nothing():
    parts = [Scored(1.0, error=0.5), Scored(-1.0, error=2.0), Scored(3.0)]

    class Blind(Uniform):
        def select(self, batch, budget):
            assert batch.scores is None
            assert batch.error == 0.0
            return super().select(batch, budget)

    mix = Mix(Mix(parts[0], Blind(), share=0.5), Mix(parts[1], parts[2], share=0.5), share=0.5)
    for _, choice, _ in decisions(mix):
        assert not choice.certified, "the error of one of them is too large"
    for part in parts:
        assert part.offers
        for batch in part.offers:
            assert batch.scores.tolist() == (part.factor * batch.indices).tolist()
            assert batch.error == part.error
    assert len(parts[0].offers[0].indices) == N
    assert len(parts[1].offers[0].indices) == N - 6
    assert len(parts[2].offers[0].indices) == N - 9


def test_scores_are_made_ahead_in_one_call_for_both():
    for lookahead in (0, 1, 7):
        assert lists(Mix(SALN(), SpectralStrata()), lookahead=lookahead) == lists(Mix(SALN(), SpectralStrata()))
    sampler = SpectralBatchSampler(STORE, N, selection=Mix(SALN(), Scored(1.0)), keep_ratio=0.5)
    list(sampler)
    alone = SpectralBatchSampler(STORE, N, selection=SALN(), keep_ratio=0.5)
    list(alone)
    assert sampler.statistics()["spectral/matvecs"] == alone.statistics()["spectral/matvecs"] + 3


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Status.CONVERGED, Status.CONVERGED, Status.CONVERGED),
        (Status.CONVERGED, Status.DEGENERATE, Status.DEGENERATE),
        (Status.CONVERGED | Status.DEGENERATE, Status.CONVERGED, Status.CONVERGED | Status.DEGENERATE),
    ],
)
def test_converged_where_both_are(one, other, both):
    mix = Mix(Scored(1.0, status=one), Scored(1.0, status=other))
    assert mix.score(STORE, np.arange(6).reshape(2, 3), backend="auto").status.tolist() == [int(both)] * 2
    alone = Mix(Uniform(), Scored(1.0, status=one))
    assert alone.score(STORE, np.arange(6).reshape(2, 3), backend="auto").status.tolist() == [int(one)] * 2
    assert Mix(Uniform(), RHOLoss()).score(STORE, np.arange(6).reshape(2, 3), backend="auto") is None


def test_no_two_leaves_go_by_the_same_draws():
    class Seen(Uniform):
        def select(self, batch, budget):
            self.key = batch.seed
            return super().select(batch, budget)

    for build in (
        lambda a, b, c, d: Mix(Mix(a, b), Mix(c, d)),
        lambda a, b, c, d: Mix(a, Mix(b, Mix(c, d))),
        lambda a, b, c, d: Mix(Mix(Mix(a, b), c), d),
        lambda a, b, c, d: Chain(Mix(a, b), Chain(c, d, share=0.8), share=0.9),
    ):
        parts = [Seen() for _ in range(4)]
        selection = build(*parts)
        assert leaves(selection) == parts
        selection.select(CandidateBatch(np.arange(96), seed=-7), 48)
        assert len({part.key for part in parts}) == 4
        assert parts[-1].key == -7, "the last one draws as it would alone"


def test_the_rest_is_drawn_by_its_weights_and_not_by_what_the_first_left():
    """With shared draws the weighted half would be drawn from the losers of the uniform one."""
    weights, hits = np.array([8.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 0
    mix = Mix(Uniform(), LossWeighted(), share=0.5)
    for number in range(1500):
        choice = mix.select(CandidateBatch(np.arange(6), losses=1.0 / weights, batch=number), 2)
        hits += choice.positions[1] == 0
    # (not taken by the first) · 8 / (8 + 4)
    assert hits / 1500 == pytest.approx(5 / 6 * 8 / 12, abs=4 * 0.5 / math.sqrt(1500))


# weights


def given(batch=0, size=N):
    rows = np.random.default_rng(batch)
    return {"logits": 3.0 * rows.normal(size=(size, C)), "labels": rows.integers(C, size=size)}


def importance(**options):
    return GradientNorm(gate=False, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mix(Uniform(), importance(), share=0.5),
        lambda: Mix(importance(), Uniform(), share=0.5),
        lambda: Mix(importance(), importance(), share=0.3),
        lambda: Mix(importance(), Mix(importance(), Uniform(), share=0.6), share=0.4),
        lambda: Chain(Uniform(), importance(), share=0.7),
        lambda: Chain(importance(), Uniform(), share=0.7),
        lambda: Chain(importance(), Mix(importance(), Uniform()), share=0.7),
    ],
)
def test_weighted_means_of_unbiased_parts_are_unbiased(make):
    outputs, values = given(), np.random.default_rng(1).exponential(size=N) ** 2
    indices, means = np.arange(N), []
    for number in range(1500):
        selection = make()
        choice = chosen(selection, offered(selection, None, indices, outputs, batch=number), 10)
        weights = np.ones(10) if choice.weights is None else choice.weights
        means.append(float((weights * values[choice.positions]).mean()))
    assert selection.unbiased
    error = np.std(means) / math.sqrt(len(means))
    assert np.mean(means) == pytest.approx(values.mean(), abs=4 * error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mix(Leverage(), Uniform(), share=0.5),
        lambda: Mix(Uniform(), Leverage(), share=0.5),
        lambda: Chain(Leverage(), Uniform(), share=0.7),
    ],
)
def test_weighted_means_with_leverage_are_unbiased(make):
    values = 1.0 / ridge_leverage(UNEVEN.features, 0.01)  # large where chances are small
    sampler = SpectralBatchSampler(UNEVEN, N, selection=make(), keep_ratio=0.5)
    errors = []
    for epoch in range(150):
        for batch in range(len(sampler)):
            indices, choice, _ = sampler.selection_at(epoch, batch)
            weights = np.ones(len(choice.positions)) if choice.weights is None else choice.weights
            errors.append((weights * values[indices][choice.positions]).mean() - values[indices].mean())
    assert sampler.selection.unbiased
    assert np.mean(errors) == pytest.approx(0.0, abs=4 * np.std(errors) / math.sqrt(len(errors)))
    assert not Mix(Leverage(deterministic=True), Uniform()).unbiased


def test_the_test_of_bias_sees_weights_put_side_by_side():
    """Importance first, then a uniform rest with weight one each, is biased by far more than that test's tolerance."""
    outputs = given()
    values = gradient_norms(outputs["logits"], outputs["labels"])  # the first part's chances go with them
    first, means, naive = Mix(importance(), Uniform(), share=0.5), [], []
    for number in range(1500):
        choice = chosen(first, offered(first, None, np.arange(N), outputs, batch=number), 10)
        means.append((choice.weights * values[choice.positions]).mean())
        bare = np.append(choice.weights[:5] - 5 / N, np.ones(5))
        naive.append((bare * values[choice.positions]).mean())
    error = 4 * np.std(means) / math.sqrt(1500)
    assert np.mean(means) == pytest.approx(values.mean(), abs=error)
    assert abs(np.mean(naive) - values.mean()) > 2 * error


def test_weights_of_biased_parts_stay_as_they_are():
    class Half(Scored):
        def select(self, batch, budget):
            return super().select(batch, budget)._replace(weights=np.full(budget, 0.5), zero_weight_draws=1)

    for _, choice, _ in decisions(Mix(Half(1.0), Scored(2.0), share=0.25)):
        assert choice.weights.tolist() == [0.5] * 3 + [1.0] * 9
        assert choice.zero_weight_draws == 1
    for _, choice, _ in decisions(Mix(Scored(1.0), Half(2.0), share=0.25)):
        assert choice.weights.tolist() == [1.0] * 3 + [0.5] * 9
    for _, choice, _ in decisions(Mix(Scored(1.0), Scored(2.0))):
        assert choice.weights is None


def test_a_batch_kept_whole_weighs_one():
    mix, outputs = Mix(importance(), Uniform()), given()
    assert chosen(mix, offered(mix, None, np.arange(N), outputs), N).weights is None


def test_suspects_that_have_to_be_taken_weigh_nothing():
    labels = np.where(np.arange(M) % 10 == 0, (LABELS + 1) % C, LABELS)
    store = ReferenceStore.from_arrays(STORE.features, losses=STORE.losses, labels=labels)
    mix = Mix(PlausibleEven(label_noise=0.1), Scored(0.0), share=0.95)
    sampler = SpectralBatchSampler(store, N, selection=mix, keep_ratio=1.0)
    batches = list(sampler)
    weights = np.concatenate([sampler.weights_for(np.array(batch)).numpy() for batch in batches])
    assert set(weights.tolist()) == {0.0, 1.0}
    assert sampler.statistics()["spectral/zero_weight_draws"] == (weights == 0).sum()


# what is delegated


def test_needs_are_the_union_and_refused_as_those_of_one():
    mix = Mix(PlausibleLearnable(), Mix(JEST(joint=True), SALN()))
    assert mix.needs == {"features", "labels", "losses", "learner_losses", "embeddings"}
    with pytest.raises(ArgumentError, match=r"^selection must be one that does without losses, which this store lacks"):
        SpectralBatchSampler(np.ones((60, 3)), 12, selection=Mix(Uniform(), LossWeighted()))
    with pytest.raises(ArgumentError, match=r"^selection must be one whose needs are among"):
        SpectralBatchSampler(STORE, 12, selection=Mix(Uniform(), GradientNorm()))


def test_both_are_told_of_everything_that_is_trained_on():
    first, second = Scored(1.0), Scored(-1.0)
    sampler = SpectralBatchSampler(STORE, N, selection=Mix(first, second, share=0.25), keep_ratio=0.5)
    for number, batch in enumerate(sampler):
        for part in (first, second):
            told, choice = part.told[number]
            assert told.indices[choice.positions].tolist() == batch
            assert told.scores.tolist() == (part.factor * told.indices).tolist()
    assert Mix(first, second).judges_all
    assert not Mix(SALN(), Uniform()).judges_all


def call(online, step):
    rng = np.random.default_rng(step)
    logits = (0.3 + step) * rng.normal(size=(N, C))
    labels = np.where(rng.random(N) < 0.95, logits.argmax(1), rng.integers(C, size=N))
    return online(indices=rng.permutation(M)[:N], logits=logits, labels=labels, features=rng.normal(size=(N, 5)))


def learning():
    bayesian = BayesianSelection(ZERO_SHOT, alpha=0.9, samples=12, prior_precision=0.01, momentum=0.8)
    return Mix(Chain(bayesian, SALN(), share=0.6), Mix(GradientNorm(momentum=0.7), RHOLoss()), share=0.4)


@pytest.mark.parametrize("stop", [0, 1, 6])
def test_what_both_have_learnt_survives_a_checkpoint(stop):
    online = OnlineSelection(learning(), 0.4, store=STORE)
    for step in range(stop):
        call(online, step)
    buffer = io.BytesIO()
    torch.save(online.state_dict(), buffer)
    buffer.seek(0)
    resumed = OnlineSelection(learning(), 0.4, store=STORE)
    call(resumed, 99)
    state = torch.load(buffer, weights_only=True)
    resumed.load_state_dict(state)
    forgetful, forgot = OnlineSelection(learning(), 0.4, store=STORE), stop < 6
    forgetful.load_state_dict({**state, "policy": learning().state_dict()})
    for step in range(stop, 10):
        expected = call(online, step)
        assert call(resumed, step).tolist() == expected.tolist(), step
        assert resumed.weights.tolist() == online.weights.tolist()
        forgot |= call(forgetful, step).tolist() != expected.tolist()
    assert forgot, "a state that is lost is seen"


def test_the_state_is_empty_where_nothing_is_learnt():
    assert Mix(SALN(), Chain(Uniform(), RHOLoss())).state_dict() == {}
    bayesian = BayesianSelection(ZERO_SHOT, samples=4)
    mix = Mix(bayesian, Uniform())
    empty = mix.state_dict()
    bayesian.posterior.update(np.ones((3, 5)), np.ones((3, C)))
    assert mix.state_dict()
    mix.load_state_dict(empty)
    assert not bayesian.posterior.factors


@pytest.mark.parametrize("place", [0, 1])
def test_an_epoch_that_one_of_them_proposes(place):
    def mixed(partner):
        parts = [InfoBatch(), partner]
        return Mix(*(parts if place == 0 else parts[::-1]))

    sampler = SpectralBatchSampler(STORE, N, selection=mixed(SALN()), keep_ratio=0.5, epochs=8, seed=5)
    plain = SpectralBatchSampler(STORE, N, selection=InfoBatch(), keep_ratio=0.5, epochs=8, seed=5)
    for one in (sampler, plain):
        one.observe(np.arange(M), np.arange(M, dtype=float))
    offers = [[one.selection_at(0, batch)[0].tolist() for batch in range(len(one))] for one in (sampler, plain)]
    assert offers[0] == offers[1]
    assert len(offers[0][0]) < N, "pruned"
    batch = next(iter(sampler))
    assert set(sampler.weights_for(np.array(batch)).tolist()) <= {1.0, 2.0}
    with pytest.raises(ArgumentError, match=r"^policy must be one that selects from the candidates it is given"):
        OnlineSelection(mixed(Uniform()), store=STORE)


def test_resuming_within_an_epoch_that_was_proposed():
    def make():
        selection = Mix(SensitivitySampling(6, losses="learner"), RHOLoss(), share=0.5)
        return SpectralBatchSampler(STORE, N, selection=selection, keep_ratio=0.5, epochs=4)

    sampler, resumed = make(), make()
    for batch in sampler:
        sampler.observe(batch, np.array(batch) / M)
    iterator = iter(sampler)
    for _ in range(3):
        batch = next(iterator)
        sampler.observe(batch, np.array(batch) / M)
    resumed.load_state_dict(sampler.state_dict(full=True))
    rest = list(resumed)
    assert len(rest) == len(sampler) - 3
    assert rest == list(iterator)


@pytest.mark.parametrize("kind", [Mix, Chain])
def test_one_sentence(kind):
    first, second = ("a", "b") if kind is Mix else ("filter", "selection")
    rule = rf"^{second} must be one that leaves it to infobatch what an epoch offers, got SensitivitySampling\("
    with pytest.raises(ArgumentError, match=rule):
        kind(InfoBatch(), SensitivitySampling(4))
    with pytest.raises(ArgumentError, match=rf"^{second} must be one that leaves it to mix-"):
        kind(Mix(SALN(), InfoBatch()), InfoBatch())
    same = GradientNorm()
    with pytest.raises(ArgumentError, match=rf"^{second} must be another object than {first}"):
        kind(same, Mix(Uniform(), same))
    with pytest.raises(ArgumentError, match=rf"^{first} must be a Selection, got 3\. "):
        kind(3, Uniform())
    with pytest.raises(ArgumentError, match=rf"^{second} must be a Selection, got <class"):
        kind(Uniform(), Uniform)
    rule = rf"^{first} must be one without a guard, got Guarded\(.*Guard the whole: Guarded\({kind.__name__}\(…\)\)\.$"
    with pytest.raises(ArgumentError, match=rule):
        kind(Guarded(SALN()), Uniform())
    with pytest.raises(ArgumentError, match=rf"^{second} must be one without a guard"):
        kind(Uniform(), Guarded(SALN()))
    for share in (-0.1, 1.1, math.nan, "half", True, *([0.0] if kind is Chain else [])):
        with pytest.raises(ArgumentError, match=r"^share must be a number in [\[(]0, 1\], got"):
            kind(Uniform(), SALN(), share=share)


def test_a_part_that_chooses_wrongly_is_named():
    class Wrong(Uniform):
        def select(self, batch, budget):
            return Choice(np.zeros(budget, dtype=np.int64), np.zeros(budget, dtype=np.int8))

    for selection in (Mix(Wrong(), Uniform()), Mix(Uniform(), Wrong()), Chain(Wrong(), Uniform())):
        with pytest.raises(RuntimeError, match=r"^Wrong\(\) was to select"):
            selection.select(CandidateBatch(np.arange(10)), 6)


# everywhere


def test_outputs_that_are_not_finite_come_last():
    mix, outputs = Mix(importance(), Chain(GradientNorm(), Uniform(), share=0.8), share=0.5), given()
    outputs["logits"][[2, 5, 11]] = np.nan
    for budget in (6, 21, 23):
        batch = offered(mix, None, np.arange(N), outputs)
        choice = chosen(mix, batch, budget)
        assert choice.nonfinite == 3
        assert len(set(choice.positions.tolist()) & {2, 5, 11}) == max(0, budget - 21)
        learnt(mix, batch, choice)
    assert math.isfinite(mix.parts[0].tau)


def test_parts_that_compare_features_themselves():
    assert lists(Mix(KCentre(), Uniform(), share=1.0)) == lists(KCentre())
    assert lists(Mix(SALN(), Herding(), share=0.0)) == lists(Herding())
    whole = Chain(Uniform(), Mix(KCentre(), SALN(), share=1.0), share=1.0)
    assert list(map(set, lists(whole))) == list(map(set, lists(KCentre())))
    assert [len(rows) for rows in lists(Guarded(whole))] == [len(rows) for rows in lists(whole)], "whoever acts"
    kept = OnlineSelection(Chain(KCentre(), Uniform(), share=1.0), 0.5, store=STORE)(indices=np.arange(N))
    assert len(kept.unique()) == N // 2


def test_through_curate_with_workers_and_in_the_loop():
    inputs = torch.arange(M, dtype=torch.float32)[:, None]
    dataset = torch.utils.data.TensorDataset(inputs, torch.from_numpy(LABELS))
    mix = Mix(PlausibleLearnable(), Chain(SALN(), Uniform()), share=0.6)
    loader = curate(torch.utils.data.DataLoader(dataset, batch_size=N, shuffle=True), STORE, selection=mix)
    for rows, _ in loader:
        assert len(rows) == len(rows.unique())
        loader.batch_sampler.observe_next(torch.ones(len(rows)))
    assert loader.batch_sampler.statistics()["spectral/batches"] == M // N
    assert "observe_next" in loader.batch_sampler.describe()
    assert repr(mix) in repr(loader.batch_sampler)
    logits = torch.randn(M, C, generator=torch.Generator().manual_seed(0))
    fresh = SpectralBatchSampler(
        STORE, N, selection=Mix(GradientNorm(), SALN()), learner=lambda rows: logits[rows], keep_ratio=0.5
    )
    assert all(len(batch) == N // 2 for batch in fresh)
    assert "weights_for" in fresh.describe()
    again = copy.copy(fresh)
    assert list(again) == list(fresh)


def test_names_and_words():
    mix = Mix(SALN(), Chain(Uniform(), RHOLoss(), share=0.9), share=0.25)
    assert mix.name == "mix-saln-chain-uniform-rho-loss"
    said = "Mix(a=SALN(score='signed'), b=Chain(filter=Uniform(), selection=RHOLoss(temperature=None), share=0.9), "
    assert repr(mix) == said + "share=0.25)"
    known = Mix(Uniform(), PlausibleEven(label_noise=0.0))
    SpectralBatchSampler(STORE, N, selection=known).selection_at(0, 0)
    assert known.facts(STORE) == {"suspect_share": 0.0}

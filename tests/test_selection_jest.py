"""JEST and RHO-LOSS against Algorithm 1 written out, and against the probabilities they must have."""

import numpy as np
import pytest
import torch
from scipy import stats

from spectral_sampler import draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import JEST, CandidateBatch, RHOLoss
from spectral_sampler.selection.jest import joint_draw
from spectral_sampler.selection.rho_loss import holdout_twin_losses, learnability

N = 48


def offered(seed=0, size=N, **changes):
    generator = np.random.default_rng(seed)
    batch = CandidateBatch(
        generator.permutation(1000)[:size].astype(np.int64),
        losses=generator.exponential(size=size),
        learner_losses=2 * generator.exponential(size=size),
        labels=generator.integers(4, size=size),
        embeddings=generator.normal(size=(size, 7)),
        features=generator.normal(size=(size, 11)),
        batch=seed,
    )
    return batch._replace(**changes)


def published_jest(scores, count, chunks, uniforms):
    """Algorithm 1, recomputing q's two products every round."""
    chosen = []
    for turn in range(min(chunks, count)):
        q = np.zeros(len(scores))
        q[chosen] = 1
        logits = np.diag(scores) + q @ scores + scores @ q
        logits[chosen] = -np.inf
        size = count // min(chunks, count) if turn < min(chunks, count) - 1 else count - len(chosen)
        with np.errstate(divide="ignore"):  # the chosen have probability zero
            keys = np.log(np.exp(logits - logits.max())) - np.log(-np.log(uniforms(turn)))
        chosen += np.argsort(-keys)[:size].tolist()
    return chosen


def published_scores(batch, scale, margin, gain):
    scores = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            for sign, rows in ((1, batch.embeddings), (-1, batch.features)):
                cosine = rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
                m = -1 if batch.labels[i] == batch.labels[j] else 1
                scores[i, j] += sign * gain * np.log1p(np.exp(m * scale * (cosine - margin)))
        scores[i, i] = batch.learner_losses[i] - batch.losses[i]
    return scores


def pair_scores(selection, batch):
    """The whole matrix s, whose rows the selection asks for as it draws."""
    scores = selection._pairs(batch)(torch.arange(len(batch.indices))).numpy()
    np.fill_diagonal(scores, learnability(batch) / selection.temperature)
    return scores


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("count", "chunks"), [(1, 16), (7, 16), (16, 16), (37, 16), (48, 5), (20, 1)])
def test_joint_jest_against_the_algorithm(seed, count, chunks):
    batch = offered(seed)
    selection = JEST(joint=True, chunks=chunks, scale=3.0, margin=0.2, gain=0.4)
    scores = published_scores(batch, 3.0, 0.2, 0.4)
    assert pair_scores(selection, batch) == pytest.approx(scores, abs=1e-12)
    choice = selection.select(batch, count)
    assert choice.positions.tolist() == published_jest(scores, count, chunks, batch.uniforms)
    assert len(set(choice.positions.tolist())) == count


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_embeddings_of_the_learners_own_precision(kind):
    batch = offered(2)
    embeddings = torch.tensor(batch.embeddings).to(kind)
    features = batch.features.astype(np.float16)
    exact = batch._replace(embeddings=embeddings.double().numpy(), features=features.astype(np.float64))
    selection, given = JEST(joint=True, gain=0.4), batch._replace(embeddings=embeddings, features=features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, choice = pair_scores(selection, given), selection.select(given, 20)
    assert scores == pytest.approx(published_scores(exact, 10.0, 0.5, 0.4), rel=1e-5, abs=1e-9)
    assert choice.positions.tolist() == selection.select(exact, 20).positions.tolist()


def test_the_second_chunk_follows_the_pair_scores_in_both_directions():
    """s_ki and s_ik both count: with either sum left out the frequencies below are far off."""
    scores = np.array([[50.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5]])
    expected = np.exp([1.0, 2.0, 0.5])  # the first draw is sample 0; then s_01, s_20 and s_33
    counts = np.zeros(4)

    def pull(some):
        return torch.tensor(scores)[some].sum(0) + torch.tensor(scores)[:, some].sum(1)

    for trial in range(4000):
        uniforms = lambda turn: draws.uniforms(0, 0, trial, np.arange(4), turn)  # noqa: B023, E731
        counts[joint_draw(torch.tensor(np.diag(scores)), pull, 2, 2, uniforms)[1]] += 1
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], 4000 * expected / expected.sum()).pvalue > 1e-4
    for wrong in (np.exp([1.0, 0.0, 0.5]), np.exp([0.0, 2.0, 0.5])):
        assert stats.chisquare(counts[1:], 4000 * wrong / wrong.sum()).pvalue < 1e-9


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("make", [lambda t: JEST(temperature=t), lambda t: RHOLoss(temperature=t)], ids=["jest", "rho"])
def test_draws_follow_the_learnability(make, temperature):
    batch = offered(1, 8)
    expected = np.exp((batch.learner_losses - batch.losses) / temperature)
    counts = np.zeros(8)
    for trial in range(5000):
        counts[make(temperature).select(batch._replace(batch=trial), 1).positions] += 1
    assert stats.chisquare(counts, 5000 * expected / expected.sum()).pvalue > 1e-4
    swapped = np.exp((batch.losses - batch.learner_losses) / temperature)
    assert stats.chisquare(counts, 5000 * swapped / swapped.sum()).pvalue < 1e-9


def test_swapping_reference_losses_changes_the_choice():
    batch = offered(2)
    high, low = np.argmax(batch.losses), np.argmin(batch.losses)
    swapped = batch.losses.copy()
    swapped[[high, low]] = swapped[[low, high]]
    for selection in (JEST(), JEST(joint=True), RHOLoss()):
        before = selection.select(batch, 12).positions.tolist()
        after = selection.select(batch._replace(losses=swapped), 12).positions.tolist()
        assert set(before) != set(after), selection


def test_an_outer_difference_would_not_be_joint():
    """The ruling against s_ij = l_i − r_j: its second round only sharpens the first."""
    batch = offered(3)
    outer = batch.learner_losses[:, None] - batch.losses[None, :]
    chosen = np.arange(5)
    logits = np.diag(outer) + outer[chosen].sum(0) + outer[:, chosen].sum(1)
    assert np.ptp(logits - 6 * learnability(batch)) < 1e-9
    joint = pair_scores(JEST(joint=True, gain=1.0), batch)
    logits = np.diag(joint) + joint[chosen].sum(0) + joint[:, chosen].sum(1)
    assert np.ptp(logits - 6 * learnability(batch)) > 1


def test_huge_learnability_overflows_nothing():
    batch = offered(4, losses=np.zeros(N), learner_losses=np.linspace(0, 1e6, N))
    for selection in (JEST(), JEST(joint=True), RHOLoss(), RHOLoss(temperature=1e-3)):
        assert set(selection.select(batch, 5).positions.tolist()) == set(range(N - 5, N))


@pytest.mark.parametrize("seed", range(6))
def test_rho_keeps_the_highest_learnability(seed):
    batch = offered(seed)
    for count in (1, 5, 20, N):
        expected = np.argsort(batch.losses - batch.learner_losses)[:count]
        assert RHOLoss().select(batch, count).positions.tolist() == expected.tolist()


def test_samples_never_observed_are_tried_first_in_a_random_order():
    losses = np.full(N, 1.0)
    losses[:10] = np.nan
    losses[10:14] = [9, 8, 7, 6]
    batch = offered(5, learner_losses=losses, losses=np.zeros(N))
    first = RHOLoss().select(batch, 11).positions.tolist()
    assert set(first) == set(range(11)), "the ten unknown and the best known one"
    counts = np.zeros(N)
    for trial in range(600):
        counts[RHOLoss().select(batch._replace(batch=trial), 4).positions] += 1
    assert counts[:11].min() > 150, "ties rotate"
    assert counts[11:].sum() == 0
    nothing = batch._replace(learner_losses=np.full(N, np.nan))
    assert len({tuple(RHOLoss().select(nothing._replace(batch=b), 4).positions.tolist()) for b in range(20)}) == 20


def test_holdout_twin_scores_every_sample_by_a_model_that_did_not_see_it():
    calls = []

    def score(train, rest):
        calls.append((train, rest))
        assert not set(train.tolist()) & set(rest.tolist())
        return 1000.0 * len(calls) + rest

    losses = holdout_twin_losses(score, 11, seed=3)
    assert sorted(np.concatenate([rest for _, rest in calls]).tolist()) == list(range(11))
    for number, (_, rest) in enumerate(calls, start=1):
        assert losses[rest].tolist() == (1000.0 * number + rest).tolist()
    assert {len(rest) for _, rest in calls} == {5, 6}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JEST(chunks=0), r"^chunks must be a whole number of at least 1, got 0\. The paper"),
        (lambda: JEST(chunks=2.0), r"^chunks must be a whole number of at least 1, got 2\.0"),
        (lambda: JEST(temperature=0), r"^temperature must be a number in \(0, inf\), got 0"),
        (lambda: JEST(scale=float("nan")), r"^scale must be a number in \(0, inf\), got nan"),
        (lambda: JEST(margin=float("inf")), r"^margin must be"),
        (lambda: JEST(gain=-1), r"^gain must be a number in \[0, inf\), got -1"),
        (lambda: RHOLoss(temperature="hot"), r"^temperature must be .* got 'hot'"),
        (
            lambda: holdout_twin_losses(lambda train, rest: rest, 1),
            r"^size must be a whole number of at least 2, got 1",
        ),
        (lambda: RHOLoss().select(offered(learner_losses=None), 3), r"^batch must be .*learner_losses.*observe"),
        (lambda: JEST(joint=True).select(offered(embeddings=None), 3), r"^batch must be .*embeddings"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_needs():
    assert RHOLoss().needs == JEST().needs == {"losses", "learner_losses"}
    assert JEST(joint=True).needs == {"losses", "learner_losses", "labels", "embeddings", "features"}

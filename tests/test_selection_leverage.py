"""Leverage: the scores against matrices written out, the chances they give, unbiased means."""

import numpy as np
import pytest

from spectral_sampler import ReferenceStore, SpectralBatchSampler
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import CandidateBatch, Leverage
from spectral_sampler.selection.importance import inclusion_probabilities
from spectral_sampler.selection.leverage import ridge_leverage
from spectral_sampler.selection.sensitivity import leverage_scores

M, D = 400, 6
generator = np.random.default_rng(0)
ROWS = generator.normal(size=(M, D)) * generator.exponential(size=(M, 1)) * np.array([5.0, 3, 1, 1, 0.2, 0.05])


def plain(rows, ridge):
    moment = rows.T @ rows
    penalty = ridge * np.trace(moment) / len(moment)
    inverse = np.linalg.pinv(moment + penalty * np.eye(len(moment)), rcond=1e-12, hermitian=True)
    return np.array([row @ inverse @ row for row in rows])


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.01, 1.0])
def test_scores(ridge):
    found = ridge_leverage(ROWS, ridge)
    assert found == pytest.approx(plain(ROWS, ridge), rel=1e-8)
    values = np.linalg.eigvalsh(ROWS.T @ ROWS)
    assert found.sum() == pytest.approx((values / (values + ridge * values.mean())).sum())
    assert ridge_leverage(ROWS * 1e140, ridge) == pytest.approx(found)
    assert ridge_leverage(ROWS.astype(np.float32) * 1e-25, ridge) == pytest.approx(found, rel=1e-4)


def test_without_a_ridge_they_are_the_leverage_scores_of_any_rank():
    assert ridge_leverage(ROWS, 0.0) == pytest.approx(leverage_scores(ROWS))
    flat = ROWS[:, :3] @ generator.normal(size=(3, 8))
    assert ridge_leverage(flat, 0.0) == pytest.approx(leverage_scores(flat), rel=1e-6)
    assert ridge_leverage(flat, 0.0).sum() == pytest.approx(3)
    assert ridge_leverage(ROWS[:4], 0.0) == pytest.approx(np.ones(4)), "fewer rows than dimensions"


def test_many_blocks_are_one():
    rows = generator.normal(size=(20_000, 3)).astype(np.float32)
    assert ridge_leverage(rows, 0.1) == pytest.approx(plain(rows.astype(np.float64), 0.1), rel=1e-6)


def batch_of(size=60, **place):
    indices = np.random.default_rng(2).permutation(M)[:size]
    store = ReferenceStore.from_arrays(ROWS.astype(np.float32))
    score = Leverage().score(store, indices[None], backend="auto")
    return CandidateBatch(indices, scores=score.values[0], error=float(score.error[0]), **place)


def test_the_scores_are_those_of_the_whole_store():
    batch = batch_of()
    assert batch.scores == pytest.approx(ridge_leverage(ROWS.astype(np.float32), 0.01)[batch.indices])
    assert batch.scores.tolist() != pytest.approx(ridge_leverage(ROWS[batch.indices], 0.01).tolist(), rel=0.1)


@pytest.mark.parametrize("budget", [1, 8, 30])
def test_the_weighted_mean_is_unbiased(budget):
    batch = batch_of()
    values = 1.0 + 3.0 * batch.scores / batch.scores.max() + np.random.default_rng(4).random(60)
    estimates, bare, counts = [], [], np.zeros(60)
    for trial in range(3000):
        choice = Leverage().select(batch._replace(batch=trial), budget)
        assert len(set(choice.positions.tolist())) == budget
        estimates.append((choice.weights * values[choice.positions]).mean())
        bare.append(values[choice.positions].mean())
        counts[choice.positions] += 1
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - values.mean()) < 4 * error
    assert abs(np.mean(bare) - values.mean()) > 5 * np.std(bare) / np.sqrt(len(bare)), "without weights it is biased"
    chances = inclusion_probabilities(batch.scores, budget)
    sigma = np.sqrt(3000 * chances * (1 - chances))
    assert np.all(np.abs(counts - 3000 * chances) < 4.5 * sigma + 1e-6)


def test_deterministic_is_the_highest_without_weights():
    batch = batch_of()
    choice = Leverage(deterministic=True).select(batch, 20)
    assert choice.positions.tolist() == np.argsort(-batch.scores)[:20].tolist()
    assert choice.weights is None


def test_in_a_sampler_the_weights_arrive():
    store = ReferenceStore.from_arrays(ROWS.astype(np.float32))
    sampler = SpectralBatchSampler(store, 80, keep_ratio=0.3, selection=Leverage())
    expected = [sampler.selection_at(0, number) for number in range(5)]
    for rows, (candidates, choice, _) in zip(sampler, expected, strict=True):
        assert rows == candidates[choice.positions].tolist()
        chances = inclusion_probabilities(ridge_leverage(store.features, 0.01)[candidates], len(rows))
        assert sampler.weights_for(rows).numpy() == pytest.approx(
            len(rows) / (80 * chances[choice.positions]), rel=1e-6
        )
    assert "weights_for" in sampler.describe()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ridge": -1}, r"^ridge must be a number in \[0, inf\), got -1\. "),
        ({"ridge": float("nan")}, r"^ridge must be a number in \[0, inf\), got nan\. "),
        ({"deterministic": 1}, r"^deterministic must be True or False, got 1\. "),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Leverage(**arguments)

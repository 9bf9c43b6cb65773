"""GradientNorm: the norms, the gate, exact inclusion probabilities, unbiased means of lower variance."""

import numpy as np
import pytest
import torch
from scipy import stats

from spectral_sampler import draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.likelihood import gradient_norms
from spectral_sampler.selection import CandidateBatch, GradientNorm
from spectral_sampler.selection.gradient_norm import variance_reduction
from spectral_sampler.selection.importance import importance_weights, inclusion_probabilities, systematic

N, C = 64, 5


def offered(seed=0, spread=3.0, size=N):
    generator = np.random.default_rng(seed)
    labels = generator.integers(C, size=size)
    logits = generator.normal(size=(size, C))
    logits[np.arange(size), labels] += spread * generator.random(size) ** 0.5 * 4
    return CandidateBatch(generator.permutation(500)[:size].astype(np.int64), logits=logits, labels=labels, batch=seed)


def test_norms_are_those_of_autograd():
    batch = offered()
    logits = torch.tensor(batch.logits, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, torch.tensor(batch.labels), reduction="sum").backward()
    assert gradient_norms(batch.logits, batch.labels) == pytest.approx(logits.grad.norm(dim=1).numpy(), abs=1e-12)


def test_tau_is_the_published_expression():
    norms = np.random.default_rng(0).exponential(size=30)
    p = norms / norms.sum()
    u = np.full(30, 1 / 30)
    expected = 1 / np.sqrt(1 - np.sum((p - u) ** 2) / np.sum(p**2))
    assert variance_reduction(norms) == pytest.approx(expected)
    assert variance_reduction(np.ones(30)) == pytest.approx(1.0)
    assert variance_reduction(np.eye(30)[0]) == pytest.approx(np.sqrt(30))
    assert variance_reduction(np.zeros(30)) == 1.0


def test_gate_opens_where_the_running_tau_passes_the_published_threshold():
    budget, selection, running, seen = 32, GradientNorm(), None, []
    for step in range(60):
        batch = offered(step, spread=0.0 if step < 15 else 6.0)
        tau = variance_reduction(gradient_norms(batch.logits, batch.labels))
        running = tau if running is None else 0.9 * running + 0.1 * tau
        choice = selection.select(batch, budget)
        assert (choice.weights is not None) == (running > (N + 3 * budget) / (3 * budget))
        selection.trained(batch, choice)
        assert selection.tau == pytest.approx(running)
        seen.append(choice.weights is not None)
    assert not any(seen[:15])
    assert seen[-1]
    assert 15 < seen.index(True) < 59, "the average makes the gate wait"


def test_select_does_not_move_the_average():
    selection, batch = GradientNorm(), offered()
    first = selection.select(batch, 8)
    assert selection.select(batch, 8).positions.tolist() == first.positions.tolist()
    assert selection.tau is None


def uniform_variance(losses, budget):
    return losses.var(ddof=1) / budget * (1 - budget / len(losses))


@pytest.mark.parametrize("budget", [1, 6, 16])
def test_weighted_mean_is_unbiased_and_less_variable_than_uniforms(budget):
    batch = offered(3, spread=6.0)
    values = gradient_norms(batch.logits, batch.labels) * np.random.default_rng(1).uniform(0.8, 1.2, N)
    estimates = []
    for trial in range(3000):
        choice = GradientNorm(gate=False).select(batch._replace(batch=trial), budget)
        assert len(set(choice.positions.tolist())) == budget
        estimates.append((choice.weights * values[choice.positions]).mean())
    estimates = np.array(estimates)
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - values.mean()) < 4 * error
    assert estimates.var() < 0.5 * uniform_variance(values, budget)
    unweighted = np.mean([
        values[GradientNorm(gate=False).select(batch._replace(batch=t), budget).positions].mean() for t in range(300)
    ])  # fmt: skip
    assert abs(unweighted - values.mean()) > 10 * error, "without weights the mean is biased"


def test_weights_are_the_published_ones_where_no_chance_is_capped():
    batch = offered(4, spread=1.0)
    norms = gradient_norms(batch.logits, batch.labels)
    p = norms / norms.sum()
    assert (5 * p).max() < 1
    choice = GradientNorm(gate=False).select(batch, 5)
    assert choice.weights == pytest.approx(1 / (N * p[choice.positions]))


def test_inclusion_frequencies_are_exact():
    weights = np.array([0.0, 1, 2, 3, 4, 5, 6, 40])
    chances = inclusion_probabilities(weights, 3)
    assert chances.sum() == pytest.approx(3)
    assert chances[7] == 1
    assert chances[0] == 0
    assert chances[1:7] == pytest.approx(2 * weights[1:7] / 21)
    counts, pairs = np.zeros(8), np.zeros((8, 8))
    trials = 8000
    for trial in range(trials):
        start = draws.uniforms(0, 0, trial, np.array([0]), 9)[0]
        chosen = systematic(chances, 3, draws.uniforms(0, 0, trial, np.arange(8)), start)
        assert len(set(chosen.tolist())) == 3
        counts[chosen] += 1
        pairs[np.ix_(chosen, chosen)] += 1
    free = counts[1:7]
    sigma = np.sqrt(trials * chances[1:7] * (1 - chances[1:7]))
    assert np.all(np.abs(free - trials * chances[1:7]) < 4 * sigma)
    assert np.any(np.abs(free - trials / 3) > 8 * sigma), "the control cannot tell the chances from equal ones"
    assert np.all(pairs[1:, 1:] > 0), "a fixed order would never draw some pairs"


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_chances_with_few_positive_weights(count):
    weights = np.array([0, 0, 1e-300, 0, 1e300, 0, 5.0, 0])
    chances = inclusion_probabilities(weights, count)
    assert chances.sum() == pytest.approx(count)
    chosen = systematic(chances, count, draws.uniforms(0, 0, 0, np.arange(8)), 0.37)
    assert len(set(chosen.tolist())) == count
    if count >= 3:
        assert {2, 4, 6} <= set(chosen.tolist())
    assert importance_weights(np.full(8, count / 8), chosen) == pytest.approx(np.ones(count))


def test_draws_with_the_gate_shut_are_uniform():
    batch = offered(5, spread=0.0, size=16)
    counts = np.zeros(16)
    for trial in range(4000):
        counts[GradientNorm().select(batch._replace(batch=trial), 4).positions] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan"), "x", True])
def test_bad_momentum(momentum):
    with pytest.raises(ArgumentError, match=r"^momentum must be a number in \[0, 1\), got .*\. The paper"):
        GradientNorm(momentum=momentum)

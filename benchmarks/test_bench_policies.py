"""What policies make of the learner's outputs, beside the same formula in float64 NumPy, which also says what is right.

`test_bench_online.py` has whole calls; here is the arithmetic alone, where it is most.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spectral_sampler.likelihood import cross_entropy, gradient_norms
from spectral_sampler.selection import JEST, BayesianSelection, CandidateBatch

PEER = "float64 NumPy"
RATIO = 0.3


def _outputs(candidates: int, classes: int, width: int) -> CandidateBatch:
    generator = np.random.default_rng(0)
    return CandidateBatch(
        np.arange(candidates),
        losses=generator.exponential(size=candidates),
        learner_losses=generator.exponential(size=candidates),
        labels=generator.integers(classes, size=candidates),
        logits=torch.from_numpy(generator.standard_normal((candidates, classes), dtype=np.float32)),
        embeddings=torch.from_numpy(generator.standard_normal((candidates, width), dtype=np.float32)),
        features=generator.standard_normal((candidates, width), dtype=np.float32),
    )


def _norms(batch: CandidateBatch) -> Any:
    logits = batch.logits.double().numpy()
    gradients = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradients /= gradients.sum(axis=1, keepdims=True)
    gradients[np.arange(len(gradients)), batch.labels] -= 1.0
    return np.linalg.norm(gradients, axis=1)


def _losses(batch: CandidateBatch) -> Any:
    logits = batch.logits.double().numpy()
    return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(logits)), batch.labels]


@pytest.mark.parametrize("who", ["ours", PEER])
@pytest.mark.parametrize(("candidates", "classes"), [(256, 1_000), (128, 32_000), (64, 128_000)])
@pytest.mark.parametrize("what", ["gradient norms", "cross-entropies"])
def test_logits(benchmark, beside_limit, what, candidates, classes, who):
    batch = _outputs(candidates, classes, 1)
    ours, theirs = (gradient_norms, _norms) if what == "gradient norms" else (cross_entropy, _losses)
    benchmark.group = f"{what} of {candidates} x {classes:,} logits"
    found = benchmark(lambda: ours(batch.logits, batch.labels) if who == "ours" else theirs(batch))
    assert found == pytest.approx(theirs(batch), rel=1e-5)
    beside_limit("read", batch.logits.nbytes, "reading the logits once, from memory")


def _pair_scores(selection: JEST, batch: CandidateBatch) -> Any:
    def pairs(rows):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        sign = np.where(batch.labels[:, None] == batch.labels[None, :], -1.0, 1.0)
        return np.logaddexp(0.0, sign * selection.scale * (units @ units.T - selection.margin))

    scores = (pairs(batch.embeddings.double().numpy()) - pairs(batch.features.astype(np.float64))) / len(batch.labels)
    np.fill_diagonal(scores, batch.learner_losses - batch.losses)
    return scores


@pytest.mark.parametrize("who", ["ours", PEER])
@pytest.mark.parametrize("width", [512, 2048])
def test_pairs(benchmark, beside_limit, width, who):
    """JEST's joint form: the peer has all pairs of 256 candidates, ours the draw with those it asks for."""
    batch, selection = _outputs(256, 10, width), JEST(joint=True)
    expected = _pair_scores(selection, batch)
    benchmark.group = f"pair scores of 256 candidates, width {width}"
    budget = int(RATIO * 256)
    found = benchmark(lambda: selection.select(batch, budget) if who == "ours" else _pair_scores(selection, batch))
    scores, away = selection._pairs(batch)(torch.arange(256)).numpy(), ~np.eye(256, dtype=np.bool_)
    assert scores[away] == pytest.approx(expected[away], rel=1e-5, abs=1e-9)
    assert who == PEER or len(set(found.positions.tolist())) == budget
    beside_limit("sgemm", 4 * budget * 256 * width, "the chosen ones' products with all, at the SGEMM rate")


def _objective(selection: BayesianSelection, batch: CandidateBatch) -> Any:
    posterior, labels = selection.posterior, batch.labels
    rows, (count, classes) = np.arange(len(labels)), batch.logits.shape

    def root(name, size):
        factor = np.sqrt(posterior.effective_size) * posterior.factors[name].numpy()
        return np.linalg.cholesky(factor + np.sqrt(posterior.prior_precision) * np.eye(size))

    embeddings, logits = batch.embeddings.double().numpy(), batch.logits.double().numpy()
    scale = np.linalg.norm(np.linalg.solve(root("input", embeddings.shape[1]), embeddings.T), axis=0)
    normal = selection._standard_normal(batch, classes).numpy()
    noise = np.linalg.solve(root("output", classes).T, normal.T).T
    sampled = np.empty((selection.samples, count))
    for number, row in enumerate(noise):
        block = logits + scale[:, None] * row
        largest = block.max(axis=1)
        sampled[number] = block[rows, labels] - largest - np.log(np.exp(block - largest[:, None]).sum(axis=1))
    zero_shot = selection.temperature * selection.zero_shot[batch.indices]
    known = zero_shot[rows, labels] - np.logaddexp.reduce(zero_shot, axis=1)
    predictive = np.logaddexp.reduce(sampled, axis=0) - np.log(selection.samples)
    return selection.alpha * sampled.mean(axis=0) + (1.0 - selection.alpha) * known - predictive


@pytest.mark.parametrize("who", ["ours", PEER])
def test_posterior(benchmark, beside_limit, who):
    """A whole step of the Bayesian selection: score, choose, learn; its posterior has to be factored anew."""
    count, classes, width = 256, 1_000, 2048
    batch, kept = _outputs(count, classes, width), int(RATIO * count)
    selection = BayesianSelection(np.random.default_rng(1).normal(size=(count, classes)))
    selection.trained(batch, selection.select(batch, kept))
    expected = _objective(selection, batch)
    benchmark.group = f"Bayesian selection, {classes:,} classes, width {width}"

    def step():
        choice = selection.select(batch, kept)
        selection.trained(batch, choice)

    assert selection.objective(batch) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    if who == "ours":
        benchmark.pedantic(step, rounds=5)
    else:
        assert benchmark.pedantic(lambda: _objective(selection, batch), rounds=2) == pytest.approx(expected)
    flops = (width**3 + classes**3) / 3 + count * width**2 + selection.samples * classes**2 + 2 * kept * width**2
    beside_limit("sgemm", flops, "its flops, without the exponentials, at the SGEMM rate")

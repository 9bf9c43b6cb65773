"""BayesianSelection: the objective sample by sample, the posterior's covariance, the running factors."""

import numpy as np
import pytest
import torch

from spectral_sampler import draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import BayesianSelection, CandidateBatch, Choice
from spectral_sampler.selection.bayesian import LastLayerLaplace

M, N, D, C = 90, 24, 6, 4
ZERO_SHOT = np.random.default_rng(9).normal(size=(M, C))


def offered(seed=0):
    generator = np.random.default_rng(seed)
    return CandidateBatch(
        generator.permutation(M)[:N].astype(np.int64),
        logits=2 * generator.normal(size=(N, C)),
        labels=generator.integers(C, size=N),
        embeddings=generator.normal(size=(N, D)),
        batch=seed,
    )


def trained(selection, steps=3):
    for seed in range(100, 100 + steps):
        batch = offered(seed)
        selection.trained(batch, selection.select(batch, 8))
    return selection


def published_objective(batch, a, g, alpha, tau, n_e, tau0, normal):
    """The paper's three terms with explicit inverses, one candidate and one posterior sample at a time."""
    v = np.sqrt(n_e) * a + np.sqrt(tau0) * np.eye(D)
    u = np.sqrt(n_e) * g + np.sqrt(tau0) * np.eye(C)
    rows = normal @ np.linalg.inv(np.linalg.cholesky(u))
    scores = []
    for index, f, y, h in zip(batch.indices, batch.logits, batch.labels, batch.embeddings, strict=True):
        sampled = f + np.sqrt(h @ np.linalg.inv(v) @ h) * rows
        p = np.array([np.exp(s)[y] / np.exp(s).sum() for s in sampled])
        z = np.exp(tau * ZERO_SHOT[index])
        scores.append(alpha * np.log(p).mean() + (1 - alpha) * np.log(z[y] / z.sum()) - np.log(p.mean()))
    return np.array(scores)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_objective_against_the_paper(seed, steps):
    selection = trained(BayesianSelection(ZERO_SHOT, alpha=0.3, temperature=2.0, samples=64, effective_size=50), steps)
    batch = offered(seed)
    a = np.zeros((D, D)) if steps == 0 else selection.posterior.factors["input"].numpy()
    g = np.zeros((C, C)) if steps == 0 else selection.posterior.factors["output"].numpy()
    uniform = draws.uniforms(batch.seed, batch.epoch, batch.batch, np.arange(64 * C))
    normal = torch.special.ndtri(torch.from_numpy(uniform)).numpy().reshape(64, C)
    expected = published_objective(batch, a, g, 0.3, 2.0, 50, 10, normal)
    assert selection.objective(batch) == pytest.approx(expected, abs=1e-10)
    assert selection.select(batch, 7).positions.tolist() == np.argsort(-expected)[:7].tolist()


def test_a_posterior_is_factored_once_an_update(monkeypatch):
    factored = []
    cholesky = torch.linalg.cholesky
    monkeypatch.setattr(torch.linalg, "cholesky", lambda matrix: factored.append(len(matrix)) or cholesky(matrix))
    selection, batch = BayesianSelection(ZERO_SHOT, samples=8), offered()
    for _ in range(3):
        choice = selection.select(batch, 5)
    assert sorted(factored) == [C, D], "looking again factors nothing"
    selection.trained(batch, choice)
    moved = selection.objective(batch)
    assert sorted(factored) == [C, C, D, D]
    state = selection.state_dict()
    fresh = BayesianSelection(ZERO_SHOT, samples=8)
    assert (fresh.objective(batch) != moved).any()
    fresh.load_state_dict(state)
    assert fresh.objective(batch).tolist() == moved.tolist(), "a restored posterior is factored anew"


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_outputs_of_the_learners_own_precision(kind):
    selection, batch = trained(BayesianSelection(ZERO_SHOT, samples=64, effective_size=50)), offered(2)
    given = {name: torch.tensor(getattr(batch, name)).to(kind) for name in ("logits", "embeddings")}
    exact = batch._replace(**{name: value.double().numpy() for name, value in given.items()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = selection.objective(batch._replace(**given))
    assert found == pytest.approx(selection.objective(exact), rel=1e-5, abs=1e-5)


def test_blocks_of_samples_change_nothing(monkeypatch):
    selection, batch = trained(BayesianSelection(ZERO_SHOT, samples=50)), offered()
    whole = selection.objective(batch)
    monkeypatch.setattr("spectral_sampler.likelihood._BLOCK_OF_CPU", 7 * N * C)
    assert selection.objective(batch) == pytest.approx(whole, abs=1e-12)


def test_posterior_draws_have_the_covariance_of_the_inverse_and_not_of_its_transpose():
    generator = np.random.default_rng(0)
    laplace = LastLayerLaplace(effective_size=400, prior_precision=1.0)
    gradients = generator.normal(size=(200, C)) * [3.0, 1.0, 0.3, 0.1] @ generator.normal(size=(C, C))
    laplace.update(generator.normal(size=(200, D)), gradients)
    u = 20 * laplace.factors["output"].numpy() + np.eye(C)
    rows = laplace.draws(generator.normal(size=(200_000, C))).numpy()
    covariance = rows.T @ rows / len(rows)
    root = np.linalg.cholesky(u)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(covariance - np.linalg.inv(u)).max() / scale.max() < 0.02
    transposed = np.linalg.inv(root.T @ root)
    assert np.abs(covariance - transposed).max() / scale.max() > 0.2, "the control cannot tell the two solves apart"


def test_deviations_are_the_quadratic_form():
    generator = np.random.default_rng(1)
    laplace, h = LastLayerLaplace(100, 4.0), generator.normal(size=(N, D))
    assert laplace.deviations(h).numpy() == pytest.approx(np.linalg.norm(h, axis=1) / np.sqrt(2))  # the prior: V = 2 I
    laplace.update(h, generator.normal(size=(N, C)))
    v = 10 * h.T @ h / N + 2 * np.eye(D)
    assert laplace.deviations(h).numpy() == pytest.approx(np.sqrt(np.einsum("nd,de,ne->n", h, np.linalg.inv(v), h)))


def test_sampled_logits_have_the_stated_covariance():
    """σ_i² U⁻¹ from the very numbers that `select` uses."""
    selection, batch = trained(BayesianSelection(ZERO_SHOT, samples=20_000)), offered(4)
    noise = selection.posterior.draws(selection._standard_normal(batch, C))
    sampled = (selection.posterior.deviations(batch.embeddings)[3] * noise).numpy()
    v = np.sqrt(200) * selection.posterior.factors["input"].numpy() + np.sqrt(10) * np.eye(D)
    u = np.sqrt(200) * selection.posterior.factors["output"].numpy() + np.sqrt(10) * np.eye(C)
    h = batch.embeddings[3]
    expected = h @ np.linalg.inv(v) @ h * np.linalg.inv(u)
    assert np.abs(np.cov(sampled.T) - expected).max() < 0.05 * expected.max()


def test_running_factors_follow_the_kept_samples_alone():
    selection = BayesianSelection(ZERO_SHOT, momentum=0.9)
    a = g = None
    for seed in range(4):
        batch = offered(seed)
        kept = np.arange(0, N, 3) + seed % 3
        selection.trained(batch, Choice(kept, np.zeros(len(kept), dtype=np.int8)))
        h, f = batch.embeddings[kept], torch.tensor(batch.logits[kept], requires_grad=True)
        loss = torch.nn.functional.cross_entropy(f, torch.tensor(batch.labels[kept]), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, f)
        new_a, new_g = h.T @ h / len(kept), gradient.numpy().T @ gradient.numpy() / len(kept)
        a, g = (new_a, new_g) if a is None else (0.9 * a + 0.1 * new_a, 0.9 * g + 0.1 * new_g)
    assert selection.posterior.factors["input"] == pytest.approx(a)
    assert selection.posterior.factors["output"] == pytest.approx(g)


def test_a_certain_posterior_leaves_redundancy_and_zero_shot():
    """With no spread the score is (1 − α)(log p̃ − log p): what the zero-shot model knows and the learner does not."""
    selection, batch = BayesianSelection(ZERO_SHOT, alpha=0.4, prior_precision=1e12), offered(5)
    learner = np.log(np.exp(batch.logits) / np.exp(batch.logits).sum(1, keepdims=True))[np.arange(N), batch.labels]
    z = 4.0 * ZERO_SHOT[batch.indices]
    zero_shot = np.log(np.exp(z) / np.exp(z).sum(1, keepdims=True))[np.arange(N), batch.labels]
    assert selection.objective(batch) == pytest.approx(0.6 * (zero_shot - learner), abs=1e-4)


def test_a_choice_does_not_depend_on_the_order_of_the_candidates():
    selection, batch = trained(BayesianSelection(ZERO_SHOT)), offered(6)
    shuffle = np.random.default_rng(0).permutation(N)
    columns = ("indices", "logits", "labels", "embeddings")
    mixed = batch._replace(**{name: getattr(batch, name)[shuffle] for name in columns})
    kept = set(batch.indices[selection.select(batch, 9).positions].tolist())
    assert set(mixed.indices[selection.select(mixed, 9).positions].tolist()) == kept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BayesianSelection(np.ones(5)), r"^zero_shot must be finite logits .* got shape \(5,\)"),
        (lambda: BayesianSelection(np.full((5, 3), np.nan)), r"^zero_shot must be finite"),
        (lambda: BayesianSelection(ZERO_SHOT, alpha=1.5), r"^alpha must be a number in \[0, 1\], got 1\.5"),
        (lambda: BayesianSelection(ZERO_SHOT, temperature=0), r"^temperature must be"),
        (lambda: BayesianSelection(ZERO_SHOT, samples=0), r"^samples must be a whole number of at least 1"),
        (lambda: BayesianSelection(ZERO_SHOT, effective_size=0), r"^effective_size must be"),
        (lambda: BayesianSelection(ZERO_SHOT, prior_precision=-1), r"^prior_precision must be"),
        (lambda: BayesianSelection(ZERO_SHOT, momentum=1), r"^momentum must be a number in \[0, 1\), got 1"),
        (lambda: BayesianSelection(ZERO_SHOT[:, :3]).select(offered(), 3), r"^zero_shot must be logits for the"),
    ],
)  # fmt: skip
def test_bad_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()

"""DivBS: the Gram matrix against autograd, the greedy steps against projections written out."""

import itertools

import numpy as np
import pytest
import torch

from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import CandidateBatch, DivBS
from spectral_sampler.selection.divbs import gradient_gram, orthogonal_greedy

N, C, D = 24, 4, 6


def offered(seed=0, size=N, classes=C, width=D):
    generator = np.random.default_rng(seed)
    return CandidateBatch(
        generator.permutation(500)[:size].astype(np.int64),
        logits=generator.normal(size=(size, classes)),
        labels=generator.integers(classes, size=size),
        embeddings=generator.normal(size=(size, width)),
        batch=seed,
    )


def gradients(batch):
    """(N, C·D) the gradients of the loss with respect to the last layer's weight, by autograd."""
    found = []
    for row in range(len(batch.indices)):
        inputs, logits = torch.tensor(batch.embeddings[row]), torch.tensor(batch.logits[row])
        weight = torch.zeros(len(logits), len(inputs), dtype=torch.float64, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(logits + weight @ inputs, torch.tensor(batch.labels[row]))
        found.append(torch.autograd.grad(loss, weight)[0].flatten().numpy())
    return np.stack(found)


def represented(rows, chosen):
    """Squared length of the sum of all rows within the span of those chosen."""
    total, span = rows.sum(0), rows[chosen]
    return float(np.linalg.norm(span.T @ np.linalg.pinv(span.T, rcond=1e-9) @ total) ** 2) if len(chosen) else 0.0


def plain_greedy(rows, count):
    """Every candidate tried in every step, by least squares."""
    chosen = []
    for _ in range(count):
        others = [row for row in range(len(rows)) if row not in chosen]
        chosen.append(max(others, key=lambda row: represented(rows, [*chosen, row])))
    return chosen


def plain_streamlined(rows, count):
    """The released code's loop, with the largest in place of a draw."""
    residual, basis, chosen = rows.sum(0), [], []
    for _ in range(count):
        scores = np.abs(rows @ residual)
        scores[chosen] = -1
        chosen.append(int(scores.argmax()))
        direction = rows[chosen[-1]] - sum((one * (one @ rows[chosen[-1]]) for one in basis), np.zeros(rows.shape[1]))
        basis.append(direction / np.linalg.norm(direction))
        residual = residual - basis[-1] * (basis[-1] @ residual)
    return chosen


def test_the_gram_matrix_is_that_of_the_last_layers_gradients():
    batch = offered()
    rows = gradients(batch)
    assert gradient_gram(batch.logits, batch.labels, batch.embeddings) == pytest.approx(rows @ rows.T, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_every_step_is_the_best_there_is(seed):
    batch = offered(seed)
    rows = gradients(batch)
    rank = np.linalg.matrix_rank(rows)
    assert rank == (C - 1) * D
    assert DivBS().select(batch, 12).positions.tolist() == plain_greedy(rows, 12)
    assert DivBS(normalised=False).select(batch, 12).positions.tolist() == plain_streamlined(rows, 12)


def test_the_greedy_value_is_near_the_best_subsets():
    for seed in range(5):
        batch = offered(seed, size=9)
        rows = gradients(batch)
        best = max(represented(rows, list(some)) for some in itertools.combinations(range(9), 3))
        assert represented(rows, DivBS().select(batch, 3).positions.tolist()) > (1 - 1 / np.e) * best


def test_copies_wait_until_nothing_else_adds_anything():
    batch = offered(1, size=8)
    double = CandidateBatch(
        np.arange(16), logits=np.tile(batch.logits, (2, 1)), labels=np.tile(batch.labels, 2),
        embeddings=np.tile(batch.embeddings, (2, 1)),
    )  # fmt: skip
    seen = set()
    for epoch in range(30):
        for normalised in (True, False):
            chosen = DivBS(normalised=normalised).select(double._replace(epoch=epoch), 8).positions
            assert sorted(chosen % 8) == list(range(8)), "one of each pair"
        seen |= set(chosen.tolist())
    assert seen == set(range(16)), "and not always the same one"


@pytest.mark.parametrize("normalised", [True, False])
def test_beyond_the_rank_the_rest_is_drawn(normalised):
    batch, counts = offered(2, size=40, classes=2, width=3), np.zeros(40)  # gradients span three dimensions
    for epoch in range(300):
        chosen = DivBS(normalised=normalised).select(batch._replace(epoch=epoch), 20).positions
        counts[chosen] += 1
    always = np.flatnonzero(counts == 300)
    assert len(always) in {1, 2, 3}
    free = np.delete(counts, always) / 300
    share = (20 - len(always)) / (40 - len(always))
    assert np.all(np.abs(free - share) < 5 * np.sqrt(share * (1 - share) / 300))


def test_no_gradient_at_all():
    batch = offered(3)
    sure = batch._replace(logits=1e4 * np.eye(C)[batch.labels])
    chosen = DivBS().select(sure, 5).positions
    assert chosen.tolist() == np.argsort(batch.ties())[:5].tolist()


def test_indefinite_rounding_does_not_stop_it():
    rows = np.random.default_rng(0).normal(size=(200, 3)) @ np.random.default_rng(1).normal(size=(3, 80))
    chosen = orthogonal_greedy(rows @ rows.T, 200, np.arange(200.0))
    assert sorted(chosen.tolist()) == list(range(200))
    assert represented(rows, chosen[:3].tolist()) == pytest.approx(np.sum(rows.sum(0) ** 2))


def test_the_score_of_single_samples_would_take_copies():
    batch = offered(4, size=8)
    double = {name: np.tile(getattr(batch, name).T, 2).T for name in ("logits", "labels", "embeddings")}
    gram = gradient_gram(**double)
    by_score = np.argsort(-gram.sum(1))[:4]
    assert len(set((by_score % 8).tolist())) == 2


@pytest.mark.parametrize("normalised", [0, "yes", None])
def test_bad_arguments(normalised):
    with pytest.raises(ArgumentError, match=r"^normalised must be True or False, got .*\. "):
        DivBS(normalised=normalised)

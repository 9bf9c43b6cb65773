"""Graphs that are not the cosine's: against dense float64 eigenvectors, and refusals."""

import numpy as np
import pytest
import torch

from spectral_sampler import GSTDS, SALN, ReferenceStore
from spectral_sampler.errors import ArgumentError
from spectral_sampler.fiedler import fiedler_of_affinity
from spectral_sampler.selection.spectral import fiedler_scores

N = 40


def _store(seed, *, signed):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(3, 24)) * (2.0 if signed else 1.0)
    rows = centres[generator.integers(3, size=200)] + 0.6 * generator.normal(size=(200, 24))
    return ReferenceStore.from_arrays((rows if signed else np.abs(rows)).astype(np.float32))


def _weights(rows, similarity):
    """The definition, in float64."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if similarity != "rbf":
        cosine = units @ units.T
        return cosine if similarity == "cosine" else np.maximum(cosine, 0)
    distances = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))
    median = np.sort(distances[~np.eye(len(rows), dtype=bool)])[(len(rows) * (len(rows) - 1) - 1) // 2]
    return np.exp(-0.5 * (distances / median) ** 2)


def _lowest(weights):
    """Lowest eigenvector of the Laplacian on the complement of the constant vector."""
    np.fill_diagonal(weights, 0.0)
    basis = np.linalg.qr(np.column_stack([np.ones(N), np.random.default_rng(9).normal(size=(N, N - 1))]))[0][:, 1:]
    values, vectors = np.linalg.eigh(basis.T @ (np.diag(weights.sum(1)) - weights) @ basis)
    return basis @ vectors[:, 0], values[1] - values[0]


@pytest.mark.parametrize("similarity", ["cosine", "clamped", "rbf"])
@pytest.mark.parametrize("signed", [False, True])
def test_scores_are_the_lowest_eigenvector_of_the_named_graph(similarity, signed):
    for seed in range(20):
        store = _store(seed, signed=signed)
        indices = np.random.default_rng(seed).permutation(200)[: 3 * N].reshape(3, N)
        found = fiedler_scores(store, indices, score="signed", backend="auto", similarity=similarity)
        for member, vector in zip(indices, found.values, strict=True):
            expected, gap = _lowest(_weights(store.features[member].astype(np.float64), similarity))
            if gap > 1e-2:
                assert abs(vector @ expected) > 1 - 1e-6
        assert np.isfinite(found.error).any()


def test_similarities_differ_where_cosines_are_negative_and_agree_where_they_are_not():
    indices = np.arange(3 * N).reshape(3, N)
    scores = {
        (signed, similarity): fiedler_scores(
            _store(1, signed=signed), indices, score="signed", backend="eager", similarity=similarity
        ).values
        for signed in (False, True)
        for similarity in ("cosine", "clamped", "rbf")
    }
    assert np.abs(scores[False, "cosine"] - scores[False, "clamped"]).max() < 1e-4
    assert np.abs(scores[True, "cosine"] - scores[True, "clamped"]).max() > 1e-2
    assert np.abs(scores[False, "cosine"] - scores[False, "rbf"]).max() > 1e-2


def test_an_rbf_graph_of_duplicates_is_finite():
    rows = np.ones((N, 4), dtype=np.float32)
    rows[0] = 2.0
    scores = fiedler_scores(
        ReferenceStore.from_arrays(rows), np.arange(N)[None], score="signed", backend="auto", similarity="rbf"
    )
    assert np.isfinite(scores.values).all()


def test_the_order_of_the_candidates_does_not_matter():
    weights = torch.from_numpy(_weights(_store(3, signed=False).features[:N].astype(np.float64), "rbf"))
    order = torch.from_numpy(np.random.default_rng(4).permutation(N))
    indices = torch.arange(N)[None]
    plain = fiedler_of_affinity(weights[None], indices=indices).vector[0]
    moved = fiedler_of_affinity(weights[order][:, order][None], indices=indices[:, order]).vector[0]
    assert torch.allclose(plain[order], moved, atol=1e-9)


@pytest.mark.parametrize("make", [lambda name: SALN(similarity=name), lambda name: GSTDS(similarity=name)])
def test_refusals(make):
    with pytest.raises(ArgumentError, match=r"^similarity must be one of .*got 'euclid'"):
        make("euclid")
    policy, store = make("rbf"), ReferenceStore.from_arrays(np.random.default_rng(0).normal(size=(N, 4)))
    with pytest.raises(ArgumentError, match=r"^backend must be .*got 'native'"):
        policy.score(store, np.arange(N)[None], backend="native")
    assert "similarity='rbf'" in repr(policy)

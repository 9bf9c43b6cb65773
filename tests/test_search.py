"""The search's own promises, on matrices small enough to check them entry by entry."""

from __future__ import annotations

import numpy as np
import pytest

from spectral_sampler.search import Found, Ritz, _solved, lowest_ritz, search


class Matrices:
    """Symmetric matrices (B, N, N) as a `search.Operator`."""

    def __init__(self, matrices):
        self.matrices = matrices

    def __call__(self, vectors):
        return np.einsum("bij,bj->bi", self.matrices, vectors)

    def take(self, members):
        return Matrices(self.matrices[members])


def laplacians(members=3, size=60):
    rng = np.random.default_rng(1)
    features = rng.random((members, size, 12)) ** 3
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    weights = features @ features.transpose(0, 2, 1) * (1 - np.eye(size))
    degrees = weights.sum(axis=2)
    return (degrees[:, :, None] * np.eye(size) - weights) / (2 * degrees.max(axis=1))[:, None, None]


@pytest.mark.parametrize("beside", [0.0, 0.3])
def test_what_is_left_is_that_of_the_correction(beside):
    """r + (L − θ) δ as told is what it is, for r along the start and beside it, at any depth, and deeper is less."""
    matrices = laplacians()
    values, vectors = np.linalg.eigh(matrices)
    locked = np.stack((vectors[:, :, 0], vectors[:, :, 1]), axis=1)  # the constant vector and v
    residual, noise = np.random.default_rng(2).normal(size=(2, 3, 60))
    for row in (0, 1):
        residual -= np.einsum("bi,bi->b", residual, locked[:, row])[:, None] * locked[:, row]
    theta, lengths = values[:, 1], [np.linalg.norm(residual, axis=1)]

    def finish(members, space):
        return _solved(space, theta[members] - 1e-7, theta[members], residual[members])

    for depth in (8, 12, 24):
        found = lowest_ritz(
            Matrices(matrices), residual + beside * noise, locked,
            lambda value, _bound, _members: np.zeros(len(value), bool), depth, finish,
        )  # fmt: skip
        correction, left, size = found.more
        rest = residual + np.einsum("bij,bj->bi", matrices, correction) - theta[:, None] * correction
        np.testing.assert_allclose(left, rest, atol=1e-9)
        np.testing.assert_allclose(size, np.linalg.norm(correction, axis=1))
        lengths.append(np.linalg.norm(left, axis=1))
    assert beside or (np.diff(lengths, axis=0) < 0).all()


def test_members_come_back_in_their_order():
    """However many looks each of them takes."""
    matrices = np.stack([np.diag(np.r_[0.0, np.linspace(low, 1, 39)]) for low in (1e-4, 0.5, 1e-2, 0.9)])
    locked = np.zeros((4, 1, 40))
    locked[:, 0, 0] = 1.0
    start = np.random.default_rng(0).normal(size=(4, 40))
    found = lowest_ritz(Matrices(matrices), start, locked, lambda _value, bound, _members: bound < 5e-3, 40)
    assert len(set(found.steps.tolist())) > 1
    np.testing.assert_allclose(found.value, [1e-4, 0.5, 1e-2, 0.9], atol=5e-3)


def test_only_those_that_need_it_are_searched_again():
    """A probe that finds something lower sends its own member back, with both directions in the start vector."""
    calls = []

    def descend(operator, start, _locked, _accept, _limit, _finish=None):
        calls.append((len(start), start.copy()))
        value = np.full(len(start), [0.5, 0.2, 0.1, 0.3][len(calls) - 1])
        value[1:] = 0.3
        zeros, ones = np.zeros(len(start)), np.ones(len(start))
        return Ritz(start, value, zeros, ones, np.full(len(start), 7))

    starts = tuple(np.random.default_rng(seed).normal(size=(3, 10)) for seed in (0, 1))
    found = search(Matrices(np.zeros((3, 10, 10))), starts, np.full(3, 1e-16), limit=9, descend=descend)
    assert isinstance(found, Found)
    assert [count for count, _ in calls] == [3, 3, 1, 1]
    assert found.steps.tolist() == [28, 14, 14]

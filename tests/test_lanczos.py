"""The recurrence by its defining identity, on every array library that is here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spectral_sampler.lanczos import Lanczos, array_namespace, checkpoints, tridiagonalise

SIZE, MEMBERS = 40, 3


def array_api_strict():
    """Skips the test that asks for it where it is missing."""
    return pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")


class Library:
    """How to make an array of a library and how to read it back."""

    def __init__(self, name):
        self.name = name

    @property
    def device(self):
        return array_api_strict().Device("device1") if self.name == "strict second device" else None

    def make(self, array):
        if self.name == "torch":
            return torch.from_numpy(np.ascontiguousarray(array))
        if self.name == "numpy":
            return np.array(array)
        return array_api_strict().asarray(array, device=self.device)

    def read(self, array):
        if self.device is not None:
            assert array.device == self.device
            array = array_api_strict().asarray(array, device=array_api_strict().Device("CPU_DEVICE"))
        return np.asarray(array)


LIBRARIES = [Library(name) for name in ("torch", "numpy", "strict", "strict second device")]
libraries = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)


def laplacians(dtype=np.float64, members=MEMBERS, size=SIZE):
    rng = np.random.default_rng(0)
    weights = rng.random((members, size, size))
    weights = weights + weights.transpose(0, 2, 1)
    weights *= 1 - np.eye(size)
    return (weights.sum(axis=2)[:, :, None] * np.eye(size) - weights).astype(dtype)


def starts(dtype=np.float64, members=MEMBERS, size=SIZE):
    return np.random.default_rng(1).normal(size=(members, size)).astype(dtype)


def constants(dtype=np.float64, members=MEMBERS, size=SIZE):
    return np.full((members, 1, size), size**-0.5, dtype=dtype)


def run(library, matrices, start, depth, *, deflate=None, tolerance=0.0):
    held = library.make(matrices)
    xp = array_namespace(held)
    state = tridiagonalise(
        lambda x: xp.sum(held * x[:, None, :], axis=-1),
        library.make(start),
        depth,
        deflate=None if deflate is None else library.make(deflate),
        tolerance=tolerance,
    )
    return type(state)(*(library.read(field) for field in state))


def tridiagonal(state):
    inner = state.beta[:, :-1]
    matrix = np.stack([np.diag(a) for a in state.alpha])
    return matrix + np.stack([np.diag(b, 1) + np.diag(b, -1) for b in inner])


@libraries
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("depth", [1, 2, 7, 20, 33, 39])
def test_identity(library, dtype, depth):
    """L Qᵀ = Qᵀ T + r eᵀ, Q Qᵀ = I, Q 1 = 0 and Q r = 0."""
    matrices, ulp = laplacians(dtype), np.finfo(dtype).eps
    state = run(library, matrices, starts(dtype), depth, deflate=constants(dtype))
    assert state.basis.dtype == dtype
    assert (state.steps == depth).all()
    basis, last = state.basis.astype(np.float64), np.zeros((1, 1, depth))
    last[..., -1] = 1
    difference = matrices @ basis.transpose(0, 2, 1)
    difference -= basis.transpose(0, 2, 1) @ tridiagonal(state) + state.remainder[:, :, None] * last
    assert np.abs(difference).max() <= 16 * ulp * np.abs(matrices).sum(axis=2).max()
    assert np.abs(basis @ basis.transpose(0, 2, 1) - np.eye(depth)).max() <= 8 * ulp
    assert np.abs(basis.sum(axis=2)).max() <= 8 * ulp * SIZE**0.5
    # At full depth the remainder is rounding itself, and has no direction.
    size_of_rest = np.abs(matrices).max() if depth == SIZE - 1 else np.abs(state.remainder).max()
    assert np.abs(basis @ state.remainder[:, :, None]).max() <= 8 * ulp * size_of_rest * SIZE
    np.testing.assert_allclose(state.beta[:, -1], np.linalg.norm(state.remainder, axis=1), rtol=1e-5, atol=1e-30)


@libraries
def test_all_libraries_agree(library):
    one = run(LIBRARIES[0], laplacians(), starts(), 25, deflate=constants())
    other = run(library, laplacians(), starts(), 25, deflate=constants())
    np.testing.assert_allclose(other.alpha, one.alpha, rtol=1e-9)
    np.testing.assert_allclose(other.beta, one.beta, rtol=1e-6)


@libraries
def test_full_depth_has_the_spectrum(library):
    state = run(library, laplacians(), starts(), 10**6, deflate=constants())
    assert state.alpha.shape == (MEMBERS, SIZE - 1)
    found = np.linalg.eigvalsh(tridiagonal(state))
    np.testing.assert_allclose(found, np.linalg.eigvalsh(laplacians())[:, 1:], rtol=1e-10)


@libraries
def test_breakdown_stops_one_member_alone(library):
    """An eigenvector, a vector in an invariant plane, and one in no small subspace; the third never notices."""
    matrices, start = laplacians(), starts()
    matrices[0] = np.eye(SIZE)
    matrices[1] = np.diag([2.0, 5.0, *([9.0] * (SIZE - 2))])
    start[1] = np.eye(SIZE)[0] + np.eye(SIZE)[1]
    state = run(library, matrices, start, 12, tolerance=1e-12)
    assert state.steps.tolist() == [1, 2, 12]
    assert all(np.isfinite(field).all() for field in state)
    np.testing.assert_allclose(state.alpha[0, 0], 1.0)
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal(state)[1, :2, :2]), [2, 5])
    for member, steps in ((0, 1), (1, 2)):
        assert not state.alpha[member, steps:].any()
        assert not state.beta[member, steps - 1 :].any()
        assert not state.basis[member, steps:].any()
        assert not state.remainder[member].any()
    alone = run(library, matrices[2:], start[2:], 12, tolerance=1e-12)
    for together, single in zip(state, alone, strict=True):
        np.testing.assert_array_equal(together[2], single[0])


@libraries
def test_zero_matrix_and_zero_start(library):
    state = run(library, np.zeros((2, 6, 6)), np.stack((np.ones(6), np.zeros(6))), 4, tolerance=1e-15)
    assert state.steps.tolist() == [1, 0]
    assert all(np.isfinite(field).all() for field in state)


def test_a_deflated_vector_stays_out():
    """The largest eigenvalue belongs to the deflated vector, and rounding would bring it back."""
    ones = np.ones((SIZE, SIZE)) / SIZE
    matrices = (laplacians(np.float32) / SIZE + 1e4 * ones).astype(np.float32)
    state = run(LIBRARIES[0], matrices, starts(np.float32), 30, deflate=constants(np.float32))
    assert np.abs(state.basis.sum(axis=2)).max() <= 1e-5
    assert np.linalg.eigvalsh(tridiagonal(state)).max() < 10


def test_extending_is_the_same_as_going_at_once():
    held, start = torch.from_numpy(laplacians()), torch.from_numpy(starts())
    lanczos = Lanczos(lambda x: (held * x[:, None, :]).sum(dim=-1), start, deflate=torch.from_numpy(constants()))
    lanczos.extend(3)
    in_parts = lanczos.extend(36)
    at_once = run(LIBRARIES[0], laplacians(), starts(), 36, deflate=constants())
    for part, whole in zip(in_parts, at_once, strict=True):
        np.testing.assert_array_equal(part.numpy(), whole)


@libraries
def test_going_on_with_some_members_changes_no_bit(library):
    matrices = laplacians(np.float32)
    held = library.make(matrices)
    xp = array_namespace(held)
    lanczos = Lanczos(lambda x: xp.sum(held * x[:, None, :], axis=-1), library.make(starts(np.float32)))
    lanczos.extend(5)
    part = library.make(matrices[[0, 2]])
    lanczos.take(lambda x: xp.sum(part * x[:, None, :], axis=-1), library.make(np.array([0, 2])))
    state = lanczos.extend(20)
    whole = run(library, matrices, starts(np.float32), 20)
    for some, every in zip(state, whole, strict=True):
        np.testing.assert_array_equal(library.read(some), every[[0, 2]])


def test_start_is_not_written_to():
    start = torch.from_numpy(starts())
    copy = start.clone()
    held = torch.from_numpy(laplacians())
    tridiagonalise(lambda x: (held * x[:, None, :]).sum(dim=-1), start, 5)
    assert torch.equal(start, copy)


@pytest.mark.parametrize("limit", [1, 8, 9, 100, 3000])
def test_checkpoints_end_at_the_limit(limit):
    depths = list(checkpoints(limit))
    assert depths[-1] == limit
    assert depths == sorted(set(depths))
    assert all(depth % 4 == 0 for depth in depths[:-1])

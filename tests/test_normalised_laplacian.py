"""The normalised Laplacian: against scipy's definition and generalised eigenvectors, and spectra known in advance."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.csgraph
import torch

from spectral_sampler import graph, limits
from spectral_sampler.errors import ArgumentError
from spectral_sampler.fiedler import Status, fiedler_of_affinity


def random_weights(rng, size, kind):
    """(N, N) ≥ 0, symmetric, every degree positive; degrees differ by orders of magnitude in "uneven"."""
    weights = rng.random((size, size))
    if kind == "sparse":
        weights *= rng.random((size, size)) < 4 / size
        weights += np.diag(np.full(size - 1, 0.1), 1)
    if kind == "uneven":
        parts = 10.0 ** rng.uniform(-3, 0, size=size)
        weights *= parts[:, None] * parts
    return np.triu(weights, 1) + np.triu(weights, 1).T


def truth(weights):
    """Values, and vectors y of unit length in columns, of L y = θ D y away from the constant vector, in float64."""
    sums = weights.sum(axis=1)
    kernel = scipy.linalg.null_space(np.sqrt(sums)[None])
    laplacian = scipy.sparse.csgraph.laplacian(weights, normed=True)
    values, inner = np.linalg.eigh(kernel.T @ laplacian @ kernel)
    vectors = (kernel @ inner) / np.sqrt(sums)[:, None]
    return values, vectors / np.linalg.norm(vectors, axis=0), np.abs(laplacian).sum(axis=1).max()


def solve(weights, dtype=torch.float64, **options):
    return fiedler_of_affinity(torch.as_tensor(weights).to(dtype), laplacian="normalised", **options)


def test_the_definition_is_scipys():
    for seed in range(10):
        weights = random_weights(np.random.default_rng(seed), 12, ("dense", "sparse", "uneven")[seed % 3])
        weights[seed % 12] = weights[:, seed % 12] = 0.0  # a row without edges
        expected = scipy.sparse.csgraph.laplacian(weights, normed=True)
        filled = weights + np.diag(np.full(12, 0.7))  # a diagonal that has to be ignored
        assert np.abs(graph.normalised_laplacian(torch.from_numpy(filled)).numpy() - expected).max() < 1e-14


@pytest.mark.parametrize("kind", ["dense", "sparse", "uneven", "none"])
def test_the_reflected_operator_has_the_constant_in_its_kernel_and_the_spectrum_of_the_laplacian(kind):
    size = 15
    weights = np.zeros((size, size)) if kind == "none" else random_weights(np.random.default_rng(3), size, kind)
    operator = graph.NormalisedLaplacian.of(torch.from_numpy(weights)[None].repeat(size, 1, 1))
    columns = operator.apply(torch.eye(size).double()).numpy()  # each member applied to one unit vector
    assert np.abs(columns.sum(axis=0)).max() < 1e-14
    assert np.abs(columns - columns.T).max() < 1e-14
    laplacian = scipy.sparse.csgraph.laplacian(weights, normed=True)
    assert np.abs(np.linalg.eigvalsh(columns) - np.linalg.eigvalsh(laplacian)).max() < 1e-13
    assert operator.norm.numpy() == pytest.approx(np.abs(laplacian).sum(axis=1).max())
    members = torch.tensor([4, 2])
    vectors = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(operator.take(members).apply(vectors[members]), operator.apply(vectors)[members])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["dense", "sparse", "uneven"])
def test_random_graphs(kind, dtype):
    """y, θ, residual, gap, status and the bound on the error, in units of rounding."""
    ulp, checked = torch.finfo(dtype).eps, 0
    for size in (2, 3, 4, 7, 16, 33, 64, 130, 200):
        rng = np.random.default_rng([size, len(kind)])
        weights = torch.from_numpy(np.stack([random_weights(rng, size, kind) for _ in range(8)])).to(dtype)
        result = solve(weights, dtype)
        for b, member in enumerate(weights.double().numpy()):
            values, vectors, norm = truth(member)
            y, sums = result.vector[b].double().numpy(), member.sum(axis=1)
            theta, unit = float(result.value[b]), ulp * norm
            assert abs(np.linalg.norm(y) - 1) <= 4 * ulp
            u = np.sqrt(sums) * y
            u /= np.linalg.norm(u)
            rest = scipy.sparse.csgraph.laplacian(member, normed=True) @ u - theta * u
            assert np.linalg.norm(rest) <= limits.RESIDUAL * unit
            assert abs(u @ np.sqrt(sums)) / np.sqrt(sums.sum()) <= 8 * ulp, "not away from the kernel"
            assert abs(theta - values[0]) <= limits.RESIDUAL * unit
            status = int(result.status[b])
            assert status & Status.CONVERGED
            assert not status & (Status.INDEFINITE | Status.INVALID)
            if size > 2:
                gap = (values[1] - values[0]) / norm
                assert bool(status & Status.DEGENERATE) == (gap <= limits.GAP * ulp) or gap < 4 * limits.GAP * ulp
                assert float(result.gap[b]) <= 1.1 * gap + 4 * ulp
            if not status & Status.DEGENERATE:
                exact = vectors[:, 0] * np.sign(vectors[:, 0] @ y)
                slack = 4 * ulp if dtype == torch.float32 else 4 * float(result.error[b])  # float64: truth errs as well
                assert np.ptp(y - exact) <= float(result.error[b]) + slack
                checked += 1
    assert checked >= 60


def test_the_error_grows_by_what_the_degrees_stretch():
    """Rows of tiny degree have large entries in y, and rounding of u is worth as much more there."""
    stretched = 0
    for seed in range(20):
        weights = random_weights(np.random.default_rng(seed), 40, "uneven").astype(np.float32)
        result = solve(weights, torch.float32)
        plain = 2.0 * float(result.residual) / float(result.gap)
        scale = 1 / np.sqrt(weights.sum(axis=1, dtype=np.float64))
        u = result.vector.numpy() / scale
        factor = scale.max() * np.linalg.norm(u)  # max(D^{-1/2}) ‖u‖ / ‖D^{-1/2} u‖, the latter 1
        assert float(result.error) == pytest.approx(min(plain * factor, limits.WORST), rel=1e-3)
        stretched += factor > 2
    assert stretched > 10


def path(size):
    return torch.diag(torch.ones(size - 1), 1) + torch.diag(torch.ones(size - 1), -1)


def cycle(size):
    return torch.roll(torch.eye(size), 1, 0) + torch.roll(torch.eye(size), -1, 0)


def star(size):
    weights = torch.zeros(size, size)
    weights[0, 1:] = weights[1:, 0] = 1
    return weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("weights", "value", "degenerate"),
    [
        *((path(n), 1 - np.cos(np.pi / (n - 1)), False) for n in (2, 3, 5, 40, 120)),
        *((cycle(n), 1 - np.cos(2 * np.pi / n), True) for n in (5, 12, 41)),
        *((torch.ones(n, n), n / (n - 1), n > 2) for n in (2, 3, 30)),
        (star(12), 1.0, True),
        (torch.block_diag(torch.ones(4, 4), torch.ones(9, 9)), 0.0, False),
        (torch.block_diag(*[torch.ones(4, 4)] * 3), 0.0, True),
    ],
)
def test_known_spectrum(weights, value, degenerate, dtype):
    result = solve(weights, dtype)
    assert float(result.value) == pytest.approx(value, abs=32 * torch.finfo(dtype).eps)
    assert bool(int(result.status) & Status.DEGENERATE) == degenerate
    assert float(result.error) == pytest.approx(8**0.5) if degenerate else float(result.error) < 1e-2


def test_a_path_is_a_cosine_and_not_its_product_with_the_roots_of_the_degrees():
    exact = torch.cos(torch.pi * torch.arange(30).double() / 29)
    assert abs(float(solve(path(30)).vector @ exact / exact.norm())) == pytest.approx(1.0, abs=1e-13)


def test_two_components_are_told_apart_and_the_smaller_leads():
    weights = torch.block_diag(torch.rand(20, 20, generator=torch.Generator().manual_seed(0)), torch.ones(6, 6))
    y = solve(weights + weights.T).vector.numpy()
    assert np.ptp(y[:20]) < 1e-13
    assert np.ptp(y[20:]) < 1e-13
    assert y[20:].min() > 0 > y[:20].max()


def test_the_sign_is_the_canonical_one_of_what_is_returned():
    rng = np.random.default_rng(8)
    weights = np.stack([random_weights(rng, 30, "uneven") for _ in range(40)])
    y = solve(weights).vector.numpy()
    skew = 30**0.5 * (y**3).sum(axis=1)
    assert (skew[np.abs(skew) > 1e-2] > 0).all()
    assert (np.abs(skew) > 1e-2).sum() > 30
    sums = weights.sum(axis=2) / weights.sum(axis=2).max(axis=1, keepdims=True)
    signs = graph.canonical_sign(*map(torch.from_numpy, (y, sums)), torch.arange(30).expand(40, 30), torch.ones(40))
    assert (signs == 1).all()


def test_rows_without_edges():
    weights = random_weights(np.random.default_rng(0), 9, "dense")
    weights[4] = weights[:, 4] = 0.0
    one = solve(weights)
    assert one.vector.numpy() == pytest.approx(np.eye(9)[4], abs=1e-14)
    assert float(one.value) == pytest.approx(0.0, abs=1e-14)
    assert not int(one.status) & Status.DEGENERATE
    weights[7] = weights[:, 7] = 0.0
    assert int(solve(weights).status) & Status.DEGENERATE
    for size in (2, 5):
        none = solve(np.zeros((size, size)))
        assert torch.isfinite(none.vector).all()
        assert bool(int(none.status) & Status.DEGENERATE) == (size > 2)
        assert int(none.status) & Status.CONVERGED


def test_the_unit_of_the_weights_does_not_matter():
    weights = random_weights(np.random.default_rng(1), 25, "uneven")
    plain = solve(weights, torch.float32)
    for factor in (2.0**-90, 2.0**90):
        other = solve(weights * factor, torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_members_do_not_see_each_other_and_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(2)
    kinds = ["dense", "sparse", "uneven", "sparse"]
    weights = torch.from_numpy(np.stack([random_weights(rng, 30, kind) for kind in kinds]))
    weights[3] = 0.0
    together = solve(weights)
    for b in range(4):
        alone = solve(weights[b : b + 1])
        assert all(torch.equal(field[b : b + 1], one) for field, one in zip(together, alone, strict=True))
    order = torch.from_numpy(rng.permutation(30))
    moved = solve(weights[:3, order][:, :, order], indices=order)
    assert torch.allclose(moved.vector, together.vector[:3, order], atol=1e-11)


def test_refusals():
    weights = torch.ones(4, 4)
    with pytest.raises(ArgumentError, match=r"^laplacian must be one of .*got 'random'"):
        fiedler_of_affinity(weights, laplacian="random")
    weights[0, 1] = weights[1, 0] = -1e-3
    with pytest.raises(ArgumentError, match=r"^affinity must be non-negative for the normalised Laplacian, got -0.001"):
        solve(weights)
    assert int(fiedler_of_affinity(weights).status) & Status.CONVERGED
    negative_diagonal = torch.ones(4, 4) - 3 * torch.eye(4)
    assert float(solve(negative_diagonal).value) == pytest.approx(4 / 3)

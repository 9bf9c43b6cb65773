"""The definition against arithmetic that is done differently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_cases import orthonormal_rotated, post_relu, sentences

from spectral_sampler import graph, limits


@pytest.fixture
def features():
    return torch.from_numpy(np.stack([sentences(seed, 30) for seed in range(4)]))


def test_unit_rows(features):
    units = graph.unit_rows(features)
    expected = torch.nn.functional.normalize(features.double(), dim=-1)
    assert units.dtype == torch.float32
    assert torch.allclose(units.double(), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("exponent", [-149, -141, -126, -60, 60, 119])
def test_unit_rows_at_every_scale(exponent):
    rows = torch.round(torch.from_numpy(post_relu(0)) * 50).clamp(1, 255)
    scaled = (rows.double() * 2.0**exponent).float()
    assert torch.equal(graph.unit_rows(scaled), graph.unit_rows(rows))


def test_a_row_of_every_magnitude_is_a_unit_row():
    row = torch.tensor([[3e38, 3e38, -3e38], [1e-45, 0.0, 0.0], [1e38, 1e-38, 1.0], [65504.0, 65504.0, 65504.0]])
    assert torch.allclose(graph.unit_rows(row).norm(dim=1), torch.ones(4), atol=1e-6)
    half = torch.full((2, 4), 65504.0, dtype=torch.float16)
    assert torch.allclose(graph.unit_rows(half), torch.full((2, 4), 0.5))


def test_dtypes():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool, torch.uint8):
        assert graph.unit_rows(torch.ones(2, 3, dtype=dtype)).dtype == torch.float32
    assert graph.unit_rows(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_faulty_rows_become_zeros():
    inf, nan = torch.inf, torch.nan
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0], [nan, 1.0], [inf, 1.0], [-inf, nan], [0.0, 1e-45]])
    assert graph.faulty_rows(rows).tolist() == [False, True, True, True, True, False]
    assert graph.unit_rows(rows)[1:5].eq(0).all()
    assert graph.faulty_rows(torch.full((1, 2), 1e300, dtype=torch.float64)).tolist() == [False]


def test_affinity_is_the_cosine(features):
    affinity = graph.cosine_affinity(features)
    for member, rows in zip(affinity, features, strict=True):
        for i, j in ((0, 0), (3, 7), (29, 1)):
            exact = torch.nn.functional.cosine_similarity(rows[i].double(), rows[j].double(), dim=0)
            assert float(member[i, j]) == pytest.approx(float(exact), abs=1e-6)
    assert graph.cosine_affinity(features[0]).shape == (30, 30)


def test_degrees_keep_their_digits_where_the_diagonal_would_cancel_them():
    """Nearly orthogonal rows: degrees of 1e-6 beside self-similarities of 1."""
    affinity = torch.eye(50) + 1e-8 * torch.rand(50, 50, generator=torch.Generator().manual_seed(0))
    exact = (affinity.double() * (1 - torch.eye(50))).sum(dim=1)
    assert ((graph.degrees(affinity) - exact) / exact).abs().max() < 1e-6
    assert ((affinity.sum(dim=1) - 1 - exact) / exact).abs().max() > 1e-2  # what the plain sum would have given


def test_laplacian_has_the_constant_vector_in_its_kernel(features):
    affinity = graph.cosine_affinity(features.double())
    laplacian = graph.laplacian(affinity)
    assert laplacian.sum(dim=-1).abs().max() < 1e-13
    assert torch.allclose(laplacian, torch.diag_embed(affinity.sum(dim=-1)) - affinity, atol=1e-13)
    assert torch.allclose(graph.laplacian_norm(affinity), torch.linalg.matrix_norm(laplacian, torch.inf))
    moved = affinity + 3.0 * torch.eye(30)
    assert torch.allclose(graph.laplacian(moved), laplacian, atol=1e-13)


def test_dense_operator(features):
    affinity = graph.cosine_affinity(features)
    vectors = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    operator = graph.DenseLaplacian.of(affinity.clone())
    exact = (graph.laplacian(affinity.double()) @ vectors.double()[:, :, None])[:, :, 0]
    assert torch.allclose(operator.apply(vectors).double(), exact, atol=1e-5)
    assert torch.allclose(operator.norm, graph.laplacian_norm(affinity))
    assert torch.allclose(operator.degrees, graph.degrees(affinity))
    part = operator.take(torch.tensor([2, 0]))
    assert torch.equal(part.apply(vectors[[2, 0]]), operator.apply(vectors)[[2, 0]])


@pytest.mark.parametrize("builder", [post_relu, sentences, orthonormal_rotated])
def test_factored_operator(builder):
    features = torch.from_numpy(builder(0)).double()
    affinity = graph.cosine_affinity(features)
    operator = graph.FactoredLaplacian(graph.unit_rows(features))
    vector = torch.randn(1, len(features), generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(operator.apply(vector)[0], graph.laplacian(affinity) @ vector[0], atol=1e-12)
    assert torch.allclose(operator.degrees[0], graph.degrees(affinity), atol=1e-12)
    norm = float(graph.laplacian_norm(affinity))
    if builder is post_relu:  # no negative cosine: exact
        assert float(operator.norm) == pytest.approx(norm, rel=1e-12)
    assert 0.5 * norm <= float(operator.norm) <= max(1.0, norm * (1 + 1e-12))


@pytest.mark.parametrize(("size", "width"), [(2, 33), (3, 33), (17, 7), (65, 33)])
def test_gram_does_not_depend_on_where_its_operand_lies(size, width):
    base = graph.unit_rows(torch.randn(size, width, generator=torch.Generator().manual_seed(0)))
    storage = torch.zeros(size * width + 16)
    for offset in range(16):
        moved = storage[offset : offset + size * width].view(size, width).copy_(base)
        assert torch.equal(graph.gram(moved), graph.gram(base))


# --- start vectors and sign ---


def lowbias32(x):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 16)


def test_start_vectors_are_the_documented_hash():
    indices = torch.tensor([[5, 9, 2**40 + 5], [0, 1, 2]])
    for salt in (0, limits.PROBE_SALT):
        start = graph.start_vectors(indices, salt)
        for member, low in zip(range(2), (5, 0), strict=True):
            expected = [(lowbias32((int(i) - low + 1 + salt) % 2**32) >> 8) / 2**23 - 1 for i in indices[member]]
            assert start[member].tolist() == expected


def test_start_vectors_are_white():
    start = graph.start_vectors(torch.arange(4096)[None])[0].double()
    probe = graph.start_vectors(torch.arange(4096)[None], limits.PROBE_SALT)[0].double()
    assert abs(float(start.mean())) < 0.05
    assert float(start.var()) == pytest.approx(1 / 3, rel=0.1)
    spectrum = torch.fft.rfft(start - start.mean()).abs() / 4096**0.5
    assert float(spectrum.max()) < 3
    assert abs(float((start * probe).mean())) < 0.03


def test_start_vectors_follow_a_permutation_and_a_shift():
    indices = torch.tensor([[17, 3, 250, 8]])
    order = [2, 0, 3, 1]
    assert torch.equal(graph.start_vectors(indices)[:, order], graph.start_vectors(indices[:, order]))
    assert torch.equal(graph.start_vectors(indices), graph.start_vectors(indices + 1000))


def sign(vector, degrees=None, indices=None):
    v = torch.tensor([vector], dtype=torch.float64)
    v = v / v.norm()
    size = v.shape[1]
    d = torch.ones(1, size, dtype=torch.float64) if degrees is None else torch.tensor([degrees], dtype=torch.float64)
    i = torch.arange(size)[None] if indices is None else torch.tensor([indices])
    return float(graph.canonical_sign(v, d, i, torch.tensor([8.0], dtype=torch.float64)))


def test_sign_the_small_far_group_is_positive():
    assert sign([3.0, -1.0, -1.0, -1.0]) == 1
    assert sign([-3.0, 1.0, 1.0, 1.0], degrees=[9, 1, 1, 1], indices=[9, 1, 2, 3]) == -1


def test_sign_low_degrees_are_positive_where_the_skew_is_nothing():
    assert sign([1.0, -1.0, 1.0, -1.0], degrees=[1, 2, 1, 2], indices=[3, 2, 1, 0]) == 1
    assert sign([1.0, -1.0, 1.0, -1.0], degrees=[2, 1, 2, 1], indices=[0, 1, 2, 3]) == -1


def test_sign_the_lowest_index_is_positive_where_degrees_say_nothing():
    assert sign([1.0, -1.0, 1.0, -1.0], indices=[5, 4, 9, 8]) == -1
    assert sign([1.0, -1.0, 1.0, -1.0], indices=[4, 5, 9, 8]) == 1
    assert sign([1.0, -1.0], degrees=[1.0 + 1e-15, 1.0], indices=[0, 1]) == 1, "rounding of the degrees decided"
    assert sign([1e-9, -1.0, 1.0, 0.0], indices=[0, 1, 2, 3]) == -1, "a row on no side decided"

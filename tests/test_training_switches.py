"""What a training script switches for itself must not reach the graphs that no kernel makes.

Autocast, a default device, products in TF32 or bfloat16: the other similarities are eager PyTorch and would notice."""

import numpy as np
import pytest
import torch

from spectral_sampler import graph, precision
from spectral_sampler.fiedler import fiedler_of_affinity
from spectral_sampler.selection import similarity

ROWS = torch.randn(60, 512, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(60).reshape(2, 30)
NAMES = sorted(similarity.SIMILARITIES.keys() - {similarity.COSINE})


def solve(features, name):
    return similarity.solve_similarity(features, INDICES, similarity.Graph(name), "auto")


def weights(monkeypatch, name, features=ROWS):
    """The affinities (B, N, N) that are solved."""
    seen = []

    def solved(affinity, **options):
        seen.append(affinity)
        return fiedler_of_affinity(affinity, **options)

    monkeypatch.setattr(similarity, "fiedler_of_affinity", solved)
    solve(features, name)
    return seen[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_autocast_changes_no_weight_and_no_vector(monkeypatch, name, dtype):
    features = ROWS.to(dtype)
    plain = solve(features, name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = solve(features, name)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))
    expected = weights(monkeypatch, name, features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(weights(monkeypatch, name, features), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_default_device_changes_no_weight(monkeypatch, name):
    expected = weights(monkeypatch, name)
    with torch.device("meta"):
        assert torch.equal(weights(monkeypatch, name), expected)


@pytest.fixture(params=["high", "medium"])
def loosened(request):
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("loosened")
@pytest.mark.parametrize("name", NAMES)
def test_loose_products_loosen_no_weight(monkeypatch, name):
    # Whether this processor has loose products or not: no float32 product of 512 columns is within one rounding.
    truth = weights(monkeypatch, name, ROWS.double())
    found = weights(monkeypatch, name)
    assert found.dtype == torch.float32
    assert float((found - truth).abs().max()) <= 2.0**-24 * float(truth.abs().max())
    units = graph.unit_rows(ROWS)
    assert float((units @ units.T - graph.cosine_affinity(ROWS.double())).abs().max()) > 2.0**-24


@pytest.mark.usefixtures("loosened")
def test_the_training_loops_own_setting_stays():
    before = torch.get_float32_matmul_precision()
    assert precision.unloosened(ROWS).dtype == torch.float64
    assert precision.unloosened(ROWS.half()).dtype == torch.float16
    assert torch.get_float32_matmul_precision() == before


def test_where_products_are_exact_operands_are_left_alone():
    torch.set_float32_matmul_precision("highest")
    assert precision.unloosened(ROWS) is ROWS
    assert np.shares_memory(precision.unloosened(ROWS).numpy(), ROWS.numpy())

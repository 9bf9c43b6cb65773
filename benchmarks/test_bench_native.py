"""The native operators under pytest-benchmark, to compare two commits: pytest benchmarks --benchmark-autosave.

Ratios to peers come from `make bench`, which interleaves; these are absolute times of one machine.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks import problems
from spectral_sampler.kernels import native

pytestmark = pytest.mark.skipif(native.unusable_reason() is not None, reason="native is not built")

SHAPES = [(64, 128, 2048), (64, 128, 512), (64, 64, 1280), (16, 256, 384), (1, 1024, 2048)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_solve(benchmark, shape, dtype):
    members, size, width = shape
    case = problems.problem("", problems.rectified(4096, width).to(dtype), members, size)
    result = benchmark(native.solve, case.store, case.indices)
    assert float(result.residual.max()) < 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_graph(benchmark, shape):
    members, size, width = shape
    case = problems.problem("", problems.rectified(4096, width), members, size)
    affinity, _ = benchmark(native.cosine_graph, case.store, case.indices)
    assert affinity.shape == (members, size, size)

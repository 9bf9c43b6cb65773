"""What the precisions of the Triton backend do to a ranking, with the tensor cores' rounding emulated in torch.

Triton's interpreter ignores the precision of tl.dot, so this is the accuracy statement: cosines from rounded
features, sums in fp32, then the definition's own solver, against float64. On a GPU tests/gpu measures the same.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_cases import post_relu, sentences

from spectral_sampler.fiedler import fiedler_of_affinity, fiedler_vector
from spectral_sampler.graph import unit_rows

SIZE, WIDTH, MEMBERS, KEPT = 128, 512, 24, 38


def tf32(x):
    """Ten bits of fraction, to nearest, ties away from zero, as cvt.rna.tf32 does."""
    return ((x.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def truncated(x):
    return (x.view(torch.int32) & -0x2000).view(torch.float32)


def gram(x, precision):
    if precision == "bf16":
        x = x.to(torch.bfloat16).float()
    elif precision == "fp16":
        x = x.half().float()
    elif precision == "tf32":
        x = tf32(x)
    elif precision == "tf32x3":
        high = truncated(x)
        low = truncated(x - high)
        return high @ low.mT + low @ high.mT + high @ high.mT
    return x @ x.mT


def affinity(features, precision):
    """As the kernels do: rows scaled to near 1, product, then division by the product's own diagonal."""
    scaled = features / 2.0 ** features.abs().amax(dim=-1, keepdim=True).log2().floor()
    product = gram(scaled, precision)
    length = product.diagonal(dim1=-2, dim2=-1).sqrt()
    return product / (length[:, :, None] * length[:, None, :])


def overlaps(kind, precision):
    features = torch.from_numpy(np.stack([kind(seed, SIZE, WIDTH) for seed in range(MEMBERS)]))
    found = fiedler_of_affinity(affinity(features, precision)).vector
    exact = fiedler_vector(features.double(), backend="eager").vector
    pairs = zip(found.topk(KEPT).indices.tolist(), exact.topk(KEPT).indices.tolist(), strict=True)
    return np.array([len(set(a) & set(b)) / KEPT for a, b in pairs])


@pytest.mark.parametrize("kind", [post_relu, sentences])
@pytest.mark.parametrize(
    ("precision", "mean", "worst"),
    [("ieee", 1.0, 1.0), ("tf32x3", 0.998, 0.97), ("fp16", 0.99, 0.94), ("tf32", 0.99, 0.94), ("bf16", 0.98, 0.9)],
)
def test_kept_share(kind, precision, mean, worst):
    kept = overlaps(kind, precision)
    assert kept.mean() >= mean, kept
    assert kept.min() >= worst, kept


def test_rounding_is_emulated():
    x = torch.tensor([1.0 + 2**-11, 1.0 + 2**-12, -1.0 - 2**-11, 3.14159274])
    assert tf32(x).tolist() == [1.0 + 2**-10, 1.0, -1.0 - 2**-10, 3.140625 + 2**-9 * (3.14159274 - 3.140625 >= 2**-10)]
    units = unit_rows(torch.from_numpy(post_relu(0, 32, 64)))
    exact = (units.double() @ units.double().T).float()
    errors = {name: (gram(units, name) - exact).abs().max().item() for name in ("tf32x3", "tf32", "bf16")}
    assert errors["tf32x3"] < 3e-6 < 1e-5 < errors["tf32"] < errors["bf16"] < 1e-2

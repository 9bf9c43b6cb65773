"""Features and candidate batches for the device check: enough of them that no cache holds what is read next."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.problems import rectified

_STORE_BYTES = 1 << 28  # of a store: several times the L2 cache of any device
_MOST_SETS = 256


def store(width: int, rows: int, device: torch.device, dtype: torch.dtype = torch.float16, seed: int = 0) -> Tensor:
    """Features (rows, width) on the device, none of them zero."""
    features = rectified(rows, width, seed, device).add_(1e-3)
    if width == 1:  # positive rows of one column are all the same row
        features = features - features.mean()
    return features.to(dtype)


def large_store(width: int, size: int, device: torch.device) -> Tensor:
    """A float16 store beyond every cache, for graphs of ``size`` rows."""
    return store(width, max(2 * size, _STORE_BYTES // (2 * width)), device, seed=width)


def index_sets(features: Tensor, members: int, size: int, cache: int) -> Tensor:
    """Candidate batches (K, members, size) that are windows of one permutation of the rows.

    K is such that they name three times ``cache`` bytes of rows, but at least 4 and at most 256. No batch names a row
    twice, and rows come again only after all others.
    """
    rows, width = features.shape
    each = members * size * width * features.element_size()
    count = max(4, min(_MOST_SETS, -(-3 * cache // each)))
    generator = torch.Generator(features.device).manual_seed(members + size)
    order = torch.randperm(rows, device=features.device, generator=generator)
    places = torch.arange(count * members * size, device=features.device) % rows
    return order[places].reshape(count, members, size)

"""Rows of a reference store by index, from a file that is mapped and from memory."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
import torch

from benchmarks import problems
from spectral_sampler import ReferenceStore

GATHERED = 2048  # rows: the candidates of a look-ahead of 16 batches of 128


@pytest.fixture(scope="module")
def stores(rows, own, tmp_path_factory) -> dict[str, ReferenceStore]:
    features = problems.rectified(131_072, 512).half() if own is None else rows.clone()  # theirs may be mapped
    in_memory = ReferenceStore.from_arrays(features)
    return {"mapped": in_memory.save(tmp_path_factory.mktemp("stores") / "store"), "in memory": in_memory}


WAYS = {
    "torch": lambda store, rows: store.features_tensor.index_select(0, rows),
    "NumPy": lambda store, rows: torch.from_numpy(store.features[rows.numpy()]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["mapped", "in memory"])
def test_gather(benchmark, beside_limit, stores, place, way):
    """Other rows in every round, until all have had their turn, lest a cache hold them; the file is in the system's."""
    store = stores[place]
    turns = torch.randperm(len(store), generator=torch.Generator().manual_seed(0)).split(GATHERED)
    rows = cycle(turns)
    benchmark.group = f"gather {len(turns[0]):,} rows of {len(store):,}, d={store.width}, {store.features.dtype}"
    found = benchmark.pedantic(
        WAYS[way], setup=lambda: ((store, next(rows)), {}), rounds=2 * len(turns), warmup_rounds=len(turns)
    )
    last = turns[(3 * len(turns) - 1) % len(turns) if benchmark.enabled else 0]
    wanted = np.stack([stores["in memory"].features[row] for row in last.tolist()])
    assert np.array_equal(found.numpy(), wanted)
    beside_limit("copy", 2 * wanted.nbytes, "copying as many bytes that lie together")

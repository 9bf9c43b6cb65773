"""10⁸ × 64 int8 in eight parts, files of holes: opening, the first batch, rows by index beside one file's, memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.sparse_store import sharded, sparse
from spectral_sampler import ReferenceStore, SpectralBatchSampler
from spectral_sampler.selection.protocol import Scores
from spectral_sampler.selection.saln import SALN

ROWS, WIDTH, PARTS = 10**8, 64, 8
BATCHES, CANDIDATES, AHEAD = 1000, 128, 16
MEMORY = 2e9  # bytes resident after 1,000 batches


class Reading(SALN):
    """What a graph's selection reads, without the graph: zeros have none."""

    def score(self, store, indices, *, backend):  # noqa: ARG002
        rows = store.candidate_rows(torch.from_numpy(indices))
        values = rows.features[rows.rows].sum(dim=2).double().numpy()
        none = np.zeros(len(indices))
        return Scores(values, none, none.astype(np.int64), none.astype(np.int64))


def resident() -> int:
    """Bytes of this process in memory, pages of mapped files included."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) << 10


@pytest.fixture(scope="module")
def places(own, tmp_path_factory) -> dict[str, Path]:
    if own is not None:
        pytest.skip("of zeros, whatever features are given")
    folder = tmp_path_factory.mktemp("sparse")
    return {"sharded": sharded(folder / "parts", ROWS, WIDTH, PARTS), "plain": sparse(folder / "plain", ROWS, WIDTH)}


def test_open(benchmark, places):
    """The manifests, sizes and headers of all parts are compared; target: within a second."""
    store = benchmark.pedantic(ReferenceStore.open, (places["sharded"],), rounds=5)
    assert store.features.shape == (ROWS, WIDTH)
    assert len(store.stores) == PARTS


def test_first_batch(benchmark, places):
    """Opened, a sampler made, one look-ahead gathered; target: within a second."""

    def first():
        store = ReferenceStore.open(places["sharded"])
        return next(
            iter(SpectralBatchSampler(store, CANDIDATES, selection=Reading(), lookahead=AHEAD, keep_ratio=0.25))
        )

    assert len(benchmark.pedantic(first, rounds=1)) == CANDIDATES // 4


# The parts first: what one file leaves resident would count as theirs.
@pytest.mark.parametrize("place", ["sharded", "plain"])
def test_gather(benchmark, places, place):
    """The rows of 1,000 batches, 16 at a time, drawn anew each time; target: at least half the rate of `index_select`
    from one mapped file of int8, which neither finds parts nor scales anything."""
    store = ReferenceStore.open(places[place])
    raw = torch.from_numpy(store.parts[0].stored)
    ways = {
        "sharded": lambda at: store.candidate_rows(at).features,
        "plain": lambda at: raw.index_select(0, at.view(-1)),
    }
    generator = torch.Generator().manual_seed(0)
    turns = iter(torch.randint(ROWS, (BATCHES // AHEAD + 2, AHEAD, CANDIDATES), generator=generator))
    benchmark.group = f"gather {AHEAD} x {CANDIDATES} rows of {ROWS:,}, d={WIDTH}, int8"
    found = benchmark.pedantic(
        ways[place], setup=lambda: ((next(turns),), {}), rounds=BATCHES // AHEAD + 1, warmup_rounds=1
    )
    assert found.shape == (AHEAD * CANDIDATES, WIDTH)
    assert not found.any()
    benchmark.extra_info["resident_bytes"] = resident()
    print(f"\n{place}: {resident() / 1e9:.2f} GB resident")
    assert place == "plain" or resident() < MEMORY

"""A store four times as large as the address space that its process may have: rows are read, and training goes on."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sparse_store import sparse
from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, manifest
from spectral_sampler.store.unmapped import Unmapped

resource = pytest.importorskip("resource")
WIDTH, VISITED, SPARE = 4096, 256, 256 << 20
TRAIN = """
import json, logging, resource, sys
import torch
from torch.utils.data import DataLoader, Dataset
from spectral_sampler import ReferenceStore, SALN, SpectralBatchSampler
path, visited, cap = sys.argv[1], *map(int, sys.argv[2:])
if cap:
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
logging.basicConfig(level=logging.WARNING)
store = ReferenceStore.open(path, verify=False)
rows = [number * (len(store) // visited) for number in range(visited)]
lists = []

class Numbers(Dataset):
    def __len__(self):
        return len(store)
    def __getitems__(self, batch):
        lists.append(batch)
        return [(torch.tensor([row % 7.0]), torch.tensor([row % 3.0])) for row in batch]

layer = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
sampler = SpectralBatchSampler(store, 64, selection=SALN(), sampler=rows, keep_ratio=0.5)
for inputs, targets in DataLoader(Numbers(), batch_sampler=sampler):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(layer(inputs), targets).backward()
    optimizer.step()
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"lists": lists, "peak": int(fields["VmPeak"].split()[0]) << 10}))
"""


def train(path, cap=0):
    command = [sys.executable, "-c", TRAIN, str(path), str(VISITED), str(cap)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def visited_store(path, rows):
    """Zeros that take no room, but for the rows that are visited."""
    sparse(path, rows, WIDTH)
    generator = np.random.default_rng(0)
    for name, dtype, width in (("features", "i1", WIDTH), ("scales", "<f4", 1)):
        with (path / f"{name}.npy").open("r+b") as file:
            for number in range(VISITED):
                file.seek(128 + number * (rows // VISITED) * width * np.dtype(dtype).itemsize)
                file.write(generator.integers(1, 100, width).astype(dtype).tobytes())
    return path


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of address space as Linux has it")
def test_a_store_of_four_times_the_address_space_trains(tmp_path):
    small, _ = train(visited_store(tmp_path / "small", 4 * VISITED))
    cap = small["peak"] + SPARE
    large = visited_store(tmp_path / "large", 4 * cap // WIDTH)
    assert (large / "features.npy").stat().st_size > 4 * cap
    mapped, silent = train(large)
    read, said = train(large, cap)
    assert read["peak"] <= cap < mapped["peak"]
    assert read["lists"] == mapped["lists"] != []
    assert silent == ""
    assert said.count("is too large for this process to map") == 1


@pytest.fixture
def unmapped(tmp_path, monkeypatch):
    """A store of 50 rows, opened where nothing can be mapped, and what it was made of."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(50, 6)).astype("f4")
    store = ReferenceStore.from_arrays(rows, generator.random(50), np.arange(50) % 5)
    store.save(tmp_path / "s")

    def refused(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(manifest, "_mapped", refused)
    return ReferenceStore.open(tmp_path / "s", verify=True), store


def test_rows_are_those_of_the_file(unmapped, tmp_path):
    found, store = unmapped
    assert isinstance(found.parts[0].stored, Unmapped)
    for rows in ([3], [0, 1, 2, 9, 8, 7, 49], list(range(50)), [5, 5, 6], []):
        assert np.array_equal(found.features[rows], store.features[rows])
    assert np.array_equal(found.losses, store.losses)
    assert np.array_equal(found.labels, store.labels)
    found.save(tmp_path / "copy")
    assert ReferenceStore.open(tmp_path / "copy", verify=True).fingerprint == store.fingerprint
    found.labels[0] = 3  # torch sees writable memory, and the file stays as it is
    assert ReferenceStore.open(tmp_path / "s", verify=True).fingerprint == store.fingerprint


def test_damage_is_seen_without_a_mapping(unmapped, tmp_path):
    found, _ = unmapped
    name = tmp_path / "s" / "features.npy"
    whole = name.read_bytes()
    name.write_bytes(whole[:-30] + bytes(30))
    with pytest.raises(StoreError, match="changed after it was written"):
        ReferenceStore.open(tmp_path / "s", verify=True)
    name.write_bytes(whole[:700])
    with pytest.raises(StoreError, match="ends before row 40: it was truncated"):
        found.features[[40]]
    with pytest.raises(StoreError, match="has 700 bytes"):
        ReferenceStore.open(tmp_path / "s")


def test_files_are_closed_with_the_store(unmapped, tmp_path):
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        ReferenceStore.open(tmp_path / "s")
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_another_failure_is_no_reason_to_read(unmapped, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest, "_mapped", failing)
    with pytest.raises(StoreError, match=r"cannot read .*features\.npy: Input/output error"):
        ReferenceStore.open(tmp_path / "s")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory as Linux commits it")
def test_a_store_larger_than_memory_and_swap_is_mapped(tmp_path, caplog):
    """Copy-on-write counts as memory that may be needed, unless it is said that it will not be."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this machine commits no more than it has, whatever is said")
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    has = sum(int(fields[name].split()[0]) << 10 for name in ("MemTotal", "SwapTotal"))
    found = ReferenceStore.open(sparse(tmp_path / "s", 3 * has // WIDTH, WIDTH), verify=False)
    assert isinstance(found.parts[0].stored, np.ndarray)
    assert found.features[[5, len(found) - 1]].shape == (2, WIDTH)
    assert caplog.messages == []

"""An extraction that is interrupted, killed, shared, or found half done ends with the bits of one that was not."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from spectral_sampler.errors import StoreError
from spectral_sampler.extraction import extract
from spectral_sampler.store import ReferenceStore

ROWS, BATCH = 57, 8
CHUNKS = 8


class Interrupted(Exception):
    pass


class Source(Dataset):
    """Sample i as a function of i; raises when ``stop`` is read for a batch, after the two readings of probes."""

    def __init__(self, stop=None, pause=0.0):
        self.stop, self.pause, self.reads = stop, pause, {}

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        self.reads[index] = self.reads.get(index, 0) + 1
        if self.reads[index] > 2:
            time.sleep(self.pause)
            if index == self.stop:
                raise Interrupted
        return torch.randn(6, generator=torch.Generator().manual_seed(index)), index % 3


def a_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return extract(a_model(), Source(), tmp_path_factory.mktemp("whole"), batch_size=BATCH).fingerprint


def partial_of(path):
    (found,) = path.glob(".partial-*")
    return found


def chunks_read(dataset):
    """The chunks that were read after the two readings of the probes."""
    return sorted({index // BATCH for index, count in dataset.reads.items() if count > 2})


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_interrupted_at_every_chunk_and_resumed(tmp_path, whole, chunk):
    with pytest.raises(Interrupted):
        extract(a_model(), Source(stop=chunk * BATCH), tmp_path, batch_size=BATCH)
    with pytest.raises(StoreError, match="has not finished. Call from_model again" if chunk else "no readable"):
        ReferenceStore.open(tmp_path)
    dataset = Source()
    store = extract(a_model(), dataset, tmp_path, batch_size=BATCH)
    assert store.fingerprint == whole
    assert chunks_read(dataset) == list(range(chunk, CHUNKS))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "features.npy",
        "labels.npy",
        "losses.npy",
        "manifest.json",
    ]


def test_interrupted_again_and_again(tmp_path, whole):
    for chunk in range(1, CHUNKS):
        with pytest.raises(Interrupted):
            extract(a_model(), Source(stop=chunk * BATCH), tmp_path, batch_size=BATCH)
    assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole


def stopped(path, model=None, stop=5 * BATCH, **options):
    with pytest.raises(Interrupted):
        extract(model or a_model(), Source(stop=stop), path, **{"batch_size": BATCH, **options})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": a_model(1)}, "model"),
        ({"version": "2"}, "version"),
        ({"batch_size": 9}, "batch_size"),
        ({"loss": None}, "loss"),
    ],
)
def test_what_another_model_or_setting_left_is_not_mixed_in(tmp_path, whole, caplog, options, named):
    stopped(tmp_path, **options)
    dataset = Source()
    with caplog.at_level(logging.WARNING):
        store = extract(a_model(), dataset, tmp_path, batch_size=BATCH)
    assert f"starting over: the unfinished extraction at {tmp_path} had another {named}" in caplog.text
    assert store.fingerprint == whole
    assert chunks_read(dataset) == list(range(CHUNKS))


@pytest.mark.parametrize("name", ["features.npy", "losses.npy", "labels.npy", "chunks.bin"])
def test_torn_chunks_are_computed_again(tmp_path, whole, name):
    """As after a power cut that lost pages: chunk 3 is hashed, but its rows are not those that were hashed."""
    stopped(tmp_path)
    path = partial_of(tmp_path) / name
    data = bytearray(path.read_bytes())
    header = 0 if name == "chunks.bin" else 128
    row = (len(data) - header) // (CHUNKS if name == "chunks.bin" else ROWS)
    at = header + row * (3 if name == "chunks.bin" else 3 * BATCH)
    data[at] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, batch_size=BATCH).fingerprint == whole
    assert chunks_read(dataset) == [3, 5, 6, 7]


DAMAGED = [
    (name, damage)
    for name in ("features.npy", "chunks.bin", "settings.json")
    for damage in ("missing", "short", "header", "empty")
    if (name, damage) != ("chunks.bin", "header")  # it has none; a wrong byte there is a torn chunk
]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_unfinished_files_that_are_damaged_are_given_up(tmp_path, whole, caplog, name, damage):
    stopped(tmp_path)
    path = partial_of(tmp_path) / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"short": data[:-1], "header": b"x" + data[1:], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole
    assert "starting over" in caplog.text


def test_a_store_stays_until_the_one_that_overwrites_it_is_done(tmp_path, whole):
    first = extract(a_model(1), Source(), tmp_path, batch_size=BATCH)
    stopped(tmp_path, overwrite=True)
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == first.fingerprint
    assert extract(a_model(), Source(), tmp_path, batch_size=BATCH, overwrite=True).fingerprint == whole
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == whole


def test_a_hashed_chunk_is_needed_for_a_store(tmp_path, monkeypatch):
    """Whatever a chunk was written by: without its hash it counts as missing, so the store is not published."""
    from spectral_sampler.extraction import partial

    monkeypatch.setattr(partial.Partial, "is_done", lambda self, chunk: chunk != 4)
    with pytest.raises(Exception, match="4"):
        extract(a_model(), Source(), tmp_path, batch_size=BATCH)
    with pytest.raises(StoreError):
        ReferenceStore.open(tmp_path)


def in_threads(calls):
    results, failures = {}, {}

    def work(name, call):
        try:
            results[name] = call()
        except Exception as error:  # noqa: BLE001
            failures[name] = error

    threads = [threading.Thread(target=work, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results, failures


def test_a_second_extraction_waits_and_reuses(tmp_path, whole):
    datasets = [Source(pause=0.003), Source()]
    models = [a_model() for _ in datasets]  # before the threads start: a seed belongs to the process, not to a thread

    def extracted(number):
        return extract(models[number], datasets[number], tmp_path, batch_size=BATCH).fingerprint

    results, failures = in_threads({number: lambda number=number: extracted(number) for number in range(2)})
    assert failures == {}
    assert results == {0: whole, 1: whole}
    assert sorted(len(chunks_read(dataset)) for dataset in datasets) == [0, CHUNKS]


@pytest.mark.parametrize("ranks", [2, 3, 11])
def test_ranks_write_disjoint_chunks_of_one_store(tmp_path, whole, ranks):
    """Also with more ranks than chunks."""
    datasets, models = [Source() for _ in range(ranks)], [a_model() for _ in range(ranks)]

    def part(rank):
        options = {"batch_size": BATCH, "num_replicas": ranks, "rank": rank}
        return extract(models[rank], datasets[rank], tmp_path, **options).fingerprint

    results, failures = in_threads({rank: lambda rank=rank: part(rank) for rank in range(ranks)})
    assert failures == {}
    assert results == dict.fromkeys(range(ranks), whole)
    read = [chunk for dataset in datasets for chunk in chunks_read(dataset)]
    assert sorted(read) == list(range(CHUNKS))
    assert len(list(tmp_path.iterdir())) == 4


def test_ranks_that_never_start_are_missed_by_number_and_made_up_for(tmp_path, whole):
    options = {"batch_size": BATCH, "num_replicas": 2, "patience": 0.1}
    with pytest.raises(StoreError, match=r"4 of 8 chunks of .* are missing and no rank has added one for 0.1 s"):
        extract(a_model(), Source(), tmp_path, rank=0, **options)
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, rank=1, **options).fingerprint == whole
    assert chunks_read(dataset) == [1, 3, 5, 7]


def test_another_number_of_ranks_goes_on_with_what_is_there(tmp_path, whole):
    with pytest.raises(StoreError, match="missing"):
        extract(a_model(), Source(), tmp_path, batch_size=BATCH, num_replicas=2, rank=1, patience=0)
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, batch_size=BATCH).fingerprint == whole
    assert chunks_read(dataset) == [0, 2, 4, 6]


PROGRAM = """
import sys, time
sys.path[:0] = {paths!r}
import torch
from test_extraction_resume import BATCH, Source, a_model
from spectral_sampler.extraction import extract
torch.set_num_threads(1)
class Slow(Source):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if index % BATCH == 0 and self.reads[index] > 2:
            print(index, flush=True)
        return sample
print("ready", flush=True)
path, rank, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = dict(batch_size=BATCH, rank=rank, num_replicas=ranks)
print(extract(a_model(), Slow(pause=0.002), path, **options).fingerprint, flush=True)
"""


def start(path, rank=0, ranks=1):
    here = Path(__file__)
    program = PROGRAM.format(paths=[str(here.parent), str(here.parent.parent)])
    command = [sys.executable, "-c", program, str(path), str(rank), str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_killed_and_resumed_in_processes(tmp_path, whole):
    """SIGKILL in the middle of chunks 2 and 5; what opens between is nothing, what ends is the whole."""
    for chunk in (2, 5):
        process = start(tmp_path)
        for line in process.stdout:
            if line.strip() == str(chunk * BATCH):
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with pytest.raises(StoreError, match="has not finished"):
            ReferenceStore.open(tmp_path)
        hashed = np.frombuffer((partial_of(tmp_path) / "chunks.bin").read_bytes(), np.uint8).reshape(CHUNKS, 32)
        assert hashed.any(axis=1).tolist() == [number < chunk for number in range(CHUNKS)]
    process = start(tmp_path)
    assert process.communicate()[0].split()[-1] == whole
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == whole


def test_two_processes_share_the_work(tmp_path, whole):
    processes = [start(tmp_path, rank, 2) for rank in range(2)]
    said = [process.communicate()[0].split() for process in processes]
    assert [words[-1] for words in said] == [whole, whole]
    read = [int(word) for words in said for word in words[1:-1]]
    assert sorted(read) == [chunk * BATCH for chunk in range(CHUNKS)]


def test_settings_of_an_unfinished_extraction_are_plain_json(tmp_path):
    stopped(tmp_path)
    settings = json.loads((partial_of(tmp_path) / "settings.json").read_text())
    assert settings["chunk_rows"] == BATCH
    assert settings["arrays"] == {
        "features": ["float16", [ROWS, 10]],
        "losses": ["float32", [ROWS]],
        "labels": ["int64", [ROWS]],
    }

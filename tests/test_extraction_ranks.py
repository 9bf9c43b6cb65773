"""``extract`` under torchrun: what processes share, what is left when one is killed, and what is shown of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from extraction_cases import (
    BATCH,
    CHUNKS,
    Interrupted,
    Source,
    a_model,
    chunks_read,
    in_threads,
    partial_of,
)

from spectral_sampler.cli import extracting
from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.extraction import extract, job, progress
from spectral_sampler.extraction.extract import prepared
from spectral_sampler.extraction.partial import Partial, written
from spectral_sampler.store import ReferenceStore

MODULE = '''
"""Rows of ten classes, and a network that notes every batch it has seen and takes its time."""
import os, time
import numpy as np, torch
from torch import nn

def data():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(1500, 12)).astype("f4")
    both = [torch.utils.data.TensorDataset(torch.from_numpy(part), torch.arange(len(part)) % 10) for part in
            (rows[:1400], rows[1400:])]
    return tuple(both)

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(12, 7), nn.Linear(7, 10)

    def forward(self, rows):
        with open("batches.txt", "a") as file:
            file.write(os.environ.get("RANK", "0") + "\\n")
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return self.head(self.body(rows).relu())

def network():
    torch.manual_seed(0)
    return Network()
'''
EXTRACT = ["extract", "--data", "rows_and_network:data", "--reference", "rows_and_network:network", "--json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process comes to: the fingerprint, and in how many batches."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "rows_and_network.py").write_text(MODULE)
    ended = start(folder)
    answer = json.loads(ended.communicate()[0])
    assert ended.returncode == 0
    return answer["fingerprint"], len(batches(folder))


def start(folder, launcher=("-m", "spectral_sampler"), **variables):
    command = [sys.executable, *launcher, *EXTRACT, "--out", str(folder / "store"), "--cache", str(folder / "cache")]
    paths = os.pathsep.join([str(Path(__file__).parent.parent), str(folder)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=folder)


def batches(folder):
    """Which rank computed each of the batches so far."""
    file = folder / "batches.txt"
    return file.read_text().split() if file.exists() else []


@pytest.mark.slow
def test_torchrun_shares_the_work_and_answers_once(tmp_path, whole):
    (tmp_path / "rows_and_network.py").write_text(MODULE)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "spectral_sampler"]
    ended = start(tmp_path, launcher)
    said, complained = ended.communicate()
    assert ended.returncode == 0, complained
    assert json.loads(said)["fingerprint"] == whole[0], "one answer, that of one process"
    assert ReferenceStore.open(tmp_path / "store", verify=True).fingerprint == whole[0]
    assert set(batches(tmp_path)) == {"0", "1"}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_at_any_rank_and_started_again(tmp_path, whole, killed):
    """SIGKILL once both ranks have begun, the other one as its launcher would end it; then both once more."""
    (tmp_path / "rows_and_network.py").write_text(MODULE)
    ranks = [start(tmp_path, WORLD_SIZE="2", RANK=str(rank), PAUSE="0.3") for rank in range(2)]
    until = time.monotonic() + 120
    while min(batches(tmp_path).count(rank) for rank in "01") < 3 and time.monotonic() < until:
        time.sleep(0.02)
    ranks[killed].send_signal(signal.SIGKILL)
    ranks[1 - killed].send_signal(signal.SIGTERM)
    for process in ranks:
        process.communicate()
    assert not (tmp_path / "store").exists()
    before = len(batches(tmp_path))
    ranks = [start(tmp_path, WORLD_SIZE="2", RANK=str(rank)) for rank in range(2)]
    said = [process.communicate()[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert json.loads(said[0])["fingerprint"] == whole[0]
    assert said[1] == ""
    assert before < len(batches(tmp_path)) <= whole[1] + 2, "at most the batch in hand of each rank is computed twice"


@pytest.mark.parametrize("given", [("2", "2"), ("two", "0"), ("2", "-1")])
def test_an_environment_that_is_no_torchruns(monkeypatch, given):
    for name, value in zip(("WORLD_SIZE", "RANK"), given, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ArgumentError, match="the environment must be numbers with RANK below WORLD_SIZE, got WORLD"):
        extracting._ranks()


def test_without_torchrun_there_is_one_rank(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert extracting._ranks() == (1, 0)


def test_the_bar_counts_what_all_ranks_have_done(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_PAUSE", 0.01)
    counts = iter([3, 4, *[7] * 10_000])
    with progress.progress_bar(9, lambda: next(counts), shown=True):
        until = time.monotonic() + 20
        while "7/9" not in (drawn := capsys.readouterr().err) and time.monotonic() < until:
            time.sleep(0.1)  # tqdm draws ten times a second at most
    assert "7/9" in drawn
    assert "9/9" in capsys.readouterr().err
    with pytest.raises(KeyError), progress.progress_bar(9, lambda: 2, shown=True):
        raise KeyError
    assert "9/9" not in capsys.readouterr().err


def test_chunks_are_counted_on_disk_whoever_wrote_them(tmp_path):
    identity = {"what": "a test"}
    assert written(tmp_path, identity) == 0
    layout = job.Layout({"features": ("float32", (30, 2))}, 10)
    partial = job.Partial.create(tmp_path, identity, layout)
    partial.write(2, {"features": 1.0})
    assert written(tmp_path, identity) == 1


@pytest.mark.parametrize("number", [24, 12, 5])
def test_an_unfinished_extraction_that_cannot_be_read_today_is_kept(tmp_path, monkeypatch, number):
    """Too many open files, memory that is short, a disk that fails: no reason to compute again what others computed."""
    with pytest.raises(Interrupted):
        extract(a_model(), Source(stop=4 * BATCH), tmp_path / "s", batch_size=BATCH, progress=False)
    with monkeypatch.context() as patched:

        def failing(*_, **__):
            raise OSError(number, "for some reason")

        patched.setattr(np, "memmap", failing)
        with pytest.raises(StoreError, match=r"cannot read the unfinished .*: for some reason\. It is kept"):
            extract(a_model(), Source(), tmp_path / "s", batch_size=BATCH, progress=False)
    dataset = Source()
    extract(a_model(), dataset, tmp_path / "s", batch_size=BATCH, progress=False)
    assert chunks_read(dataset) == [4, 5, 6, 7]


def a_job(path, **options):
    """As `extract` makes it of its defaults."""
    defaults = {name: value for name, value in extract.__kwdefaults__.items() if name not in ("overwrite", "patience")}
    return prepared(a_model(), Source(), path, **{**defaults, "batch_size": BATCH, "progress": False, **options})[0]


def test_ranks_that_meet_a_damaged_extraction_at_once(tmp_path):
    """One takes it away; the others do not fall over what is gone meanwhile."""
    jobs = [a_job(tmp_path, num_replicas=4, rank=rank) for rank in range(4)]
    for _ in range(20):
        with pytest.raises(Interrupted):
            extract(a_model(), Source(stop=BATCH), tmp_path, batch_size=BATCH, progress=False)
        (partial_of(tmp_path) / "settings.json").write_text("")
        todo, failures = in_threads({rank: jobs[rank].todo for rank in range(4)})
        assert failures == {}
        assert todo == {rank: [rank, rank + 4] for rank in range(4)}
        assert list(tmp_path.iterdir()) == []


def test_the_ranks_remove_what_was_left_of_something_else(tmp_path):
    """Once they have all: what ranks of another model by mistake have done is not lost before."""
    with pytest.raises(Interrupted):
        extract(a_model(1), Source(stop=5 * BATCH), tmp_path, batch_size=BATCH, progress=False)
    options = {"batch_size": BATCH, "progress": False, "num_replicas": 2, "patience": 0}
    with pytest.raises(StoreError, match="missing"):
        extract(a_model(), Source(), tmp_path, rank=0, **options)
    assert written(tmp_path, a_job(tmp_path).identity) == 4
    assert len(list(tmp_path.glob(".partial-*"))) == 2
    extract(a_model(), Source(), tmp_path, rank=1, **options)
    assert len(list(tmp_path.iterdir())) == 4


def test_who_waits_reads_nothing_before_all_is_there(tmp_path, monkeypatch):
    """A rank looks again and again, with the lock: at the hashes, and at the rows once all have one."""
    hashed, digest = [], Partial._digest
    monkeypatch.setattr(Partial, "_digest", lambda self, chunk: (hashed.append(chunk), digest(self, chunk))[1])
    options = {"batch_size": BATCH, "progress": False, "num_replicas": 2, "patience": 1}
    with pytest.raises(StoreError, match="4 of 8 chunks"):
        extract(a_model(), Source(), tmp_path, rank=0, **options)
    assert hashed == [0, 2, 4, 6], "as they are written"
    extract(a_model(), Source(), tmp_path, rank=1, **options)
    assert sorted(hashed[4:]) == sorted([*range(1, CHUNKS, 2), *range(CHUNKS)])

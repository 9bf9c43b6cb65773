"""A writer that is killed or interrupted anywhere: the reader sees the old store, the new one, or a named error."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from crash_trials import BAD, ENVIRONMENT, drive
from extraction_cases import BATCH, CHUNKS, Source, a_model, partial_of

from spectral_sampler.errors import StoreError
from spectral_sampler.extraction import extract
from spectral_sampler.store import ReferenceStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.name != "posix", reason="kill, flock and rename as POSIX has them"),
]
STORE, EXTRACTION = "crash_driver.py", "extraction_crash_driver.py"
PARTS = "parts_crash_driver.py"
CHANGES = {
    "append": "one appended",
    "replace": "one replaced",
    "remade": "all made anew",
    "made": "made where nothing was",
}
# Program, mode, the line's name, the trials (of "moments") or the stride (of the others): reduced and full.
RUNS = [
    (STORE, "lines", "a store saved or replaced, killed (-9) at every line", 1, 1),
    (STORE, "interrupts", "a store saved or replaced, interrupted at every line", 1, 1),
    (STORE, "moments", "a store saved or replaced, killed (-9) at random moments", 200, 2000),
    (EXTRACTION, "lines", "an extraction begun, resumed or replacing, killed (-9) at its lines", 17, 1),
    (EXTRACTION, "interrupts", "an extraction begun, resumed or replacing, interrupted at its lines", 9, 1),
    (EXTRACTION, "moments", "an extraction begun, resumed or replacing, killed (-9) at random moments", 36, 360),
]


@pytest.mark.parametrize(
    ("program", "mode", "name", "reduced", "full"), RUNS, ids=[f"{run[0]}-{run[1]}" for run in RUNS]
)
def test_killed(line, number, program, mode, name, reduced, full):
    counted = line("store", f"{name}: silently wrong, lost or left behind")
    count = drive(mode, "none", number(reduced, full), program, limit=3000)
    counted.passed(count["trials"] - sum(count[kind] for kind in BAD))
    for kind in BAD:
        for _ in range(count[kind]):
            counted.failed(f"{mode} of {program}: {kind}")
    if mode == "moments":
        assert count["killed"] > count["trials"] / 3, "most have ended before they were killed"
    else:
        assert count["killed"] > 450 / number(reduced, full)
        assert set(count["seen"]) == {"old", "new", "none"}


@pytest.mark.parametrize("change", ["append", "replace", "remade", "made"])
def test_killed_at_a_change_of_parts(line, number, change):
    counted = line(
        "store", f"a store of parts, {CHANGES[change]}, killed (-9) at its lines: wrong, lost or left behind"
    )
    stride = number(37, 1)
    count = drive(change, "none", stride, PARTS, limit=3000)
    counted.passed(count["trials"] - sum(count[kind] for kind in BAD))
    for kind in BAD:
        for _ in range(count[kind]):
            counted.failed(f"{change} of parts: {kind}")
    assert count["killed"] > 500 / stride
    assert set(count["seen"]) == {"none" if change == "made" else "old", "new"}


@pytest.mark.parametrize(
    ("change", "fault", "kind"),
    [
        ("replace", "old parts removed first", "lost"),
        ("replace", "what is not named is kept", "left behind"),
        ("remade", "named while incomplete", "silently wrong"),
    ],
)
def test_planted_faults_of_parts_are_seen(line, change, fault, kind):
    count = drive(change, fault, {"lost": 23, "left behind": 101, "silently wrong": 61}[kind], PARTS)
    line("store", f"planted: {fault}").check(count[kind] > 0, f"{fault} is not seen: {count}")


FAULTS = [(STORE, "manifest first", 3), (STORE, "in place", 2), (EXTRACTION, "believed", 31)]


@pytest.mark.parametrize(("program", "fault", "stride"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_the_harness_sees_planted_faults(line, program, fault, stride):
    """A manifest named before its arrays, arrays filled under their final name, chunks believed too soon."""
    count = drive("lines", fault, stride, program)
    seen = count["lost"] + count["silently wrong"]
    line("store", f"planted: {fault}").check(seen > 0, f"{fault} is not seen")


PROGRAM = """
import sys, time
sys.path[:0] = {paths!r}
import torch
from extraction_cases import BATCH, Source, a_model
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
    here = Path(__file__).parent.parent
    command = [
        sys.executable,
        "-c",
        PROGRAM.format(paths=[str(here), str(here.parent)]),
        str(path),
        str(rank),
        str(ranks),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return extract(a_model(), Source(), tmp_path_factory.mktemp("whole"), batch_size=BATCH).fingerprint


def test_processes_killed_and_resumed(line, tmp_path, whole):
    """SIGKILL in the middle of chunks 2 and 5; what opens between is nothing, what ends is the whole."""
    counted = line("store", "an extraction in a process of its own, killed (-9) and resumed")
    for chunk in (2, 5):
        process = start(tmp_path)
        for text in process.stdout:
            if text.strip() == str(chunk * BATCH):
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with pytest.raises(StoreError, match="has not finished"):
            ReferenceStore.open(tmp_path)
        hashed = np.frombuffer((partial_of(tmp_path) / "chunks.bin").read_bytes(), np.uint8).reshape(CHUNKS, 32)
        done = hashed.any(axis=1).tolist()
        counted.check(done == [number < chunk for number in range(CHUNKS)], f"killed in chunk {chunk}, done: {done}")
    process = start(tmp_path)
    counted.check(process.communicate()[0].split()[-1] == whole, "resumed to something else")
    counted.check(ReferenceStore.open(tmp_path, verify=True).fingerprint == whole, "something else on disk")


def test_processes_share_the_work(line, tmp_path, whole):
    counted = line("store", "an extraction by two processes")
    processes = [start(tmp_path, rank, 2) for rank in range(2)]
    said = [process.communicate()[0].split() for process in processes]
    counted.check([words[-1] for words in said] == [whole, whole], "they end with something else")
    read = sorted(int(word) for words in said for word in words[1:-1])
    counted.check(read == [chunk * BATCH for chunk in range(CHUNKS)], f"they read {read}")

"""Stores where nothing can be written, where nothing can be locked, and where many write and read at once."""

import contextlib
import errno
import fcntl
import functools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from crash_trials import ENVIRONMENT
from extraction_cases import BATCH, CHUNKS, Interrupted, Source, a_model, chunks_read, in_threads
from small_disk import CannotMount, mounted, names, remount

from spectral_sampler.errors import StoreError
from spectral_sampler.extraction import extract
from spectral_sampler.store import ReferenceStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="mounts, users, and flock as Linux has them"),
]


def a_store(seed=0):
    generator = np.random.default_rng(seed)
    return ReferenceStore.from_arrays(generator.normal(size=(40, 6)).astype("f2"), generator.random(40))


def extracted(path, dataset=None, seed=0, **options):
    return extract(a_model(seed), dataset or Source(), path, **{"batch_size": BATCH, "progress": False, **options})


@contextlib.contextmanager
def read_only(path):
    remount(path, "ro")
    try:
        yield
    finally:
        remount(path, "rw")


@contextlib.contextmanager
def as_nobody(path):
    """Everything below may be read and not written; whoever runs the tests is not asked if it is nobody already."""
    for one in [path, *path.rglob("*")]:
        one.chmod(0o555 if one.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for one in [path, *path.rglob("*")]:
            one.chmod(0o755 if one.is_dir() else 0o644)


def refused(counted, what, call, named):
    try:
        call()
        counted.failed(f"{what}: written")
    except StoreError as error:
        counted.check(named in str(error), f"{what}: {error}")


@pytest.mark.parametrize("how", ["read-only file system", "directory of somebody else"])
def test_where_nothing_can_be_written(line, tmp_path, how):
    counted = line("store", f"a {how}: finished stores open, all else is a named error, nothing changes")
    with contextlib.ExitStack() as held:
        if how == "read-only file system":
            try:
                place = held.enter_context(mounted(tmp_path / "disk"))
            except CannotMount as error:
                pytest.skip(str(error))
            closed = read_only
        else:
            place, closed = tmp_path, as_nobody
            for parent in (tmp_path, *tmp_path.parents[:-1]):
                if parent.stat().st_uid == os.getuid():
                    parent.chmod(parent.stat().st_mode | 0o055)
        whole = extracted(place / "m").fingerprint
        saved = a_store().save(place / "s").fingerprint
        extracted(place / "damaged")
        data = bytearray((place / "damaged" / "features.npy").read_bytes())
        data[-1] ^= 1
        (place / "damaged" / "features.npy").write_bytes(data)
        with pytest.raises(Interrupted):
            extracted(place / "half", Source(stop=2 * BATCH))
        before = {name: (place / name).stat().st_mtime_ns for name in names(place)}
        with closed(place):
            for options in ({}, {"overwrite": True}, {"num_replicas": 2, "rank": 1}):
                dataset = Source()
                counted.check(extracted(place / "m", dataset, **options).fingerprint == whole, f"extracted, {options}")
                counted.check(dataset.reads and not chunks_read(dataset), f"{options}: chunks were read again")
            counted.check(a_store().save(place / "s").fingerprint == saved, "saving what is there")
            counted.check(ReferenceStore.open(place / "s", verify=True).fingerprint == saved, "opening")
            cannot = "cannot write the store at"
            refused(counted, "another store", lambda: a_store(1).save(place / "s"), cannot)
            refused(counted, "a new store", lambda: a_store(1).save(place / "new"), cannot)
            refused(counted, "a new extraction", lambda: extracted(place / "new"), cannot)
            refused(counted, "a half extraction", lambda: extracted(place / "half"), cannot)
            refused(counted, "a damaged store", lambda: extracted(place / "damaged"), "changed after it was written")
            for options in ({}, {"overwrite": True}, {"num_replicas": 2, "rank": 1}):
                other = lambda options=options: extracted(place / "m", seed=1, **options)  # noqa: E731
                refused(counted, f"another extraction, {options}", other, "made of something else (model differ)")
        after = {name: (place / name).stat().st_mtime_ns for name in names(place)}
        counted.check(after == before, "something was changed")
        counted.check(a_store(1).save(place / "s").fingerprint == a_store(1).fingerprint, "closed for good")  # planted
        gone = ReferenceStore.open(place / "s").fingerprint != saved
        counted.check(gone, "planted: a store that is replaced is not seen")


CODES = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)


def test_without_locks(line, tmp_path, monkeypatch):
    """A file system that refuses flock in the ways they do: everything works, by one program at a time."""
    counted = line("store", "no flock: saved, replaced, extracted, resumed, shared")
    whole = extracted(tmp_path / "whole").fingerprint
    for code in CODES:

        def flock(*_, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)
        place = tmp_path / errno.errorcode[code]
        for seed in (0, 1, 1, 2):
            found = a_store(seed).save(place / "s").fingerprint
            counted.check(found == a_store(seed).fingerprint and len(names(place / "s")) == 3, f"{code}: saved {seed}")
        with pytest.raises(Interrupted):
            extracted(place / "m", Source(stop=5 * BATCH))
        dataset = Source()
        counted.check(extracted(place / "m", dataset).fingerprint == whole, f"{code}: resumed to something else")
        counted.check(chunks_read(dataset) == list(range(5, CHUNKS)), f"{code}: {chunks_read(dataset)} read again")
        models, options = [a_model() for _ in range(3)], {"batch_size": BATCH, "num_replicas": 3, "progress": False}
        calls = {
            rank: functools.partial(extract, models[rank], Source(), place / "r", rank=rank, **options)
            for rank in range(3)
        }
        results, failures = in_threads(calls)
        counted.check(
            not failures and {one.fingerprint for one in results.values()} == {whole},
            f"{code}: three ranks: {failures}",
        )
        counted.check(len(names(place / "r")) == 4, f"{code}: three ranks left {names(place / 'r')}")


WRITER = """
import sys
import numpy as np
from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, atomic
path, rows, locks = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "locks"
if not locks:
    import fcntl, os, errno, logging
    logging.disable()
    def flock(*_): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock = flock
store = ReferenceStore.from_arrays(np.full((rows, 3), rows, "f4"))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[4])):
    try:
        store.save(path)
    except StoreError as error:
        if locks or "another program wrote" not in str(error) and "cannot write the store" not in str(error):
            raise
"""


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_writers_and_readers_at_once(line, number, tmp_path, locks):
    """In processes: a reader has one of the stores at every moment, whole; with locks, no writer is ever refused."""
    counted = line("store", f"three writing processes and a reader, {locks}: one of the stores, whole, at every moment")
    known = {ReferenceStore.from_arrays(np.full((n, 3), n, "f4")).fingerprint for n in (100, 101, 102)}
    ReferenceStore.from_arrays(np.full((100, 3), 100, "f4")).save(tmp_path)
    trials = str(number(80, 5000))
    commands = [[sys.executable, "-c", WRITER, str(tmp_path), str(rows), locks, trials] for rows in (100, 101, 102)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen(command, env=ENVIRONMENT, **pipes) for command in commands]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    seen = set()
    while any(writer.poll() is None for writer in writers):
        try:
            found = ReferenceStore.open(tmp_path, verify=True)
            seen.add(found.fingerprint)
            right = found.fingerprint in known and bool((found.features == len(found)).all())
            counted.check(right, f"{found} is none of the stores")
        except StoreError as error:
            counted.check("times while it was opened" in str(error), str(error))
        time.sleep(0.001)
    for writer in writers:
        told = writer.communicate()[1]
        counted.check(writer.returncode == 0, told[-500:])
    assert len(seen) > 1
    last = ReferenceStore.from_arrays(np.eye(3)).save(tmp_path)
    left = [name for name in names(tmp_path) if name not in {last._manifest.arrays["features"].file, "manifest.json"}]
    counted.check(locks == "no locks" or len(left) <= 1, f"left behind: {left}")
    counted.check(Path(tmp_path).is_dir(), "the directory is gone")

"""A writer that dies, waits, or has no room: the reader sees the old store, the new one, or a named error."""

import errno
import os
import re
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from crash_trials import BAD, drive

from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, atomic

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill, flock and rename as POSIX has them")


def a_store(seed=0, shape=(20, 6)):
    generator = np.random.default_rng(seed)
    return ReferenceStore.from_arrays(generator.normal(size=shape).astype("f2"), generator.random(shape[0]))


def contents(directory):
    return sorted(path.name for path in Path(directory).iterdir())


@pytest.mark.parametrize(
    ("program", "mode", "stride", "killed"),
    [("crash_driver.py", "lines", 31, 10), ("extraction_crash_driver.py", "interrupts", 61, 25)],
)
def test_killed_or_interrupted_while_a_store_is_written(program, mode, stride, killed):
    """A sample of the lines of tests/reliability. Ctrl-C runs the clean-up, which must not take the old
    store along or block the next writer."""
    count = drive(mode, "none", stride, program)
    assert count["killed"] > killed
    assert [count[kind] for kind in BAD] == [0, 0, 0]


def test_bytes_are_durable_before_names_and_arrays_before_the_manifest(tmp_path, monkeypatch):
    """What a power cut may reorder, and no kill can show: the order of fsync and rename."""
    log = []
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(descriptor):
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        log.append(("sync", path.name.split("-")[-1] if path.is_file() else "directory"))

    def logged_replace(self, target):
        log.append(("name", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    a_store().save(tmp_path / "s")
    for name in ("features.npy", "losses.npy"):
        assert log.index(("sync", name)) < log.index(("name", name)) < log.index(("name", "manifest.json"))
    assert log.index(("sync", "manifest.json")) < log.index(("name", "manifest.json"))
    assert log.index(("sync", "directory")) == log.index(("name", "manifest.json")) - 1
    assert log[-1] == ("sync", "directory")
    assert len(log) == 3 + 3 + 2


def test_a_second_writer_waits_and_reuses(tmp_path):
    started, done = threading.Event(), threading.Event()

    def second():
        started.set()
        a_store().save(tmp_path)
        done.set()

    thread = threading.Thread(target=second)
    with atomic.writer_lock(tmp_path):
        thread.start()
        assert started.wait(10)
        assert not done.wait(0.3)
        digests = {name: entry.sha256 for name, entry in a_store()._manifest.arrays.items()}
        from spectral_sampler.store import writing

        writing.write_store(tmp_path, a_store()._arrays(), digests, None)
        inode = (tmp_path / "features.npy").stat().st_ino
    thread.join(10)
    assert done.is_set()
    assert (tmp_path / "features.npy").stat().st_ino == inode


def test_many_writers_and_readers_at_once(tmp_path):
    """Readers get one of the written stores at every moment, though its files are renamed and removed under them."""
    stores = [a_store(seed) for seed in range(3)]
    known = {store.fingerprint for store in stores}
    stores[0].save(tmp_path)
    stop, failures = threading.Event(), []

    def write(number):
        try:
            while not stop.is_set():
                stores[number].save(tmp_path)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    seen = set()
    start = time.monotonic()
    while (spent := time.monotonic() - start) < 0.4 or (len(seen) < 2 and spent < 30):  # a busy machine takes longer
        found = ReferenceStore.open(tmp_path, verify=True)
        assert found.fingerprint in known
        seen.add(found.fingerprint)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert len(seen) > 1
    assert len(contents(tmp_path)) == 3


def test_dead_temporaries_are_swept_and_a_link_as_lock_is_not_followed(tmp_path):
    (tmp_path / ".tmp-123-abc-features.npy").write_bytes(b"x")
    (tmp_path / ".tmp-123-def-partial").mkdir()
    (tmp_path / ".tmp-123-def-partial" / "x").write_bytes(b"x")
    (tmp_path / "labels-0123456789abcdef.npy").write_bytes(b"of a writer that died between two renames")
    a_store().save(tmp_path)
    assert contents(tmp_path) == ["features.npy", "losses.npy", "manifest.json"]
    victim = tmp_path / "victim"
    (tmp_path / ".lock").symlink_to(victim)
    with pytest.raises(StoreError):
        a_store(seed=1).save(tmp_path)
    assert not victim.exists()


@pytest.fixture
def short_files():
    """No file of this process may be longer than 100,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("before", [False, True])
def test_no_room_is_said_with_numbers_and_leaves_nothing(tmp_path, short_files, before):
    target = tmp_path / "s"
    if before:
        a_store().save(target)
    with pytest.raises(StoreError, match=r"^cannot write the store at .*: \d+ bytes needed, \d+ bytes free") as failure:
        ReferenceStore.from_arrays(np.ones((1000, 100), "f4")).save(target)
    needed = int(re.search(r"(\d+) bytes needed", str(failure.value))[1])
    assert 400_000 + 128 < needed < 420_000, "the headers and the manifest, too"
    assert target.exists() == before
    if before:
        assert ReferenceStore.open(target, verify=True).fingerprint == a_store().fingerprint
        assert len(contents(target)) == 3


@pytest.mark.parametrize("reserve", [True, False])
def test_disk_fills_up_during_the_write(tmp_path, monkeypatch, reserve):
    """Also where the file system cannot reserve space and the write itself meets the end."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", full if reserve else unsupported)
    if not reserve:
        a_store().save(tmp_path / "fine")
        assert len(ReferenceStore.open(tmp_path / "fine")) == 20
        monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(StoreError, match=r"\d+ bytes needed, \d+ bytes free, \d+ files free \(No space left"):
        a_store().save(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_directory_that_may_not_be_written(tmp_path):
    closed = tmp_path / "closed"
    a_store().save(closed)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    closed.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"^cannot write the store at .*not writable"):
            a_store(seed=1).save(closed)
    finally:
        os.seteuid(user)
    assert ReferenceStore.open(closed).fingerprint == a_store().fingerprint
    closed.chmod(0o755)


def test_a_path_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot write the store"):
        a_store().save(tmp_path / "file")
    with pytest.raises(StoreError, match=r"holds no readable manifest\.json"):
        ReferenceStore.open(tmp_path / "file")

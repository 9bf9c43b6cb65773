"""Stores wherever they lie: read-only, behind links, without locks, without directory sync, as on Windows."""

import contextlib
import copy
import errno
import fcntl
import gc
import hashlib
import logging
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from extraction_cases import BATCH, CHUNKS, Interrupted, Source, a_model, chunks_read, in_threads, partial_of

from spectral_sampler.errors import StoreError
from spectral_sampler.extraction import extract, partial
from spectral_sampler.store import ReferenceStore, atomic, manifest, writing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, /proc, and flock as Linux has them")
MODELS = [a_model(seed) for seed in range(2)]  # seeds belong to the process: none in threads


def a_store(seed=0, shape=(20, 6)):
    generator = np.random.default_rng(seed)
    return ReferenceStore.from_arrays(generator.normal(size=shape).astype("f2"), generator.random(shape[0]))


def extracted(path, dataset=None, model=0, **options):
    return extract(copy.deepcopy(MODELS[model]), dataset or Source(), path, **{"batch_size": BATCH, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return extracted(tmp_path_factory.mktemp("whole")).fingerprint


def state(directory):
    """All that a writer could change."""
    seen = {"": directory.stat().st_mtime_ns}
    for path in directory.iterdir():
        seen[path.name] = (path.lstat().st_mtime_ns, path.lstat().st_ino, path.read_bytes() if path.is_file() else b"")
    return seen


def refusing(code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    return refuse


# Read-only


def deny_writing(monkeypatch, below, code):
    """Every call that changes names or opens for writing fails below a directory."""

    def wrap(name):
        call = getattr(os, name)

        def denied(path, *rest, **options):
            opens = name == "open" and not (rest[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not opens and not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(below):
                raise OSError(code, os.strerror(code))
            return call(path, *rest, **options)

        monkeypatch.setattr(os, name, denied)

    for name in ("open", "mkdir", "unlink", "rmdir", "rename", "replace"):
        wrap(name)


@pytest.fixture(params=["mounted", errno.EROFS, errno.EACCES, errno.ENOSPC])
def close(request, monkeypatch):
    """A function that makes a directory read-only, whoever runs the tests."""
    mounted = []

    def close(path):
        if request.param != "mounted":
            deny_writing(monkeypatch, path, request.param)
            return path
        for command in (["mount", "--bind"], ["mount", "-o", "remount,ro,bind"]):
            if subprocess.run([*command, str(path), str(path)], capture_output=True, check=False).returncode:
                pytest.skip("nothing can be mounted here")
            mounted.append(path)
        return path

    yield close
    for path in set(mounted):
        subprocess.run(["umount", str(path)], check=True)


def test_a_finished_store_opens_where_nothing_can_be_written(tmp_path, close, whole):
    extracted(tmp_path / "m")
    a_store().save(tmp_path / "s")
    before = state(tmp_path / "m"), state(tmp_path / "s")
    close(tmp_path)
    dataset = Source()
    assert extracted(tmp_path / "m", dataset).fingerprint == whole
    assert extracted(tmp_path / "m", overwrite=True).fingerprint == whole
    for rank in range(2):
        assert extracted(tmp_path / "m", dataset, num_replicas=2, rank=rank).fingerprint == whole
    saved = a_store().save(tmp_path / "s")
    assert (saved.fingerprint, saved.path) == (a_store().fingerprint, tmp_path / "s")
    assert ReferenceStore.open(tmp_path / "m").save(tmp_path / "m").fingerprint == whole
    assert (state(tmp_path / "m"), state(tmp_path / "s")) == before
    assert max(dataset.reads.values()) == 6  # the probes of three calls, and no batch


def test_another_store_cannot_be_made_there_and_the_error_says_both(tmp_path, close):
    extracted(tmp_path / "m")
    before = state(tmp_path / "m")
    close(tmp_path)
    for options in ({}, {"overwrite": True}, {"num_replicas": 2, "rank": 1}):
        with pytest.raises(StoreError, match=r"made of something else \(model differ\)\. cannot write the store at"):
            extracted(tmp_path / "m", model=1, **options)
    for call in (a_store().save, extracted):
        with pytest.raises(StoreError, match=r"^cannot write the store at .*new.*\. (Pass|Free)"):
            call(tmp_path / "new")
    with pytest.raises(StoreError, match=r"^cannot write the store at"):
        a_store().save(tmp_path / "m")
    assert state(tmp_path / "m") == before


def test_a_damaged_store_is_not_taken_there(tmp_path, close):
    for name, write in (("m", extracted), ("s", a_store().save)):
        data = bytearray((write(tmp_path / name).path / "features.npy").read_bytes())
        data[-1] ^= 1
        (tmp_path / name / "features.npy").write_bytes(data)
    close(tmp_path)
    with pytest.raises(StoreError, match=r"was changed after it was written.*cannot write the store"):
        extracted(tmp_path / "m")
    with pytest.raises(StoreError, match="cannot write the store"):
        a_store().save(tmp_path / "s")


def test_what_a_dead_writer_left_does_not_matter_there(tmp_path, close):
    a_store().save(tmp_path / "s")
    for name in (".lock", ".tmp-1-a-features.npy", "labels-0123456789abcdef.npy"):
        (tmp_path / "s" / name).write_bytes(b"")
    close(tmp_path)
    assert a_store().save(tmp_path / "s").fingerprint == a_store().fingerprint


def test_a_finished_store_needs_no_turn(tmp_path, whole):
    extracted(tmp_path)
    with atomic.writer_lock(tmp_path):
        results, failures = in_threads({0: lambda: extracted(tmp_path).fingerprint})
    assert (results, failures) == ({0: whole}, {})


@pytest.mark.parametrize("before", [False, True])
def test_who_looks_without_a_lock_sees_no_half_of_a_store(tmp_path, monkeypatch, before):
    """At every rename: the new store is not there before its manifest, the old one all the time till then."""
    old, new, seen, rename = a_store(0), a_store(1), [], Path.replace
    if before:
        old.save(tmp_path)

    def look():
        return [store._equal_at(tmp_path) is not None for store in (old, new)]

    def replace(self, target):
        seen.append((Path(target).name == "manifest.json", look()))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    new.save(tmp_path)
    assert seen == [(False, [before, False])] * 2 + [(True, [before, False])]
    assert look() == [False, True]


# Links


def as_snapshot(directory):
    """The files of a directory moved to ``blobs`` by their hashes, and a link for each, as a model hub does."""
    blobs, snapshot = directory.parent / "hub" / "blobs", directory.parent / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in directory.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blobs / digest)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", digest))
    return snapshot, blobs


def test_a_snapshot_of_links_is_a_store(tmp_path, whole):
    extracted(tmp_path / "m")
    snapshot, blobs = as_snapshot(tmp_path / "m")
    before = state(snapshot), state(blobs)
    alias = tmp_path / "alias"
    alias.symlink_to(snapshot)
    for path in (snapshot, alias):
        store = ReferenceStore.open(path, verify=True)
        assert store.fingerprint == whole
        assert pickle.loads(pickle.dumps(store)).fingerprint == whole
        assert store.save(path).fingerprint == whole
        assert extracted(path).fingerprint == whole
    assert (state(snapshot), state(blobs)) == before


@pytest.mark.parametrize("through", ["snapshot", "alias"])
def test_writing_replaces_links_and_never_goes_through_them(tmp_path, through):
    a_store().save(tmp_path / "s")
    snapshot, blobs = as_snapshot(tmp_path / "s")
    before = state(blobs)
    (tmp_path / "alias").symlink_to(snapshot)
    target = {"snapshot": snapshot, "alias": tmp_path / "alias"}[through]
    for seed in (1, 2):
        assert a_store(seed).save(target).fingerprint == a_store(seed).fingerprint
        assert state(blobs) == before
    assert not any(path.is_symlink() for path in snapshot.iterdir())
    assert len(list(snapshot.iterdir())) == 3


def test_a_broken_blob_is_seen_through_its_link(tmp_path):
    a_store().save(tmp_path / "s")
    snapshot, _ = as_snapshot(tmp_path / "s")
    blob = (snapshot / "features.npy").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(StoreError, match="was changed after it was written"):
        ReferenceStore.open(snapshot)


def interrupted(path, **options):
    with pytest.raises(Interrupted):
        extracted(path, Source(stop=5 * BATCH), **options)
    gc.collect()


@pytest.mark.parametrize("name", ["features.npy", "chunks.bin", ""])
def test_an_extraction_is_not_resumed_through_links(tmp_path, whole, name):
    """Its rows would be written to wherever the link leads."""
    interrupted(tmp_path / "m")
    path, moved = partial_of(tmp_path / "m") / name, tmp_path / "moved"
    path.rename(moved)
    path.symlink_to(moved)
    before = state(moved) if moved.is_dir() else moved.read_bytes()
    dataset = Source()
    assert extracted(tmp_path / "m", dataset).fingerprint == whole
    assert chunks_read(dataset) == list(range(CHUNKS))
    assert (state(moved) if moved.is_dir() else moved.read_bytes()) == before
    assert len(list((tmp_path / "m").iterdir())) == 4


@pytest.mark.parametrize("name", ["features.npy", "chunks.bin", "settings.json"])
def test_an_extraction_is_not_resumed_from_pipes(tmp_path, whole, name):
    interrupted(tmp_path)
    path = partial_of(tmp_path) / name
    path.unlink()
    os.mkfifo(path)
    assert extracted(tmp_path).fingerprint == whole


def test_a_link_among_the_leftovers_is_swept_and_not_what_it_leads_to(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("mine")
    (tmp_path / "s").mkdir()
    for name in (".tmp-1-a-partial", ".partial-0123456789abcdef"):
        (tmp_path / "s" / name).symlink_to(other)
    extracted(tmp_path / "s")
    assert (other / "mine").read_text() == "mine"
    assert len(list((tmp_path / "s").iterdir())) == 4


# No locks

CODES = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL]


@pytest.fixture(params=CODES, ids=[errno.errorcode[code] for code in CODES])
def unlocked(request, monkeypatch, caplog):
    """A file system without flock; ends by looking for the one warning."""
    monkeypatch.setattr(fcntl, "flock", refusing(request.param))
    caplog.set_level(logging.WARNING)
    yield
    messages = [record.getMessage() for record in caplog.get_records("call")]
    said = [message for message in messages if "file system without locks" in message]
    assert len(said) == 1, "once for a directory"
    assert os.strerror(request.param) in said[0]
    assert "run one at a time" in said[0]


def test_saving_without_locks(tmp_path, unlocked):
    for seed in (0, 1, 1, 2):
        assert a_store(seed).save(tmp_path).fingerprint == a_store(seed).fingerprint
        assert ReferenceStore.open(tmp_path, verify=True).fingerprint == a_store(seed).fingerprint
        assert len(list(tmp_path.iterdir())) == 3


def test_extracting_and_resuming_without_locks(tmp_path, whole, unlocked):
    interrupted(tmp_path)
    assert [path.name[:9] for path in tmp_path.iterdir()] == [".partial-"]
    dataset = Source()
    assert extracted(tmp_path, dataset).fingerprint == whole
    assert chunks_read(dataset) == [5, 6, 7]
    assert extracted(tmp_path, model=1, overwrite=True).fingerprint != whole
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_without_locks(tmp_path, whole, unlocked, ranks, monkeypatch):
    """All find the extraction complete and want to publish it at the same moment; one does."""
    together, publish = threading.Barrier(ranks), partial.Partial.publish

    def at_once(self, *rest, **options):
        together.wait(30)
        return publish(self, *rest, **options)

    monkeypatch.setattr(partial.Partial, "publish", at_once)
    datasets = [Source() for _ in range(ranks)]

    def part(rank):
        return extracted(tmp_path, datasets[rank], num_replicas=ranks, rank=rank, patience=60).fingerprint

    results, failures = in_threads({rank: lambda rank=rank: part(rank) for rank in range(ranks)})
    assert failures == {}
    assert results == dict.fromkeys(range(ranks), whole)
    assert sorted(chunk for dataset in datasets for chunk in chunks_read(dataset)) == list(range(CHUNKS))
    assert len(list(tmp_path.iterdir())) == 4


def test_the_same_extraction_started_twice_without_locks(tmp_path, whole, unlocked):
    """Both write the same rows to the same files; whoever is first publishes them, the other finds them published."""
    calls = {number: lambda: extracted(tmp_path, Source(pause=0.002)).fingerprint for number in range(2)}
    results, failures = in_threads(calls)
    assert failures == {}
    assert results == {0: whole, 1: whole}
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == whole


def test_a_failure_without_locks_leaves_nothing(tmp_path, unlocked, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", refusing(errno.ENOSPC))
    for call in (a_store().save, extracted):
        with pytest.raises(StoreError, match="bytes needed"):
            call(tmp_path / "s")
        assert not (tmp_path / "s").exists()


@pytest.fixture
def no_locks(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOSYS))


def test_without_locks_nothing_of_another_writer_is_removed(tmp_path, no_locks):
    theirs = [".tmp-1-a-features.npy", "features-0123456789abcdef.npy", ".partial-0123456789abcdef"]
    (tmp_path / ".tmp-1-b-manifest.json").write_bytes(b"being written")
    for name in theirs:
        (tmp_path / name).write_bytes(b"being written")
    a_store().save(tmp_path)
    extracted(tmp_path, overwrite=True)
    assert {name for name in theirs if (tmp_path / name).read_bytes() == b"being written"} == set(theirs)


def test_of_two_writers_without_locks_the_later_manifest_wins_whole(tmp_path, no_locks, monkeypatch):
    """The second writes its store between the arrays and the manifest of the first."""
    a_store(0).save(tmp_path)
    rename, inner = Path.replace, []

    def replace(self, target):
        if Path(target).name == "manifest.json" and not inner:
            inner.append(None)
            inner[0] = a_store(2).save(tmp_path)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert a_store(1).save(tmp_path).fingerprint == a_store(1).fingerprint
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == a_store(1).fingerprint
    np.testing.assert_array_equal(inner[0].features, a_store(2).features)


def test_a_writer_without_locks_is_told_that_another_was_later(tmp_path, no_locks, monkeypatch):
    write = writing.write_store

    def overtaken(*rest, **options):
        write(*rest, **options)
        monkeypatch.setattr(writing, "write_store", write)
        a_store(2).save(tmp_path)

    monkeypatch.setattr(writing, "write_store", overtaken)
    with pytest.raises(StoreError, match=r"another program wrote to .* Run one at a time"):
        a_store(1).save(tmp_path)
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == a_store(2).fingerprint


def test_writers_and_readers_at_once_without_locks(tmp_path, no_locks):
    """Readers get a whole store at every moment; a writer may be told that it was not alone."""
    stores = [a_store(seed) for seed in range(3)]
    known = {store.fingerprint for store in stores}
    stores[0].save(tmp_path)
    failures = []

    def write(number):
        try:
            for _ in range(40):
                with contextlib.suppress(StoreError):
                    stores[number].save(tmp_path)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert ReferenceStore.open(tmp_path, verify=True).fingerprint in known
    assert failures == []
    assert stores[1].save(tmp_path).fingerprint == stores[1].fingerprint
    assert not list(tmp_path.glob(".*"))


def test_locks_as_nfs_has_them_are_used(tmp_path, whole, monkeypatch, caplog):
    """There a shared lock needs a file that is open for reading, an exclusive one a file open for writing."""
    flock = fcntl.flock

    def strict(file, operation):
        descriptor = file if isinstance(file, int) else file.fileno()
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if access == (os.O_WRONLY if operation & fcntl.LOCK_SH else os.O_RDONLY):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", strict)
    a_store().save(tmp_path / "s")
    calls = {rank: lambda rank=rank: extracted(tmp_path / "m", num_replicas=2, rank=rank) for rank in range(2)}
    results, failures = in_threads(calls)
    assert failures == {}
    assert {store.fingerprint for store in results.values()} == {whole}
    assert "without locks" not in caplog.text


# No directory sync


def is_directory(path):
    return stat.S_ISDIR((os.fstat(path) if isinstance(path, int) else Path(path).stat()).st_mode)


def for_directories(monkeypatch, name, error):
    call = getattr(os, name)

    def wrapped(path, *rest, **options):
        if (isinstance(path, int) or not rest or not rest[0] & os.O_CREAT) and is_directory(path):
            raise type(error)(*error.args)  # a new one: an exception keeps the frames that it went through
        return call(path, *rest, **options)

    monkeypatch.setattr(os, name, wrapped)


@pytest.mark.parametrize(
    ("name", "error"),
    [("fsync", OSError(code, "no")) for code in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)]
    + [("open", PermissionError(errno.EACCES, "no")), ("open", PermissionError("no"))],
)
def test_directories_that_cannot_be_synced(tmp_path, whole, monkeypatch, caplog, name, error):
    caplog.set_level(logging.DEBUG, atomic.__name__)
    for_directories(monkeypatch, name, error)
    for seed in (0, 1):
        assert a_store(seed).save(tmp_path / "s").fingerprint == a_store(seed).fingerprint
    interrupted(tmp_path / "m")
    assert extracted(tmp_path / "m").fingerprint == whole
    assert {record.levelname for record in caplog.records if "cannot be synced" in record.getMessage()} == {"DEBUG"}


def test_a_disk_that_fails_is_not_taken_for_one_that_cannot_sync(tmp_path, monkeypatch):
    for_directories(monkeypatch, "fsync", OSError(errno.EIO, "the disk is broken"))
    with pytest.raises(StoreError, match="the disk is broken"):
        a_store().save(tmp_path / "s")
    assert not (tmp_path / "s").exists()


# Windows, as far as it can be emulated


class Windows:
    """``os`` where the system is Windows and ``os.name`` is asked of this module alone."""

    name = "nt"

    def __getattr__(self, attribute):
        return getattr(os, attribute)


def in_use(path):
    """True for a file that this process has mapped or open, which Windows neither renames nor removes."""
    text = str(Path(path).resolve())
    maps = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line]
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return any(name == text or name.startswith(f"{text}/") for name in maps + links)


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(atomic, "os", Windows())
    monkeypatch.setattr(manifest, "os", Windows())
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "posix_fallocate"):
        monkeypatch.delattr(os, name)
    for_directories(monkeypatch, "open", PermissionError(errno.EACCES, "Permission denied"))
    monkeypatch.setattr(fcntl, "flock", None)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # as it is there
    for name in ("replace", "rename", "unlink"):
        call = getattr(Path, name)

        def careful(self, *rest, call=call, name=name, **options):
            if any(path.exists() and in_use(path) for path in (self, *rest) if isinstance(path, Path)):
                raise PermissionError(errno.EACCES, "used by another process", str(self))
            if name == "rename" and rest[0].exists():
                raise FileExistsError(errno.EEXIST, "already exists", str(rest[0]))
            return call(self, *rest, **options)

        monkeypatch.setattr(Path, name, careful)


def test_the_emulation_refuses_what_windows_refuses(tmp_path, windows):
    held = [a_store().save(tmp_path)]
    with pytest.raises(PermissionError):
        next(tmp_path.glob("features*")).unlink()
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    held.clear()
    next(tmp_path.glob("features*")).unlink()


def test_saving_as_on_windows(tmp_path, windows):
    for seed in (0, 1, 2):
        opened = a_store(seed).save(tmp_path)  # over files that are still mapped
        assert ReferenceStore.open(tmp_path, verify=True).fingerprint == opened.fingerprint == a_store(seed).fingerprint
        del opened
    assert not list(tmp_path.glob(".*"))


def test_a_store_that_is_open_is_replaced_as_on_windows(tmp_path, windows):
    old = a_store(0).save(tmp_path)
    assert a_store(1).save(tmp_path).fingerprint == a_store(1).fingerprint
    np.testing.assert_array_equal(old.features, a_store(0).features)


@pytest.mark.parametrize("ranks", [1, 2])
def test_extracting_as_on_windows(tmp_path, whole, windows, ranks):
    for rank in range(ranks):
        options = {"num_replicas": ranks, "rank": rank, "patience": 0}
        if rank + 1 < ranks:
            with pytest.raises(StoreError, match="missing"):
                extracted(tmp_path, **options)
            gc.collect()
    interrupted(tmp_path, **options)
    assert extracted(tmp_path, **options).fingerprint == whole
    assert extracted(tmp_path).fingerprint == whole
    assert extracted(tmp_path, model=1, overwrite=True).fingerprint != whole
    assert not list(tmp_path.glob(".*"))


def test_a_name_that_is_too_long_is_a_sentence(tmp_path):
    path = tmp_path / ("a" * 300)
    with pytest.raises(StoreError, match="too long"):
        ReferenceStore.open(path)
    with pytest.raises(StoreError, match=r"^cannot write the store at .*too long"):
        ReferenceStore.from_arrays(np.eye(3)).save(path)

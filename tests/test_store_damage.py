"""Every damaged store opens as what was written or raises StoreError; nothing is trusted before it is checked."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from damaged_stores import FILES, VALUES, forged, mutated, outcome, paths_of, put, replaced, sign, small_store

from spectral_sampler.cli import main
from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, manifest


@pytest.fixture
def store(tmp_path):
    return small_store(tmp_path / "s")


@pytest.mark.parametrize("name", FILES)
def test_truncated(store, name):
    path = store.path / name
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        put(path, whole[:length])
        assert outcome(store) is False
    put(path, whole + b"\0" * (name != "manifest.json") + b" " * (name == "manifest.json"))
    assert outcome(store) is (name == "manifest.json")  # white space after JSON means nothing; a longer array does
    put(path, whole)
    assert outcome(store)


@pytest.mark.parametrize("name", FILES)
def test_missing_files(store, name):
    (store.path / name).unlink()
    with pytest.raises(StoreError, match=name):
        ReferenceStore.open(store.path)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(store, name):
    path = store.path / name
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        put(path, damaged)
        if name != "manifest.json":
            assert outcome(store) is False
        else:
            outcome(store)


def test_mutated_headers(store):
    """Headers of arrays (the first 128 bytes) and manifests, mutated as bytes: right, or a named error."""
    generator = random.Random(0)
    originals = {name: (store.path / name).read_bytes() for name in FILES}
    right = 0
    for number in range(600):
        name = FILES[number % 4]
        head = 128 if name != "manifest.json" else len(originals[name])
        put(store.path / name, mutated(generator, originals[name][:head]) + originals[name][head:])
        right += outcome(store)
        put(store.path / name, originals[name])
    assert right < 60
    assert outcome(store)


def test_forged_manifests_are_right_or_refused(store):
    """Every field replaced by some strange values, with the manifest's own checksum made to fit."""
    path = store.path / "manifest.json"
    body = json.loads(path.read_text())
    trials = 0
    for number, place in enumerate(paths_of(body)):
        for value in VALUES[number % 4 :: 4]:
            put(path, sign(replaced(body, place, value)).encode())
            opened = outcome(store)
            assert not opened or place in {("source",), ("sha256",)} or replaced(body, place, value) == body, (
                place,
                value,
            )
            trials += 1
    assert trials > 125


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "NaN", "null", "[]", '"x"', "\ufeff{}"]
)
def test_json_that_is_no_manifest(store, text):
    (store.path / "manifest.json").write_text(text, encoding="utf-8")
    assert outcome(store) is False


@pytest.mark.parametrize("piece", ["[],", "[[[]]],", '{"a":0},', "1e5,"])
def test_a_manifest_larger_as_objects_than_as_text_is_not_parsed(store, piece):
    """A text of 32 MiB took 1.6 GB; many digests and words take about what they take as text."""
    body = json.loads((store.path / "manifest.json").read_text())
    (store.path / "manifest.json").write_text(f"[{piece * 115_000}1]")
    with pytest.raises(StoreError, match="more values than digests have room"):
        ReferenceStore.open(store.path)
    (store.path / "manifest.json").write_text(sign({**body, "source": ["0" * 64] * 110_000}))
    assert len(ReferenceStore.open(store.path)) == 3


def test_what_a_manifest_says_of_itself_is_not_told_at_length(store):
    body = json.loads((store.path / "manifest.json").read_text())
    for field in ("format", "version"):
        (store.path / "manifest.json").write_text(sign({**body, field: "x" * 100_000}))
        with pytest.raises(StoreError) as failure:
            ReferenceStore.open(store.path)
        assert len(str(failure.value)) < 1000


def test_what_a_store_says_of_its_origin_cannot_speak_to_a_terminal(store, capsys):
    store.source = {"data\x1b[2J": "digits\x1b]0;title\x07\r\n\u202e", "of": ["\x1b[31m"], "é": "ü"}
    store.save(store.path)
    assert main(["inspect", str(store.path)]) == 0
    said = capsys.readouterr().out
    assert [letter for letter in said if not letter.isprintable() and letter != "\n"] == []
    assert "made of data\\x1b[2J: digits\\x1b]0;title\\x07\\r\\n\\u202e\n" in said
    assert "made of é: ü\n" in said


def test_a_manifest_too_large_is_not_read(store, monkeypatch):
    monkeypatch.setattr(manifest, "MANIFEST_LIMIT", 100)
    with pytest.raises(StoreError, match="larger than 100 bytes"):
        ReferenceStore.open(store.path)


@pytest.mark.parametrize(
    "name", ["../other/features.npy", "/etc/passwd", "..", "features.npy\0", ".lock", "manifest.json"]
)
def test_names_are_bare(store, name):
    shutil.copytree(store.path, store.path.parent / "other")
    forged(store, file=name)
    with pytest.raises(StoreError, match="is not the name of a store's file"):
        ReferenceStore.open(store.path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_is_never_opened(store, monkeypatch, name, kind, linked):
    """Not even to see what it is: opening a pipe for reading can wait, opening a device can move it."""
    path = store.path / name
    path.unlink()
    target = store.path.parent / "target" if linked else path
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "directory":
        target.mkdir()
    else:
        target = Path("/dev/zero")
    if target != path:
        path.symlink_to(target)
    opened, open_file = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(Path(path)) or open_file(path, *rest))
    with pytest.raises(StoreError, match="not a regular file"):
        ReferenceStore.open(store.path)
    assert path not in opened
    assert (store.path / "manifest.json" in opened) == (name != "manifest.json")


@pytest.mark.parametrize("name", FILES)
def test_a_path_that_becomes_a_pipe_after_it_was_looked_at(store, monkeypatch, name):
    path, status = store.path / name, (store.path / name).stat()
    path.unlink()
    os.mkfifo(path)
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: status if self == path else stat(self, **how))
    with pytest.raises(StoreError, match="not a regular file"):
        ReferenceStore.open(store.path)


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_something_else_is_refused_and_says_nothing_of_it(store, tmp_path, name):
    secret = tmp_path / "secret"
    for text in (b"the password", b"x" * (store.path / name).stat().st_size, b'{"sha256": "", "format": "hidden"}'):
        secret.write_bytes(text)
        (store.path / name).unlink()
        (store.path / name).symlink_to(secret)
        with pytest.raises(StoreError, match=name) as failure:
            ReferenceStore.open(store.path)
        assert "password" not in str(failure.value)
        assert secret.read_bytes() == text
    secret.unlink()
    with pytest.raises(StoreError, match=name):
        ReferenceStore.open(store.path)
    secret.symlink_to(store.path / name)  # a circle
    with pytest.raises(StoreError, match=name):
        ReferenceStore.open(store.path)


def test_the_size_is_compared_before_the_header(store):
    (store.path / "features.npy").write_bytes(b"\x93NUMPY\x03\x00\xff\xff\xff\x7f")  # a header of two gigabytes
    with pytest.raises(StoreError, match="has 12 bytes where its manifest says 152"):
        ReferenceStore.open(store.path)


def test_a_pickle_inside_an_array_file_is_not_loaded(store, tmp_path):
    """An object array of the right size would run code if NumPy were let loose on it."""
    fired = tmp_path / "fired"

    class Bomb:
        def __reduce__(self):
            return open, (str(fired), "w")

    np.save(store.path / "features.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    size = (store.path / "features.npy").stat().st_size
    with (store.path / "features.npy").open("r+b") as file:
        file.truncate(152)
    forged(store, size=152)
    assert size > 152
    with pytest.raises(StoreError, match="another header"):
        ReferenceStore.open(store.path)
    assert not fired.exists()


@pytest.mark.parametrize("version", [2, True, 1.0, "1", None])
def test_versions_but_this_one_are_refused_by_name(store, version):
    path = store.path / "manifest.json"
    path.write_text(sign({**json.loads(path.read_text()), "version": version}))
    with pytest.raises(StoreError, match=f"format version {version!r}, this package reads 1"):
        ReferenceStore.open(store.path)


def test_no_store_at_all(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError, match=r"holds no readable manifest\.json"):
            ReferenceStore.open(path)


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_neither_opening_nor_failing_keeps_files_open(store):
    def count():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    ReferenceStore.open(store.path).save(store.path.parent / "t")
    for name in FILES:
        (store.path / name).write_bytes(b"x")
        for _ in range(3):
            outcome(store)
    assert count() <= before


@pytest.mark.parametrize("place", ["same", "other"])
def test_damaged_data_is_not_saved_with_checksums_that_vouch_for_it(store, tmp_path, place):
    path = store.path / "features.npy"
    damaged = path.read_bytes()[:-1] + b"x"
    put(path, damaged)
    target = store.path if place == "same" else tmp_path / "other"
    manifests = (store.path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=r"was changed after it was written, on disk or here in memory\. Make"):
        ReferenceStore.open(store.path, verify=False).save(target)
    assert (path.read_bytes(), (store.path / "manifest.json").read_bytes()) == (damaged, manifests)
    assert target.exists() == (place == "same")


@pytest.mark.parametrize("name", ["features.npy", "manifest.json"])
@pytest.mark.parametrize(
    "left", [".tmp-x", ".tmp-1-abcd-derived-label-noise.json", ".tmp-1-abcd-partial", ".tmp-1-ef-manifest.json"]
)
def test_a_strangers_files_are_not_ours_by_a_temporary(tmp_path, store, name, left):
    other = tmp_path / "other"
    other.mkdir()
    (other / name).write_text("mine")
    (other / left).touch()
    with pytest.raises(StoreError, match=f"holds {name}, which no store of ours wrote"):
        store.save(other)
    assert (other / name).read_text() == "mine"
    begun = store.path / "manifest.json"
    shutil.copy(begun, other / ".tmp-1-0123456789abcdef-manifest.json")  # of a writer that died between two renames
    if name == "features.npy":
        assert store.save(other).fingerprint == store.fingerprint

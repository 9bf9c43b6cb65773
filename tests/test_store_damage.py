"""Every damaged store opens as what was written or raises StoreError; nothing is trusted before it is checked."""

import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, manifest

FILES = ("features.npy", "losses.npy", "labels.npy", "manifest.json")


@pytest.fixture
def store(tmp_path):
    generator = np.random.default_rng(0)
    arrays = ReferenceStore.from_arrays(generator.normal(size=(3, 2)), generator.random(3), [0, 1, 2])
    return arrays.save(tmp_path / "s")


def put(path, data):
    path.unlink()  # file systems flush a file that is truncated and rewritten, which is slow ten thousand times
    path.write_bytes(data)


def outcome(store):
    """True for the right content, False for StoreError; any other exception or content is a failure."""
    try:
        found = ReferenceStore.open(store.path)
    except StoreError:
        return False
    assert ReferenceStore.from_arrays(found.features, found.losses, found.labels).fingerprint == store.fingerprint
    return True


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_point(store, name):
    path = store.path / name
    whole = path.read_bytes()
    for length in range(len(whole)):
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
def test_every_flipped_bit_of_every_file(store, name):
    path = store.path / name
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        put(path, damaged)
        if name != "manifest.json":
            assert outcome(store) is False
        else:
            outcome(store)


def mutated(generator, data):
    data = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data))
        kind = generator.randrange(5)
        if kind == 0:
            data[at] = generator.randrange(256)
        elif kind == 1:
            data[at:at] = generator.randbytes(generator.randint(1, 8))
        elif kind == 2:
            del data[at : at + generator.randint(1, 40)]
        elif kind == 3:
            data[at : at + 8] = generator.choice(
                [b"9" * 8, b"-1", b"[" * 8, b"null", b"1e999", b'"', b"\xff\xfe", b"../"]
            )
        else:
            other = generator.randrange(len(data))
            data[at : at + 16] = data[other : other + 16]
        data = data or bytearray(b" ")
    return bytes(data)


def test_ten_thousand_mutated_headers(store):
    """Headers of arrays (the first 128 bytes) and manifests, mutated as bytes: right, or a named error."""
    generator = random.Random(0)
    originals = {name: (store.path / name).read_bytes() for name in FILES}
    right = wrong = 0
    for number in range(10_000):
        name = FILES[number % 4]
        head = 128 if name != "manifest.json" else len(originals[name])
        put(store.path / name, mutated(generator, originals[name][:head]) + originals[name][head:])
        if outcome(store):
            right += 1
        else:
            wrong += 1
        put(store.path / name, originals[name])
    assert right + wrong == 10_000
    assert wrong > 9_000
    assert outcome(store)


VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2.5,
    10**30,
    2**62,
    "",
    "x",
    "../x",
    [],
    [1],
    {},
    "float64",
    "object",
    [[3, 2]],
    "é" * 9,
]


def paths_of(value, prefix=()):
    yield prefix
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths_of(child, (*prefix, key))


def replaced(body, path, value):
    if not path:
        return value
    copy = json.loads(json.dumps(body))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def sign(body):
    """A manifest by somebody who knows how the checksum is made."""
    if isinstance(body, dict):
        body = {key: value for key, value in body.items() if key != "sha256"}
        body["sha256"] = hashlib.sha256(manifest.canonical(body)).hexdigest()
    return json.dumps(body)


def test_forged_manifests_are_right_or_refused(store):
    """Every field replaced by every strange value, with the manifest's own checksum made to fit."""
    path = store.path / "manifest.json"
    body = json.loads(path.read_text())
    trials = 0
    for place in paths_of(body):
        for value in VALUES:
            put(path, sign(replaced(body, place, value)).encode())
            opened = outcome(store)
            assert not opened or place in {("source",), ("sha256",)} or replaced(body, place, value) == body, (
                place,
                value,
            )
            trials += 1
    assert trials > 500


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "NaN", "null", "[]", '"x"', "\ufeff{}"]
)
def test_json_that_is_no_manifest(store, text):
    (store.path / "manifest.json").write_text(text, encoding="utf-8")
    assert outcome(store) is False


def test_a_manifest_too_large_is_not_read(store, monkeypatch):
    monkeypatch.setattr(manifest, "MANIFEST_LIMIT", 100)
    with pytest.raises(StoreError, match="larger than 100 bytes"):
        ReferenceStore.open(store.path)


def forged(store, **fields):
    path = store.path / "manifest.json"
    body = json.loads(path.read_text())
    body["arrays"]["features"].update(fields)
    path.write_text(sign(body))


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


def test_versions_to_come_are_refused_by_number(store):
    path = store.path / "manifest.json"
    path.write_text(sign({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(StoreError, match="format version 2, this package reads 1"):
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

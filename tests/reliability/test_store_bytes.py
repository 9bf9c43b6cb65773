"""Stores, and extractions under way, whose files hold other bytes: what was written, or a named error."""

import contextlib
import errno
import itertools
import json
import logging
import os
import random
import shutil
import sys
import time

import numpy as np
import pytest
from damaged_stores import (
    FILES,
    VALUES,
    mutated,
    outcome,
    paths_of,
    put,
    replaced,
    sign,
    small_store,
    small_store_of_parts,
)
from extraction_cases import BATCH, Interrupted, Source, a_model, partial_of
from peak_memory import peak_memory

from spectral_sampler.errors import StoreError
from spectral_sampler.extraction import extract
from spectral_sampler.store import ReferenceStore, derived, manifest, shards
from spectral_sampler.store.unmapped import Unmapped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="reads peaks of memory in /proc"),
]
LIMIT = manifest.MANIFEST_LIMIT


@pytest.fixture
def store(tmp_path):
    return small_store(tmp_path / "s")


def opened(counted, store, what):
    """Counts one opening, which must be right or refused; True if it was right."""
    try:
        right = outcome(store)
    except Exception as error:  # noqa: BLE001
        counted.failed(f"{what}: {type(error).__name__}: {error}")
        return False
    counted.passed()
    return right


def test_truncations(line, store):
    counted = line("store", "every file of a store cut off at every byte")
    for name in FILES:
        whole = (store.path / name).read_bytes()
        for length in range(len(whole)):
            put(store.path / name, whole[:length])
            if opened(counted, store, f"{name} of {length} bytes"):
                counted.failed(f"{name} of {length} bytes opens")
        put(store.path / name, whole)
    assert outcome(store)


def test_flipped_bits(line, store):
    counted = line("store", "every bit of every file of a store flipped")
    for name in FILES:
        whole = (store.path / name).read_bytes()
        for position in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[position // 8] ^= 1 << (position % 8)
            put(store.path / name, damaged)
            if opened(counted, store, f"bit {position} of {name}") and name != "manifest.json":
                counted.failed(f"bit {position} of {name} is not seen")  # JSON has other spaces and letters in escapes
        put(store.path / name, whole)


def test_a_manifest_of_parts(line, tmp_path):
    """It alone says of which stores, and in what order, the store consists."""
    store = small_store_of_parts(tmp_path / "p")
    path = store.path / "manifest.json"
    whole = path.read_bytes()
    body = json.loads(whole)
    counted = line("store", "the manifest of a store of two parts cut off at every byte, every bit flipped")
    for length in range(len(whole)):
        put(path, whole[:length])
        if opened(counted, store, f"{length} bytes"):
            counted.failed(f"{length} bytes open")
    for position in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        put(path, damaged)
        if opened(counted, store, f"bit {position}") and json.loads(damaged) != body:
            counted.failed(f"bit {position} is not seen")
    put(path, whole)
    assert outcome(store)


def fingerprint_made_to_fit(body):
    """None where there is none to fit."""
    try:
        return {**body, "fingerprint": shards.fingerprint([_Named(**part) for part in body["parts"]])}
    except (TypeError, KeyError):
        return None


def test_a_forged_manifest_of_parts(line, tmp_path):
    """By somebody who knows how both of its checksums are made; what is of one part is said of another, too."""
    store = small_store_of_parts(tmp_path / "p")
    counted = line("store", "forged manifests of two parts whose checksums fit: a named error")
    path = store.path / "manifest.json"
    body = json.loads(path.read_text())
    kept = body | {"sha256": ""}  # True is as good as 1
    values = [*VALUES, *(value for part in body["parts"] for value in part.values())]
    for place, value in itertools.product(paths_of(body), values):
        other = replaced(body, place, value)
        for signed in {sign(one) for one in (other, fingerprint_made_to_fit(other)) if one is not None} - {sign(body)}:
            put(path, signed.encode())
            if opened(counted, store, f"{place} is {value!r}") and json.loads(signed) | {"sha256": ""} != kept:
                counted.failed(f"{place} is {value!r}: opens")
    put(path, sign(body).encode())
    assert outcome(store)


class _Named:
    def __init__(self, fingerprint, **_):
        self.fingerprint = fingerprint


def test_without_a_mapping(line, monkeypatch, store, tmp_path):
    """Where there is no address space: rows that are read, of a store and of parts, are looked at as closely."""

    def cannot_map(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(manifest, "_mapped", cannot_map)
    counted = line("store", "features that cannot be mapped cut off at every byte, every bit flipped; so in a part")
    of_parts = small_store_of_parts(tmp_path / "p")
    for one, folder in ((store, store.path), (of_parts, of_parts.path / of_parts.shards[1].place)):
        read = [part.stored for part in ReferenceStore.open(one.path).parts]
        counted.check(all(isinstance(rows, Unmapped) for rows in read), f"mapped: {read}")
        path = folder / "features.npy"
        whole = path.read_bytes()
        cut = [whole[:length] for length in range(len(whole))]
        flipped = [bytearray(whole) for _ in range(8 * len(whole))]
        for position, data in enumerate(flipped):
            data[position // 8] ^= 1 << (position % 8)
        for number, data in enumerate([*cut, *flipped]):
            put(path, data)
            if opened(counted, one, f"{number} of {path}"):
                counted.failed(f"{number} of {path} is not seen")
        put(path, whole)
        assert outcome(one)


def test_mutations(line, number, store):
    """Headers of arrays (the first 128 bytes) and manifests, as bytes."""
    counted = line("store", "mutated manifests and headers: right or a named error, growth of memory", 32, "MB")
    generator = random.Random(0)
    originals = {name: (store.path / name).read_bytes() for name in FILES}
    outcome(store)
    right = 0
    with peak_memory() as peak:
        for trial in range(number(10_000, 100_000)):
            name = FILES[trial % 4]
            head = 128 if name != "manifest.json" else len(originals[name])
            put(store.path / name, mutated(generator, originals[name][:head]) + originals[name][head:])
            right += opened(counted, store, f"mutation {trial} of {name}")
            put(store.path / name, originals[name])
    counted.passed(0, worst=peak.megabytes)
    assert right < 0.1 * counted.checks
    assert outcome(store)


def test_forged(line, store):
    """Every field replaced by every strange value, with the manifest's own checksum made to fit."""
    counted = line("store", "forged manifests whose checksum fits: right or a named error")
    path = store.path / "manifest.json"
    body = json.loads(path.read_text())
    for place in paths_of(body):
        for value in VALUES:
            other = replaced(body, place, value)
            put(path, sign(other).encode())
            if (
                opened(counted, store, f"{place} is {value!r}")
                and place not in {("source",), ("sha256",)}
                and other != body
            ):
                counted.failed(f"{place} is {value!r}: opens")


def large(body, name):
    """A manifest of nearly the most that is read."""
    size = LIMIT - 10_000
    return {
        "lists": lambda: b"[" + b"[]," * (size // 3) + b"1]",
        "deep lists": lambda: b"[" + (b"[" * 900 + b"]" * 900 + b",") * (size // 1801) + b"1]",
        "mappings": lambda: b"[" + b'{"a":0},' * (size // 8) + b"0]",
        "numbers": lambda: b"[" + b"1e5," * (size // 4) + b"1]",
        "deeper than Python goes": lambda: b"[" * size,
        "one number": lambda: b"9" * size,
        "a signed source of lists": lambda: sign({**body, "source": [[]] * (size // 16)}).encode(),
        "one word": lambda: json.dumps({**body, "format": "x" * size}).encode(),
        "one word of wide letters": lambda: json.dumps(
            {"format": "x" * size + "\U0001f600"}, ensure_ascii=False
        ).encode(),
        "more than is read": lambda: b" " * (LIMIT + 1),
        "digests": lambda: sign(replaced(body, ("arrays", "features", "sha256"), ["0" * 64] * (size // 70))).encode(),
    }[name]()


BOMBS = [
    "lists", "deep lists", "mappings", "numbers", "deeper than Python goes", "one number", "a signed source of lists",
    "one word", "one word of wide letters", "more than is read", "digests",
]  # fmt: skip


def test_bombs(line, store, tmp_path, monkeypatch):
    """At most ten times what is read, and seconds of a processor."""
    memory = line("store", "manifests of 32 MiB that are made to be large as objects: growth of memory", 320, "MB")
    seconds = line("store", "the same: time to refuse", 10, "s")
    body = json.loads((store.path / "manifest.json").read_text())
    for name in BOMBS:
        put(store.path / "manifest.json", large(body, name))
        start = time.process_time()
        with peak_memory() as peak:
            try:
                ReferenceStore.open(store.path)
                memory.failed(f"{name}: opens")
            except StoreError as error:
                memory.check(len(str(error)) < 1000, f"{name}: an error of {len(str(error))} letters")
        seconds.passed(1, worst=time.process_time() - start)
        memory.passed(0, worst=peak.megabytes)
    planted = line("store", "planted: a reader without a bound is seen")
    monkeypatch.setattr(manifest, "bounded_json", json.loads)
    put(store.path / "manifest.json", large(body, "deep lists"))
    with peak_memory() as peak, pytest.raises(StoreError):
        ReferenceStore.open(store.path)
    planted.check(peak.megabytes > 640, f"takes {peak.megabytes} MB")


def test_sparse_files(line, store):
    """Sizes that a manifest may promise cost nothing where the file system has holes."""
    counted = line("store", "manifests that promise a terabyte: growth of memory", 64, "MB")
    path = store.path / "manifest.json"
    body = json.loads(path.read_text())
    for rows in (2**20, 2**28, 2**38):
        arrays = body["arrays"]
        digests = -(-rows * 4 // manifest.CHUNK_BYTES)
        entry = {**arrays["features"], "dtype": "float16", "shape": [rows, 2], "size": 128 + 4 * rows}
        entry["sha256"] = ["0" * 64] * digests
        forged = {**body, "arrays": {"features": entry}}
        entries = {"features": manifest._entry("features", entry)}
        forged["fingerprint"] = manifest.Manifest(entries).fingerprint
        put(path, sign(forged).encode())
        with (store.path / "features.npy").open("wb") as file:
            file.write(manifest.npy_header("float16", (rows, 2)))
            try:
                file.truncate(128 + 4 * rows)
            except OSError as error:
                pytest.skip(f"no sparse files here: {error}")
        with peak_memory() as peak:
            if rows == 2**20:
                with pytest.raises(StoreError, match="do not match"):
                    ReferenceStore.open(store.path)
            else:
                # More than the machine's memory cannot be mapped copy-on-write everywhere.
                with contextlib.suppress(StoreError):
                    assert len(ReferenceStore.open(store.path)) == rows
        counted.passed(1, worst=peak.megabytes - (4 if rows == 2**20 else 0))


def test_derived(line, store):
    """Small arrays kept beside a store: as they were written, or computed again."""
    counted = line("store", "what is kept beside a store, cut off or with a bit flipped")
    kept, layout = {"doubts": np.arange(3.0)}, {"doubts": ("float64", (3,))}
    derived.keep(store, "derived-x", 1, kept)
    for path in sorted(store.path.glob("derived-x*")):
        whole = path.read_bytes()
        flipped = [bytearray(whole) for _ in whole]
        for position, data in enumerate(flipped):
            data[position] ^= 1 << (position % 8)
        for data in [*(whole[:length] for length in range(len(whole))), *flipped]:
            put(path, bytes(data))
            try:
                found = derived.kept(store, "derived-x", 1, layout)
            except Exception as error:  # noqa: BLE001
                counted.failed(f"{path.name}: {type(error).__name__}: {error}")
                continue
            counted.check(found is None or np.array_equal(found["doubts"], kept["doubts"]), f"{path.name}: wrong")
        put(path, whole)
    assert derived.kept(store, "derived-x", 1, layout) is not None


def test_extractions_under_way(line, number, tmp_path, caplog):
    """Its files cut off, flipped, mutated; its settings forged: what is resumed ends with the same bits."""
    counted = line("store", "an unfinished extraction with damaged or forged files: ends with the same bits")
    logging.disable()
    rows = 3 * BATCH
    half = tmp_path / "half"
    content = extract(a_model(), Source(rows=rows), tmp_path / "whole", batch_size=BATCH).fingerprint
    with pytest.raises(Interrupted):
        extract(a_model(), Source(2 * BATCH, rows=rows), half, batch_size=BATCH)
    generator = random.Random(0)
    files = {path.name: path.read_bytes() for path in partial_of(half).iterdir()}
    settings = json.loads(files["settings.json"])
    damaged = []
    for name, whole in files.items():
        for _ in range(number(15, 1000)):
            flipped = bytearray(whole)
            flipped[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
            cut = whole[: generator.randrange(len(whole))]
            damaged += [(name, bytes(flipped)), (name, cut), (name, mutated(generator, whole))]
    places = [place for place in paths_of(settings) if not place or place[0] != "identity" or len(place) < 2]
    forged = [replaced(settings, place, value) for place in places for value in VALUES]
    forged = [one for one in forged if one != settings]
    damaged += [
        ("settings.json", json.dumps(one).encode()) for one in generator.sample(forged, number(60, len(forged)))
    ]
    for trial, (name, data) in enumerate(damaged):
        path = tmp_path / "s"
        shutil.copytree(half, path)
        put(partial_of(path) / name, data)
        what = f"{trial}, {name} {data[:60]!r}"
        try:
            found = extract(a_model(), Source(rows=rows), path, batch_size=BATCH, progress=False).fingerprint
            left = len(list(path.iterdir()))
            counted.check(found == content and left == 4, f"{what}: {found == content}, {left} names")
        except Exception as error:  # noqa: BLE001
            counted.failed(f"{what}: {type(error).__name__}: {error}")
        shutil.rmtree(path)
    logging.disable(logging.NOTSET)

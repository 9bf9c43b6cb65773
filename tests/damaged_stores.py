"""A small store, and what to do to it: bytes mutated, fields forged; and what opening it must come to then."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, manifest

FILES = ("features.npy", "losses.npy", "labels.npy", "manifest.json")


def small_store(path):
    generator = np.random.default_rng(0)
    arrays = ReferenceStore.from_arrays(generator.normal(size=(3, 2)), generator.random(3), [0, 1, 2])
    return arrays.save(path)


def small_store_of_parts(path):
    generator = np.random.default_rng(1)
    arrays = [(generator.normal(size=(rows, 2)), generator.random(rows), np.arange(rows)) for rows in (3, 2)]
    return ReferenceStore.from_parts(path, [ReferenceStore.from_arrays(*one) for one in arrays])


def put(path, data):
    path.unlink()  # file systems flush a file that is truncated and rewritten, which is slow ten thousand times
    path.write_bytes(data)


def outcome(store):
    """True for the right content, False for StoreError; any other exception or content is a failure."""
    try:
        found = ReferenceStore.open(store.path)
    except StoreError:
        return False
    got, wanted = (ReferenceStore.from_arrays(one.features, one.losses, one.labels) for one in (found, store))
    assert got.fingerprint == wanted.fingerprint
    assert found.fingerprint == store.fingerprint
    return True


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


def forged(store, array="features", **fields):
    path = store.path / "manifest.json"
    body = json.loads(path.read_text())
    body["arrays"][array].update(fields)
    path.write_text(sign(body))

"""A store of parts of 10⁸ × 64 int8 that takes no room on a disk: holes, whose checksums are those of zeros."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from spectral_sampler import ReferenceStore
from spectral_sampler.store import manifest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["sharded", "sparse"]


def _entry(name: str, dtype: str, shape: tuple[int, ...], itemsize: int, directory: Path) -> manifest.ArrayEntry:
    """A file of zeros that was never written, and what a manifest says of it."""
    header, left = manifest.npy_header(dtype, shape), itemsize
    for length in shape:
        left *= length
    size, digests = len(header) + left, []
    whole = hashlib.sha256(bytes(manifest.CHUNK_BYTES)).hexdigest()
    while left > 0:
        part = min(left, manifest.CHUNK_BYTES)
        digests.append(whole if part == manifest.CHUNK_BYTES else hashlib.sha256(bytes(part)).hexdigest())
        left -= part
    with (directory / f"{name}.npy").open("wb") as file:
        file.write(header)
        file.truncate(size)
    return manifest.ArrayEntry(f"{name}.npy", dtype, shape, size, tuple(digests))


def sparse(directory: Path, rows: int, width: int) -> Path:
    """A store of int8 in ``directory``, every number of which is zero."""
    directory.mkdir(parents=True)
    features = _entry("features", "int8", (rows, width), 1, directory)
    scales = _entry("scales", "float32", (rows,), 4, directory)
    text = manifest.Manifest({"features": features, "scales": scales}).to_bytes()
    (directory / manifest.MANIFEST).write_bytes(text)
    return directory


def sharded(directory: Path, rows: int, width: int, parts: int) -> Path:
    """The same in so many parts of equal length."""
    places = [sparse(directory / f"part-{number}", rows // parts, width) for number in range(parts)]
    ReferenceStore.from_parts(directory, [ReferenceStore.open(place, verify=False) for place in places])
    return directory

"""Parts that are elsewhere, through fsspec: copied once to this machine, whole and compared, then mapped.

A copy lies under its fingerprint, so parts that stores share are fetched once. Only the schemes of `SCHEMES` are asked:
chains and local files of fsspec's could be made to read what nobody named.
"""

from __future__ import annotations

import dataclasses
import re
from typing import IO, TYPE_CHECKING, Any

from spectral_sampler.errors import StoreError, argument_error
from spectral_sampler.optional import optional
from spectral_sampler.store import atomic, manifest, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SCHEMES", "fetch", "is_address"]

SCHEMES = ("https", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://[A-Za-z0-9._=+/-]+")


def is_address(place: str) -> bool:
    """Is it one that parts are fetched from: of a known scheme, without user, port, query, chain or ``..``?"""
    return _ADDRESS.fullmatch(place) is not None and ".." not in place.split("/")


def fetch(place: str, cache: Path | None, fingerprint: str | None = None, *, anew: bool = False) -> Path:
    """The directory of this machine's copy of the store at the address ``place``, made if it is not there or ``anew``.

    Raises:
        ArgumentError: without a directory for it: opening a store that came from elsewhere asks nobody unless told to.
        StoreError: if it cannot be read, or is not the store with this ``fingerprint``.
    """
    if cache is None:
        remedy = "Open or make the store with cache=, a directory of this machine that remote parts are copied to."
        raise argument_error("cache", f"given for the part at {place}", None, remedy)
    if fingerprint is not None and not anew and _is_whole(cache / fingerprint):
        return cache / fingerprint
    files = optional("fsspec", "remote")
    try:
        with files.open(f"{place}/{manifest.MANIFEST}", "rb") as file:
            text = _read(file, manifest.MANIFEST_LIMIT + 1)
    except Exception as error:
        raise StoreError(f"cannot read {place}/{manifest.MANIFEST}: {error}. Is the address right?") from error
    if len(text) > manifest.MANIFEST_LIMIT:
        raise StoreError(
            f"{place}/{manifest.MANIFEST} is larger than {manifest.MANIFEST_LIMIT} bytes, so it is not ours."
        )
    found = manifest.parsed(text, f"{place}/{manifest.MANIFEST}")
    if fingerprint not in (None, found.fingerprint):
        raise StoreError(f"{place} is another store than the part that was added. Replace the part.")
    directory = cache / found.fingerprint
    needed = sum(entry.size for entry in found.arrays.values())
    with atomic.disk_errors(directory, needed), atomic.writer_lock(directory) as exclusive:
        writing.claim(directory, exclusive=exclusive)
        if not _is_whole(directory, verify=anew):  # another process may have fetched it anew while this one waited
            _copy(files, place, found, directory, exclusive=exclusive)
    return directory


def _is_whole(directory: Path, *, verify: bool = False) -> bool:
    """Is it the copy that its name says, with all its files, at their sizes, and to ``verify`` with every byte?"""
    found = writing.current_manifest(directory)
    if found is None or found.fingerprint != directory.name:
        return False
    try:
        for entry in found.arrays.values():
            array = manifest.map_array(directory, entry)
            if verify:
                manifest.verify_data(directory, entry, array)
    except StoreError:
        return False
    return True


def _copy(files: Any, place: str, found: manifest.Manifest, directory: Path, *, exclusive: bool) -> None:
    staged: dict[str, Path] = {}
    try:
        for name, entry in found.arrays.items():
            parts = _chunks(files, f"{place}/{entry.file}", entry)
            staged[name] = atomic.stage(directory, f"{name}.npy", parts, entry.size)
            copy = dataclasses.replace(entry, file=staged[name].name)
            try:
                manifest.verify_data(directory, copy, manifest.map_array(directory, copy))
            except StoreError as error:
                address = f"{place}/{entry.file}"
                raise StoreError(
                    f"what {address} holds is not what its manifest says. Make that part again."
                ) from error
        writing.commit(directory, staged, found.arrays, found.source, exclusive=exclusive)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def _chunks(files: Any, address: str, entry: manifest.ArrayEntry) -> Iterator[bytes]:
    """No more bytes than the manifest says, whatever is there."""
    try:
        with files.open(address, "rb") as file:
            for start in range(0, entry.size, manifest.CHUNK_BYTES):
                yield _read(file, min(manifest.CHUNK_BYTES, entry.size - start))
    except Exception as error:
        raise StoreError(f"cannot read {address}: {error}.") from error


def _read(file: IO[bytes], size: int) -> bytes:
    """The next ``size`` bytes, or all up to the end: a stream gives what has arrived."""
    pieces = []
    while size > 0 and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)

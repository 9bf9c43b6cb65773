"""The manifest of a store: what each file must be, to the byte, before NumPy is shown any of it.

A store is a directory with ``manifest.json`` and up to four ``.npy`` files (format 1.0, C order, little-endian) that
any NumPy program can read; features of uint16 are the bits of bfloat16, those of int8 have ``scales``, one a row. The
manifest holds for each file its bare name, dtype, shape, size and one SHA-256 per 8 MiB of data, and a SHA-256 of
itself. Headers are written by :func:`npy_header` and compared byte by byte, never parsed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import mmap
import os
import re
import stat
import sys
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import StoreError
from spectral_sampler.store.atomic import PARTIAL
from spectral_sampler.store.unmapped import Unmapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "CHUNK_BYTES",
    "FILE_NAME",
    "FORMAT",
    "MANIFEST",
    "MANIFEST_LIMIT",
    "PARTS_FORMAT",
    "ArrayEntry",
    "Manifest",
    "bounded_json",
    "canonical",
    "checked_body",
    "damage_named",
    "data_chunks",
    "data_digests",
    "map_array",
    "npy_header",
    "open_regular",
    "parsed",
    "read_manifest",
    "read_text",
    "verify_data",
    "with_checksum",
]

_logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FORMAT, VERSION = "spectral_sampler reference store", 1
PARTS_FORMAT = "spectral_sampler sharded store"
CHUNK_BYTES = 8 << 20
_HEADER_BYTES = 128
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's number, which Python has a name for since 3.13
MANIFEST_LIMIT = 32 << 20  # 8 MiB chunks: enough for four terabytes of features
_FREE_VALUES = 100_000
_TOLD = 200
_DTYPES = {
    "features": ("float16", "float32", "int8", "uint16"), "scales": ("float32",), "losses": ("float32",),
    "labels": ("int64",),
}  # fmt: skip
_DIGEST = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"(features|scales|losses|labels)(-[0-9a-f]{16})?\.npy")


@dataclass(frozen=True)
class ArrayEntry:
    """One ``.npy`` file: its bare name, dtype, shape, size in bytes, and the SHA-256 of each chunk of its data."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    sha256: tuple[str, ...]

    @staticmethod
    def of(file: str, array: NDArray[Any], sha256: tuple[str, ...]) -> ArrayEntry:
        """The entry for ``array`` stored as ``file``."""
        return ArrayEntry(file, array.dtype.name, array.shape, _HEADER_BYTES + array.nbytes, sha256)


@dataclass(frozen=True)
class Manifest:
    """All that is known of a store without reading its arrays; ``source`` says what an extraction was made from."""

    arrays: Mapping[str, ArrayEntry]
    source: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and data of the arrays: equal stores have equal fingerprints."""
        content = {name: [entry.dtype, entry.shape, entry.sha256] for name, entry in self.arrays.items()}
        return hashlib.sha256(canonical(content)).hexdigest()

    def to_bytes(self) -> bytes:
        """The JSON text of the manifest."""
        body = {
            "format": FORMAT,
            "version": VERSION,
            "byte_order": "little",
            "chunk_bytes": CHUNK_BYTES,
            "fingerprint": self.fingerprint,
            "source": self.source,
            "arrays": {name: asdict(entry) for name, entry in self.arrays.items()},
        }
        return with_checksum(body)


def canonical(value: Any) -> bytes:
    """The one JSON text of a value, that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The 128 bytes before the data. Our own, because NumPy's padding has changed between versions."""
    descr = np.dtype(dtype).newbyteorder("<").str
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}"
    length = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{text:<{length - 1}}\n".encode()


def data_chunks(array: NDArray[Any] | Unmapped) -> Iterator[memoryview]:
    """The data of a C-contiguous array in pieces of ``CHUNK_BYTES``."""
    if isinstance(array, Unmapped):
        yield from array.chunks(CHUNK_BYTES)
        return
    data = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def data_digests(array: NDArray[Any] | Unmapped) -> tuple[str, ...]:
    """SHA-256 of each chunk of the data."""
    return tuple(hashlib.sha256(chunk).hexdigest() for chunk in data_chunks(array))


def verify_data(path: Path, entry: ArrayEntry, array: NDArray[Any] | Unmapped) -> None:
    """Raises StoreError unless every chunk of the mapped data has the checksum that was written."""
    for number, (chunk, digest) in enumerate(zip(data_chunks(array), entry.sha256, strict=True)):
        if hashlib.sha256(chunk).hexdigest() != digest:
            start = _HEADER_BYTES + number * CHUNK_BYTES
            raise StoreError(
                f"{path / entry.file} was changed after it was written: bytes {start} to "
                f"{start + len(chunk)} do not match their checksum. Make the store again."
            )


def read_manifest(path: Path) -> Manifest:
    """The manifest of the store at ``path``; StoreError unless it is complete and unchanged."""
    return parsed(read_text(path), path / MANIFEST)


def read_text(path: Path) -> bytes:
    """The text of the manifest in the directory ``path``, of bounded length; StoreError where there is none."""
    try:
        with open_regular(path / MANIFEST) as file:
            text = file.read(min(os.fstat(file.fileno()).st_size, MANIFEST_LIMIT) + 1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG and any(path.glob(f"{PARTIAL}*")):
            raise StoreError(
                f"the extraction to {path} has not finished. "
                f"Call from_model again with the same arguments to resume it."
            ) from error
        raise StoreError(
            f"{path} holds no readable {MANIFEST} ({error.strerror}): it is not a store, or its writing never finished."
        ) from error
    if len(text) > MANIFEST_LIMIT:
        raise StoreError(f"{path / MANIFEST} is larger than {MANIFEST_LIMIT} bytes, so it is not ours.")
    return text


def parsed(text: bytes, name: object) -> Manifest:
    """The manifest with this text, found at ``name``; StoreError unless it is complete and unchanged."""
    with damage_named(name):
        body = checked_body(text, name, FORMAT, VERSION)
        manifest = Manifest({key: _entry(key, fields) for key, fields in body["arrays"].items()}, body["source"])
        _check(manifest, body)
    return manifest


def checked_body(text: bytes, name: object, form: str, version: int) -> dict[str, Any]:
    """The JSON object with this text, if it is of this form and version and has its own SHA-256."""
    body: dict[str, Any] = bounded_json(text)
    digest = body.pop("sha256")
    if body["format"] != form:
        raise ValueError(f"the format is {body['format']!r}")
    if type(body["version"]) is not int or body["version"] != version:  # True == 1
        raise StoreError(
            f"{name} has format version {repr(body['version'])[:_TOLD]}, this package reads {version}. "
            f"Install a package of the right version or make the store again."
        )
    if hashlib.sha256(canonical(body)).hexdigest() != digest:
        raise ValueError("its checksum does not match")
    return body


def with_checksum(body: dict[str, Any]) -> bytes:
    """The JSON text of an object, its SHA-256 included."""
    return json.dumps(
        {**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}, indent=1, allow_nan=False
    ).encode()


@contextlib.contextmanager
def damage_named(name: object) -> Iterator[None]:
    """Turns what other content raises in whoever reads it into one sentence."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {str(error)[:_TOLD]}"
        raise StoreError(f"{name} is damaged ({what}). Make the store again.") from error


def bounded_json(text: bytes) -> Any:
    """What a JSON text of somebody else's says; ValueError where it would take many times its size as objects.

    ``[[],[],…`` takes 30 times its size, and seconds. Ours are long by their digests alone, of 64 letters each.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > _FREE_VALUES + len(text) // 64:
        raise ValueError("it holds more values than digests have room in it")
    return json.loads(text)


def _entry(name: str, fields: dict[str, Any]) -> ArrayEntry:
    entry = ArrayEntry(fields["file"], fields["dtype"], tuple(fields["shape"]), fields["size"], tuple(fields["sha256"]))
    if FILE_NAME.fullmatch(entry.file) is None:
        raise ValueError(f"{entry.file!r} is not the name of a store's file")
    if entry.dtype not in _DTYPES[name]:
        raise ValueError(f"{name} cannot have dtype {entry.dtype!r}")
    if len(entry.shape) != (2 if name == "features" else 1) or not all(type(n) is int and n > 0 for n in entry.shape):
        raise ValueError(f"{name} cannot have shape {entry.shape!r}")
    data_bytes = math.prod(entry.shape) * np.dtype(entry.dtype).itemsize
    if entry.size != _HEADER_BYTES + data_bytes or len(entry.sha256) != -(-data_bytes // CHUNK_BYTES):
        raise ValueError(f"size or checksums of {name} do not fit its shape")
    if not all(_DIGEST.fullmatch(digest) for digest in entry.sha256):
        raise ValueError(f"a checksum of {name} is not a SHA-256")
    return entry


def _check(manifest: Manifest, body: dict[str, Any]) -> None:
    rows = manifest.arrays["features"].shape[0]
    if any(entry.shape[0] != rows for entry in manifest.arrays.values()):
        raise ValueError("the arrays differ in length")
    if (manifest.arrays["features"].dtype == "int8") != ("scales" in manifest.arrays):
        raise ValueError("int8 features, and no others, have scales")
    if body["byte_order"] != "little" or body["chunk_bytes"] != CHUNK_BYTES:
        raise ValueError("byte order or chunk size is not the one of this version")
    if body["fingerprint"] != manifest.fingerprint:
        raise ValueError("the fingerprint does not belong to the checksums")


def open_regular(path: Path, *, write: bool = False) -> IO[bytes]:
    """Opens a regular file, never waiting on a pipe or touching a device; to ``write``, never through a link.

    Reading follows links, because snapshots of model hubs and of data version control consist of them. In a directory
    that somebody else made, a link may lead to any file, which gains nothing: only data with the size, header and
    checksums of the manifest opens, so whoever wrote that manifest had the data already. The path is looked at before
    it is opened, since opening alone can wait or move a device, and the open file again, since a path may change.
    """
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    flags |= os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) if write else os.O_RDONLY
    _require_regular(path.lstat() if write else path.stat(), path)
    descriptor = os.open(path, flags)
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb+" if write else "rb")


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(0, "not a regular file", str(path))


def map_array(path: Path, entry: ArrayEntry) -> Any:
    """The data of one file, mapped copy-on-write: nobody's write reaches the disk, and torch sees writable memory.
    Where there is no address space for it, `Unmapped` rows, or a copy of what has one number a row."""
    name = path / entry.file
    try:
        with open_regular(name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.size:
                raise StoreError(
                    f"{name} has {size} bytes where its manifest says {entry.size}: "
                    f"it was truncated or changed. Make the store again."
                )
            if file.read(_HEADER_BYTES) != npy_header(entry.dtype, entry.shape):
                raise StoreError(f"{name} has another header than the one that was written. Make the store again.")
            dtype = np.dtype(entry.dtype).newbyteorder("<")
            try:
                return _mapped(file, size)[_HEADER_BYTES:].view(dtype).reshape(entry.shape)
            except OSError as error:
                if error.errno != errno.ENOMEM or not hasattr(os, "preadv"):
                    raise
                return _unmapped(file, name, dtype, entry.shape)
    except OSError as error:
        raise StoreError(f"cannot read {name}: {error.strerror or error}. {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "Let more files be open (ulimit -n), or join parts of the store."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "Ask for the right to read it."
    return "Make the store again." if isinstance(error, FileNotFoundError) else "Is the disk there and in order?"


def _mapped(file: IO[bytes], size: int) -> NDArray[np.uint8]:
    """The bytes of a file, copy-on-write, and no memory set aside for copies: that is refused beyond what there is."""
    if not sys.platform.startswith("linux"):
        return np.memmap(file, np.uint8, "c", shape=(size,)).view(np.ndarray)
    flags = mmap.MAP_PRIVATE | _NO_RESERVE
    return np.frombuffer(mmap.mmap(file.fileno(), size, flags, mmap.PROT_READ | mmap.PROT_WRITE), np.uint8)


def _unmapped(file: IO[bytes], name: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any] | Unmapped:
    """Rows by reading; what has a number a row, in memory."""
    if len(shape) == 1:
        file.seek(_HEADER_BYTES)
        return np.frombuffer(bytearray(file.read()), dtype)
    _logger.warning("%s is too large for this process to map (ulimit -v): its rows are read from the file", name)
    return Unmapped(name, file.fileno(), dtype, shape, _HEADER_BYTES)

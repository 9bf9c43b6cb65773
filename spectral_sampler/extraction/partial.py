"""An extraction under way, on disk: rows written in place, and a hash per chunk that says which of them to believe.

The directory ``.partial-…`` inside the store's holds the future ``.npy`` files at their full size, ``settings.json``,
and ``chunks.bin`` with 32 bytes per chunk: zero, or the SHA-256 of the chunk's rows. Rows are written first and hashed
second, and every hash is compared again when the extraction is resumed and before the store gets its manifest; a chunk
torn by a crash therefore counts as missing. Ranks write disjoint rows and disjoint hashes, so they share the files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import StoreError
from spectral_sampler.store import atomic, writing
from spectral_sampler.store.manifest import ArrayEntry, bounded_json, data_digests, map_array, npy_header, open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Layout", "Partial", "discard_others", "leftovers", "written"]

_SETTINGS, _CHUNKS = "settings.json", "chunks.bin"
_DIGEST_BYTES = 32
_SETTINGS_LIMIT = 32 << 20
# Dtypes and dimensions that an extraction may have written; a name that is not here could lead out of the directory.
_ARRAYS = {"features": (("float16", "float32"), 2), "losses": (("float32",), 1), "labels": (("int64",), 1)}
# What files that are not as they were written raise: any bytes may be there.
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Which arrays there are, with dtype and shape; and the rows of a chunk."""

    arrays: Mapping[str, tuple[str, tuple[int, ...]]]
    chunk_rows: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Layout:
        """The layout in ``settings.json``; ValueError, or what JSON of another form raises, unless it is possible."""
        arrays = {name: (dtype, tuple(shape)) for name, (dtype, shape) in settings["arrays"].items()}
        for name, (dtype, shape) in arrays.items():
            dtypes, dimensions = _ARRAYS[name]
            if dtype not in dtypes or len(shape) != dimensions or not all(map(_is_count, shape)):
                raise ValueError(f"{name} cannot be {dtype!r} of shape {shape!r}")
        wanted = settings["identity"]
        if "features" not in arrays or any(shape[0] != wanted["length"] for _, shape in arrays.values()):
            raise ValueError("its arrays cannot have these lengths")
        return cls(arrays, wanted["batch_size"])

    @property
    def rows(self) -> int:
        """M, the length of every array."""
        return self.arrays["features"][1][0]

    @property
    def chunks(self) -> int:
        """The number of chunks; the last may be short."""
        return -(-self.rows // self.chunk_rows)

    def entry(self, name: str, digests: tuple[str, ...] = ()) -> ArrayEntry:
        """What the manifest is to say about one array."""
        dtype, shape = self.arrays[name]
        size = len(npy_header(dtype, shape)) + int(np.prod(shape)) * np.dtype(dtype).itemsize
        return ArrayEntry(f"{name}.npy", dtype, shape, size, digests)


class Partial:
    """The unfinished extraction with this ``identity`` in ``directory``, open for writing rows."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Opens the files that :meth:`find` or :meth:`create` has seen to."""
        self.path, self.layout = path, layout
        self._arrays = {name: _map_shared(path, layout.entry(name)) for name in layout.arrays}
        with open_regular(path / _CHUNKS, write=True) as file:
            digests = np.memmap(file, np.uint8, "r+", shape=(layout.chunks, _DIGEST_BYTES))
        self._digests: NDArray[np.uint8] = digests.view(np.ndarray)

    @classmethod
    def find(cls, directory: Path, identity: Mapping[str, Any]) -> Partial | None:
        """The extraction to resume, or None; one whose files do not fit its settings is removed."""
        path = _path(directory, identity)
        if (found := _seen(path)) is None:
            return None
        try:
            if path.is_symlink():
                raise ValueError("it is a link")
            settings = _settings(path)
            if settings["identity"] != dict(identity):
                raise ValueError("it is another's")
            layout = Layout.of(settings)
            if (path / _CHUNKS).stat().st_size != layout.chunks * _DIGEST_BYTES:
                raise ValueError(f"{_CHUNKS} has another size")
            return cls(path, layout)
        except _DAMAGED as error:
            if _seen(path) != found:
                # Published meanwhile by a rank that nothing keeps from it, see `publish`; or begun anew by another one
                # that met the damage, too.
                return cls.find(directory, identity)
            _require_damage(path, error)
            _logger.warning("starting over: the unfinished extraction at %s is damaged (%s)", path, error)
        removed = directory / atomic.temporary_name("partial")
        with contextlib.suppress(FileNotFoundError):  # of several ranks that meet it one takes it away
            if _seen(path) == found:
                path.rename(removed)
        with contextlib.suppress(OSError):
            atomic.discard(removed)
        return None

    @classmethod
    def create(cls, directory: Path, identity: Mapping[str, Any], layout: Layout) -> Partial:
        """Reserves the files for all rows at once. Of several ranks that try, one wins and the others use its files."""
        path = _path(directory, identity)
        staged = directory / atomic.temporary_name("partial")
        staged.mkdir()
        try:
            for name, (dtype, shape) in layout.arrays.items():
                _reserve(staged / f"{name}.npy", npy_header(dtype, shape), layout.entry(name).size)
            _reserve(staged / _CHUNKS, b"", layout.chunks * _DIGEST_BYTES)
            settings = {"identity": identity, "arrays": layout.arrays}
            (staged / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
            try:
                staged.rename(path)
            except OSError:
                if not (path / _SETTINGS).exists():
                    raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return cls(path, layout)

    def _rows(self, chunk: int) -> slice:
        start = chunk * self.layout.chunk_rows
        return slice(start, min(start + self.layout.chunk_rows, self.layout.rows))

    def _digest(self, chunk: int) -> NDArray[np.uint8]:
        digest = hashlib.sha256(str(chunk).encode())
        for name in sorted(self._arrays):
            digest.update(np.ascontiguousarray(self._arrays[name][self._rows(chunk)]).data)
        return np.frombuffer(digest.digest(), np.uint8)

    def is_done(self, chunk: int) -> bool:
        """True if the chunk's rows are on disk as they were written."""
        return bool(self._digests[chunk].any()) and np.array_equal(self._digests[chunk], self._digest(chunk))

    def write(self, chunk: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Writes the rows of one chunk, then the hash that vouches for them."""
        for name, mapped in self._arrays.items():
            mapped[self._rows(chunk)] = arrays[name]
        self._digests[chunk] = self._digest(chunk)

    def missing(self) -> list[int]:
        """The chunks that are still to be computed; while some have no hash those, and nothing is read."""
        unhashed: list[int] = np.flatnonzero(~self._digests.any(axis=1)).tolist()
        return unhashed or [chunk for chunk in range(self.layout.chunks) if not self.is_done(chunk)]

    def publish(self, directory: Path, source: Mapping[str, Any], *, exclusive: bool) -> None:
        """Turns the files into the store of ``directory``; the object is of no use afterwards.

        Without the ``exclusive`` lock several ranks may come here at once. Whoever can rename the directory of the
        extraction has it; the others meet FileNotFoundError. With it the directory stays what it is until the store has
        its manifest, so that whoever is killed before that has lost nothing.
        """
        entries = {name: self.layout.entry(name, data_digests(array)) for name, array in self._arrays.items()}
        for name in entries:
            _synchronise(self.path / f"{name}.npy")
        self._arrays, self._digests = {}, np.empty((0, _DIGEST_BYTES), np.uint8)  # Windows renames no mapped file
        path = self.path if exclusive else self.path.rename(directory / atomic.temporary_name("partial"))
        staged: dict[str, Path] = {}
        try:
            for name in entries:
                staged[name] = _second_name(path / f"{name}.npy", directory)
            writing.commit(directory, staged, entries, source, exclusive=exclusive)
        except BaseException:
            for link in staged.values():
                if link.parent == directory:
                    with contextlib.suppress(OSError):
                        link.unlink()
            if path != self.path:
                with contextlib.suppress(OSError):
                    path.rename(self.path)
            raise
        shutil.rmtree(path, ignore_errors=True)  # the store is there; NFS and Windows keep files that a rank still maps


def _require_damage(path: Path, error: BaseException) -> None:
    """StoreError if the files could not be looked at, whatever they hold: too many are open, memory is short, …"""
    met = error if isinstance(error, OSError) else error.__cause__
    absent = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    if isinstance(met, OSError) and not isinstance(met, absent) and met.errno != errno.ELOOP:
        raise StoreError(
            f"cannot read the unfinished extraction at {path}: {met.strerror or met}. It is kept: call again once that "
            f"is mended."
        ) from error


def _seen(path: Path) -> tuple[int, int] | None:
    """Which directory it is, told from one that has its name later; None where there is none."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        return found.st_ino, found.st_ctime_ns
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _path(directory: Path, identity: Mapping[str, Any]) -> Path:
    text = json.dumps(identity, sort_keys=True)
    return directory / f"{atomic.PARTIAL}{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _map_shared(path: Path, entry: ArrayEntry) -> NDArray[Any]:
    map_array(path, entry)  # compares size and header
    dtype, offset = np.dtype(entry.dtype).newbyteorder("<"), len(npy_header(entry.dtype, entry.shape))
    with open_regular(path / entry.file, write=True) as file:
        mapped = np.memmap(file, dtype, "r+", offset=offset, shape=entry.shape)
    return mapped.view(np.ndarray)


def _settings(path: Path) -> Any:
    with open_regular(path / _SETTINGS) as file:
        return bounded_json(file.read(_SETTINGS_LIMIT))


def _reserve(path: Path, header: bytes, size: int) -> None:
    with path.open("xb") as file:
        file.write(header)
        file.flush()
        atomic.allocate(file.fileno(), size)


def _synchronise(path: Path) -> None:
    with open_regular(path, write=True) as file:
        os.fsync(file.fileno())


def _second_name(path: Path, directory: Path) -> Path:
    """A link to the file by a temporary name in ``directory``; the file itself where the file system has no links."""
    link = directory / atomic.temporary_name(path.name)
    try:
        os.link(path, link)
    except OSError:
        return path
    return link


def written(directory: Path, identity: Mapping[str, Any]) -> int:
    """The chunks that somebody has vouched for so far, unread; 0 before the first and after the last."""
    try:
        with open_regular(_path(directory, identity) / _CHUNKS) as file:
            digests = np.fromfile(file, np.uint8)
    except OSError:
        return 0
    return int(digests[: len(digests) // _DIGEST_BYTES * _DIGEST_BYTES].reshape(-1, _DIGEST_BYTES).any(axis=1).sum())


def leftovers(directory: Path, identity: Mapping[str, Any]) -> list[Path]:
    """What a process that died just after this extraction became the store has left beside it."""
    path = _path(directory, identity)
    return [path] * os.path.lexists(path) + writing.leftovers(directory)


def discard_others(directory: Path, identity: Mapping[str, Any]) -> None:
    """Removes unfinished extractions of anything else, saying what differs; the caller holds the exclusive lock."""
    for path in directory.glob(f"{atomic.PARTIAL}*"):
        if path == _path(directory, identity):
            continue
        try:
            other = _settings(path)["identity"]
            differing = ", ".join(sorted(key for key in identity if other.get(key) != identity[key]))
        except _DAMAGED:
            differing = "unknown settings"
        _logger.warning("removed: an unfinished extraction at %s that had another %s", directory, differing)
        atomic.discard(path)

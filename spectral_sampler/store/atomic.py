"""Files that are absent or whole: staged under a temporary name, synced, renamed; writers take turns.

The order of :func:`stage` and :func:`publish` is what a crash at any instruction relies on: bytes reach the disk before
their name does, and the names of the arrays before the manifest that vouches for them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
from typing import IO, TYPE_CHECKING

from spectral_sampler.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["PARTIAL", "TEMPORARY", "allocate", "disk_errors", "publish", "stage", "temporary_name", "writer_lock"]

TEMPORARY = ".tmp-"
PARTIAL = ".partial-"  # directories of extractions that have not finished
_LOCK = ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def disk_errors(directory: Path, needed: int = 0) -> Iterator[None]:
    """Turns an OSError met while writing ``needed`` bytes into ``directory`` into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = _free_bytes(directory)
            raise StoreError(
                f"cannot write the store at {directory}: {needed} bytes needed, {free} bytes free "
                f"({error.strerror}); nothing was left behind. Free some space or pass another path."
            ) from error
        if error.errno in _DENIED:
            raise StoreError(
                f"cannot write the store at {directory}: the directory is not writable "
                f"({error.strerror}). Pass a path that you may write to."
            ) from error
        raise StoreError(f"cannot write the store at {directory}: {error}.") from error


def _free_bytes(directory: Path) -> int:
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def temporary_name(name: str) -> str:
    """A name that nobody can guess and no reader opens; the process number is there for people who find it."""
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}-{name}"


def allocate(descriptor: int, size: int) -> None:
    """Reserves the bytes now, so that a full disk is met before any work and never in a mapped page (SIGBUS)."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
            os.ftruncate(descriptor, size)
    else:
        os.ftruncate(descriptor, size)


def stage(directory: Path, name: str, parts: Iterable[bytes | memoryview], size: int) -> Path:
    """Writes and syncs ``parts`` (``size`` bytes in all) under a temporary name; removes it again on any failure."""
    path = directory / temporary_name(name)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            allocate(descriptor, size)
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _sync_directory(directory: Path) -> None:
    """Makes the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(directory: Path, arrays: Mapping[str, Path], manifest: Path, manifest_name: str) -> None:
    """Gives staged files their names: the arrays, made durable, and only then the manifest."""
    for name, staged in arrays.items():
        staged.replace(directory / name)
    _sync_directory(directory)
    manifest.replace(directory / manifest_name)
    _sync_directory(directory)


@contextlib.contextmanager
def writer_lock(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Waits for the other writers of ``directory`` (made if missing) and keeps them out; ``shared`` admits its like.

    The lock belongs to the open file, so a killed process drops it. The last holder removes the lock file when it is
    done, and the directory too if nothing else is in it; a waiter then sees its file gone and starts over.
    """
    with _acquire(directory, shared=shared) as file:
        try:
            yield
        finally:
            if not shared or _is_last(file.fileno()):
                with contextlib.suppress(OSError):
                    (directory / _LOCK).unlink()
                with contextlib.suppress(OSError):
                    directory.rmdir()  # fails, as it should, unless empty


def _acquire(directory: Path, *, shared: bool) -> IO[bytes]:
    """The locked file; a file object, because one that an interrupt leaves to nobody is closed, hence unlocked."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / _LOCK
        try:
            file = open(path, "ab", opener=_open_no_link)  # noqa: SIM115
        except FileNotFoundError:
            continue  # another writer failed and removed the directory between the two lines above
        if os.name != "posix":  # no flock: writers have to take turns by themselves
            return file
        import fcntl

        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("waiting for another writer of %s", directory)
            fcntl.flock(file, mode)
        if _same_file(file.fileno(), path):
            return file
        file.close()


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _is_last(descriptor: int) -> bool:
    """True if a shared lock could be made exclusive, that is if nobody else holds it."""
    if os.name != "posix":
        return False
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False

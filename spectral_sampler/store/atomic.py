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

__all__ = [
    "LOCK",
    "PARTIAL",
    "TEMPORARY",
    "allocate",
    "discard",
    "disk_errors",
    "publish",
    "stage",
    "temporary_name",
    "writer_lock",
]

TEMPORARY = ".tmp-"
PARTIAL = ".partial-"  # directories of extractions that have not finished
LOCK = ".lock"
_FILES, _BLOCK = 4, 4096  # three arrays and their manifest, each with a header or a last block
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}
# What a file system says that keeps no directories on demand; EACCES is Windows', which opens none. EIO is a failure.
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR}
_warned: dict[Path, object] = {}
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def disk_errors(directory: Path, needed: int = 0, left: str = "nothing was left behind") -> Iterator[None]:
    """Turns an OSError met while writing arrays of ``needed`` bytes into a StoreError that says what to do.

    ``left``: what is in ``directory`` then.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreError(
                f"cannot write the store at {directory}: {_room(directory, needed, error.errno)} "
                f"({error.strerror}); {left}. Free some space or pass another path."
            ) from error
        if error.errno in _DENIED:
            raise StoreError(
                f"cannot write the store at {directory}: the directory is not writable "
                f"({error.strerror}). Pass a path that you may write to."
            ) from error
        raise StoreError(f"cannot write the store at {directory}: {error}.") from error


def _room(directory: Path, needed: int, code: int | None) -> str:
    """What is needed, a block more for each of the files, and what there is of it."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    needed, free = needed + _FILES * _BLOCK, shutil.disk_usage(directory).free
    text = f"{needed} bytes needed, {free} bytes free"
    if free < needed or code != errno.ENOSPC or not hasattr(os, "statvfs"):
        return text
    return f"{text}, {os.statvfs(directory).f_favail} files free"  # a file system can run out of those, too


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


def discard(path: Path) -> None:
    """Removes a file, a directory with all that is in it, or a link and not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Makes the names in ``directory`` durable; where that cannot be asked for, the system does it in its own time."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not isinstance(error, PermissionError) and error.errno not in _NO_DIRECTORY_SYNC:
            raise
        _logger.debug("%s cannot be synced (%s): a power cut may take what was written last", directory, str(error))


def publish(directory: Path, arrays: Mapping[str, Path], manifest: Path, manifest_name: str) -> None:
    """Gives staged files their names: the arrays, made durable, and only then the manifest."""
    for name, staged in arrays.items():
        staged.replace(directory / name)
    _sync_directory(directory)
    manifest.replace(directory / manifest_name)
    _sync_directory(directory)


@contextlib.contextmanager
def writer_lock(directory: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Waits for the other writers of ``directory`` (made if missing) and keeps them out; ``shared`` admits its like.

    BlockingIOError where there is another and we are not to ``wait``.

    The lock belongs to the open file, so a killed process drops it. The last holder removes the lock file when it is
    done, and the directory too if nothing else is in it; a waiter then sees its file gone and starts over.

    Yields False, after a warning, where there is no such lock: Lustre and NFS as they are often mounted, Windows. Who
    writes there removes nothing that could be another writer's, and takes names that nobody else takes.
    """
    with _acquire(directory, shared=shared, wait=wait) or contextlib.nullcontext() as file:
        try:
            yield file is not None
        finally:
            if file is None or not shared or _is_last(file.fileno()):
                if file is not None:
                    with contextlib.suppress(OSError):
                        (directory / LOCK).unlink()
                with contextlib.suppress(OSError):
                    directory.rmdir()  # fails, as it should, unless empty


def _acquire(directory: Path, *, shared: bool, wait: bool) -> IO[bytes] | None:
    """The locked file, or None where nothing can be locked.

    A file object, because one that an interrupt leaves to nobody is closed, hence unlocked. It is open for reading too,
    because NFS turns flock into a lock of bytes, and a shared one of those needs that.
    """
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        if os.name != "posix":
            _warn_unlocked(directory, "this system has no flock")
            return None
        import fcntl

        path = directory / LOCK
        try:
            file = open(path, "a+b", opener=_open_no_link)  # noqa: SIM115
        except FileNotFoundError:
            continue  # another writer failed and removed the directory between the two lines above

        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                file.close()
                raise
            _logger.info("waiting for another writer of %s", directory)
            fcntl.flock(file, mode)
        except OSError as error:  # not that somebody has it, so nobody can
            file.close()
            path.unlink(missing_ok=True)
            _warn_unlocked(directory, error.strerror or str(error))
            return None
        if _same_file(file.fileno(), path):
            return file
        file.close()


def _warn_unlocked(directory: Path, reason: str) -> None:
    """Once for a directory: an extraction that waits for other ranks asks again and again."""
    first = object()
    if _warned.setdefault(directory, first) is not first:
        return
    _logger.warning(
        "%s is on a file system without locks (%s), so programs that write there at once do not wait for each other: "
        "run one at a time, or write to a local disk and copy the finished directory",
        directory,
        reason,
    )


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

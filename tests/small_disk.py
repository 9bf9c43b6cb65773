"""A real file system in memory with as many bytes and files left as a test wants: Linux, and the right to mount."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


class CannotMount(Exception):
    pass


@contextlib.contextmanager
def mounted(path, pages=256, files=64):
    """A tmpfs at ``path``, a new directory; CannotMount with the system's reason where there can be none."""
    path.mkdir()
    options = f"size={pages * PAGE},nr_inodes={files},mode=0777"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMount(f"no tmpfs can be mounted here: {error}") from error
    if done.returncode:
        raise CannotMount(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def remount(path, how):
    """``how``: ro or rw."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True, capture_output=True)


@contextlib.contextmanager
def left(path, pages=None, files=None):
    """Fills the file system at ``path`` but for these; the filling is a directory that goes again."""
    filling = path / "filling"
    filling.mkdir()
    status = os.statvfs(path)
    for number in range(0 if files is None else status.f_ffree - files):
        (filling / str(number)).touch()
    if pages is not None:
        with (filling / "bytes").open("wb") as file:
            size = status.f_bavail * status.f_frsize - pages * PAGE
            if size > 0:
                os.posix_fallocate(file.fileno(), 0, size)
    try:
        yield
    finally:
        for file in filling.iterdir():
            file.unlink()
        filling.rmdir()


def names(path: Path) -> list[str]:
    """All that is below ``path``."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))

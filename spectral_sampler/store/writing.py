"""How a store's files get their names: a previous store stays whole until the one rename that replaces it."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import StoreError
from spectral_sampler.store import atomic
from spectral_sampler.store.manifest import (
    FILE_NAME,
    FORMAT,
    MANIFEST,
    MANIFEST_LIMIT,
    PARTS_FORMAT,
    ArrayEntry,
    Manifest,
    data_chunks,
    npy_header,
    open_regular,
    parsed,
    read_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["claim", "commit", "current_manifest", "leftovers", "refuse_strangers", "write_store"]

_AT_WORK = re.compile(rf"{re.escape(atomic.TEMPORARY)}\d+-[0-9a-f]+-({re.escape(MANIFEST)}|partial)")


def current_manifest(directory: Path) -> Manifest | None:
    """The manifest of the store that is there now, or None if there is none that can be read."""
    try:
        return read_manifest(directory)
    except StoreError:
        return None


def claim(directory: Path, *, exclusive: bool = True) -> None:
    """Refuses a directory with files that no store wrote, and removes what a writer that died left in one of ours.

    With the exclusive lock, whoever wrote a temporary is gone; without it nothing is removed. A crash between the
    renames of the arrays and of the manifest leaves the manifest's temporary, hence arrays without either belong to
    somebody else.
    """
    abandoned = leftovers(directory)
    refuse_strangers(directory)
    for path in abandoned if exclusive else ():
        if path.name != atomic.LOCK:
            atomic.discard(path)


def leftovers(directory: Path) -> list[Path]:
    """What a writer at work, or one that died, has in ``directory`` beside the store: arrays first."""
    manifest = current_manifest(directory)
    named = {entry.file for entry in manifest.arrays.values()} if manifest else set()
    known = manifest is not None or not (directory / MANIFEST).exists()  # else any of them may be the damaged store's
    paths = list(directory.iterdir())
    arrays = [path for path in paths if known and FILE_NAME.fullmatch(path.name) and path.name not in named]
    return arrays + [path for path in paths if path.name.startswith((atomic.TEMPORARY, atomic.LOCK))]


def refuse_strangers(directory: Path) -> None:
    """StoreError if ``directory`` has files by the names of ours, and no sign that a store is or was to be there."""
    if current_manifest(directory) is not None:
        return
    with contextlib.suppress(OSError), open_regular(directory / MANIFEST) as damaged:
        if FORMAT.encode() in (text := damaged.read(4096)):
            return
        if PARTS_FORMAT.encode() in text:
            raise StoreError(f"{directory} is a store of parts. Pass another path, or append to it.")
    names = [path.name for path in directory.iterdir()]
    ours = _unfinished(directory)  # looked for after the names, as a writer without a lock may be at work
    strangers = sorted(name for name in names if name == MANIFEST or (FILE_NAME.fullmatch(name) and name not in ours))
    if strangers and current_manifest(directory) is None:  # without a lock, one may have been written meanwhile
        raise StoreError(
            f"{directory} holds {', '.join(strangers)}, which no store of ours wrote. "
            f"Pass a new directory, or remove them."
        )


def _unfinished(directory: Path) -> set[str]:
    """The arrays of a writer at work, or one that died: those of a manifest that is still a temporary, and beside
    anything of a writer those whose names nobody else gives."""
    names: set[str] = set()
    for path in directory.glob(f"{atomic.TEMPORARY}*-{MANIFEST}"):
        with contextlib.suppress(OSError, StoreError), open_regular(path) as file:
            names |= {entry.file for entry in parsed(file.read(MANIFEST_LIMIT), path).arrays.values()}
    present = [path.name for path in directory.iterdir()]
    if any(_AT_WORK.fullmatch(name) for name in present):
        names |= {name for name in present if FILE_NAME.fullmatch(name) and "-" in name}
    return names


def write_store(
    directory: Path,
    arrays: Mapping[str, NDArray[Any]],
    digests: Mapping[str, tuple[str, ...]],
    source: Mapping[str, Any] | None,
    *,
    exclusive: bool = True,
) -> None:
    """Writes ``arrays`` as the store in ``directory``, as :func:`commit` does."""
    staged: dict[str, Path] = {}
    try:
        for name, array in arrays.items():
            header = npy_header(array.dtype.name, array.shape)
            parts: Iterator[bytes | memoryview] = itertools.chain([header], data_chunks(array))
            staged[name] = atomic.stage(directory, f"{name}.npy", parts, len(header) + array.nbytes)
        entries = {name: ArrayEntry.of("", array, digests[name]) for name, array in arrays.items()}
        commit(directory, staged, entries, source, exclusive=exclusive)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def commit(
    directory: Path,
    staged: Mapping[str, Path],
    entries: Mapping[str, ArrayEntry],
    source: Mapping[str, Any] | None,
    *,
    exclusive: bool = True,
) -> None:
    """Names files that are written and synced already, then their manifest, then removes what it no longer names.

    Without the ``exclusive`` lock every name is a new one, so that of two writers at once the later manifest wins and
    both belong to their arrays, and only the files of the store that was replaced are removed.
    """
    replaced = current_manifest(directory)
    old = {entry.file for entry in replaced.arrays.values()} if replaced else set()
    named = {name: _free_name(directory, name, exclusive=exclusive) for name in entries}
    manifest = Manifest(
        {
            name: ArrayEntry(named[name], entry.dtype, entry.shape, entry.size, entry.sha256)
            for name, entry in entries.items()
        },
        source,
    )
    text = manifest.to_bytes()
    new_manifest = atomic.stage(directory, MANIFEST, (text,), len(text))
    try:
        atomic.publish(directory, {named[name]: path for name, path in staged.items()}, new_manifest, MANIFEST)
    except BaseException:
        if new_manifest.exists():  # not named yet: what has its name already is whose it was, who may go on with it
            for name, path in staged.items():
                with contextlib.suppress(FileNotFoundError):
                    (directory / named[name]).replace(path)
            new_manifest.unlink()
        raise
    for path in directory.iterdir():  # of the store just replaced, or of a writer that died between two renames
        if FILE_NAME.fullmatch(path.name) and path.name not in named.values() and (exclusive or path.name in old):
            with contextlib.suppress(OSError):  # the new store is there; Windows keeps files that somebody has mapped
                path.unlink()


def _free_name(directory: Path, name: str, *, exclusive: bool) -> str:
    """``features.npy``, or a name beside it where another store or writer may need that one."""
    plain = f"{name}.npy"
    return plain if exclusive and not (directory / plain).exists() else f"{name}-{secrets.token_hex(8)}.npy"

"""How a store's files get their names: a previous store stays whole until the one rename that replaces it."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import StoreError
from spectral_sampler.store import atomic
from spectral_sampler.store.manifest import (
    FILE_NAME,
    FORMAT,
    MANIFEST,
    ArrayEntry,
    Manifest,
    data_chunks,
    map_array,
    npy_header,
    read_manifest,
    verify_data,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["claim", "commit", "current_manifest", "holds", "refuse_strangers", "write_store"]


def current_manifest(directory: Path) -> Manifest | None:
    """The manifest of the store that is there now, or None if there is none that can be read."""
    try:
        return read_manifest(directory)
    except StoreError:
        return None


def claim(directory: Path) -> None:
    """Refuses a directory with files that no store wrote, and removes what a writer that died left in one of ours.

    The caller holds the exclusive lock, so whoever wrote a temporary is gone. A crash between the renames of the arrays
    and of the manifest leaves the manifest's temporary, hence arrays without either belong to somebody else.
    """
    temporaries = list(directory.glob(f"{atomic.TEMPORARY}*"))
    manifest = current_manifest(directory)
    refuse_strangers(directory)
    named = {entry.file for entry in manifest.arrays.values()} if manifest else set()
    if manifest or not (directory / MANIFEST).exists():
        for path in directory.iterdir():
            if FILE_NAME.fullmatch(path.name) and path.name not in named:
                path.unlink()
    for path in temporaries:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def refuse_strangers(directory: Path) -> None:
    """StoreError if ``directory`` has files by the names of ours, and no sign that a store is or was to be there."""
    if current_manifest(directory) is not None or any(directory.glob(f"{atomic.TEMPORARY}*")):
        return
    damaged = directory / MANIFEST
    if damaged.is_file() and FORMAT.encode() in damaged.read_bytes()[:4096]:
        return
    names = [path.name for path in directory.iterdir()]
    strangers = sorted(name for name in names if name == MANIFEST or FILE_NAME.fullmatch(name))
    if strangers:
        raise StoreError(
            f"{directory} holds {', '.join(strangers)}, which no store of ours wrote. "
            f"Pass a new directory, or remove them."
        )


def holds(directory: Path, fingerprint: str, source: Mapping[str, Any] | None) -> bool:
    """True if an undamaged store with this content and source is there already."""
    manifest = current_manifest(directory)
    if manifest is None or manifest.fingerprint != fingerprint or manifest.source != source:
        return False
    try:
        for entry in manifest.arrays.values():
            verify_data(directory, entry, map_array(directory, entry))
    except StoreError:
        return False
    return True


def write_store(
    directory: Path,
    arrays: Mapping[str, NDArray[Any]],
    digests: Mapping[str, tuple[str, ...]],
    source: Mapping[str, Any] | None,
) -> None:
    """Writes ``arrays`` as the store in ``directory``; the caller holds its exclusive lock."""
    staged: dict[str, Path] = {}
    try:
        for name, array in arrays.items():
            header = npy_header(array.dtype.name, array.shape)
            parts: tuple[bytes | memoryview, ...] = (header, *data_chunks(array))
            staged[name] = atomic.stage(directory, f"{name}.npy", parts, len(header) + array.nbytes)
        entries = {name: ArrayEntry.of("", array, digests[name]) for name, array in arrays.items()}
        commit(directory, staged, entries, source)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def commit(
    directory: Path, staged: Mapping[str, Path], entries: Mapping[str, ArrayEntry], source: Mapping[str, Any] | None
) -> None:
    """Names files that are written and synced already, then their manifest, then removes what it no longer names."""
    named = {name: _free_name(directory, name) for name in entries}
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
        if new_manifest.exists():  # not named yet, so nothing speaks of the arrays that have their names already
            for name in named.values():
                (directory / name).unlink(missing_ok=True)
            new_manifest.unlink()
        raise
    for path in directory.iterdir():
        if FILE_NAME.fullmatch(path.name) and path.name not in named.values():
            path.unlink()  # of the store just replaced, or of a writer that died between two renames


def _free_name(directory: Path, name: str) -> str:
    """``features.npy``, or a name beside it while the store to be replaced still needs that one."""
    plain = f"{name}.npy"
    return f"{name}-{secrets.token_hex(8)}.npy" if (directory / plain).exists() else plain

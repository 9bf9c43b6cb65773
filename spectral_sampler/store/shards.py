"""The manifest of a store of several parts: which stores it consists of, in what order, and where each of them lies.

Every part is a store of its own, with its own manifest and checksums, so this one holds no data: a part is appended or
replaced by writing its directory first and then this file anew, as every file here is (`atomic`). Until that one rename
a reader sees the old parts, afterwards the new ones. A directory in the store's is known by its bare name, one
elsewhere by a link with such a name, and one that is not on this machine by its address.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import StoreError
from spectral_sampler.store import atomic, manifest, remote

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "BARE",
    "MOST",
    "OURS",
    "Shard",
    "claim",
    "fingerprint",
    "fresh_name",
    "is_sharded",
    "publish",
    "read",
    "sweep",
]

FORMAT, VERSION = manifest.PARTS_FORMAT, 1
BARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,127}")
OURS = re.compile(r"written-[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
MOST = 10_000  # parts: each keeps two files open, and more would not be read back (`manifest.bounded_json`)
_DTYPES = ("float16", "float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Shard:
    """One part: where it is, and what must be there."""

    place: str
    """A bare name in the store's directory, or an address."""
    fingerprint: str
    rows: int
    width: int
    dtype: str
    """As it is stored."""
    columns: tuple[str, ...]
    """Which of losses and labels it has beside the features."""


def fingerprint(shards: Sequence[Shard]) -> str:
    """SHA-256 over those of the parts, in their order."""
    return hashlib.sha256(manifest.canonical([FORMAT, [shard.fingerprint for shard in shards]])).hexdigest()


def is_sharded(directory: Path) -> bool:
    """Is there a manifest of parts, whole or damaged?"""
    with contextlib.suppress(OSError), manifest.open_regular(directory / manifest.MANIFEST) as file:
        return FORMAT.encode() in file.read(256)
    return False


def read(directory: Path) -> tuple[Shard, ...]:
    """The parts of the store at ``directory``; StoreError unless its manifest is complete and unchanged."""
    name = directory / manifest.MANIFEST
    text = manifest.read_text(directory)
    with manifest.damage_named(name):
        body = manifest.checked_body(text, name, FORMAT, VERSION)
        shards = tuple(_shard(fields) for fields in body["parts"])
        if not shards or any((one.width, one.columns) != (shards[0].width, shards[0].columns) for one in shards):
            raise ValueError("the parts differ in width or in what they hold")
        if body["fingerprint"] != fingerprint(shards):
            raise ValueError("the fingerprint does not belong to the parts")
    return shards


def _shard(fields: dict[str, Any]) -> Shard:
    shard = Shard(**{**fields, "columns": tuple(fields["columns"])})
    if BARE.fullmatch(shard.place) is None and not remote.is_address(shard.place):
        raise ValueError(f"{shard.place!r} is neither a bare name nor the address of a part")
    if _DIGEST.fullmatch(shard.fingerprint) is None or shard.dtype not in _DTYPES:
        raise ValueError(f"{shard.place} cannot have fingerprint {shard.fingerprint!r} and dtype {shard.dtype!r}")
    if not all(type(number) is int and number > 0 for number in (shard.rows, shard.width)):
        raise ValueError(f"{shard.place} cannot have shape ({shard.rows!r}, {shard.width!r})")
    if shard.columns not in ((), ("losses",), ("labels",), ("losses", "labels")):
        raise ValueError(f"{shard.place} cannot have columns {shard.columns!r}")
    return shard


def fresh_name() -> str:
    """A name for a part that is written here; what has such a name and is no part any more may be removed."""
    return f"written-{secrets.token_hex(16)}"


def claim(directory: Path) -> None:
    """StoreError where a store of another kind, or somebody else's manifest, is in the way."""
    if (directory / manifest.MANIFEST).exists() and not is_sharded(directory):
        raise StoreError(
            f"{directory} holds a {manifest.MANIFEST} that is not that of a store of parts. Pass a new directory."
        )


def publish(directory: Path, shards: Sequence[Shard]) -> None:
    """Gives the manifest of these parts its name."""
    body = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint(shards),
        "parts": [asdict(shard) for shard in shards],
    }
    text = manifest.with_checksum(body)
    staged = atomic.stage(directory, manifest.MANIFEST, (text,), len(text))
    try:
        atomic.publish(directory, {}, staged, manifest.MANIFEST)
    finally:
        staged.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Removes temporaries, and parts written here that the manifest does not name: replaced, or of a writer that failed
    or died. To be called with the exclusive lock: another writer may be about to name them."""
    named: set[str] = set()
    if (directory / manifest.MANIFEST).exists():
        try:
            named = {shard.place for shard in read(directory)}
        except StoreError:  # damaged: any of them may be its
            return
    for path in directory.iterdir():
        if path.name.startswith(atomic.TEMPORARY) or (OURS.fullmatch(path.name) and path.name not in named):
            with contextlib.suppress(OSError):  # the new store is there; Windows keeps files that somebody has mapped
                atomic.discard(path)

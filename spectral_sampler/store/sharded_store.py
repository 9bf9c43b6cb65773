"""A store of several parts, read as one by index: only rows that are asked for are read, each from its part."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import StoreError, argument_error
from spectral_sampler.store import atomic, remote, shards
from spectral_sampler.store.reference_store import ATTEMPTS, VERIFY_BELOW, ReferenceStore, reopened
from spectral_sampler.store.rows import Rows, refuse_beyond_memory
from spectral_sampler.store.shards import Shard
from spectral_sampler.validation import whole_number

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["ShardedStore"]

_logger = logging.getLogger(__name__)
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


class ShardedStore(ReferenceStore):
    """What `ReferenceStore.open` and `ReferenceStore.from_parts` return for several parts.

    Attributes:
        shards: what the manifest says of each part.
        stores: the parts, opened.
    """

    def __init__(
        self, path: Path, parts: Sequence[Shard], stores: Sequence[ReferenceStore], cache: Path | None
    ) -> None:
        """Takes opened parts that fit together; use the class methods."""
        rows = Rows([part for store in stores for part in store.parts])
        super().__init__(rows, None, None, path=path, fingerprint=shards.fingerprint(parts))
        del self.losses, self.labels  # joined below when they are first asked for
        self.shards, self.stores, self._cache = tuple(parts), tuple(stores), cache

    @cached_property
    def losses(self) -> NDArray[np.float32] | None:  # type: ignore[override]
        """(M,) float32, joined in memory at the first use, or None."""
        return self._joined("losses")

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:  # type: ignore[override]
        """(M,) int64, joined in memory at the first use, or None."""
        return self._joined("labels")

    def _joined(self, column: str) -> NDArray[Any] | None:
        if column not in self.columns:
            return None
        refuse_beyond_memory(f"{len(self):,} {column}", len(self) * 8)
        found = [getattr(store, column) for store in self.stores]
        return found[0] if len(found) == 1 else np.concatenate(found)

    @classmethod
    def at(cls, directory: Path, *, verify: bool | None, cache: Path | None) -> ShardedStore:
        """The store of parts in ``directory``, all parts of one manifest although writers may replace it meanwhile."""
        parts = shards.read(directory)
        for _ in range(ATTEMPTS):
            failure: StoreError | None = None
            try:
                stores = _opened(directory, parts, verify=verify, cache=cache)
            except StoreError as error:
                failure = error
            again = shards.read(directory)
            if again == parts:
                break
            parts = again
        else:
            raise StoreError(f"the store at {directory} was replaced {ATTEMPTS} times while it was opened. Try later.")
        if failure is not None:
            raise failure
        return cls(directory, parts, stores, cache)

    @classmethod
    def made(cls, directory: Path, parts: Sequence[Any], cache: Path | None, *, copied: bool = False) -> ShardedStore:
        """Writes the manifest of these parts; see `ReferenceStore.from_parts`. ``copied``: none stays elsewhere."""
        if not parts:
            raise argument_error("parts", "at least one store", "none", "Append more of them later.")
        return _written(directory, cache, lambda: [_placed(directory, part, cache, copied=copied) for part in parts])

    def append(self, part: ReferenceStore | str | os.PathLike[str]) -> ShardedStore:
        """See `ReferenceStore.append`."""
        directory = self._directory
        return _written(
            directory, self._cache, lambda: [*shards.read(directory), _placed(directory, part, self._cache)]
        )

    def replace(self, number: int, part: ReferenceStore | str | os.PathLike[str]) -> ShardedStore:
        """See `ReferenceStore.replace`."""
        number, directory = whole_number("number", number, 0, "Parts count from 0."), self._directory
        if number >= len(self.shards):
            raise argument_error("number", f"below {len(self.shards)}, the parts", number, "Parts count from 0.")

        def change() -> list[Shard]:
            parts = list(shards.read(directory))
            if parts[number : number + 1] != [self.shards[number]]:
                raise StoreError(
                    f"part {number} of {directory} was replaced since this store was opened. Open it again first."
                )
            parts[number] = _placed(directory, part, self._cache)
            return parts

        return _written(directory, self._cache, change)

    def save(self, path: str | os.PathLike[str]) -> ShardedStore:
        """Copies the parts, linked and remote ones too, to a store of parts in ``path``; writes nothing where an
        undamaged copy of them is already. See `ReferenceStore.save`."""
        if Path(path).resolve() == self._directory.resolve():
            if shards.read(self._directory) != self.shards:
                raise StoreError(f"{path} was changed since this store was opened. Open it again, or save elsewhere.")
            return self
        there = self._copied_to(Path(path))
        return there or self.made(Path(path), self.stores, self._cache, copied=True)

    def _copied_to(self, directory: Path) -> ShardedStore | None:
        """The undamaged store there of these parts, if none of them is elsewhere."""
        try:
            parts = shards.read(directory)
            homes = [directory / part.place for part in parts if shards.BARE.fullmatch(part.place)]
            if shards.fingerprint(parts) != self.fingerprint or len(homes) < len(parts):
                return None
            if any(home.is_symlink() for home in homes):
                return None
            found = self.at(directory, verify=True, cache=self._cache)
        except StoreError:
            return None
        same = found.shards == parts and [one.source for one in found.stores] == [one.source for one in self.stores]
        return found if same else None

    @property
    def _directory(self) -> Path:
        assert self.path is not None  # noqa: S101 - it is opened from there
        return self.path

    @property
    def columns(self) -> tuple[str, ...]:
        """Which of losses and labels it has; asking does not join them."""
        return self.shards[0].columns

    def __repr__(self) -> str:
        one = super().__repr__()
        return f"{one[:-1]}, {len(self.shards)} parts)"

    def __reduce__(self) -> tuple[Callable[..., ReferenceStore], tuple[Any, ...]]:
        cache = None if self._cache is None else str(self._cache.absolute())
        return reopened, (str(self._directory.absolute()), self.fingerprint, cache)


def _written(directory: Path, cache: Path | None, change: Callable[[], list[Shard]]) -> ShardedStore:
    """Names the parts that ``change`` gives, with other writers kept out; where it fails, what it wrote is removed."""
    with atomic.disk_errors(directory), atomic.writer_lock(directory) as exclusive:
        shards.claim(directory)
        try:
            parts = change()
            if len(parts) > shards.MOST:
                raise argument_error("parts", f"at most {shards.MOST:,}", f"{len(parts):,}", "Join some of them first.")
            for part in parts:
                _check_fit(parts[0], part)
            stores = _opened(directory, parts, verify=False, cache=cache)  # a part may have gone since it was opened
            shards.publish(directory, parts)
        finally:
            if exclusive:
                shards.sweep(directory)
        return ShardedStore(directory, parts, stores, cache)


def _placed(
    directory: Path, part: ReferenceStore | str | os.PathLike[str], cache: Path | None, *, copied: bool = False
) -> Shard:
    """What the manifest says of a part, once that is where it says."""
    if isinstance(part, str) and "://" in part:
        place = part.rstrip("/")
        if not remote.is_address(place):
            rule = f"an address of {', '.join(remote.SCHEMES)} without user, port, query or chain"
            raise argument_error("part", rule, repr(part), "Give a part on this machine by its directory.")
        return _shard(place, _fetched(place, cache))
    store = part if isinstance(part, ReferenceStore) else ReferenceStore.open(part)
    if store.address is not None and not copied:
        return _shard(store.address, store)
    if isinstance(store, ShardedStore):
        raise argument_error(
            "part", "a store of one part", repr(store), "Pass its parts, which are its attribute stores."
        )
    inside = store.path is not None and store.path.absolute().parent.resolve() == directory.resolve()
    if inside and store.path is not None and shards.BARE.fullmatch(store.path.name):
        return _shard(store.path.name, store)
    name = shards.fresh_name()
    if store.path is None or copied or shards.OURS.fullmatch(store.path.resolve().name):  # that other store sweeps it
        store.save(directory / name)
    else:
        (directory / name).symlink_to(store.path.resolve(), target_is_directory=True)
    return _shard(name, store)


def _shard(place: str, store: ReferenceStore) -> Shard:
    return Shard(place, store.fingerprint, len(store), store.width, store.stored, store.columns)


def _check_fit(first: Shard, part: Shard) -> None:
    if (first.width, first.columns) != (part.width, part.columns):
        names = [" and ".join(("features", *one.columns)) for one in (first, part)]
        rule, got = (f"of width {one.width} with {name}" for one, name in zip((first, part), names, strict=True))
        raise argument_error("part", f"{rule}, as the first one", got, "Extract it with the same reference.")


def _fetched(
    place: str, cache: Path | None, fingerprint: str | None = None, *, verify: bool | None = None
) -> ReferenceStore:
    """The part at an address, opened from its copy, which is fetched again where that is damaged."""
    home = remote.fetch(place, cache, fingerprint)
    try:
        return ReferenceStore.open_one(home, verify=verify)
    except StoreError as error:
        if isinstance(error.__cause__, OSError):  # none of its bytes: another copy would be read no better
            raise
        _logger.warning("the copy of %s at %s is damaged and fetched again: %s", place, home, error)
        return ReferenceStore.open_one(remote.fetch(place, cache, fingerprint, anew=True), verify=verify)


def _opened(
    directory: Path, parts: Sequence[Shard], *, verify: bool | None, cache: Path | None
) -> list[ReferenceStore]:
    if verify is None:
        verify = sum(part.rows * part.width * _BYTES[part.dtype] for part in parts) < VERIFY_BELOW
    stores = []
    for number, part in enumerate(parts):
        local = shards.BARE.fullmatch(part.place) is not None
        if local:
            store = ReferenceStore.open_one(directory / part.place, verify=verify)
        else:
            store = _fetched(part.place, cache, part.fingerprint, verify=verify)
            store.address = part.place
        if _shard(part.place, store) != part:
            raise StoreError(
                f"part {number} of {directory}, {part.place}, is another store than the one that was added. "
                f"Put that one back, or make the store of parts again."
            )
        stores.append(store)
    return stores

"""ReferenceStore: what a frozen reference model says about every sample of a data set, one row per sample."""

from __future__ import annotations

import contextlib
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import StoreError, argument_error
from spectral_sampler.store import atomic, checks, exchange, shards, verification, writing
from spectral_sampler.store import manifest as manifests
from spectral_sampler.store.rows import Part, Rows
from spectral_sampler.validation import row_numbers

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import DTypeLike, NDArray
    from torch import Tensor

    from spectral_sampler.errors import ArgumentError
    from spectral_sampler.extraction.extract import extract
    from spectral_sampler.store.manifest import Manifest

__all__ = ["ATTEMPTS", "VERIFY_BELOW", "CandidateRows", "ReferenceStore", "reopened"]

_logger = logging.getLogger(__name__)
VERIFY_BELOW = 1 << 30
ATTEMPTS = 20


class CandidateRows(NamedTuple):
    """Where the features of candidates are."""

    features: Tensor
    """(K, d): all of the store where they lie, or a copy of the candidates alone."""
    rows: Tensor
    """(B, N) the candidates' rows of it."""
    numbers: Tensor | None = None
    """(B, N) their rows of the store, where ``rows`` are others; in the same order within each candidate batch."""


class ReferenceStore:
    """Features (M, d), and optionally losses (M,) and labels (M,), of a frozen reference model over M samples.

    Make one with :meth:`from_arrays`, :meth:`open` or :meth:`from_model`. Row i belongs to sample i of the data set.
    A store is not changed after it was made. It pickles as its path and fingerprint if it has a path,
    else with its arrays.

    Attributes:
        features: (M, d) float16 or float32. From :meth:`open`, mapped copy-on-write. Of a store in bfloat16 or int8, or
            of several parts, read by index as an array is: ``features[rows]`` are floats.
        losses: (M,) float32, finite and at least 0, or None.
        labels: (M,) int64, or None.
        path: the directory it was opened from, or None.
        address: of a part that is elsewhere, where; ``path`` is then that of its copy.
        source: what an extraction recorded about model and data set, or None.
    """

    def __init__(
        self,
        features: NDArray[Any] | Rows,
        losses: NDArray[np.float32] | None,
        labels: NDArray[np.int64] | None,
        *,
        path: Path | None = None,
        source: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        """Takes checked arrays as they are; use the class methods."""
        self.features: Any = features
        self.losses, self.labels = losses, labels
        self.path, self.source = path, source
        self.address: str | None = None
        self._fingerprint = fingerprint
        self._tensor: torch.Tensor | None = None

    @classmethod
    def from_arrays(
        cls,
        features: Any,
        losses: Any = None,
        labels: Any = None,
        *,
        dtype: DTypeLike | None = None,
        zero_rows: Literal["refuse", "uniform"] = "refuse",
    ) -> ReferenceStore:
        """A store in memory from arrays, tensors or nested lists; an array that fits already is not copied.

        Args:
            features: (M, d). float16 and float32 stay, other real types become float32, unless ``dtype`` says which.
            losses: (M,) reference losses, finite and at least 0.
            labels: (M,) integers.
            dtype: ``"float16"``, ``"float32"``, or for less memory ``"bfloat16"`` or ``"int8"`` with a scale a row
                (`spectral_sampler.store.quantised`): what is read of these is float32.
            zero_rows: ``"uniform"`` stores a row of zeros, or one that becomes so in ``dtype``, as the unit vector of
                d equal entries (among features that are at least 0 the direction that favours no axis), and logs which.

        Raises:
            ArgumentError: naming the rows, if any is not finite, zero or out of the dtype's range; or for wrong shapes.
        """
        filled = checks.checked_zero_rows(zero_rows)
        part = checks.checked_part(features, dtype, filled=filled)
        if filled:
            _logger.warning("%s", checks.filled_text(filled))
        return cls(
            _readable(part),
            None if losses is None else checks.checked_losses(losses, len(part.stored)),
            None if labels is None else checks.checked_labels(labels, len(part.stored)),
        )

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> ReferenceStore:
        """Opens a store on disk, of one part or several, without reading it into memory.

        The manifest, the sizes and the headers are always compared. ``verify=True`` also reads all data and compares
        its checksums (about a second per gigabyte), which alone sees a changed byte inside a file of the right size.
        ``verify=None`` does so below 1 GiB; above, waiting for the disk at every start would cost more than it
        protects: we write by rename, so a file of the wrong content takes a fault of the disk or of a hand. The files
        may be links, as in snapshots of model hubs, and the place one that can only be read.

        Args:
            path: the directory.
            verify: read all data, too.
            cache: a directory for copies of parts that are not on this machine; they are read once and compared.

        Raises:
            StoreError: if there is no finished store, or any file differs from what was written.
            ArgumentError: a remote part and no ``cache``.
        """
        directory = Path(path)
        if shards.is_sharded(directory):
            from spectral_sampler.store.sharded_store import ShardedStore

            return ShardedStore.at(directory, verify=verify, cache=None if cache is None else Path(cache))
        return cls.open_one(directory, verify=verify)

    @classmethod
    def open_one(cls, directory: Path, *, verify: bool | None = None) -> ReferenceStore:
        """A store that does not consist of others."""
        manifest, arrays = _map_all(directory)
        if verify or (verify is None and sum(entry.size for entry in manifest.arrays.values()) < VERIFY_BELOW):
            for name, entry in manifest.arrays.items():
                manifests.verify_data(directory, entry, arrays[name])
        return cls(
            _readable(Part(arrays["features"], arrays.get("scales"))),
            arrays.get("losses"),
            arrays.get("labels"),
            path=directory,
            source=manifest.source,
            fingerprint=manifest.fingerprint,
        )

    @classmethod
    def from_parts(
        cls,
        path: str | os.PathLike[str],
        parts: Iterable[ReferenceStore | str | os.PathLike[str]],
        *,
        cache: str | os.PathLike[str] | None = None,
    ) -> ReferenceStore:
        """Makes the directory ``path`` a store of several parts, one below the other, and returns it opened.

        Each part is a whole store: one in memory is written into the directory, one that lies in it already (ranks may
        have saved theirs there) stays, one that another store of parts wrote, and may remove, is copied, one elsewhere
        on this machine is linked to and has to stay where it is, and an address such as ``"s3://bucket/part"`` is
        remembered, and read through fsspec (``pip install 'spectral-sampler[remote]'``). Parts may differ in dtype, not
        in width or in having losses or labels. Rows are numbered through all parts in this order. A store of parts that
        was there is replaced.

        Args:
            path: a directory, made if it is missing.
            parts: stores, their directories or addresses, at least one.
            cache: as in :meth:`open`.

        Raises:
            ArgumentError: no part, one that consists of parts itself, or parts that do not fit together.
            StoreError: as :meth:`open` and :meth:`save`.
        """
        from spectral_sampler.store.sharded_store import ShardedStore

        return ShardedStore.made(Path(path), list(parts), None if cache is None else Path(cache))

    def append(self, part: ReferenceStore | str | os.PathLike[str]) -> ReferenceStore:
        """The store with ``part`` below its last row; of a store made by :meth:`from_parts`, which says what it may be.

        Only the manifest is written anew: who has the store open keeps what it has, who opens it meanwhile sees it
        before or after. Parts that others appended since it was opened stay before this one.
        """
        raise self._not_sharded(part)

    def replace(self, number: int, part: ReferenceStore | str | os.PathLike[str]) -> ReferenceStore:
        """The store with ``part`` in the place of part ``number``, as :meth:`append`.

        Raises:
            ArgumentError: there is no such part.
            StoreError: another program replaced it since this store was opened.
        """
        raise self._not_sharded(number, part)

    def _not_sharded(self, *_: object) -> ArgumentError:
        remedy = "Make one of it: ReferenceStore.from_parts(path, [store])."
        return argument_error("store", "one made by from_parts", repr(self), remedy)

    if TYPE_CHECKING:
        from_model = staticmethod(extract)
    else:

        @classmethod
        def from_model(cls, model, dataset, path, **options):  # noqa: ANN001, ANN003, ANN206 - typed above
            """Runs a frozen ``model`` over ``dataset`` and stores what it says; the options are `extraction.extract`'s.

            A finished store made of the same model and data set is opened and returned; an interrupted one is resumed.
            """
            from spectral_sampler.extraction import extract

            return extract(model, dataset, path, **options)

    def verify(self, dataset: Any) -> ReferenceStore:
        """This store, if it belongs to ``dataset``, row i to sample i, as far as that can be told.

        The length is compared; the labels, all where they lie at hand and else those of 64 samples; and, if the store
        was extracted and the samples are the same at every reading, the hash of 64 samples, which sees another
        transform, too. With random augmentation the labels decide. If nothing but the length can be compared, a warning
        is logged.

        Raises:
            ArgumentError: saying what differs.
        """
        verification.verify(self, dataset)
        return self

    def save(self, path: str | os.PathLike[str]) -> ReferenceStore:
        """Writes the store to the directory ``path`` and returns it opened from there.

        Until the last rename a reader sees the previous store, or none; afterwards this one, whole. Another writer of
        the same path waits; if what it finds then is equal to what it would write, it writes nothing. A store that is
        there already is looked for before any lock, so it may lie where nothing can be written.

        Raises:
            StoreError: if the disk is full (with needed and free bytes), the directory not writable, or not a store's;
                or if this store's own data is not what was opened or made.
        """
        directory = Path(path)
        there = self._equal_at(directory)
        if there is not None and not writing.leftovers(directory):
            return there
        arrays = self._arrays()
        needed = sum(array.nbytes for array in arrays.values())
        with atomic.disk_errors(directory, needed), contextlib.ExitStack() as held:
            try:
                exclusive = held.enter_context(atomic.writer_lock(directory))
            except OSError:
                if there is None:
                    raise
                return there
            writing.claim(directory, exclusive=exclusive)
            if (there := self._equal_at(directory)) is not None:
                return there
            found = self._manifest
            self._fingerprint = self._fingerprint or found.fingerprint
            if found.fingerprint != self._fingerprint:  # else damage would be given checksums that vouch for it
                raise StoreError(
                    f"the data of {self!r} was changed after it was written, on disk or here in memory. "
                    f"Make the store again, or one of these arrays with from_arrays."
                )
            digests = {name: entry.sha256 for name, entry in found.arrays.items()}
            writing.write_store(directory, arrays, digests, self.source, exclusive=exclusive)
            saved = ReferenceStore.open(directory, verify=False)
        if saved.fingerprint != self.fingerprint:
            raise StoreError(f"another program wrote to {directory} while the store was saved. Run one at a time.")
        return saved

    def _equal_at(self, directory: Path) -> ReferenceStore | None:
        """The undamaged store with this content and source that is there, or None; right with or without a lock."""
        manifest = writing.current_manifest(directory)
        if manifest is None or manifest.fingerprint != self.fingerprint or manifest.source != self.source:
            return None
        try:
            found = ReferenceStore.open(directory, verify=True)
        except StoreError:
            return None
        return found if found.fingerprint == self.fingerprint and found.source == self.source else None

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> ReferenceStore:
        """A store in memory from a safetensors file with ``features`` and, optionally, ``losses`` and ``labels``."""
        return cls.from_arrays(**exchange.read_safetensors(path))

    def to_safetensors(self, path: str | os.PathLike[str]) -> None:
        """Writes the arrays to one safetensors file; needs the package safetensors."""
        exchange.write_safetensors(path, self._floats())

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str]) -> ReferenceStore:
        """A store in memory from one Parquet file, one row per sample in its order, with a list column ``features``."""
        return cls.from_arrays(**exchange.read_parquet(path))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Writes the arrays to one Parquet file; needs the package pyarrow."""
        exchange.write_parquet(path, self._floats())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """As they are stored."""
        part = self.parts[0]
        named = {"features": part.stored, "scales": part.scales, "losses": self.losses, "labels": self.labels}
        return {name: array for name, array in named.items() if array is not None}

    def _floats(self) -> dict[str, NDArray[Any]]:
        """What other programs are given."""
        named = {"features": np.asarray(self.features), "losses": self.losses, "labels": self.labels}
        return {name: array for name, array in named.items() if array is not None}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The features as they are stored."""
        return self.features.parts if isinstance(self.features, Rows) else (Part(self.features),)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over dtypes, shapes and data; equal for a store in memory and the same store on disk."""
        if self._fingerprint is None:
            self._fingerprint = self._manifest.fingerprint
        return self._fingerprint

    @property
    def _manifest(self) -> Manifest:
        entries = {
            name: manifests.ArrayEntry.of(f"{name}.npy", array, manifests.data_digests(array))
            for name, array in self._arrays().items()
        }
        return manifests.Manifest(entries, self.source)

    @property
    def features_tensor(self) -> torch.Tensor:
        """The features as a tensor (M, d) on the same memory.

        Raises:
            ArgumentError: for a store that is no such array; see :meth:`candidate_rows`.
        """
        if isinstance(self.features, Rows):
            raise argument_error(
                "store", "one array of float16 or float32 for features_tensor", repr(self),
                "Read rows of it: store.features[rows], or store.candidate_rows(indices).",
            )  # fmt: skip
        if self._tensor is None:
            with warnings.catch_warnings():  # torch warns of read-only arrays; nothing here writes
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._tensor = torch.from_numpy(self.features)
        return self._tensor

    def candidate_rows(self, indices: Tensor) -> CandidateRows:
        """Where a solver finds the candidates ``indices`` (B, N) int64: the one way from a store to a kernel.

        Nothing is copied where the features are one array of floats. Else the candidates' rows are, each candidate
        batch's own in their order, as what goes by row numbers alone tells by them no more than their order.
        """
        if not isinstance(self.features, Rows):
            return CandidateRows(self.features_tensor, indices)
        if indices.numel():
            row_numbers(indices, len(self))
        numbers, order = indices.sort(dim=1)
        places = torch.empty_like(indices).scatter_(1, order, torch.arange(numbers.numel()).view_as(numbers))
        return CandidateRows(torch.from_numpy(self.features.take(numbers.flatten().numpy())), places, indices)

    @property
    def dtype(self) -> torch.dtype:
        """Of the features as they are read: float16 or float32."""
        return torch.float16 if self.features.dtype == np.float16 else torch.float32

    @property
    def stored(self) -> str:
        """The dtype of the features as they are kept."""
        return self.features.stored if isinstance(self.features, Rows) else self.features.dtype.name

    @property
    def columns(self) -> tuple[str, ...]:
        """Which of losses and labels it has."""
        return tuple(name for name in ("losses", "labels") if getattr(self, name) is not None)

    @property
    def width(self) -> int:
        """d, the number of features of a sample."""
        return int(self.features.shape[1])

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def __repr__(self) -> str:
        holds = f"{len(self)} x {self.width} {self.stored}" + "".join(f", {name}" for name in self.columns)
        return f"ReferenceStore({holds}, {'in memory' if self.path is None else self.path})"

    def __reduce__(self) -> tuple[Callable[..., ReferenceStore], tuple[Any, ...]]:
        if self.path is not None:
            return reopened, (str(self.path.absolute()), self.fingerprint)
        return _rebuild, (self.features, self.losses, self.labels, self.source)


def _map_all(directory: Path) -> tuple[Manifest, dict[str, NDArray[Any]]]:
    """The manifest and the files it speaks of, although a writer may replace both meanwhile.

    A name can come back with other content after two replacements, so files belong to a manifest only if the same
    manifest is still there once they are open.
    """
    manifest = manifests.read_manifest(directory)
    for attempt in range(ATTEMPTS):
        failure: StoreError | None = None
        arrays: dict[str, NDArray[Any]] = {}
        try:
            arrays = {name: manifests.map_array(directory, entry) for name, entry in manifest.arrays.items()}
        except StoreError as error:
            failure = error
        again = manifests.read_manifest(directory)
        if again == manifest or attempt + 1 == ATTEMPTS:
            break
        manifest = again
    if failure is not None:
        raise failure
    if again != manifest:
        raise StoreError(
            f"the store at {directory} was replaced {ATTEMPTS} times while it was opened. Try again later."
        )
    return manifest, arrays


def _readable(part: Part) -> NDArray[Any] | Rows:
    if isinstance(part.stored, np.ndarray) and part.stored.dtype == part.dtype:
        return part.stored
    return Rows((part,))


def reopened(path: str, fingerprint: str, cache: str | None = None) -> ReferenceStore:
    """What a store with a path pickles as."""
    store = ReferenceStore.open(path, verify=False, cache=cache)
    if store.fingerprint != fingerprint:
        raise StoreError(
            f"the store at {path} was replaced since it was pickled: its fingerprint is "
            f"{store.fingerprint[:12]}, not {fingerprint[:12]}. Open the new one by its path."
        )
    return store


def _rebuild(
    features: NDArray[Any] | Rows,
    losses: NDArray[np.float32] | None,
    labels: NDArray[np.int64] | None,
    source: Mapping[str, Any] | None,
) -> ReferenceStore:
    return ReferenceStore(features, losses, labels, source=source)

"""One rank's part of an extraction: which chunks it computes, where they go, and who publishes the store."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from spectral_sampler.errors import StoreError, argument_error
from spectral_sampler.extraction.identity import difference
from spectral_sampler.extraction.partial import Layout, Partial, discard_others, leftovers, written
from spectral_sampler.extraction.progress import progress_bar
from spectral_sampler.modules import frozen
from spectral_sampler.store import ReferenceStore, atomic, checks, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from spectral_sampler.extraction.forward import Output

__all__ = ["Batches", "Job"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batches:
    """The data set cut into chunks of ``size`` consecutive samples, the same whoever computes which of them."""

    dataset: Any
    size: int
    collate_fn: Callable[[list[Any]], Any] | None
    num_workers: int

    def __len__(self) -> int:
        return (len(self.dataset) + self.size - 1) // self.size

    def rows(self, chunk: int) -> range:
        """The samples of one chunk."""
        return range(chunk * self.size, min((chunk + 1) * self.size, len(self.dataset)))

    def load(self, chunks: list[int]) -> Iterator[tuple[int, Any]]:
        """Chunk numbers, each with its collated batch."""
        generator = torch.Generator()  # its own: DataLoader would draw its workers' seeds from the global one
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=(list(self.rows(chunk)) for chunk in chunks),  # each as it is asked for: 40 bytes a row
            collate_fn=self.collate_fn,
            num_workers=self.num_workers,
            generator=generator,
        )
        return zip(chunks, loader, strict=True)


@dataclass
class Job:
    """One rank's part of an extraction, and the waiting for the others'."""

    directory: Path
    identity: dict[str, Any]
    batches: Batches
    run: Callable[..., Output]
    progress: bool
    num_replicas: int
    rank: int
    shared: bool = False  # others write, too, though there is one rank
    filled: list[int] = field(default_factory=list)  # the rows of zeros that were stored as something else

    @property
    def alone(self) -> bool:
        """Does nobody else write?"""
        return self.num_replicas == 1 and not self.shared

    def store(self, fill: Callable[[], None], *, overwrite: bool, patience: float) -> ReferenceStore:
        """The finished store, from disk if it is there, else computed by ``fill``, which sees to this rank's chunks:
        alone, or together with the other ranks."""
        unfit = ""
        try:
            if (there := self.opened()) is not None:
                if leftovers(self.directory, self.identity):
                    with contextlib.suppress(OSError), atomic.writer_lock(self.directory, wait=False) as exclusive:
                        self.tidy(exclusive=exclusive)
                return there
        except StoreError as error:
            # Looked at again, since it may be about to be replaced. Its remedy is none where nothing can be written.
            unfit = f"{str(error).partition(' Pass another path')[0].removesuffix('.')}. "
        with progress_bar(len(self.batches), self.written, shown=self.progress):
            finished = self.computed(fill, overwrite=overwrite, unfit=unfit)
            return finished or self.wait(overwrite=overwrite, patience=patience)

    def computed(self, fill: Callable[[], None], *, overwrite: bool, unfit: str) -> ReferenceStore | None:
        """This rank's chunks written, and the store if nobody else is needed for it."""
        with contextlib.ExitStack() as held:
            try:
                with atomic.disk_errors(self.directory):
                    exclusive = held.enter_context(atomic.writer_lock(self.directory, shared=not self.alone))
            except StoreError as error:
                raise StoreError(f"{unfit}{error}") from error
            with atomic.disk_errors(self.directory):
                if (finished := self.finished(overwrite=overwrite)) is not None:
                    self.tidy(exclusive=exclusive and self.alone)
                    return finished
                writing.refuse_strangers(self.directory)
                if self.alone:
                    writing.claim(self.directory, exclusive=exclusive)
                if self.alone and exclusive:
                    discard_others(self.directory, self.identity)
            fill()
            if not (self.alone and exclusive):
                return None
            try:
                return self.publish(exclusive=True)
            except _Missing as error:
                raise StoreError(
                    f"{len(error.chunks)} of {len(self.batches)} chunks of {self.directory} are not on disk as they "
                    f"were written: something else removed or changed them. What is whole is kept; call again."
                ) from None

    def written(self) -> int:
        """The chunks that all ranks together have written so far."""
        return written(self.directory, self.identity)

    def opened(self) -> ReferenceStore | None:
        """The store that is there, or None; StoreError if it was made of something else or is damaged. Needs no lock:
        the manifest comes last, and what it names is compared with it."""
        manifest = writing.current_manifest(self.directory)
        if manifest is None:
            return None
        self.compare(manifest.source)
        store = ReferenceStore.open(self.directory)
        self.compare(store.source)  # what was opened, which a writer may have put there since
        _logger.info("opened existing store: %s", self.directory)
        return store

    def compare(self, source: Mapping[str, Any] | None) -> None:
        """Raises unless a store with this source was made of the same."""
        if (reason := difference(source, self.identity)) is not None:
            raise _Foreign(f"{self.directory} {reason}")

    def finished(self, *, overwrite: bool) -> ReferenceStore | None:
        """The store that is there, if it is of use; StoreError if it is of something else and may not be replaced."""
        try:
            return self.opened()
        except _Foreign:
            if not overwrite:
                raise
        except StoreError as error:
            _logger.warning("extracting again: %s", error)
        return None

    def tidy(self, *, exclusive: bool) -> None:
        """Removes what a writer that died left beside the finished store, if the lock says that none is at work."""
        for path in leftovers(self.directory, self.identity) if exclusive else ():
            if path.name != atomic.LOCK:
                atomic.discard(path)

    def todo(self, share: list[int] | None = None) -> list[int]:
        """The chunks of this rank, or of a share that it was given, that are missing on disk."""
        partial = Partial.find(self.directory, self.identity)
        own = range(self.rank, len(self.batches), self.num_replicas) if share is None else share
        todo = [chunk for chunk in own if partial is None or not partial.is_done(chunk)]
        if len(todo) < len(own):
            _logger.info("resuming %s: %d of %d chunks to do", self.directory, len(todo), len(own))
        return todo

    def fill(self, models: list[torch.nn.Module], device: torch.device | str | None, todo: list[int]) -> None:
        """Computes these chunks and writes them."""
        if not todo:
            return
        partial = Partial.find(self.directory, self.identity)
        with contextlib.ExitStack() as held:
            targets = [held.enter_context(frozen(model, device)) for model in models]
            for chunk, batch in self.batches.load(todo):
                output = self.run(models[0], batch, targets[0])
                arrays = self.checked(chunk, output)
                if output.unlabelled and chunk == todo[0]:
                    _logger.warning(
                        "the store will have no labels, which selections by class need: %s", output.unlabelled
                    )
                if partial is None:
                    partial = self.create(arrays)
                self.check_layout(chunk, arrays, partial.layout)
                partial.write(chunk, arrays)
        if self.filled:
            _logger.warning("%s", checks.filled_text(self.filled))

    def checked(self, chunk: int, output: Output) -> dict[str, NDArray[Any]]:
        """The arrays of one chunk as they are stored, refused by row number of the data set where they cannot be."""
        rows = self.batches.rows(chunk)
        filled = self.filled if self.identity["zero_rows"] == "uniform" else None
        features = checks.checked_features(output.features, self.identity["dtype"], rows.start, filled=filled)
        if len(features) != len(rows):
            raise argument_error("features", f"one row per sample ({len(rows)})", len(features), "Check collate_fn.")
        arrays: dict[str, NDArray[Any]] = {"features": features}
        if output.losses is not None:
            arrays["losses"] = checks.checked_losses(output.losses, len(rows), rows.start)
        if output.labels is not None:
            arrays["labels"] = checks.checked_labels(output.labels, len(rows))
        return arrays

    def create(self, arrays: Mapping[str, NDArray[Any]]) -> Partial:
        """The files for all rows, laid out after the first chunk."""
        rows = len(self.batches.dataset)
        shapes = {name: (array.dtype.name, (rows, *array.shape[1:])) for name, array in arrays.items()}
        layout = Layout(shapes, self.batches.size)
        needed = sum(layout.entry(name).size for name in shapes)
        with atomic.disk_errors(self.directory, needed):
            return Partial.create(self.directory, self.identity, layout)

    def check_layout(self, chunk: int, arrays: Mapping[str, NDArray[Any]], layout: Layout) -> None:
        """Every batch must bring the same arrays of the same width."""
        found = {name: array.shape[1:] for name, array in arrays.items()}
        expected = {name: shape[1:] for name, (_, shape) in layout.arrays.items()}
        if found != expected:
            rule = f"the same arrays in every batch ({expected})"
            raise argument_error("features", rule, f"{found} in batch {chunk}", "Pool features to one width.")

    def publish(self, *, exclusive: bool) -> ReferenceStore:
        """Makes the finished extraction a store; with the exclusive lock, or without where there is none."""
        partial = Partial.find(self.directory, self.identity)
        missing = list(range(len(self.batches))) if partial is None else partial.missing()
        if partial is None or missing:
            raise _Missing(missing)
        with atomic.disk_errors(self.directory, left="what was computed is kept, and the same call goes on with it"):
            try:
                partial.publish(self.directory, self.identity, exclusive=exclusive)
            except (FileNotFoundError, PermissionError) as error:
                if exclusive or (self.alone and isinstance(error, PermissionError)):
                    raise
                raise _Missing([]) from None  # another rank, or the same program started twice, is at it
        if exclusive and not self.alone:  # not before all is there: ranks of two models would take each other's
            with contextlib.suppress(OSError):
                discard_others(self.directory, self.identity)
        store = ReferenceStore.open(self.directory, verify=False)
        self.compare(store.source)  # where nothing keeps other writers out, it may be theirs
        return store

    def wait(self, *, overwrite: bool, patience: float) -> ReferenceStore:
        """Publishes once all ranks are done. Running ranks hold the lock; absent ones are waited for by the clock."""
        missing: list[int] = []
        since, pause = time.monotonic(), 0.05
        while True:
            with contextlib.ExitStack() as held:
                with atomic.disk_errors(self.directory):
                    exclusive = held.enter_context(atomic.writer_lock(self.directory))
                    if (finished := self.finished(overwrite=overwrite)) is not None:
                        self.tidy(exclusive=exclusive)
                        return finished
                    writing.claim(self.directory, exclusive=exclusive)
                try:
                    return self.publish(exclusive=exclusive)
                except _Missing as error:
                    if error.chunks != missing:
                        missing, since = error.chunks, time.monotonic()
            if time.monotonic() - since >= patience:
                if self.shared:
                    raise StoreError(
                        f"{len(missing)} of {len(self.batches)} chunks of {self.directory} are missing although all "
                        f"were handed out. Do all actors see this directory? What is done is kept."
                    )
                raise StoreError(
                    f"{len(missing)} of {len(self.batches)} chunks of {self.directory} are missing and no rank has "
                    f"added one for {patience:g} s. Start all {self.num_replicas} ranks, then call again to go on."
                )
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


class _Foreign(StoreError):
    """The store that is there was made of something else."""


class _Missing(Exception):
    """Chunks that no rank has computed yet."""

    def __init__(self, chunks: list[int]) -> None:
        super().__init__(chunks)
        self.chunks = chunks

"""Accelerate: a prepared loader that sets every epoch, counts what was trained on, and is part of ``save_state``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error
from spectral_sampler.integrations.curated import check_filled, sampler_of
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from spectral_sampler.sampler import SpectralBatchSampler

optional("accelerate", "accelerate")

__all__ = ["EpochLoader"]


class EpochLoader:
    """``accelerator.prepare(loader)``, and what has to be done beside it.

    Accelerate's loader counts its passes from 0, in a resumed run too, and reads one batch ahead. This one sets the
    epoch at the start of every pass, and registers itself, so that ``accelerator.save_state`` and ``load_state`` resume
    at any batch, with the losses observed: a pass goes on where the state was taken, without ``skip_first_batches``. A
    selection that follows losses resumes exactly at the end of an epoch, because of that batch read ahead.

    >>> loader = EpochLoader(accelerator, curate(loader, store, with_indices=True))  # doctest: +SKIP
    >>> for epoch in range(loader.epoch, epochs):  # doctest: +SKIP
    ...     for inputs, labels, indices in loader: ...

    Args:
        accelerator: without ``use_stateful_dataloader``, which would restore the loader a second time. Its
            DataLoaderConfiguration has ``even_batches=False``: older ones refuse batches of varying size otherwise.
        loader: what `curate` returned, not prepared yet, with ``num_replicas=1``: Accelerate deals out the batches.
            Those that do not fill all processes are left out with ``drop_last=True``.

    Raises:
        ArgumentError: a loader that is prepared, has no `SpectralBatchSampler`, deals out batches too or gives some
            processes more than others; an accelerator with ``use_stateful_dataloader``.
    """

    sampler: SpectralBatchSampler
    """The sampler of this process; it delivers the batches of all."""
    done: int
    """Batches of the running pass that this process has got, with the one in training."""

    def __init__(self, accelerator: Any, loader: Any) -> None:
        sampler = sampler_of("loader", loader, shared=True)
        check_filled("loader", sampler, accelerator)
        if getattr(accelerator, "use_stateful_dataloader", False):
            rule, remedy = "one without use_stateful_dataloader", "The sampler's state is saved by this loader."
            raise argument_error("accelerator", rule, "use_stateful_dataloader=True", remedy)
        self.sampler, self._accelerator = sampler, accelerator
        self._shared = 1 if accelerator.split_batches else int(accelerator.num_processes)
        self.prepared = accelerator.prepare(loader)
        self._epoch, self._start, self.done = sampler.epoch, 0, 0
        self._loaded: Mapping[str, Any] = {}
        accelerator.register_for_checkpointing(self)

    def __len__(self) -> int:
        """Batches of an epoch in this process."""
        return len(self.prepared)

    @property
    def epoch(self) -> int:
        """The epoch in training, or the one that comes next."""
        return self._epoch if self.done < len(self) else self._epoch + 1

    def __iter__(self) -> Iterator[Any]:
        if self.done >= len(self) or self.done > self._start + 1:  # one that was only looked at starts over
            self._epoch, self._start = self._epoch + 1, 0
        elif self._start and self.done > self._start:  # looking used up the place that was loaded
            self.sampler.load_state_dict(self._loaded)
        self.done = self._start
        self.prepared.set_epoch(self._epoch)
        for batch in self.prepared:
            self.done += 1  # before it leaves: a state taken while it is in training has it
            yield batch

    def observe(self, indices: Any, losses: Any) -> None:
        """`SpectralBatchSampler.observe`, gathered over all processes: each calls it after every batch."""
        self.sampler.observe(indices, losses, gather=self._accelerator.num_processes > 1 or None)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's full state after the batches trained on; `accelerator.save_state` calls it."""
        done = self.done % len(self)
        return self.sampler.state_dict(batches_consumed=done * self._shared, epoch=self.epoch, full=True)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` with the next pass."""
        self.sampler.load_state_dict(state)
        self._loaded = state
        self._epoch, self._start = int(state["epoch"]), int(state["next_batch"]) // self._shared
        self.done = self._start

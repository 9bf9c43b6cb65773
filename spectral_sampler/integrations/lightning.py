"""Lightning: a callback that saves and loads the sampler's state at any batch, and logs its statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error
from spectral_sampler.integrations.curated import sampler_of
from spectral_sampler.integrations.logs import log_statistics
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from spectral_sampler.loader import CuratedLoader
    from spectral_sampler.sampler import SpectralBatchSampler

Callback: Any = optional("lightning.pytorch", "lightning").Callback

__all__ = ["SelectionCallback"]
_KEY = "spectral_sampler"


class SelectionCallback(Callback):
    """The sampler's full state in every checkpoint, exact at any batch and with any number of workers.

    A plain DataLoader begins a resumed epoch anew in Lightning, with workers in the order of epoch 0; a
    StatefulDataLoader loses an epoch after a checkpoint at an epoch's end. Lightning asks for the first batches before
    any hook of a callback runs, so the loader is handed over where it is made:

    >>> def train_dataloader(self):  # doctest: +SKIP
    ...     loader = curate(loader, store, num_replicas=self.trainer.world_size, rank=self.trainer.global_rank)
    ...     return self.selection.attach(loader)  # self.selection is the callback given to the Trainer

    with ``Trainer(callbacks=[selection], use_distributed_sampler=False)``. Statistics go to the Trainer's loggers every
    ``log_every_n_steps``.

    Raises:
        ArgumentError: when training starts, if the loader in use is not the one attached.
    """

    def __init__(self) -> None:
        self.sampler: SpectralBatchSampler | None = None
        """That of the loader attached."""
        self._loaded: dict[str, Any] | None = None
        self._trainer: Any = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Remembers the trainer; a further ``fit`` brings its own loader."""
        if stage == "fit":
            self._trainer, self.sampler = trainer, None

    def attach(self, loader: CuratedLoader[Any]) -> CuratedLoader[Any]:
        """``loader``, whose sampler goes on where the checkpoint was saved that is being resumed.

        Raises:
            ArgumentError: a loader without a `SpectralBatchSampler`, or a state of a sampler with other arguments.
        """
        sampler = sampler_of("loader", loader, shared=False)
        if self._loaded is None and self.sampler is not None and self.sampler is not sampler:
            self._loaded = self._state(self._trainer, self.sampler)  # reload_dataloaders_every_n_epochs
        if self._loaded is not None:
            sampler.load_state_dict(self._loaded)
        self.sampler, self._loaded = sampler, None
        return loader

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Checks that Lightning trains on what was attached."""
        used = getattr(trainer.train_dataloader, "batch_sampler", None)
        if self.sampler is None or used is not self.sampler:
            rule = "the one that was given to SelectionCallback.attach"
            remedy = (
                "Return selection.attach(curate(…)) from train_dataloader(), and pass use_distributed_sampler=False "
                "to the Trainer."
            )
            raise argument_error("train_dataloader", rule, f"one with {type(used).__name__}", remedy)

    def on_train_batch_end(self, trainer: Any, *others: Any) -> None:  # noqa: ARG002
        """Logs."""
        if self.sampler is None or trainer.global_step % trainer.log_every_n_steps:
            return
        for logger in trainer.loggers:
            log_statistics(self.sampler, logger.log_metrics, trainer.global_step)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Adds the state to the checkpoint."""
        if self.sampler is not None:
            checkpoint[_KEY] = self._state(trainer, self.sampler)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Keeps the state until `attach`.

        Raises:
            ArgumentError: a checkpoint that was saved without this callback.
        """
        if _KEY not in checkpoint:
            remedy = "Start anew, or resume without the callback."
            raise argument_error("ckpt_path", "saved with a SelectionCallback", "a checkpoint without one", remedy)
        self._loaded = checkpoint[_KEY]

    @staticmethod
    def _state(trainer: Any, sampler: SpectralBatchSampler) -> dict[str, Any]:
        """After the batches trained on: Lightning's count, since workers are ahead and ``completed`` is behind."""
        epochs = trainer.fit_loop.epoch_progress.current
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        epoch = epochs.processed
        if epochs.started == epochs.processed:  # between two epochs: the count is still that of the one before
            done = 0
        elif done >= trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        return sampler.state_dict(batches_consumed=done, epoch=epoch, full=True)

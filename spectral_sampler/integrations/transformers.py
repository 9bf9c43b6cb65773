"""Hugging Face Trainer: a mixin that trains on a curated loader, reports losses, logs, and saves what was learnt."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import BatchSampler

from spectral_sampler.errors import argument_error
from spectral_sampler.indexed import Indexed
from spectral_sampler.integrations.curated import check_filled, sampler_of
from spectral_sampler.integrations.logs import log_statistics
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from spectral_sampler.loader import CuratedLoader
    from spectral_sampler.sampler import SpectralBatchSampler

TrainerCallback: Any = optional("transformers", "transformers").TrainerCallback

__all__ = ["SelectionMixin"]
_FILE = "spectral_sampler.pt"
_log = logging.getLogger("spectral_sampler.integrations")


class SelectionMixin:
    """``class CuratedTrainer(SelectionMixin, Trainer)``, then ``CuratedTrainer(curated=curate(…), model=…, args=…)``.

    The loader goes through ``accelerator.prepare``, which shards it. With ``curate(…, with_indices=True)`` the losses
    of every batch are reported, gathered over the processes, where the selection or the schedule follows them.
    Checkpoints hold the sampler's full state beside the model. Resuming skips batches as the Trainer does; it is exact
    within an epoch for what follows from the store, and at the end of one also for what follows losses, because
    Accelerate reads one batch ahead of them.

    Args:
        curated: what `curate` returned, with ``num_replicas=1``, over samples that are mappings.

    Raises:
        ArgumentError: another loader, or one without indices for a selection that follows losses.
    """

    def __init__(self, *arguments: Any, curated: CuratedLoader[Any], **named: Any) -> None:
        sampler = sampler_of("curated", curated, shared=True)
        self._key = curated.dataset.key if isinstance(curated.dataset, Indexed) else None
        if sampler.listens and self._key is None:
            rule, remedy = "curated with with_indices=True", f"{sampler.selection.name} follows the learner's losses."
            raise argument_error("curated", rule, "one without indices", remedy)
        self.curated, self.sampler, self._resumed = curated, sampler, None
        named.setdefault("train_dataset", curated.dataset)
        super().__init__(*arguments, **named)
        self.add_callback(_SamplerState(self))

    add_callback: Any
    accelerator: Any
    args: Any
    _resumed: str | None

    def get_train_dataloader(self) -> Any:
        """The curated loader, dealt out to the processes."""
        check_filled("curated", self.sampler, self.accelerator)
        loader = copy.copy(self.curated)
        object.__setattr__(loader, "batch_sampler", _Batches(self.sampler))  # a DataLoader refuses to be assigned one
        return self.accelerator.prepare(loader)

    def sample_losses(self, outputs: Any, labels: Tensor) -> Tensor:
        """(B,) losses to report: the cross-entropy of ``outputs.logits`` (B, C) at ``labels`` (B,).

        Raises:
            ArgumentError: logits or labels of another shape. Override this for what your model does.
        """
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[-1]
        if logits.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
            rule, found = "(B, C) with class numbers (B,)", f"{tuple(logits.shape)} with {tuple(labels.shape)}"
            raise argument_error("logits", rule, found, "Override sample_losses(outputs, labels) in your Trainer.")
        return torch.nn.functional.cross_entropy(logits.detach().float(), labels, reduction="none")

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **named: Any) -> Any:
        """The Trainer's own loss; what each sample contributed is reported."""
        if self._key is None or self._key not in inputs:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **named)  # type: ignore[misc]
        rest = {name: value for name, value in inputs.items() if name != self._key}
        labels = rest.get("labels")
        loss, outputs = super().compute_loss(model, rest, return_outputs=True, **named)  # type: ignore[misc]
        if model.training and self.sampler.listens:
            losses = self.sample_losses(outputs, labels)  # type: ignore[arg-type]
            self.sampler.observe(inputs[self._key], losses, gather=self.accelerator.num_processes > 1 or None)
        return (loss, outputs) if return_outputs else loss

    def train(self, resume_from_checkpoint: Any = None, *others: Any, **named: Any) -> Any:
        """Trains; a checkpoint that is resumed has the sampler's state, too."""
        self._resumed = str(resume_from_checkpoint) if isinstance(resume_from_checkpoint, (str, Path)) else None
        return super().train(resume_from_checkpoint, *others, **named)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *others: Any, **named: Any) -> None:
        """Logs, with the statistics beside the training loss."""
        if "loss" in logs:
            log_statistics(self.sampler, lambda values, step: logs.update(values), 0)  # noqa: ARG005
        super().log(logs, *others, **named)  # type: ignore[misc]


class _Batches(BatchSampler):
    """The sampler's batches, without its epoch: Accelerate before 1.15 sets that to 0 where it skips batches."""

    def __init__(self, sampler: SpectralBatchSampler) -> None:
        # BatchSampler.__init__ is not called: it would set batch_size.
        self._sampler, self.drop_last = sampler, sampler.drop_last
        if hasattr(sampler, "batch_size"):
            self.batch_size = sampler.batch_size

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._sampler)


class _SamplerState(TrainerCallback):
    """Sets the sampler's epoch, saves its state beside every checkpoint and loads that of the one resumed."""

    def __init__(self, trainer: SelectionMixin) -> None:
        self._trainer = trainer

    def _folder(self, state: Any) -> Path:
        return Path(self._trainer.args.output_dir) / f"checkpoint-{state.global_step}"

    def _epoch(self, state: Any, batches: int) -> int:
        accumulated: int = self._trainer.args.gradient_accumulation_steps
        return int(state.global_step) // max(1, -(-batches // accumulated))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:  # noqa: ARG002
        """Before any batch of the epoch is asked for."""
        self._trainer.sampler.set_epoch(self._epoch(state, len(named["train_dataloader"])))

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:  # noqa: ARG002
        """At the start of the epoch: the Trainer skips the batches of the epoch itself."""
        if state.is_world_process_zero:
            epoch = self._epoch(state, len(named["train_dataloader"]))
            torch.save(
                self._trainer.sampler.state_dict(batches_consumed=0, epoch=epoch, full=True),
                self._folder(state) / _FILE,
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:  # noqa: ARG002
        """Loads, where a checkpoint is resumed."""
        if state.global_step == 0:
            return
        resumed = self._trainer._resumed  # noqa: SLF001 - the other half of the mixin
        file = (self._folder(state) if resumed is None else Path(resumed)) / _FILE
        if file.is_file():
            self._trainer.sampler.load_state_dict(torch.load(file, weights_only=True))
        else:
            _log.warning("%s does not exist: the sampler goes on without what it had observed and learnt", file)

"""Checks of the loader that an integration is given."""

from __future__ import annotations

from typing import Any

from spectral_sampler.errors import argument_error
from spectral_sampler.sampler import SpectralBatchSampler

__all__ = ["check_filled", "sampler_of"]


def sampler_of(argument: str, loader: Any, *, shared: bool) -> SpectralBatchSampler:
    """The sampler of a curated loader; with ``shared`` the framework deals out the batches, so it must not.

    Raises:
        ArgumentError: a loader of another kind, or one that deals out its batches too.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, SpectralBatchSampler):
        remedy = "Pass what curate returned, before anything prepares or wraps it."
        raise argument_error(argument, "a loader made by curate", f"one with {type(sampler).__name__}", remedy)
    replicas = sampler.settings.num_replicas
    if shared and replicas != 1:
        rule, remedy = "curated with num_replicas=1", "The framework deals out the batches."
        raise argument_error(argument, rule, f"num_replicas={replicas}", remedy)
    return sampler


def check_filled(argument: str, sampler: SpectralBatchSampler, accelerator: Any) -> None:
    """With ``even_batches=False`` Accelerate gives some processes a batch more, and the others wait for ever.

    Raises:
        ArgumentError: where that would happen.
    """
    processes = int(accelerator.num_processes)
    if accelerator.even_batches or sampler.drop_last or len(sampler) % processes == 0:
        return
    rule = f"one whose batches fill all {processes} processes, with even_batches=False"
    raise argument_error(argument, rule, f"{len(sampler)} batches", "Pass drop_last=True to curate.")

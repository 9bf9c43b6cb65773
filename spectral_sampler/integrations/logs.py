"""The sampler's statistics, in whatever logs: TensorBoard, W&B, MLflow, a framework's logger."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from spectral_sampler.sampler import SpectralBatchSampler

__all__ = ["log_statistics"]


def log_statistics(sampler: SpectralBatchSampler, log: Any, step: int) -> None:
    """Logs `SpectralBatchSampler.statistics`, floats under ``spectral/``; those that are not finite are left out.

    Args:
        sampler: ``loader.batch_sampler``.
        log: a function of (dictionary, step=…), such as ``wandb.log``, ``mlflow.log_metrics``, ``accelerator.log`` or
            ``fabric.log_dict``; or a TensorBoard ``SummaryWriter``.
        step: of the training.

    Raises:
        ArgumentError: a ``log`` that is neither.
    """
    values = {name: value for name, value in sampler.statistics().items() if math.isfinite(value)}
    scalar = getattr(log, "add_scalar", None)
    if callable(scalar):
        for name, value in values.items():
            scalar(name, value, step)
    elif callable(log):
        log(values, step=step)
    else:
        rule = "a function of (dictionary, step=…) or a SummaryWriter"
        raise argument_error("log", rule, type(log).__name__, "Pass wandb.log, logger.log_metrics or the like.")

"""One pass of a frozen model over one batch: features, and per-sample losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from spectral_sampler.errors import argument_error
from spectral_sampler.modules import called, last_linear_input, moved

__all__ = ["Encoder", "FeatureFunction", "LossFunction", "Output", "cross_entropy", "run_batch"]

FeatureFunction = Callable[[nn.Module, Any], Any]
LossFunction = Callable[[Any, Any], torch.Tensor]


class Encoder(nn.Module):
    """A model whose output is the features (B, d) themselves; it has no classifier, hence no loss of its own."""


class Output(NamedTuple):
    """What the reference says about one batch, on the CPU."""

    features: torch.Tensor  # (B, d) in the model's dtype
    losses: torch.Tensor | None  # (B,) float32
    labels: torch.Tensor | None  # (B,) int64


def _features_and_outputs(model: nn.Module, inputs: Any, features: FeatureFunction | None) -> tuple[Any, Any]:
    """Features (B, d), and what the model put out, or None where it was not run as a whole."""
    if features is not None:
        result = features(model, inputs)
        return result if isinstance(result, tuple) else (result, None)
    if isinstance(model, Encoder):
        return called(model, inputs), None
    with last_linear_input(model) as seen:
        outputs = called(model, inputs)
    if not seen:
        raise argument_error(
            "model",
            "one that runs an nn.Linear",
            type(model).__name__,
            "Pass features=function(model, inputs) instead.",
        )
    return seen[0], outputs


def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Per-sample cross-entropy (B,) of logits (B, C) against class numbers (B,), in float32."""
    if outputs.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        raise argument_error(
            "loss",
            "a function(outputs, labels) for this model",
            f"'cross_entropy' for outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)} {labels.dtype}",
            "Pass loss=None or your own per-sample loss.",
        )
    if int(labels.min()) < 0 or int(labels.max()) >= outputs.shape[1]:
        raise argument_error(
            "loss",
            "None where the model's classes are not the data set's",
            f"'cross_entropy' for labels {int(labels.min())} to {int(labels.max())} and {outputs.shape[1]} outputs",
            "Pass loss=None, or loss_model= a classifier of these classes.",
        )
    return nn.functional.cross_entropy(outputs.float(), labels.long(), reduction="none")


@torch.inference_mode()  # here and not around the loader: a data set may keep the tensors that it makes
def run_batch(
    model: nn.Module,
    batch: Any,
    device: torch.device,
    *,
    split: Callable[[Any], tuple[Any, Any]],
    features: FeatureFunction | None,
    loss: LossFunction | None,
    loss_model: nn.Module | None,
) -> Output:
    """Features (B, d), losses (B,) if a loss is given, and labels (B,) if they are class numbers."""
    inputs, labels = split(moved(batch, device))
    rows, outputs = _features_and_outputs(model, inputs, features)
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        shape = tuple(rows.shape) if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise argument_error(
            "features", "a (B, d) tensor", f"{shape}", "Pass features=function(model, inputs) that pools or flattens."
        )
    losses = None
    if loss is not None:
        if labels is None:
            raise argument_error("loss", "None for a data set without labels", "a loss", "Pass loss=None.")
        if loss_model is not None:
            outputs = called(loss_model, inputs)
        losses = loss(called(model, inputs) if outputs is None else outputs, labels)
        if not isinstance(losses, torch.Tensor) or losses.shape != rows.shape[:1]:
            shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise argument_error(
                "loss", f"one value per sample, shape ({len(rows)},)", f"{shape}", "Use reduction='none'."
            )
        losses = losses.float().cpu()
    return Output(rows.cpu(), losses, _class_numbers(labels, len(rows)))


def _class_numbers(labels: Any, rows: int) -> torch.Tensor | None:
    if not isinstance(labels, torch.Tensor) or labels.shape != (rows,):
        return None
    return None if labels.is_floating_point() or labels.is_complex() else labels.cpu().long()

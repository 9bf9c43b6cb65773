"""One pass of a frozen model over one batch: features, and per-sample losses."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Encoder",
    "FeatureFunction",
    "LossFunction",
    "Output",
    "cross_entropy",
    "first_two",
    "frozen",
    "global_randomness_kept",
    "home_device",
    "run_batch",
]

FeatureFunction = Callable[[nn.Module, Any], Any]
LossFunction = Callable[[Any, Any], torch.Tensor]


class Encoder(nn.Module):
    """A model whose output is the features (B, d) themselves; it has no classifier, hence no loss of its own."""


class Output(NamedTuple):
    """What the reference says about one batch, on the CPU."""

    features: torch.Tensor  # (B, d) in the model's dtype
    losses: torch.Tensor | None  # (B,) float32
    labels: torch.Tensor | None  # (B,) int64


@contextlib.contextmanager
def global_randomness_kept() -> Iterator[None]:
    """Gives the global generators of torch, NumPy and random the states back that they came with.

    Data sets and models may draw from them (that is how an augmentation gives itself away); the caller's training must
    not depend on whether a store was extracted before it or opened.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def home_device(model: nn.Module) -> torch.device:
    """Where the model's tensors are."""
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


@contextlib.contextmanager
def frozen(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """``model`` in eval mode on ``device`` (yielded; None: where it is); its training flags are restored afterwards."""
    training = {module: module.training for module in model.modules()}
    home = home_device(model)
    target = home if device is None else torch.device(device)
    try:
        model.to(target).eval()
        yield target
    finally:
        for module, flag in training.items():
            module.training = flag
        model.to(home)


@contextlib.contextmanager
def _last_linear_input(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yields a list that after a forward pass holds the input of the last ``nn.Linear`` that ran."""
    seen: list[torch.Tensor] = []

    def remember(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[:] = inputs[:1]

    hooks = [module.register_forward_pre_hook(remember) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    several = isinstance(inputs, (list, tuple)) and all(isinstance(part, torch.Tensor) for part in inputs)
    return model(*inputs) if several else model(inputs)  # texts come in a sequence too, and are one argument


def _features_and_outputs(model: nn.Module, inputs: Any, features: FeatureFunction | None) -> tuple[Any, Any]:
    """Features (B, d), and what the model put out, or None where it was not run as a whole."""
    if features is not None:
        result = features(model, inputs)
        return result if isinstance(result, tuple) else (result, None)
    if isinstance(model, Encoder):
        return _call(model, inputs), None
    with _last_linear_input(model) as seen:
        outputs = _call(model, inputs)
    if not seen:
        raise argument_error(
            "model",
            "one that runs an nn.Linear",
            type(model).__name__,
            "Pass features=function(model, inputs) instead.",
        )
    return seen[0], outputs


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _move(part, device) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_move(part, device) for part in value)
    return [_move(part, device) for part in value] if isinstance(value, list) else value


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


def first_two(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch as torchvision's data sets collate to; labels None if there is nothing else."""
    if isinstance(batch, Mapping):
        rule = "given for data sets whose samples are mappings"
        raise argument_error("split", rule, f"keys {', '.join(map(str, batch))}", "Pass split=function(batch).")
    if isinstance(batch, (list, tuple)) and batch and not isinstance(batch[0], str):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


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
    inputs, labels = split(_move(batch, device))
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
            outputs = _call(loss_model, inputs)
        losses = loss(_call(model, inputs) if outputs is None else outputs, labels)
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

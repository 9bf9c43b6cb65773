"""One pass of a frozen model over one batch: features, and per-sample losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.modules import called, last_linear_input, logits_of, moved, penultimate, plain
from spectral_sampler.store import checks

__all__ = ["Encoder", "FeatureFunction", "LossFunction", "Output", "classified", "cross_entropy", "run_batch"]

FeatureFunction = Callable[[nn.Module, Any], Any]
LossFunction = Callable[[Any, Any], torch.Tensor]


class Encoder(nn.Module):
    """A model whose output is the features (B, d) themselves; it has no classifier, hence no loss of its own."""


class Output(NamedTuple):
    """What the reference says about one batch, on the CPU."""

    features: torch.Tensor  # (B, d) in the model's dtype
    losses: torch.Tensor | None  # (B,) float32
    labels: torch.Tensor | None  # (B,) int64
    unlabelled: str = ""  # why there are no labels although the data set has some


def _features_and_outputs(
    model: nn.Module, inputs: Any, features: FeatureFunction | None, *, classifies: bool
) -> tuple[Any, Any]:
    """Features (B, d), and what the model put out, or None where it was not run as a whole."""
    if features is not None:
        result = features(model, inputs)
        return result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if isinstance(plain(model), Encoder):
        return called(model, inputs), None
    with last_linear_input(model) as seen:
        outputs = called(model, inputs)
    logits = logits_of(outputs) if classifies else None
    rows = penultimate(seen, outputs if logits is None else logits) if seen else None
    if rows is None:
        raise _unseen(model, ran=bool(seen))
    return rows, outputs


def _unseen(model: nn.Module, *, ran: bool) -> ArgumentError:
    """Features of an earlier layer would look as good as those asked for."""
    name = type(plain(model)).__name__
    remedy = "Pass features=function(model, inputs) instead, or an Encoder if the output itself is the features."
    if any(isinstance(part, (torch.jit.ScriptModule, torch.fx.GraphModule)) for part in model.modules()):
        remedy = (
            "Pass the model as it was before it was scripted, traced or exported, or features=function(model, inputs)."
        )
    if not ran:
        return argument_error("model", "one that runs an nn.Linear", name, remedy)
    rule = "one whose output is made by the last nn.Linear that it runs"
    return argument_error("model", rule, f"{name}, which makes it otherwise", remedy)


def cross_entropy(outputs: Any, labels: Any) -> torch.Tensor:
    """Per-sample cross-entropy (B,) of logits (B, C) against class numbers (B,), in float32."""
    return nn.functional.cross_entropy(*classified(outputs, labels), reduction="none")


def classified(outputs: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) in float32, which may be anywhere that `logits_of` looks, and class numbers (B,) of theirs.

    Raises:
        ArgumentError: no logits, or probabilities; labels that are not integers from 0 to C − 1.
    """
    logits = logits_of(outputs)
    what = f"'cross_entropy' for outputs {_form(outputs if logits is None else logits)} and labels {_form(labels)}"
    rule, remedy = "a function(outputs, labels) for this model", "Pass loss=None or your own per-sample loss."
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise argument_error("loss", rule, what, remedy)
    try:
        classes = torch.from_numpy(checks.checked_labels(labels, len(logits))).to(logits.device)
    except ArgumentError as error:
        raise argument_error("loss", rule, what, f"{error.remedy} Or pass loss=None or your own.") from error
    if int(classes.min()) < 0 or int(classes.max()) >= logits.shape[1]:
        raise argument_error(
            "loss",
            "None where the model's classes are not the data set's",
            f"'cross_entropy' for labels {int(classes.min())} to {int(classes.max())} and {logits.shape[1]} outputs",
            "Pass loss=None, or loss_model= a classifier of these classes.",
        )
    rows = logits.float()
    if logits.shape[1] > 1 and _are_probabilities(rows, logits):
        remedy = "Pass loss=function(outputs, labels), such as nll_loss(outputs.log(), labels, reduction='none')."
        raise argument_error("loss", "a function of probabilities for this model", "'cross_entropy'", remedy)
    return rows, classes


def _are_probabilities(rows: torch.Tensor, logits: torch.Tensor) -> bool:
    rounding = min(32 * torch.finfo(logits.dtype).eps, 1e-2) if logits.is_floating_point() else 0.0
    return bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() <= rounding).all())


def _form(value: Any) -> str:
    """``(128, 10)``, ``(128,) torch.float32`` of what are not logits, or the type."""
    if not hasattr(value, "shape"):
        return type(value).__name__
    return f"{tuple(value.shape)}" if len(value.shape) == 2 else f"{tuple(value.shape)} {value.dtype}"


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
    """Features (B, d), losses (B,) if a loss is given, and labels (B,) if they are class numbers.

    A loss of torch's gets the logits, a function of the caller's what the model put out.
    """
    parts: Any = split(moved(batch, device))
    if not isinstance(parts, (tuple, list)) or len(parts) != 2:
        found = f"{len(parts)} parts" if isinstance(parts, (tuple, list)) else type(parts).__name__
        raise argument_error("split", "a function(batch) -> (inputs, labels)", found, "Return None for no labels.")
    inputs, labels = parts
    classifies = loss_model is None and (loss is cross_entropy or _is_criterion(loss))
    rows, outputs = _features_and_outputs(model, inputs, features, classifies=classifies)
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
        outputs = called(model, inputs) if outputs is None else outputs
        losses = loss(*_for_criterion(outputs, labels) if _is_criterion(loss) else (outputs, labels))
        if not isinstance(losses, torch.Tensor) or losses.shape != rows.shape[:1]:
            shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise argument_error(
                "loss", f"one value per sample, shape ({len(rows)},)", f"{shape}", "Use reduction='none'."
            )
        losses = losses.float().cpu()
    return Output(rows.cpu(), losses, *_stored(labels, len(rows)))


def _is_criterion(loss: LossFunction | None) -> bool:
    return isinstance(loss, nn.modules.loss._Loss)  # noqa: SLF001


def _for_criterion(outputs: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors, as torch's losses ask for."""
    logits = logits_of(outputs)
    if not isinstance(logits, torch.Tensor):
        remedy = "Pass loss=function(outputs, labels) that takes them out of it."
        raise argument_error("loss", "a function of this model's outputs", _form(outputs), remedy)
    if not isinstance(labels, torch.Tensor):
        labels = torch.from_numpy(checks.checked_labels(labels, len(logits))).to(logits.device)
    return logits, labels


def _stored(labels: Any, rows: int) -> tuple[torch.Tensor | None, str]:
    """Class numbers (B,), or None and why there are none."""
    if labels is None:
        return None, ""
    try:
        return torch.from_numpy(checks.checked_labels(labels, rows)), ""
    except ArgumentError as error:
        return None, str(error)

"""Somebody else's module, run on somebody else's samples, and left as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import random
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import nn

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "LABELS",
    "arguments",
    "called",
    "check_module",
    "first_two",
    "frozen",
    "global_randomness_kept",
    "home_device",
    "last_linear_input",
    "logits_of",
    "moved",
    "penultimate",
    "plain",
    "takes",
    "unnamed",
]

LABELS = ("labels", "label", "targets", "target")  # keys under which the samples of a mapping hold their class
_NUMBERS = ("index", "idx")  # and their place in the data set, which few models ask for


@contextlib.contextmanager
def global_randomness_kept() -> Iterator[None]:
    """Gives the global generators of torch, NumPy and random the states back that they came with.

    Data sets and models may draw from them (that is how an augmentation gives itself away); the caller's training must
    not depend on whether a store was extracted before it or opened, nor on whether a batch was looked at.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def check_module(argument: str, model: Any) -> None:
    """Refuses what is no module, and one whose weights are still to be made by its first batch."""
    if not isinstance(model, nn.Module):
        remedy = "Pass the eager module, or wrap what you have in one."
        raise argument_error(argument, "a torch.nn.Module", type(model).__name__, remedy)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            remedy = "Run the model on a batch, and load its weights, first."
            raise argument_error(argument, "a model that has its weights", f"{name} without a shape yet", remedy)


def home_device(model: nn.Module) -> torch.device:
    """Where the model's tensors are: the first of them, which its inputs meet first."""
    return next(
        (tensor.device for part in (model.parameters(), model.buffers()) for tensor in part), torch.device("cpu")
    )


@contextlib.contextmanager
def frozen(model: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """``model`` in eval mode on ``device`` (yielded; None: where it is); afterwards as it was.

    Flags are set and put back one by one: ``train(mode)`` would thaw what its owner froze, and may be overridden to
    do more, such as folding adapters into weights. Nor does an autocast around the caller's training step get to keep
    weights that were cast here, without gradient (as torch 2.9 would).
    """
    cached = torch.is_autocast_cache_enabled()
    training = {module: module.training for module in model.modules()}
    home = home_device(model)
    target = home if device is None else torch.device(device)
    moves = device is not None and target != home  # a model spread over devices stays so
    try:
        torch.set_autocast_cache_enabled(False)
        if moves:
            model.to(target)
        for module in training:
            module.training = False
        yield target
    finally:
        torch.set_autocast_cache_enabled(cached)
        for module, flag in training.items():
            module.training = flag
        if moves:
            model.to(home)


_SHARING = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def plain(model: nn.Module) -> nn.Module:
    """The module itself, without ``torch.compile`` or the wrappers that share a batch out."""
    while isinstance(model, _SHARING) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, _SHARING) else model._orig_mod  # type: ignore[assignment]  # noqa: SLF001
    return model


def _whole(model: nn.Module) -> nn.Module:
    """The module within wrappers that split a batch over threads, or talk to other processes when they are called."""
    while isinstance(model, _SHARING) or isinstance(getattr(model, "_orig_mod", None), _SHARING):
        model = model.module if isinstance(model, _SHARING) else model._orig_mod  # type: ignore[assignment]  # noqa: SLF001
    return model


def takes(model: nn.Module) -> set[str] | None:
    """The names of what ``forward`` takes; None where it takes any or does not say.

    Models of transformers swallow what they do not know; their ``**kwargs`` are typed with the names that count.
    """
    try:
        parameters = inspect.signature(plain(model).forward).parameters.values()
    except (TypeError, ValueError):
        return None
    names = {entry.name for entry in parameters if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)}
    for entry in parameters:
        if entry.kind is entry.VAR_KEYWORD:
            typed = next((part for part in get_args(entry.annotation) if hasattr(part, "__optional_keys__")), None)
            if typed is None:
                return None
            names |= typed.__optional_keys__ | typed.__required_keys__
    return names


def unnamed(model: nn.Module, inputs: Any) -> list[str]:
    """The keys of a mapping for which ``forward`` has no argument, so that it cannot be called with them.

    The number of a sample is left out in silence, and a single entry under another name is the one input.
    """
    names = takes(model)
    if names is None or not isinstance(inputs, Mapping):
        return []
    keys = [key for key in inputs if key in names or key not in _NUMBERS]
    return [] if len(keys) == 1 else [str(key) for key in keys if key not in names]


def arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How ``model`` is called with ``inputs``: by name with a mapping, in order with several tensors, else with one.

    Raises:
        ArgumentError: a mapping with keys that ``forward`` does not name.
    """
    if isinstance(inputs, Mapping):
        names = takes(model)
        if unnamed(model, inputs):
            rule, named = "given for data sets whose samples are mappings", ", ".join(sorted(names or ()))
            remedy = f'Name the class number "labels" and the rest as {_name(model)}.forward does ({named}), or pass '
            keys = f"keys {', '.join(map(str, inputs))}"
            raise argument_error("split", rule, keys, f"{remedy}split=function(batch) -> (inputs, labels).")
        given = {key: value for key, value in inputs.items() if key in (names or ()) or key not in _NUMBERS}
        return (tuple(given.values()), {}) if names is not None and given.keys() - names else ((), given)
    several = isinstance(inputs, (list, tuple)) and all(isinstance(part, torch.Tensor) for part in inputs)
    return (tuple(inputs) if several else (inputs,)), {}  # texts come in a sequence too, and are one argument


def called(model: nn.Module, inputs: Any) -> Any:
    """The output of ``model`` for ``inputs``, taken as `arguments` says; in this process and thread alone."""
    model = _whole(model)
    args, named = arguments(model, inputs)
    return model(*args, **named)


def _name(model: nn.Module) -> str:
    return type(plain(model)).__name__


def _is_linear(module: nn.Module) -> bool:
    """``nn.Linear``, and what stands in for it: quantised layers, and adapters around one (``base_layer``)."""
    if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
        return False
    if isinstance(module, nn.Linear):
        return True
    sized = all(isinstance(getattr(module, name, None), int) for name in ("in_features", "out_features"))
    return sized and (
        hasattr(module, "base_layer") or not any(isinstance(part, nn.Linear) for part in module.modules())
    )


@contextlib.contextmanager
def last_linear_input(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yields a list that after a forward pass holds input and output of the last linear layer that ran.

    That need not be the layer before the model's output (`penultimate` finds out): what is scripted, or calls
    ``F.linear`` with weights of its own, is not seen. What is compiled runs uncompiled meanwhile: code compiled before
    does not look at hooks that came later.
    """
    seen: list[torch.Tensor] = []

    def remember(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
        source = given[0] if given else next(iter(named.values()), None)
        if isinstance(source, torch.Tensor) and isinstance(made, torch.Tensor):
            seen[:] = [part.dequantize() if part.is_quantized else part for part in (source, made)]

    with contextlib.ExitStack() as held:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes seconds
            held.enter_context(torch.compiler.set_stance("force_eager"))
        for module in model.modules():
            if _is_linear(module):
                held.callback(module.register_forward_hook(remember, with_kwargs=True).remove)
        yield seen


def penultimate(seen: list[torch.Tensor], outputs: Any) -> torch.Tensor | None:
    """What the last linear layer that ran made ``outputs`` of, or None if it did not make them.

    It made them if one of them is its output: as it is, in other shape or precision, of one token of each sample (as
    models of sequences classify by their last), or after softmax, its logarithm, or a rising function of each entry,
    such as a sigmoid or a temperature.

    Returns:
        (B, d); with more axes where the layer ran on every token.
    """
    given, made = seen
    for output in _tensors(outputs):
        if output.is_floating_point() and output.ndim and len(output) == len(made):
            found = _source(given, made, output.to(made.device))
            if found is not None:
                return found
    return None


def _source(given: torch.Tensor, made: torch.Tensor, output: torch.Tensor) -> torch.Tensor | None:
    size = len(made)
    if made.numel() == output.numel():
        flat, rows = made.reshape(size, -1), output.reshape(size, -1)
        exact = torch.allclose(flat.to(rows.dtype), rows, rtol=0, atol=0, equal_nan=True)
        if exact or (flat.shape == made.shape and _follows(rows, flat)):
            return given.flatten(1) if all(axis == 1 for axis in given.shape[1:-1]) else given
    if made.ndim == 3 and output.shape == (size, made.shape[2]):
        tokens = torch.isclose(made.to(output.dtype), output[:, None], rtol=0, atol=0, equal_nan=True).all(2)
        if tokens.any(1).all():
            return given[torch.arange(size, device=given.device), tokens.int().argmax(1).to(given.device)]
    return None


def _follows(output: torch.Tensor, made: torch.Tensor) -> bool:
    """Is ``output`` (B, C) the softmax of ``made``, its logarithm, or one rising function of each entry?"""
    unit = max(torch.finfo(part.dtype).eps for part in (output, made))
    made, output = made.float(), output.float()
    for function in (torch.softmax, torch.log_softmax) if made.shape[1] > 1 else ():
        if torch.allclose(output, function(made, 1), rtol=32 * unit, atol=unit):
            return True
    usable = made.isfinite() & output.isfinite()
    made, output = made[usable], output[usable]
    steps = output[made.argsort()].diff()
    return bool((steps >= -1e-6 * output.abs().amax()).all()) if steps.numel() else True


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """The tensors that a model put out, in whatever it put them."""
    if isinstance(outputs, torch.Tensor):
        yield outputs
        return
    if isinstance(outputs, Mapping):
        outputs = outputs.values()
    elif not isinstance(outputs, (list, tuple)):
        outputs = _fields(outputs).values()
    for part in outputs:
        if isinstance(part, (torch.Tensor, Mapping, list, tuple)) or dataclasses.is_dataclass(part):
            yield from _tensors(part)


def _fields(outputs: Any) -> dict[str, Any]:
    """What an object holds, by name; a dataclass may have slots instead of a ``__dict__``."""
    if dataclasses.is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    return getattr(outputs, "__dict__", {})


def logits_of(outputs: Any) -> Any:
    """The logits among what a module or a function put out, or None: itself, what is called ``logits``, the first of
    two axes in a tuple, or the only array in a mapping or an object (beside a scalar, such as a mean loss)."""
    if hasattr(outputs, "ndim"):
        return outputs
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if named is not None:
        return named
    if isinstance(outputs, (list, tuple)):
        return next((part for part in outputs if getattr(part, "ndim", 0) == 2), None)
    fields = outputs if isinstance(outputs, Mapping) else _fields(outputs)
    arrays = [part for part in fields.values() if getattr(part, "ndim", 0)]
    return arrays[0] if len(arrays) == 1 else None


def moved(value: Any, device: torch.device) -> Any:
    """``value``, what has a method ``to`` or mappings, tuples and lists that hold such, on ``device``."""
    if isinstance(value, Mapping):
        return {key: moved(part, device) for key, part in value.items()}
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return [moved(part, device) for part in value] if isinstance(value, list) else value


def first_two(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch; labels None if there is nothing else.

    As torchvision's data sets collate to, the first two of a sequence; of a mapping, what is called labels, label,
    targets or target, and the rest.

    Raises:
        ArgumentError: a mapping with several of these.
    """
    if isinstance(batch, Mapping):
        found = [name for name in LABELS if name in batch]
        if len(found) > 1:
            rule = "given for data sets whose samples are mappings with several labels"
            raise argument_error("split", rule, f"keys {', '.join(map(str, batch))}", "Pass split=function(batch).")
        return {key: part for key, part in batch.items() if key not in found}, batch[found[0]] if found else None
    if isinstance(batch, (list, tuple)) and batch and not isinstance(batch[0], str):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None

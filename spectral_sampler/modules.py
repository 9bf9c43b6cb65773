"""Somebody else's module, run on somebody else's samples, and left as it was."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["called", "first_two", "frozen", "global_randomness_kept", "home_device", "last_linear_input", "moved"]


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


def _whole(model: nn.Module) -> nn.Module:
    """The module within wrappers that split a batch over threads, or talk to other processes when they are called."""
    while isinstance(model, _SHARING) or isinstance(getattr(model, "_orig_mod", None), _SHARING):
        model = model.module if isinstance(model, _SHARING) else model._orig_mod  # type: ignore[assignment]  # noqa: SLF001
    return model


def called(model: nn.Module, inputs: Any) -> Any:
    """``model(**inputs)`` of a mapping, ``model(*inputs)`` of several tensors, else ``model(inputs)``; in this process
    and thread alone."""
    model = _whole(model)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    several = isinstance(inputs, (list, tuple)) and all(isinstance(part, torch.Tensor) for part in inputs)
    return model(*inputs) if several else model(inputs)  # texts come in a sequence too, and are one argument


@contextlib.contextmanager
def last_linear_input(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yields a list that after a forward pass holds the input of the last ``nn.Linear`` that ran.

    What is compiled runs uncompiled meanwhile: code compiled before does not look at hooks that came later.
    """
    seen: list[torch.Tensor] = []

    def remember(_module: nn.Module, given: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        seen[:] = [given[0] if given else named["input"]]

    with contextlib.ExitStack() as held:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and the import takes seconds
            held.enter_context(torch.compiler.set_stance("force_eager"))
        for module in model.modules():
            if isinstance(module, nn.Linear):
                hook = module.register_forward_pre_hook(remember, with_kwargs=True)
                held.callback(hook.remove)
        yield seen


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
    """Inputs and labels of a batch as torchvision's data sets collate to; labels None if there is nothing else."""
    if isinstance(batch, Mapping):
        rule = "given for data sets whose samples are mappings"
        raise argument_error("split", rule, f"keys {', '.join(map(str, batch))}", "Pass split=function(batch).")
    if isinstance(batch, (list, tuple)) and batch and not isinstance(batch[0], str):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None

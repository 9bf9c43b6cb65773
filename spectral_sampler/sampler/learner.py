"""The learner's own view of the candidates, for selections that cannot decide without it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import default_collate

from spectral_sampler.errors import argument_error
from spectral_sampler.selection.needs import forwards_candidates
from spectral_sampler.selection.proposal import Proposes

if TYPE_CHECKING:
    from spectral_sampler.selection import Selection

__all__ = ["Learner", "ModuleForward"]


class ModuleForward:
    """A function from dataset indices to (logits (N, C), inputs of the last linear layer (N, h)), without gradient.

    Reads ``dataset[i]``, of which the first entry is the input, and evaluates in eval mode, so that neither batch
    statistics nor dropout see the candidates; the mode is put back.
    """

    def __init__(self, module: nn.Module, dataset: Any) -> None:
        self.module, self.dataset = module, dataset

    def __call__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One forward pass over the samples ``indices``."""
        samples = [self.dataset[index] for index in indices]
        inputs = default_collate([sample[0] if isinstance(sample, (tuple, list)) else sample for sample in samples])
        device = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
        linear = [part for part in self.module.modules() if isinstance(part, nn.Linear)][-1:]
        caught: list[torch.Tensor] = []
        hooks = [part.register_forward_pre_hook(lambda _, given: caught.append(given[0])) for part in linear]
        was_training = self.module.training
        try:
            self.module.eval()
            with torch.no_grad():
                logits = self.module(inputs.to(device))
        finally:
            self.module.train(was_training)
            for hook in hooks:
                hook.remove()
        return logits, caught[-1] if caught else None


class Learner:
    """Counts what forwarding the candidates costs.

    Args:
        learner: a module, which reads ``dataset``, or a function from dataset indices to logits (N, C) or to
            (logits, features (N, h)).
    """

    def __init__(self, learner: Any, dataset: Any, selection: Selection) -> None:
        by_loss = "learner_losses" in selection.needs and not isinstance(selection, Proposes)
        if not (forwards_candidates(selection) or by_loss):
            remedy = "It would forward candidates for nothing."
            raise argument_error("learner", f"left out with {selection.name}", type(learner).__name__, remedy)
        if not callable(learner):
            raise argument_error("learner", "a module or a function of indices", repr(learner), "Pass the model.")
        if isinstance(learner, nn.Module):
            if dataset is None:
                remedy = "Pass dataset=, from which the candidates are read."
                raise argument_error("dataset", "given with a module as learner=", None, remedy)
            learner = ModuleForward(learner, dataset)
        self._forward = learner
        self.restart()

    def restart(self) -> None:
        """Count from zero."""
        self.forwarded, self.seconds = 0, 0.0

    def __call__(self, indices: list[int]) -> dict[str, Any]:
        """logits, and embeddings where the learner gives them."""
        started = time.perf_counter()
        found = self._forward(indices)
        self.forwarded += len(indices)
        self.seconds += time.perf_counter() - started
        logits, embeddings = found if isinstance(found, (tuple, list)) else (found, None)
        return {"logits": logits, "embeddings": embeddings}

    def as_floats(self) -> dict[str, float]:
        """The cost since the pass began."""
        return {"spectral/forwarded_total": float(self.forwarded), "spectral/seconds_forwarding": self.seconds}

"""The learner's own view of the candidates, for selections that cannot decide without it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import default_collate

from spectral_sampler.errors import argument_error
from spectral_sampler.modules import (
    LABELS,
    called,
    check_module,
    first_two,
    frozen,
    global_randomness_kept,
    last_linear_input,
    logits_of,
    moved,
    penultimate,
    plain,
    takes,
    unnamed,
)
from spectral_sampler.selection.needs import forwards_candidates

if TYPE_CHECKING:
    from spectral_sampler.selection import Selection

__all__ = ["Learner", "Outputs"]


class Outputs(NamedTuple):
    """What the learner says of N candidates, where it said it, and what that cost."""

    logits: Any
    """(N, C)."""
    embeddings: Any
    """(N, h) inputs of the last linear layer, None where the selection does without or the learner gives none."""
    seconds: float

    @property
    def given(self) -> dict[str, Any]:
        """As `spectral_sampler.selection.offered.offered` takes it."""
        return {"logits": self.logits, "embeddings": self.embeddings}


def _checked(outputs: Any, size: int) -> Any:
    """The logits (N, C) among what a module or a function put out, without their graph."""
    found = logits_of(outputs)
    if getattr(found, "ndim", 0) != 2 or len(found) != size:
        shape = tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
        remedy = "Pass a function from dataset indices to logits, or to (logits, features)."
        raise argument_error("learner", f"one that puts out logits of shape ({size}, classes)", shape, remedy)
    return found.detach() if isinstance(found, torch.Tensor) else found


class Learner:
    """``learner(indices)`` is one forward pass over samples of the data set; nothing is changed or counted by it.

    Args:
        learner: a module, which reads ``dataset``, or a function from dataset indices to logits (N, C) or to
            (logits, features (N, h)). A module runs in eval mode where it is; its logits are its output, ``.logits`` or
            ["logits"] of that, the first tensor of two axes in a tuple, or the only one of a mapping or dataclass.
        dataset: its samples, collated, are the module's inputs: the first entry of a tuple, or keyword arguments of
            a mapping, without labels and "index" unless the module's ``forward`` names them.
        selection: what it is for.
        collate_fn: as in DataLoader.
        ignore_index: the label of candidates that are chosen last.

    Raises:
        ArgumentError: no selection that uses it, or no data set; by the call, outputs that are no logits, samples that
            ``forward`` does not take, or logits that the last ``nn.Linear`` did not make, where its inputs are needed.
    """

    def __init__(
        self,
        learner: Any,
        dataset: Any,
        selection: Selection,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        by_loss = "learner_losses" in selection.needs and not selection.proposes
        if not (forwards_candidates(selection) or by_loss):
            remedy = "It would forward candidates for nothing."
            raise argument_error("learner", f"left out with {selection.name}", type(learner).__name__, remedy)
        if not callable(learner):
            raise argument_error("learner", "a module or a function of indices", repr(learner), "Pass the model.")
        self._forward, self.ignore_index = learner, ignore_index
        if isinstance(learner, nn.Module):
            if dataset is None:
                remedy = "Pass dataset=, from which the candidates are read."
                raise argument_error("dataset", "given with a module as learner=", None, remedy)
            check_module("learner", learner)
            self._forward, self._module, self._embeds = self._forwarded, learner, "embeddings" in selection.needs
            self._dataset, self._collate = dataset, collate_fn or default_collate
            self._left_out = set(LABELS) - (takes(learner) or set())

    def __call__(self, indices: list[int]) -> Outputs:
        """One forward pass over the samples ``indices`` (N,)."""
        started = time.perf_counter()
        found = self._forward(indices)
        found, embeddings = found if isinstance(found, (tuple, list)) and len(found) == 2 else (found, None)
        return Outputs(_checked(found, len(indices)), embeddings, time.perf_counter() - started)

    def _forwarded(self, indices: list[int]) -> tuple[Any, torch.Tensor | None]:
        """What the module puts out, and the input of its last linear layer, whatever the caller is in the middle of."""
        listening: Any = last_linear_input(self._module) if self._embeds else contextlib.nullcontext([])
        several = getattr(self._dataset, "__getitems__", None)
        with global_randomness_kept(), torch.no_grad(), frozen(self._module) as home, listening as caught:
            batch = self._collate(several(indices) if several else [self._dataset[index] for index in indices])
            if isinstance(batch, Mapping):
                inputs: Any = {name: value for name, value in batch.items() if name not in self._left_out}
            else:
                inputs = first_two(batch)[0]
            found = called(self._module, moved(self._named(inputs), home))
            if home.type == "cuda":
                torch.cuda.current_stream(home).synchronize()  # the choice waits for it: it is this call's time
        return found, self._embeddings(caught, _checked(found, len(indices))) if caught else None

    def _named(self, inputs: Any) -> Any:
        if strangers := unnamed(self._module, inputs):
            rule = f"of samples that hold what {type(plain(self._module)).__name__}.forward names"
            remedy = "Rename or drop them, in the data set or in collate_fn."
            raise argument_error("dataset", rule, f"keys {', '.join(strangers)}", remedy)
        return inputs

    def _embeddings(self, caught: list[torch.Tensor], logits: Any) -> torch.Tensor:
        if (rows := penultimate(caught, logits)) is None:
            rule = "a module whose logits its last nn.Linear makes, where a selection needs the inputs of that"
            remedy = "Pass a function from dataset indices to (logits, features)."
            raise argument_error("learner", rule, type(plain(self._module)).__name__, remedy)
        return rows.detach()

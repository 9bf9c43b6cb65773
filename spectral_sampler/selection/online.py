"""OnlineSelection: a selection inside the training loop, for policies that must see the learner's own outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.likelihood import cross_entropy
from spectral_sampler.schedule import AdaptiveSchedule, plan_ratios
from spectral_sampler.selection.guarded import Guarded
from spectral_sampler.selection.needs import FORWARDED, check_needs, in_store, required
from spectral_sampler.selection.offered import chosen, learnt, offered, whole_numbers
from spectral_sampler.selection.protocol import Scores, as_selection
from spectral_sampler.validation import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral_sampler.selection.protocol import CandidateBatch, Selection
    from spectral_sampler.store import ReferenceStore

__all__ = ["OnlineSelection"]

_COUNTERS = ("calls", "candidates", "kept", "nonfinite")


class OnlineSelection:
    """Selects from candidates that the learner has already forwarded::

        kept = online(indices=indices, logits=logits, labels=labels)
        loss = (cross_entropy(logits[kept], labels[kept], reduction="none") * online.weights).mean()

    Args:
        policy: any selection.
        keep_ratio: a number in (0, 1], or a schedule over ``steps`` calls. One that listens to the loss is told the
            mean learner loss of every selection.
        store: reference features and losses, for a policy that needs them.
        steps: the number of calls that a schedule spans; an AIMD schedule, which has no horizon, needs none.
        seed: of the draws, which are keyed by (seed, number of the call, dataset index).
        min_keep: the least budget.
        ignore_index: the label of candidates that are chosen last, as in `torch.nn.functional.cross_entropy`; without
            it a label that is no class of the logits is refused.

    Raises:
        ArgumentError: a need of the policy that neither the store nor the call can meet.
    """

    def __init__(
        self,
        policy: Selection,
        keep_ratio: float | AdaptiveSchedule | Callable[[float], float] = 0.3,
        *,
        store: ReferenceStore | None = None,
        steps: int | None = None,
        seed: int = 0,
        min_keep: int = 1,
        ignore_index: int | None = None,
    ) -> None:
        policy = as_selection(policy, "policy")
        if isinstance(policy, Guarded):
            remedy = "Pass it to a SpectralBatchSampler, which knows all that is on offer, or pass policy.selection."
            raise argument_error("policy", "one without a guard", repr(policy), remedy)
        if policy.proposes:
            raise argument_error(
                "policy", "one that selects from the candidates it is given", repr(policy),
                "It decides what is offered in an epoch: pass it to a SpectralBatchSampler.",
            )  # fmt: skip
        given = {"logits", "embeddings", "learner_losses"}
        if "features" not in policy.needs or policy.needs & FORWARDED:
            given.add("labels")  # else it scores from the store, before the call can give any
        check_needs(policy, in_store(store) | given, "policy")
        if callable(keep_ratio) and steps is None:
            raise argument_error("steps", "the number of calls when keep_ratio is a schedule", None, "Or pass 0.3.")
        calls = None if steps is None else whole_number("steps", steps, 1, "It is the number of calls of the run.")
        self._adaptive: AdaptiveSchedule | None = None
        if isinstance(keep_ratio, AdaptiveSchedule):
            self._adaptive, keep_ratio = keep_ratio, keep_ratio.max  # the number stands in
            self._adaptive.begin(calls)
        self._ratios = plan_ratios(keep_ratio, 1, calls or 1)
        self.policy, self.store, self.seed, self.ignore_index = policy, store, int(seed), ignore_index
        self.min_keep = whole_number("min_keep", min_keep, 1, "1 keeps at least one sample.")
        self.calls = self.candidates = self.kept = self.nonfinite = 0
        self.weights = torch.ones(0)
        """(n,) factors for the losses of the last call's selection, on the device of its logits."""

    def __call__(
        self, *, indices: Any, logits: Any = None, labels: Any = None, features: Any = None, losses: Any = None
    ) -> torch.Tensor:
        """Positions to train on, (n,) int64, on the device of ``logits``.

        Args:
            indices: (N,) distinct dataset indices.
            logits: (N, C) the learner's outputs.
            labels: (N,).
            features: (N, h) inputs of the learner's last linear layer.
            losses: (N,) learner losses, if not the cross-entropy of ``logits``.
        """
        index = whole_numbers("indices", indices)
        if not len(index) or len(np.unique(index)) != len(index):
            raise argument_error(
                "indices", "distinct dataset indices, at least one", index.tolist(), "One a candidate."
            )
        if self.store is not None and not 0 <= index.min() <= index.max() < len(self.store):
            rule, found = f"rows of the store, 0 to {len(self.store) - 1}", f"{index.min()} to {index.max()}"
            raise argument_error("indices", rule, found, "Check the store.")
        last = self._ratios.batches - 1
        turn = self.calls if self.store is None else self.candidates // len(self.store)
        place = {"batch": self.calls, "turn": turn, "progress": min(1.0, self.calls / last) if last else 0.0}
        given = {"logits": logits, "labels": labels, "embeddings": features, "learner_losses": losses}
        batch = offered(
            self.policy, self.store, index, given, self._score(index), self.ignore_index, seed=self.seed, **place
        )
        if losses is not None:  # none is unknown here, which is what NaN says of it
            known = required(batch, "learner_losses")
            batch = batch._replace(learner_losses=np.where(np.isfinite(known), known, np.inf))
        ratio = self._ratio(batch)
        count = min(len(index), max(self.min_keep, math.floor(ratio * len(index) + 1e-9)))
        choice = chosen(self.policy, batch, count)
        if self._adaptive is not None:
            kept, heard = choice.positions, batch.learner_losses
            kept = kept if batch.ignored is None else kept[~batch.ignored[kept]]
            if len(kept) and heard is None:
                heard = cross_entropy(batch.logits[kept], required(batch, "labels")[kept])
            elif heard is not None:
                heard = heard[kept]
            if len(kept) and heard is not None:
                self._adaptive.observe(float(heard.mean()))
        for name, more in zip(_COUNTERS, (1, len(index), count, choice.nonfinite), strict=True):
            setattr(self, name, getattr(self, name) + more)
        learnt(self.policy, batch, choice)
        device = logits.device if isinstance(logits, torch.Tensor) else torch.device("cpu")
        weights = np.ones(count) if choice.weights is None else choice.weights
        self.weights = torch.as_tensor(weights, dtype=torch.float32, device=device)
        return torch.as_tensor(choice.positions, dtype=torch.int64, device=device)

    def _score(self, index: NDArray[np.int64]) -> Scores | None:
        with torch.no_grad():
            found = None if self.store is None else self.policy.score(self.store, index[None], backend="auto")
        return None if found is None else Scores(*(column[0] for column in found))

    def _ratio(self, batch: CandidateBatch) -> float:
        """The keep ratio of this call; the last one stays."""
        if self._adaptive is None:
            return self._ratios.at(0, min(self.calls, self._ratios.batches - 1))
        if batch.learner_losses is None and (batch.logits is None or batch.labels is None):
            remedy = "Pass losses=, or logits= and labels=."
            raise argument_error("losses", "given when keep_ratio follows the loss", None, remedy)
        return self._adaptive.ratio(self.calls)

    def statistics(self) -> dict[str, float]:
        """Counts so far: every candidate cost a forward pass, every kept one a backward pass; outputs of how many
        candidates were not finite."""
        return {
            "spectral/online_calls": float(self.calls),
            "spectral/online_forwarded": float(self.candidates),
            "spectral/online_kept": float(self.kept),
            "spectral/nonfinite_total": float(self.nonfinite),
        }

    def state_dict(self) -> dict[str, Any]:
        """The counters, the policy's state and that of a schedule that listens."""
        schedule = self._adaptive.state_dict() if self._adaptive is not None else {}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {**counters, "policy": self.policy.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.policy.load_state_dict(state["policy"])
        if self._adaptive is not None:
            self._adaptive.load_state_dict(state["schedule"])

    def __repr__(self) -> str:
        return f"OnlineSelection({self.policy!r})"

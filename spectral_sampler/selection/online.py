"""OnlineSelection: a selection inside the training loop, for policies that must see the learner's own outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.schedule import AdaptiveSchedule, plan_ratios
from spectral_sampler.selection.needs import FORWARDED, NEEDS, check_needs, in_store, whole
from spectral_sampler.selection.protocol import CandidateBatch, Choice, Selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

    Array = NDArray[np.float64]

__all__ = ["OnlineSelection", "candidate_batch", "cross_entropy"]


def _floats(values: Any) -> Array:
    if isinstance(values, torch.Tensor):
        values = values.detach().to(device="cpu", dtype=torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def _integers(values: Any) -> NDArray[np.int64]:
    found = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    return found.astype(np.int64).reshape(-1)


def cross_entropy(logits: Array, labels: NDArray[np.int64]) -> Array:
    """``ln Σ_c exp(f_ic) − f_iy`` (N,) of ``logits`` (N, C) and ``labels`` (N,) in 0 … C − 1."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        found = labels.min() if labels.min() < 0 else labels.max()
        raise argument_error(
            "labels", f"from 0 to {logits.shape[1] - 1}, the classes of the logits", found, "Renumber."
        )
    return np.asarray(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels])


def _from_store(batch: CandidateBatch, policy: Selection, store: ReferenceStore) -> CandidateBatch:
    """``batch`` with the rows of the store that the policy needs."""
    index = batch.indices
    if index.min() < 0 or index.max() >= len(store):
        raise argument_error("indices", f"rows of the store, 0 to {len(store) - 1}", index.max(), "Check the store.")
    if batch.labels is None and store.labels is not None:
        batch = batch._replace(labels=store.labels[index])
    if "losses" in policy.needs and store.losses is not None:
        batch = batch._replace(losses=store.losses[index].astype(np.float64))
    if {"features", "embeddings"} <= policy.needs:
        batch = batch._replace(features=store.features[index].astype(np.float64))
    return batch


def candidate_batch(
    policy: Selection, store: ReferenceStore | None, indices: Any, outputs: dict[str, Any], **place: Any
) -> CandidateBatch:
    """Everything ``policy`` needs to know about candidates that the learner has seen.

    Args:
        indices: (N,) distinct dataset indices.
        outputs: any of logits (N, C), labels (N,), embeddings (N, h), learner_losses (N,). Labels come from the store
            if not given, learner losses from logits and labels.
        place: seed, epoch, batch, turn and progress.

    Raises:
        ArgumentError: a need that is not met, or arrays whose lengths differ.
    """
    index = _integers(indices)
    if not len(index) or len(np.unique(index)) != len(index):
        raise argument_error("indices", "distinct dataset indices, at least one", index.tolist(), "One a candidate.")
    given = {name: value for name, value in outputs.items() if value is not None}
    arrays: dict[str, Any] = {
        name: _integers(value) if name == "labels" else _floats(value) for name, value in given.items()
    }
    for name, value in arrays.items():
        if len(value) != len(index):
            raise argument_error(name, f"of {len(index)} rows, one for each index", len(value), "Same order.")
    batch = CandidateBatch(index, **arrays, **place)
    if store is not None:
        batch = _from_store(batch, policy, store)
    if batch.learner_losses is None and batch.logits is not None and batch.labels is not None:
        batch = batch._replace(learner_losses=cross_entropy(batch.logits, batch.labels))
    for name in sorted(policy.needs - {"features"}):
        if getattr(batch, name) is None:
            argument = "features" if name == "embeddings" else name
            raise argument_error(argument, f"given, because {policy.name} needs {name}", None, NEEDS[name])
    return batch


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
    ) -> None:
        if isinstance(policy, type) or not isinstance(policy, Selection):
            raise argument_error("policy", "an object with name, needs, score and select", repr(policy), "See JEST().")
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
        calls = None if steps is None else whole("steps", steps, 1, "It is the number of calls of the run.")
        self._adaptive: AdaptiveSchedule | None = None
        if isinstance(keep_ratio, AdaptiveSchedule):
            self._adaptive, keep_ratio = keep_ratio, keep_ratio.max  # the number stands in
            self._adaptive.begin(calls)
        self._ratios = plan_ratios(keep_ratio, 1, calls or 1).flat()
        self.policy, self.store, self.seed = policy, store, int(seed)
        self.min_keep = whole("min_keep", min_keep, 1, "1 keeps at least one sample.")
        self.calls = self.candidates = self.kept = 0
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
        progress = min(1.0, self.calls / max(1, len(self._ratios) - 1)) if len(self._ratios) > 1 else 0.0
        outputs = {"logits": logits, "labels": labels, "embeddings": features, "learner_losses": losses}
        turn = self.candidates // len(self.store) if self.store is not None else self.calls
        place = {"seed": self.seed, "batch": self.calls, "turn": turn, "progress": progress}
        batch = candidate_batch(self.policy, self.store, indices, outputs, **place)
        batch = self._scored(batch)
        if self._adaptive is not None and batch.learner_losses is None:
            remedy = "Pass losses=, or logits= and labels=."
            raise argument_error("losses", "given when keep_ratio follows the loss", None, remedy)
        ratio = self._ratio()
        count = min(len(batch.indices), max(self.min_keep, math.floor(ratio * len(batch.indices) + 1e-9)))
        choice = self.policy.select(batch, count)
        self._trained(batch, choice)
        device = logits.device if isinstance(logits, torch.Tensor) else torch.device("cpu")
        weights = np.ones(count) if choice.weights is None else choice.weights
        self.weights = torch.as_tensor(weights, dtype=torch.float32, device=device)
        return torch.as_tensor(choice.positions, dtype=torch.int64, device=device)

    def _scored(self, batch: CandidateBatch) -> CandidateBatch:
        if self.store is None:
            return batch
        scores = self.policy.score(self.store, batch.indices[None], backend="auto")
        return batch if scores is None else batch._replace(scores=scores.values[0], error=float(scores.error[0]))

    def _ratio(self) -> float:
        """The keep ratio of this call; the last one stays."""
        if self._adaptive is not None:
            return self._adaptive.ratio(self.calls)
        return float(self._ratios[min(self.calls, len(self._ratios) - 1)])

    def _trained(self, batch: CandidateBatch, choice: Choice) -> None:
        if self._adaptive is not None and batch.learner_losses is not None:
            self._adaptive.observe(float(batch.learner_losses[choice.positions].mean()))
        self.calls += 1
        self.candidates += len(batch.indices)
        self.kept += len(choice.positions)
        if hasattr(self.policy, "trained"):
            self.policy.trained(batch, choice)

    def statistics(self) -> dict[str, float]:
        """Counts so far: every candidate cost a forward pass, every kept one a backward pass."""
        return {
            "spectral/online_calls": float(self.calls),
            "spectral/online_forwarded": float(self.candidates),
            "spectral/online_kept": float(self.kept),
        }

    def state_dict(self) -> dict[str, Any]:
        """The counters, the policy's state and that of a schedule that listens."""
        policy = self.policy.state_dict() if hasattr(self.policy, "state_dict") else {}
        schedule = self._adaptive.state_dict() if self._adaptive is not None else {}
        counters = {"calls": self.calls, "candidates": self.candidates, "kept": self.kept}
        return {**counters, "policy": policy, "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.calls, self.candidates, self.kept = state["calls"], state["candidates"], state["kept"]
        if state["policy"] or hasattr(self.policy, "load_state_dict"):
            self.policy.load_state_dict(state["policy"])
        if self._adaptive is not None:
            self._adaptive.load_state_dict(state["schedule"])

    def __repr__(self) -> str:
        return f"OnlineSelection({self.policy!r})"

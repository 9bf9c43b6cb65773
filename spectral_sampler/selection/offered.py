"""What a selection is offered, inside the sampler and in the training loop, and what it makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.likelihood import cross_entropy
from spectral_sampler.selection.needs import NEEDS
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from spectral_sampler.selection.protocol import Selection
    from spectral_sampler.store import ReferenceStore

__all__ = ["checked", "chosen", "learnt", "offered", "part_of", "whole_numbers"]

_ROWS = (
    "indices", "again", "scores", "losses", "labels", "learner_losses", "logits", "embeddings", "features", "ignored",
)  # fmt: skip


def whole_numbers(name: str, values: Any) -> NDArray[np.int64]:
    """``values`` (n,) as int64 on the host, or one sentence."""
    found = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if found.size and found.dtype.kind not in "iub":
        raise argument_error(name, "integers", f"dtype {found.dtype}", "One for each candidate.")
    return found.astype(np.int64).reshape(-1)


def _taken(given: Mapping[str, Any], size: int) -> dict[str, Any]:
    """What is given and not None: labels and losses on the host, the rest as tensors where it is."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "labels":
            value = whole_numbers(name, value)
        else:
            value = value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
            value = value.cpu().double().flatten().numpy() if name == "learner_losses" else value
        argument = "features" if name == "embeddings" else name
        if len(value) != size:
            raise argument_error(argument, f"of {size} rows, one for each index", len(value), "Same order.")
        if isinstance(value, torch.Tensor) and value.ndim != 2:
            remedy = "Pool or flatten what has more axes."
            raise argument_error(argument, f"of shape ({size}, n)", tuple(value.shape), remedy)
        found[name] = value
    return found


def offered(
    selection: Selection,
    store: ReferenceStore | None,
    indices: NDArray[np.int64],
    given: Mapping[str, Any],
    score: Any = None,
    ignore_index: int | None = None,
    **place: Any,
) -> CandidateBatch:
    """Everything that ``selection`` needs to know about candidates.

    Args:
        indices: (N,) dataset indices, distinct and within the store.
        given: any of logits (N, C), labels (N,), embeddings (N, h), learner_losses (N,), tensors or arrays, or None.
            Labels come from the store if not given, learner losses from logits and labels.
        score: its ``values`` (N,) and ``error``, or None; of a selection made of k, (N, k) and (k,).
        ignore_index: the label of candidates that come last, as a loss with this argument learns nothing from them.
        place: seed, epoch, batch, turn, again and progress.

    Raises:
        ArgumentError: a need that is not met, labels that are no classes of the logits, or lengths that differ.
    """
    needs = selection.needs
    known = _taken(given, len(indices)) if given else {}
    by_logits = "learner_losses" in needs and "learner_losses" not in known and "logits" in known
    if store is not None:
        if ("labels" in needs or "logits" in known) and "labels" not in known and store.labels is not None:
            known["labels"] = store.labels[indices]
        if "losses" in needs and store.losses is not None:
            known["losses"] = store.losses[indices].astype(np.float64)
        if "features" in needs and ("embeddings" in needs or selection.reads_features):
            known["features"] = store.features[indices]
    rows: Any = slice(None)
    if ignore_index is not None and "labels" in known and (ignored := known["labels"] == ignore_index).any():
        known["ignored"], rows = ignored, np.flatnonzero(~ignored)
    if by_logits and "labels" in known:
        losses = np.full(len(indices), np.inf)
        if len(known["labels"][rows]):
            losses[rows] = cross_entropy(known["logits"][rows], known["labels"][rows])
        losses[~np.isfinite(losses)] = np.inf  # NaN would be a loss that nobody asked for yet
        known["learner_losses"] = losses
    for name in sorted(needs - known.keys() - {"features"}):
        argument = "features" if name == "embeddings" else name
        raise argument_error(argument, f"given, because {selection.name} needs {name}", None, NEEDS[name])
    if score is not None:
        known["scores"], known["error"] = score.values, score.error
    return CandidateBatch(indices, **known, **place)


def _finite(batch: CandidateBatch) -> NDArray[np.bool_] | None:
    """(N,) whose outputs of the learner are numbers and whose labels count, None if all are and do; −∞ masks a class,
    and NaN is an unknown loss."""
    found = [] if batch.learner_losses is None else [~np.isinf(batch.learner_losses)]
    found += [] if batch.ignored is None else [~batch.ignored]
    found += [
        torch.as_tensor(extremes).amax(1).isfinite().cpu().numpy()
        for extremes in (batch.logits, None if batch.embeddings is None else abs(batch.embeddings))
        if extremes is not None
    ]
    return None if not found or (finite := np.logical_and.reduce(found)).all() else finite


def part_of(batch: CandidateBatch, rows: NDArray[np.int64]) -> CandidateBatch:
    """The candidates ``rows`` (n,) of a batch alone."""
    known = {name: value for name in _ROWS if (value := getattr(batch, name)) is not None}
    return batch._replace(**{name: value[rows] for name, value in known.items()})


def checked(selection: Selection, choice: Choice, batch: CandidateBatch, budget: int) -> Choice:
    """``choice`` itself, if it is ``budget`` distinct candidates of ``batch``."""
    if len(choice.positions) != budget or np.bincount(choice.positions, minlength=len(batch.indices)).max() > 1:
        raise RuntimeError(f"{selection!r} was to select {budget} distinct candidates and did not")
    return choice


def chosen(selection: Selection, batch: CandidateBatch, budget: int) -> Choice:
    """The selection's choice, checked. It does not see candidates whose outputs are not finite, which are counted, or
    whose labels are ignored: they come last, in an order drawn. Pure."""
    finite = _finite(batch)
    if finite is None:
        choice = selection.select(batch, budget)
    else:
        rows, others = np.flatnonzero(finite), np.flatnonzero(~finite)
        choice = Choice(np.empty(0, np.int64), np.empty(0, np.int8))
        if len(rows):
            choice = selection.select(part_of(batch, rows), min(budget, len(rows)))
        rest = others[np.argsort(batch.ties()[others])][: budget - len(choice.positions)]
        choice = choice._replace(
            positions=np.append(rows[choice.positions], rest),
            kinds=np.append(choice.kinds, np.full(len(rest), KINDS.index("uniform"), dtype=np.int8)),
            weights=None if choice.weights is None else np.append(choice.weights, np.ones(len(rest))),
            nonfinite=len(others) if batch.ignored is None else int((~finite & ~batch.ignored).sum()),
        )
    return checked(selection, choice, batch, budget)


def learnt(selection: Selection, batch: CandidateBatch, choice: Choice) -> None:
    """``selection.trained`` with what it saw of ``batch`` and took of that, as `chosen` found it."""
    if (choice.nonfinite or batch.ignored is not None) and (finite := _finite(batch)) is not None:
        taken = finite[choice.positions]
        batch = part_of(batch, np.flatnonzero(finite))
        choice = choice._replace(
            positions=(np.cumsum(finite) - 1)[choice.positions[taken]],
            kinds=choice.kinds[taken],
            weights=None if choice.weights is None else choice.weights[taken],
        )
    if len(choice.positions):
        selection.trained(batch, choice)

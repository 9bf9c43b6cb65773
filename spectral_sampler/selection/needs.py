"""What a selection can ask for, where it comes from, and the one sentence for when it is not there or not right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    from spectral_sampler.selection.protocol import CandidateBatch, Selection
    from spectral_sampler.store import ReferenceStore

__all__ = ["FORWARDED", "NEEDS", "check_needs", "forwards_candidates", "in_store", "required"]

NEEDS = {
    "features": "Give a ReferenceStore.",
    "losses": "Make the store with losses=, the reference model's loss of every sample.",
    "labels": "Pass labels=, or make the store with labels=.",
    "learner_losses": "Call sampler.observe(indices, losses) after each step, or pass logits= to an OnlineSelection.",
    "logits": "Use OnlineSelection(policy, keep_ratio) in the training loop, or give the sampler learner=.",
    "embeddings": "Pass the input of the learner's last layer as features= to an OnlineSelection, or give the sampler "
    "a learner= that returns (logits, features).",
}
"""Every need, and how to meet it."""


FORWARDED = frozenset({"logits", "embeddings"})
"""The needs for which the learner has to see the candidates before they are chosen."""


def forwards_candidates(policy: Selection) -> bool:
    """Whether the policy cannot decide before the learner has seen the candidates."""
    return bool(policy.needs & FORWARDED)


def in_store(store: ReferenceStore | None) -> set[str]:
    """The needs that a reference store meets."""
    if store is None:
        return set()
    return {"features"} | {name for name in ("losses", "labels") if getattr(store, name) is not None}


def check_needs(policy: Selection, available: Collection[str], argument: str = "selection") -> None:
    """Refuses a policy one of whose needs is not ``available``.

    Raises:
        ArgumentError: naming the first missing need and how to meet it.
    """
    for need in sorted(policy.needs - set(available)):
        raise argument_error(argument, f"a policy whose needs are met ({need} is missing)", repr(policy), NEEDS[need])


def required(batch: CandidateBatch, field: str) -> NDArray[np.float64]:
    """The ``field`` of a candidate batch, which the caller's constructor made sure of."""
    value: Any = getattr(batch, field)
    if value is None:
        need = f"{field} of the candidates"
        raise argument_error("batch", f"a candidate batch with the {need}", "none", NEEDS.get(field, ""))
    return value  # type: ignore[no-any-return]

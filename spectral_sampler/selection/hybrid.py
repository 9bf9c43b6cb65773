"""Two selections as one: what `Mix` and `Chain` share. What they make of the two is in their own files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.fiedler import Status
from spectral_sampler.selection.guarded import Guarded
from spectral_sampler.selection.protocol import (
    CandidateBatch,
    Choice,
    EpochRequest,
    Proposal,
    Scores,
    Selection,
    as_selection,
    leaves,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["Hybrid"]

_APART = 0x48594252_4944  # between the seeds of leaves, so that no two of them go by the same draws


class Hybrid(Selection):
    """Two selections, which may be hybrids themselves. Its needs are theirs together; both are scored ahead, on the
    whole candidate batch; one of them at most decides what an epoch offers (`propose`), to both; and both are told of
    everything that is trained on, whoever selected it.

    The last leaf draws as it would alone; the draws of every other one are keyed apart from all of them.

    Raises:
        ArgumentError: a part that is no selection or is guarded, an object that is in both, or two that decide what an
            epoch offers.
    """

    def __init__(self, **parts: Any) -> None:
        self.parts = first, second = tuple(as_selection(part, argument) for argument, part in parts.items())
        for argument, part in zip(parts, self.parts, strict=True):
            if isinstance(part, Guarded):  # whom nobody would ask to judge: a sampler asks the whole selection
                remedy = f"Guard the whole: Guarded({type(self).__name__}(…))."
                raise argument_error(argument, "one without a guard", repr(part), remedy)
        if first.proposes and second.proposes:
            rule = f"one that leaves it to {first.name} what an epoch offers"
            raise argument_error(argument, rule, repr(second), "Only one of two selections can decide that.")
        if {id(leaf) for leaf in leaves(first)} & {id(leaf) for leaf in leaves(second)}:
            rule = f"another object than {next(iter(parts))}, and made of others"
            raise argument_error(argument, rule, repr(second), "What it learns would be told to it twice: make two.")
        self.needs = first.needs | second.needs
        self.proposes = first.proposes or second.proposes
        self.judges_all = first.judges_all or second.judges_all
        self.reads_features = first.reads_features or second.reads_features
        self._widths = tuple(len(leaves(part)) for part in self.parts)

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores | None:
        """(B, N, k), a column for each of the k `leaves`; None where none of them scores. Converged where all are."""
        found = [part.score(store, indices, backend=backend) for part in self.parts]
        known = [scores for scores in found if scores is not None]
        if not known:
            return None
        values, errors = [], []
        for scores, width in zip(found, self._widths, strict=True):
            shape = (*indices.shape, width)
            values.append(np.zeros(shape) if scores is None else np.reshape(scores.values, shape))
            error = np.full(shape[::2], np.nan) if scores is None else np.reshape(scores.error, shape[::2])
            errors.append(error)
        status = [np.asarray(scores.status) for scores in known]
        converged = int(Status.CONVERGED)
        return Scores(
            np.concatenate(values, axis=2),
            np.concatenate(errors, axis=1),
            (np.bitwise_or.reduce(status) & ~converged) | (np.bitwise_and.reduce(status) & converged),
            np.sum([scores.matvecs for scores in known], axis=0),
        )

    def propose(self, request: EpochRequest) -> Proposal | None:
        """That of the part that decides it."""
        return next((part.propose(request) for part in self.parts if part.proposes), None)

    def _as_seen_by(self, which: int, batch: CandidateBatch) -> CandidateBatch:
        """``batch`` with the scores, and the seed, of part ``which``: 0 or 1."""
        seed = batch.seed if which else batch.seed + self._widths[1] * _APART
        if batch.scores is None:
            return batch._replace(seed=seed)
        first, width = which * self._widths[0], self._widths[which]
        scores, error = batch.scores[:, first : first + width], batch.error[first : first + width]
        if width > 1:
            return batch._replace(seed=seed, scores=scores, error=error)
        none = bool(np.isnan(error[0]))
        return batch._replace(seed=seed, scores=None if none else scores[:, 0], error=0.0 if none else float(error[0]))

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:
        """Tells both parts of the whole candidate batch and of all that is trained on."""
        for which, part in enumerate(self.parts):
            part.trained(self._as_seen_by(which, batch), choice)

    def facts(self, store: ReferenceStore) -> dict[str, float]:
        """Those of both parts; of one that both have, the first part's."""
        first, second = (part.facts(store) for part in self.parts)
        return second | first

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts; nothing where neither has any."""
        states = [part.state_dict() for part in self.parts]
        return {"parts": states} if any(states) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for part, own in zip(self.parts, state.get("parts", ({}, {})), strict=True):
            part.load_state_dict(own)

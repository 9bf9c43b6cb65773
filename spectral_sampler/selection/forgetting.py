"""Forgetting: the candidates that the learner has unlearnt most often (Toneva et al. 2019, arXiv 1812.05159)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.likelihood import as_tensor, class_numbers
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import top

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Forgetting", "outcomes"]

_UNKNOWN, _WRONG, _RIGHT = -1, 0, 1


def outcomes(batch: CandidateBatch) -> NDArray[np.int8]:
    """(N,) 1 where the learner is right, 0 where it is wrong, −1 where it has not been heard of.

    With logits, right is ``f_y > f_c`` for every other class c. Without, as the loop reports losses alone, right is a
    cross-entropy below ln 2: then the label has more than half of the probability, and no other class can be ahead.
    That is exact for two classes; of more, one that leads with half of the probability or less counts as wrong.
    """
    if batch.logits is not None and batch.labels is not None:
        logits = as_tensor(batch.logits)
        own = class_numbers(batch.labels, logits)[:, None]
        others = logits.scatter(1, own, -torch.inf).amax(1)
        return np.asarray((logits.gather(1, own).squeeze(1) > others).cpu().numpy().astype(np.int8))
    losses = required(batch, "learner_losses")
    return np.where(np.isnan(losses), _UNKNOWN, losses < math.log(2.0)).astype(np.int8)


class _Record(NamedTuple):
    """By dataset index, up to the largest that was seen."""

    outcome: NDArray[np.int8]
    """The last one known."""
    events: NDArray[np.int32]
    """How often a right one was followed by a wrong one."""

    def of(self, rows: NDArray[np.int64], found: NDArray[np.int8]) -> _Record:
        """That of ``rows`` (N,), moved on by the outcomes ``found``; an unknown one moves nothing."""
        known = rows < len(self.outcome)
        before = np.full(len(rows), _UNKNOWN, dtype=np.int8)
        events = np.zeros(len(rows), dtype=np.int32)
        before[known], events[known] = self.outcome[rows[known]], self.events[rows[known]]
        events += (before == _RIGHT) & (found == _WRONG)
        return _Record(np.where(found == _UNKNOWN, before, found), events)


class Forgetting(Selection):
    """The ``n`` candidates of the most forgetting events, times at which a sample was right before and is wrong now.

    As in the paper, samples that were never right count as forgotten most often of all, and so do those that nobody
    has heard of yet; samples right once and never wrong since, the unforgettable, come last. The paper counts over a
    whole training and prunes the next; here the count so far decides, and every candidate batch moves it on.

    An outcome is known by `outcomes`: of all candidates where the learner looks at them (``learner=``, or an
    `OnlineSelection` with logits), else of those whose loss the loop has reported, as often as it is heard anew. It
    learns from a rank's own candidate batches.
    """

    name = "forgetting"
    needs = frozenset({"learner_losses"})

    def __init__(self) -> None:
        self._record = _Record(np.empty(0, dtype=np.int8), np.empty(0, dtype=np.int32))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The most forgotten."""
        now = self._record.of(batch.indices, outcomes(batch))
        never = (now.events == 0) & (now.outcome != _RIGHT)
        scores = np.where(never, now.events.max() + 1, now.events).astype(np.float64)
        ranked = top(scores, budget, batch.ties())
        return Choice(ranked.positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:  # noqa: ARG002 - the signature of the hook
        """Moves the record on by the outcomes of all candidates."""
        now = self._record.of(batch.indices, outcomes(batch))
        more = max(0, int(batch.indices.max()) + 1 - len(self._record.outcome))
        outcome = np.append(self._record.outcome, np.full(more, _UNKNOWN, dtype=np.int8))
        events = np.append(self._record.events, np.zeros(more, dtype=np.int32))
        outcome[batch.indices], events[batch.indices] = now
        self._record = _Record(outcome, events)

    def state_dict(self) -> dict[str, Any]:
        """The record, by dataset index."""
        return {name: torch.from_numpy(part.copy()) for name, part in self._record._asdict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._record = _Record(*(state[name].cpu().numpy().copy() for name in _Record._fields))

"""Run: everything of a sampler that moves while a training runs, and the only place where it moves."""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from spectral_sampler import gathering
from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.sampler.choosing import Decision, View
from spectral_sampler.sampler.deliveries import Deliveries
from spectral_sampler.sampler.located import Located
from spectral_sampler.sampler.observed import ObservedLosses
from spectral_sampler.sampler.statistics import Statistics
from spectral_sampler.sampler.trial import knows_all, would_choose
from spectral_sampler.selection.guarded import Guarded
from spectral_sampler.selection.offered import learnt
from spectral_sampler.selection.protocol import EpochRequest, Proposal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spectral_sampler.sampler.arguments import Settings
    from spectral_sampler.sampler.counter import EpochCounter, Pass
    from spectral_sampler.sampler.learner import Learner
    from spectral_sampler.sampler.order import CandidateOrder
    from spectral_sampler.sampler.plan import Plan, Slot
    from spectral_sampler.sampler.scoring import Candidates, Scorer
    from spectral_sampler.selection import Selection
    from spectral_sampler.store import ReferenceStore

    Fetch = Callable[[], tuple[np.ndarray[Any, Any], ...]]

__all__ = ["Run"]

_log = logging.getLogger("spectral_sampler")
VERSION = 3
_SETTINGS = (
    *("samples", "candidate_batch_size", "num_replicas", "drop_last", "batch_size", "seed", "shuffle"),
    *("reshuffle", "multiple_of", "min_keep", "selection", "store"),
)
_PARTS = {"epoch", "next_batch", "observed", "full", "settings"}
_FULL = {"losses", "delivered", "learnt", "proposals"}
_PENDING = 64  # reports that may wait on a GPU
_TRIALS, _PASSES = 8, 2  # of a guarded selection before it acts, and virtual passes of each
_DUE = 0.9  # of the samples delivered, whose losses have to be reported
_taught: WeakValueDictionary[int, Selection] = WeakValueDictionary()  # by id: selections that a sampler has told of it


class Run:
    """The epoch counter, the losses observed, the batches delivered, the proposals of the epochs in use, the adaptive
    schedule and the statistics of one sampler.

    `begin`, `prepare`, `commit`, `end`, `hear` and `load` move it; everything else reads, so that looking at a batch is
    choosing it without committing.
    """

    def __init__(
        self, store: ReferenceStore, selection: Selection, settings: Settings, plan: Plan, order: CandidateOrder,
        counter: EpochCounter, learner: Learner | None, scorer: Scorer,
    ) -> None:  # fmt: skip
        self.store, self.selection, self.settings, self.plan, self.order = store, selection, settings, plan, order
        self.counter, self.learner, self.adaptive = counter, learner, plan.adaptive
        # Three times the epochs in which a sample is delivered once, on average.
        self.observed = ObservedLosses(len(store), math.ceil(3.0 / plan.mean_ratio - 1e-9))
        self.deliveries, self.statistics = Deliveries(), Statistics()
        self._proposals: dict[int, Proposal | None] = {}
        self._loaded: dict[int, tuple[Any, bool]] = {}
        """By a full state, for epochs that had begun: the memo of the proposal, and whether there was none."""
        self._pending: list[tuple[Fetch | None, Fetch]] = []
        """Reports not taken in: indices, unless their batch is marked as reported, and the indices and losses of all
        ranks."""
        self._delivered = 0
        self._heard = self._due = 0  # samples reported since the latest pass began, and delivered in the one before
        self._warned = False
        self._left = (-1, 0)  # the epoch that was only looked at last, and how often
        self._scorer, self._guard = scorer, selection if isinstance(selection, Guarded) else None
        self._by_reports = self._guard is not None and settings.num_replicas > 1
        """Whether the guard goes by what all ranks report: a rank's own batches are not all that was trained on."""
        if _taught.get(id(selection)) is selection and selection.state_dict():
            _log.warning("%s learnt in another sampler and goes on from there; for another training make a new one",
                         selection.name)  # fmt: skip
        self._tries = self._guard is not None and knows_all(self._guard.selection) and order.replays
        """Whether the guard may try its selection in virtual passes: it chooses in them as it would."""

    def __getstate__(self) -> dict[str, Any]:
        self._catch_up()
        return self.__dict__

    @property
    def listens(self) -> bool:
        """Does anything follow from `hear`?"""
        asked = self.learner is None or self.selection.proposes
        return self.adaptive is not None or self._by_reports or ("learner_losses" in self.selection.needs and asked)

    @property
    def acting(self) -> Selection:
        """Who selects at this moment: the selection, or what its guard put in its place."""
        return self.selection if self._guard is None else self._guard.acting

    # A pass

    def begin(self, position: tuple[int, int] | None) -> Pass:
        """A pass begins, at ``position`` or where the next one is due; to be followed by `prepare`."""
        by_caller = self.order.epoch_set_by_caller() if position is None else None
        if by_caller is not None:
            self.counter.set(by_caller)
        return self.counter.begin(position)

    def prepare(self, begun: Pass) -> None:
        """Whatever is due before the first batch of a pass. What may fail comes last: `end` starts it over then."""
        self.order.tell(begun.epoch)
        self._catch_up()
        if self._guard is not None and self._by_reports and self._due and not self._heard:
            self._guard.unheard(begun.epoch)
            self._warned = True
        self.statistics.restart(begun.epoch)
        self._check_heard()
        if self.counter.alone:
            self.deliveries.clear()
        self._heard = 0
        self._compare(begun.epoch, first=True)
        begun.proposal = self.proposal(begun.epoch)
        kept = dict(list(self._proposals.items())[-1:])  # of an epoch that may still run
        self._proposals = {**kept, begun.epoch: begun.proposal}
        self._loaded.clear()
        _taught[id(self.selection)] = self.selection
        _log.info("%s", self.announced(begun.epoch))

    def announced(self, epoch: int) -> str:
        """What an epoch will be, as far as the plan knows."""
        of = "" if self.settings.epochs is None else f" of {self.settings.epochs}"
        if self.adaptive is not None:
            return (
                f"epoch {epoch}{of}: keep ratio {self.adaptive.peek(epoch * self.plan.batches):.3f}, follows the loss"
            )
        ratio, kept = self.plan.of_epoch(epoch)
        most = "at most " if self.selection.proposes or self.order.repeats else ""
        return f"epoch {epoch}{of}: keep ratio {ratio:.3f}, {most}{kept} samples in {self.plan.steps} batches"

    def _check_heard(self) -> None:
        due, self._due = self._due, 0
        if self._warned or not self.listens or self._heard >= _DUE * due:
            return
        self._warned = True
        _log.warning(
            "%s decides by the learner's losses, and sampler.observe heard of %d of the %d samples of the last pass: "
            "call sampler.observe_next(losses) after every step%s (this is said once)", self.selection.name,
            self._heard, due, ", on every rank" if self.settings.num_replicas > 1 else "",
        )  # fmt: skip

    def proposal(self, epoch: int) -> Proposal | None:
        """What is offered in an epoch, where the selection decides it; final once the epoch's pass begins."""
        if not self.selection.proposes or epoch in self._proposals:
            return self._proposals.get(epoch)
        memo, none = self._loaded.get(epoch, (None, False))
        if none:
            return None
        return self.proposed_by(self.selection, epoch, memo)

    def proposed_by(self, selection: Selection, epoch: int, memo: Any = None) -> Proposal | None:
        """What ``selection`` proposes for an epoch at this moment."""
        horizon, rows = self.settings.epochs, np.arange(len(self.store))
        request = EpochRequest(
            self.store, self.order.distinct(epoch), self.plan.batches, self.plan.candidates,
            self.observed.of(rows) if "learner_losses" in selection.needs else None,
            self.settings.seed, epoch, min(1.0, epoch / horizon) if horizon else 0.0,
            memo,
        )  # fmt: skip
        with Located(epoch):
            return selection.propose(request)

    def due(self, epoch: int, slot: Slot, size: int) -> Slot:
        """``slot`` with the ratio and the budget of this moment."""
        if self.adaptive is None:
            return slot
        self._catch_up()
        return self.plan.refitted(epoch, slot, size, self.adaptive.peek(self._step(epoch, slot)))

    def _step(self, epoch: int, slot: Slot) -> int:
        """For a schedule: all ranks of a step share a ratio, that of its first candidate batch."""
        return epoch * self.plan.batches + slot.first

    def view(self, epoch: int, slot: Slot) -> View:
        """What a choice may depend on at this moment."""
        self._catch_up()
        place = {"seed": self.settings.seed, "epoch": epoch, **self.plan.place(epoch, slot)}
        floor = self._guard is not None and not self._guard.acts
        return View(self.observed.of, None if floor else self.learner, place)

    def commit(
        self, which: Pass, candidates: Candidates, decision: Decision, waited: float, selecting: float
    ) -> list[int]:
        """A choice goes out: the one place where delivering a batch changes anything."""
        choice, offered = decision.choice, decision.offered
        selected = candidates.indices[choice.positions]
        if offered is not None:  # first: where that fails, nothing has gone out
            with Located(which.epoch, [candidates.slot.number], [candidates.indices]):
                learnt(self.acting, offered, choice)
        if self.adaptive is not None:
            self.adaptive.ratio(self._step(which.epoch, candidates.slot))  # decided
        proposal, proposed = which.proposal, None
        if proposal is not None and proposal.weights is not None:
            proposed = proposal.weights[candidates.slot.number][choice.positions]
        delivery = self.deliveries.add(selected, choice.weights, proposed)
        stale = 0
        if offered is not None and offered.learner_losses is not None and self.learner is None:
            stale = self.observed.stale(candidates.indices)
        self.statistics.add(candidates, decision, stale, waited, selecting)
        if self._guard is not None and not self._by_reports:
            self._guard.shown(selected, delivery.weights, which.epoch)
            self._compare(which.epoch)
        self.counter.delivered(which)
        self._delivered += 1
        self.observed.now = self._delivered // self.plan.steps
        return list(selected.tolist())

    def end(self, which: Pass, *, exhausted: bool) -> None:
        """A pass is over."""
        self._catch_up()
        self._due = self.statistics.kept_total * self.settings.num_replicas if exhausted else 0
        if self.counter.end(which, exhausted=exhausted, heard=self._heard > 0):
            self._left = (-1, 0)
        else:  # who looks once looks; who leaves an epoch twice may be training
            self._left = (which.epoch, self._left[1] + 1 if self._left[0] == which.epoch else 1)
            level = logging.WARNING if self._left[1] == 2 else logging.INFO
            _log.log(level, "epoch %d was left after %d batches and starts over; sampler.set_epoch(%d) goes on",
                     which.epoch, which.step, which.epoch + 1)  # fmt: skip
        self.order.tell(self.counter.epoch)

    # What the training loop reports

    def hear(self, indices: Any, losses: Any, gather: bool | None) -> None:
        """Losses (n,) of the samples ``indices`` (n,). What is on a GPU stays there until something depends on it, so
        that no step waits for its stream."""
        if gathering.wanted(gather, self.settings.num_replicas):
            take: Fetch = gathering.begun(indices, losses, capacity=self.plan.candidates)
            rows, values = gathering.pairs(indices, losses)
        else:
            rows, values = gathering.pairs(indices, losses)
            take = _fetching(rows, values)
        own = None if not rows.is_cuda else _fetching(rows)
        if own is None:
            self.deliveries.reported(rows.numpy())
        self._pending.append((own, take))
        if not values.is_cuda or len(self._pending) > _PENDING:
            self._catch_up()

    def hear_next(self, losses: Any, gather: bool | None) -> None:
        """Losses (n,) of the oldest batch delivered whose losses are not known."""
        if any(own is not None for own, _ in self._pending):
            self._catch_up()
        count = losses.numel() if isinstance(losses, torch.Tensor) else np.size(losses)
        try:
            indices = self.deliveries.next(count)
        except ArgumentError:
            if gathering.wanted(gather, self.settings.num_replicas):
                gathering.refused(self.plan.candidates)
            raise
        self.hear(indices, losses, gather)

    def _catch_up(self) -> None:
        """Takes in what was reported; a GPU is waited for here, and not where it was reported."""
        heard = bool(self._pending)
        while self._pending:
            own, take = self._pending.pop(0)
            rows, values = take()
            self.observed.observe(rows.astype(np.int64, copy=False), values.astype(np.float64, copy=False))
            if own is not None:
                self.deliveries.reported(*own())
            self._heard += len(rows)
            if self._guard is not None and self._by_reports:
                self._guard.shown(rows, None, self.statistics.epoch)
            if self.adaptive is not None and len(values):
                self.adaptive.observe(float(values.mean()))
        if heard and self._by_reports:
            self._compare(self.statistics.epoch)

    def _compare(self, epoch: int, *, first: bool = False) -> None:
        """The comparisons that the guard owes before the next choice, which is one of ``epoch``, and who makes it;
        before the very ``first`` one those of virtual passes."""
        guard = self._guard
        if guard is None:
            return
        if first and self._tries and not guard.comparisons and guard.since is None:
            for trial in range(_TRIALS):
                if guard.since is None:
                    self._judge(guard, epoch, _PASSES * trial)
        while guard.due(len(self.store), epoch):
            self._judge(guard, epoch, 0 if guard.on_probation else None)
        if self._tries:
            guard.settle(epoch)

    def _judge(self, guard: Guarded, epoch: int, ahead: int | None) -> None:
        """One comparison before a choice of ``epoch``: of what was shown, or of virtual passes from so many ``ahead``
        on."""
        virtual = [] if ahead is None else [epoch + ahead + later for later in range(_PASSES)]
        trial = functools.partial(would_choose, self, guard.selection, self._scorer, number=guard.comparisons)
        pool = None
        if self.order.source is not None:
            pool = np.unique(np.concatenate([self.order.whole(which) for which in virtual or [epoch]]))
        guard.compare(self.store, pool, self.settings.seed, epoch, [trial(which) for which in virtual])

    def weights_for(self, indices: Any) -> torch.Tensor:
        """(n,) the factors with which the samples ``indices`` (n,) went out."""
        device = indices.device if isinstance(indices, torch.Tensor) else None
        rows = np.asarray(indices.cpu() if isinstance(indices, torch.Tensor) else indices).reshape(-1)
        samples = len(self.store)
        if rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= samples):
            remedy = "They count rows of the store."
            raise argument_error("indices", f"integers from 0 to {samples - 1}", rows.tolist(), remedy)
        return torch.as_tensor(self.deliveries.weights_of(rows), device=device)

    def as_floats(self) -> dict[str, float]:
        """The statistics."""
        self._catch_up()
        facts = {f"spectral/{name}": value for name, value in self.selection.facts(self.store).items()}
        return {**self.statistics.as_floats(forwards=self.learner is not None), **self.observed.as_floats(), **facts}

    # Saving and loading

    def _identity(self) -> dict[str, Any]:
        named = {**self.settings._asdict(), "samples": len(self.order), "selection": self.selection.name}
        return {**named, "batch_size": self.plan.batch_size, "store": self.store.fingerprint[:16]}

    def state(self, position: tuple[int, int] | None, *, full: bool) -> dict[str, Any]:
        """The small state holds the position, a digest of the losses and the adaptive schedule; the full one also the
        losses and their ages, what the selection learnt and what it proposed."""
        self._catch_up()
        epoch, step = self.counter.position() if position is None else position
        identity = self._identity()
        state = {
            "version": VERSION, "epoch": int(epoch), "next_batch": int(step), "observed": self.observed.digest,
            "full": full, "settings": {name: identity[name] for name in _SETTINGS},
        }  # fmt: skip
        if self.adaptive is not None:
            state["schedule"] = self.adaptive.state_dict()
        if full:
            known = {
                of: (None if found is None else found.memo, found is None) for of, found in self._proposals.items()
            }
            state |= {
                "losses": self.observed.state_dict(), "delivered": self._delivered - self.counter.beyond(epoch, step),
                "learnt": self.selection.state_dict(), "proposals": {**self._loaded, **known},
            }  # fmt: skip
        return state

    def load(self, state: Mapping[str, Any]) -> tuple[int, int] | None:
        """Takes a state in; returns its (epoch, step), None where an epoch that was set explicitly wins over it."""
        epoch, step = self._checked(state)
        self._catch_up()
        self.deliveries.clear()
        if self.adaptive is not None and "schedule" in state:
            self.adaptive.load_state_dict(state["schedule"])
        if state["full"]:
            self._proposals.clear()
            self.observed.load_state_dict(state["losses"])
            self._delivered = int(state["delivered"])
            self.selection.load_state_dict(state["learnt"])
            self._loaded = {epoch: (None, False), **{of: tuple(found) for of, found in state["proposals"].items()}}
        elif epoch not in self._loaded:  # else it is a loader's own, which follows the full one
            self._proposals = {of: found for of, found in self._proposals.items() if of == epoch}
            forgot = self.listens and state["observed"] != self.observed.digest
            undecided = self.listens and self.selection.proposes and step > 0 and epoch not in self._proposals
            if forgot or undecided or self.selection.state_dict():
                _log.warning(
                    "the state has a position and no more: %s goes on without the losses and what it learnt before; "
                    "save state_dict(full=True) to resume exactly", self.selection.name,
                )  # fmt: skip
        else:
            self._proposals.clear()
        return None if self.counter.overrules(epoch, step, self.plan.steps) else (epoch, step)

    def _checked(self, state: Any) -> tuple[int, int]:
        """(epoch, next batch) of a state made by a sampler like this one."""
        remedy = "Load what state_dict() of a sampler of this version returned."
        if not isinstance(state, dict) or "version" not in state:
            raise argument_error("state", "a dictionary made by state_dict()", type(state).__name__, remedy)
        if state["version"] != VERSION:
            raise argument_error("state", f"of version {VERSION}", state["version"], remedy)
        missing = (_PARTS | (_FULL if state.get("full") else set())) - state.keys()
        if missing:
            raise argument_error("state", "whole", f"one without {', '.join(sorted(missing))}", remedy)
        identity = self._identity()
        for name in _SETTINGS:
            theirs, mine = state["settings"].get(name), identity[name]
            if theirs != mine:
                raise argument_error(
                    "state", f"of a sampler with {name}={mine!r}", f"{name}={theirs!r}",
                    "A position means something else there; build the sampler as it was when the state was saved.",
                )  # fmt: skip
        epoch, step = int(state["epoch"]), int(state["next_batch"])
        if epoch < 0 or not 0 <= step <= self.plan.steps:
            found = f"epoch {epoch}, batch {step}"
            raise argument_error("state", f"a position from 0 to {self.plan.steps}", found, remedy)
        return epoch, step


def _fetching(*parts: torch.Tensor) -> Fetch:
    """The ``parts`` on the host when asked for. A copy from a GPU is put into its stream now, so that asking waits for
    what the stream had to do by now alone, and the loop may change the tensor in place."""
    copies, ends = [], []
    for part in parts:
        copy = part
        if part.is_cuda:
            copy = torch.empty_like(part, device="cpu", pin_memory=True).copy_(part, non_blocking=True)
            ends.append(torch.cuda.current_stream(part.device).record_event())
        copies.append(copy)

    def fetched() -> tuple[np.ndarray[Any, Any], ...]:
        for end in ends:
            end.synchronize()
        return tuple((copy.double() if copy.is_floating_point() else copy).numpy() for copy in copies)

    return fetched

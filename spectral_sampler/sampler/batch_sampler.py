"""SpectralBatchSampler: the batch sampler that keeps the part of every candidate batch that is worth training on."""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler

from spectral_sampler.errors import argument_error
from spectral_sampler.sampler import arguments
from spectral_sampler.sampler.choosing import choose
from spectral_sampler.sampler.counter import EpochCounter
from spectral_sampler.sampler.iterator import SpectralBatchIterator
from spectral_sampler.sampler.learner import Learner
from spectral_sampler.sampler.lookahead import LookAhead
from spectral_sampler.sampler.observed import ObservedLosses
from spectral_sampler.sampler.order import CandidateOrder
from spectral_sampler.sampler.placement import Placement
from spectral_sampler.sampler.plan import Plan
from spectral_sampler.sampler.proposals import Proposals, Weights
from spectral_sampler.sampler.scoring import Candidates, Epoch, Scorer
from spectral_sampler.sampler.state import checked_state, make_state
from spectral_sampler.sampler.statistics import Statistics
from spectral_sampler.sampler.training_loop import TrainingLoop
from spectral_sampler.schedule import SigmoidSchedule
from spectral_sampler.selection import GSTDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from spectral_sampler.sampler.arguments import KeepRatio
    from spectral_sampler.selection import CandidateBatch, Choice, Selection

__all__ = ["SpectralBatchSampler"]

_log = logging.getLogger("spectral_sampler")
_DEFAULT_KEEP_RATIO = SigmoidSchedule(0.18, 0.88, mean=0.30)  # GSTDS §4


class SpectralBatchSampler(TrainingLoop, BatchSampler):
    """Yields, for every candidate batch, the dataset indices to train on, as lists of distinct Python ints.

    ``DataLoader(dataset, batch_sampler=SpectralBatchSampler(store, epochs=25))``; the training loop does not change,
    and samples that are not selected are never read.

    The lists are a function of the arguments, the epoch and the position: the same for any number of workers, any
    ``lookahead``, after resuming, and for one process as for the union over 2, 4 or 8 ranks. No global random state is
    read or advanced. A selection that uses learner losses depends, besides, on what `observe` was given by then, hence
    on how far ahead of training the DataLoader pulls; its scores are computed ahead, its choice when a batch is due.

    Args:
        store: a ReferenceStore, or features (M, d) alone as tensor or array.
        candidate_batch_size: N, candidates offered at a time.
        epochs: the horizon of a scheduled ``keep_ratio``; a constant needs none. Beyond it the last ratio stays.
        keep_ratio: share of candidates that is kept: a number in (0, 1], a schedule, or a function of progress in
            [0, 1]; default ``SigmoidSchedule(0.18, 0.88, mean=0.30)``.
        selection: what decides; default `GSTDS`, which needs reference losses.
        sampler: an index sampler that decides the candidate order, such as a DistributedSampler or
            WeightedRandomSampler. Samples it repeats within a candidate batch are offered once. Resuming within an
            epoch is exact if it has ``set_epoch`` or a ``generator``; see `CandidateOrder`.
        shuffle: offer candidates in an order keyed by (seed, epoch), else ascending. Not used with ``sampler``.
        reshuffle: a new order every epoch; False keeps epoch 0's order, so every candidate batch is scored once for the
            whole training.
        drop_last: leave out the candidates that do not fill a candidate batch, and the candidate batches that do not
            fill a step of all ranks. False yields a smaller last batch (with several ranks: one filled up with
            candidates from the start of the epoch, wrapping around to the first batches, so that ranks stay equal).
        seed: of the order and of every draw.
        num_replicas, rank: this process's share; never detected, because some frameworks shard by themselves.
        emit: "shrink": ``⌊ratio · N⌋`` samples come out, and there is no attribute ``batch_size``, which frameworks
            would take for a promise. "constant": ``batch_size`` samples come out of ``⌈batch_size / ratio⌉``
            candidates; an epoch still has ``⌊M / N⌋`` batches, and goes over the data as often as that takes.
        batch_size: with ``emit="constant"``.
        multiple_of: the budget is rounded down to a multiple of it.
        min_keep: the least budget; 2 keeps batch normalisation alive.
        backend: see `spectral_sampler.explain`; refused here if it was asked for by name and cannot run. "auto" moves
            from the CPU to a GPU, at most once and with a line in the log, where `spectral_sampler.preference` says so.
        lookahead: candidate batches scored in one call, by a thread that runs while training uses the last ones.
            0: one at a time, without a thread. None: 16; on a GPU two for each multiprocessor, at most a quarter of the
            epoch and at least 16.
        dataset: if given, its kind and length are checked.
        learner: the model in training, for a selection that needs its logits of the candidates, or its losses fresher
            than `observe` has them: a module, which reads ``dataset``, or a function from indices to logits or (logits,
            features). Its cost is in `statistics`.
        device: where graphs are solved, such as "cuda:1", by a backend that runs there. None: on a GPU for a backend
            that needs one, or where "auto" moves; that is the current device of the thread that asks for a batch.

    Raises:
        ArgumentError: one sentence, for every argument that breaks its rule.
    """

    sampler: CandidateOrder
    """The order of the candidates; what frameworks set the epoch on."""
    batch_size: int  # set with emit="constant" alone: with "shrink" the attribute is absent

    def __init__(
        self,
        store: Any,
        candidate_batch_size: int = 128,
        epochs: int | None = None,
        keep_ratio: KeepRatio = _DEFAULT_KEEP_RATIO,
        selection: Selection | None = None,
        sampler: Any = None,
        shuffle: bool = True,
        reshuffle: bool = True,
        drop_last: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        emit: str = "shrink",
        batch_size: int | None = None,
        multiple_of: int = 1,
        min_keep: int = 2,
        backend: str = "auto",
        lookahead: int | None = None,
        dataset: Any = None,
        learner: Any = None,
        device: Any = None,
    ) -> None:
        # BatchSampler.__init__ is not called: it would set batch_size.
        self.store = arguments.as_store(store)
        rows = len(self.store)
        if dataset is not None:
            arguments.check_dataset(dataset, rows)
        self.settings = chosen = arguments.Settings(
            candidate_batch_size, epochs, shuffle, reshuffle, drop_last, seed, num_replicas, rank, multiple_of,
            min_keep, lookahead,
        ).checked(rows, sampler)  # fmt: skip
        self.drop_last = chosen.drop_last
        self.sampler = CandidateOrder(
            self, rows, chosen.seed, chosen.shuffle, fixed=not chosen.reshuffle, source=sampler
        )
        constant = arguments.check_emission(emit, batch_size, len(self.sampler), chosen, sampler)
        if constant is not None:
            self.batch_size = constant
        chooser: Any = GSTDS() if selection is None else selection
        self.selection = arguments.check_selection(chooser, self.store, learner=learner is not None)
        self._learner = None if learner is None else Learner(learner, dataset, self.selection)
        self._plan = Plan(len(self.sampler), chosen, constant)
        self._plan.follow(keep_ratio, chosen.epochs)
        self._placement = Placement(
            backend, device, chosen.lookahead, self.store.features_tensor, chosen.candidate_batch_size, len(self)
        )
        self.backend = self._placement.backend
        fixed = self.sampler.constant and (constant is None or self._plan.ratios.min() == self._plan.ratios.max())
        self._counter, self._statistics, self._weights = EpochCounter(), Statistics(), Weights(rows)
        self._observed = ObservedLosses(rows, 2 * len(self))  # two epochs
        self._proposals = Proposals(self.selection, self.store, self.sampler, self._plan, self._observed, chosen)
        self._scorer = Scorer(
            self.selection, self.store, self._placement, constant=bool(fixed) and not self._proposals.any
        )

    def __len__(self) -> int:
        """Batches of an epoch on this rank: exact, the same in every epoch and on every rank."""
        return self._plan.steps

    def __iter__(self) -> SpectralBatchIterator:
        return SpectralBatchIterator(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.sampler.adopt(self)

    def __repr__(self) -> str:
        return (
            f"SpectralBatchSampler({self.store!r}, {self.selection!r}, epoch={self.epoch}, batches={len(self)}, "
            f"backend={self.backend!r})"
        )

    # Epochs and state

    @property
    def epoch(self) -> int:
        """The epoch of the running pass, or of the next one."""
        return self._counter.epoch

    def set_epoch(self, epoch: int) -> None:
        """The next pass is ``epoch``. Idempotent; a running pass is not affected."""
        self._counter.set(arguments.whole_number("epoch", epoch, 0, "Epochs count from 0."))
        self.sampler.tell(self.epoch)

    def state_dict(self, batches_consumed: int | None = None, epoch: int | None = None) -> dict[str, Any]:
        """Where the sampler is: plain ints, strings and bools, under 2 KB.

        Args:
            batches_consumed: batches of the epoch that were trained on. A plain DataLoader with workers pulls batches
                ahead of training, so the sampler's own position is too far then; torchdata's StatefulDataLoader keeps
                count by itself.
            epoch: the epoch in which they were; default the latest one begun.
        """
        if batches_consumed is None:
            return self._state(None)
        consumed = arguments.whole_number("batches_consumed", batches_consumed, 0, "Count the batches of this epoch.")
        if consumed > len(self):
            raise argument_error("batches_consumed", f"at most {len(self)}", consumed, "Count them anew every epoch.")
        return self._state((self._counter.epoch_of(consumed) if epoch is None else epoch, consumed))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ArgumentError: if it belongs to a sampler with other data or another order.
        """
        position = self._checked_position(state)
        if position is not None:
            self._counter.load(*position)
            self.sampler.tell(self.epoch)

    def _identity(self) -> dict[str, Any]:
        named = {**self.settings._asdict(), "samples": len(self.sampler), "selection": self.selection.name}
        size = getattr(self, "batch_size", None)
        return {**named, "batch_size": size, "store": self.store.fingerprint[:16]}

    def _state(self, position: tuple[int, int] | None) -> dict[str, Any]:
        epoch, step = self._counter.position() if position is None else position
        schedule = None if self._plan.adaptive is None else self._plan.adaptive.state_dict()
        return make_state(self._identity(), epoch, step, self._observed.digest, schedule)

    def _checked_position(self, state: Mapping[str, Any]) -> tuple[int, int] | None:
        """(epoch, step) of a state, None where an epoch that was set explicitly wins over it."""
        epoch, step = checked_state(state, self._identity(), len(self))
        if "learner_losses" in self.selection.needs and state.get("observed") != self._observed.digest:
            _log.warning("the losses given to observe() before the checkpoint are not part of it: observe them again")
        if self._plan.adaptive is not None and "schedule" in state:
            self._plan.adaptive.load_state_dict(state["schedule"])
        self._proposals.forget()
        return None if self._counter.overrules(epoch, step, len(self)) else (epoch, step)

    # What the iterator asks for

    def _begin_pass(self, position: tuple[int, int] | None) -> tuple[int, int]:
        by_caller = self.sampler.epoch_set_by_caller() if position is None else None
        if by_caller is not None:
            self._counter.set(by_caller)
        epoch, step = self._counter.begin(position)
        self.sampler.tell(epoch)
        self._statistics.restart(epoch)
        if self._learner is not None:
            self._learner.restart()
        return epoch, step

    def _look_ahead(self, epoch: int, step: int) -> LookAhead[Candidates]:
        prepare = Epoch(self._plan, self.sampler, self._scorer, epoch, self._proposals.of(epoch, keep=True))
        self._placement.begin()
        return LookAhead(prepare, step, len(self), self._placement.lookahead if prepare.needs_work() else 0)

    def _deliver(self, candidates: Candidates, epoch: int, step: int, waited: float) -> list[int]:
        started = time.perf_counter()
        candidates, choice, offered = self._choose(candidates, epoch)
        selected = candidates.indices[choice.positions]
        if offered is not None:
            self.selection.trained(offered, choice)
        self._weights.deliver(selected, choice.weights, self._proposals.weights(epoch, selected))
        self._statistics.add(candidates, choice, waited, time.perf_counter() - started)
        self._counter.delivered(epoch, step)
        return list(selected.tolist())

    def _end_pass(self, epoch: int) -> None:
        self._counter.end(epoch)
        self.sampler.tell(self.epoch)

    def _choose(
        self, candidates: Candidates, epoch: int, *, look: bool = False
    ) -> tuple[Candidates, Choice, CandidateBatch | None]:
        if self._plan.adaptive is not None:
            due = self._plan.due(epoch, candidates.batch, len(candidates.indices), look=look)
            candidates = candidates._replace(batch=due, budget=due.budget)
        place = {"seed": self.settings.seed, "epoch": epoch, **self._plan.place(epoch, candidates.batch)}
        asked = self._observed, self._learner
        observed, learner = (copy.copy(asked[0]), copy.copy(asked[1])) if look else asked  # copies count for themselves
        return candidates, *choose(self.selection, self.store, observed, learner, candidates, place)

    # To look at it

    def selection_at(self, epoch: int, batch: int) -> tuple[NDArray[np.int64], Choice, float]:
        """Candidates (N,), the choice among them, and the keep ratio of candidate batch ``batch`` of an epoch, counted
        over all ranks. Moves nothing."""
        epoch = arguments.whole_number("epoch", epoch, 0, "Epochs count from 0.")
        number = arguments.whole_number("batch", batch, 0, "Batches count from 0.")
        if number >= self._plan.batches:
            raise argument_error("batch", f"below {self._plan.batches}", number, "It counts an epoch's batches.")
        prepare = Epoch(self._plan, self.sampler, self._scorer, epoch, self._proposals.of(epoch))
        candidates = prepare.prepare([self._plan.batch(epoch, number)])[0]
        candidates, choice, _ = self._choose(candidates, epoch, look=True)
        return candidates.indices, choice, candidates.batch.ratio

    def keep_ratios(self) -> NDArray[np.float64]:
        """(epochs · batches,) the keep ratio of every candidate batch of the horizon, over all ranks; NaN where an
        adaptive schedule decides."""
        ratios = self._plan.ratios.flatten()
        return ratios if self._plan.adaptive is None else ratios * float("nan")

    def batch_sizes(self) -> set[int]:
        """The batch sizes that will occur on this rank, for compilers and for reserving memory."""
        return self._plan.batch_sizes(proposed=self._proposals.any)

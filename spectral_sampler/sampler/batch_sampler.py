"""SpectralBatchSampler: the batch sampler that keeps the part of every candidate batch that is worth training on."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import BatchSampler

from spectral_sampler.errors import argument_error
from spectral_sampler.lookahead import LookAhead
from spectral_sampler.placement import Placement
from spectral_sampler.sampler import arguments, description
from spectral_sampler.sampler.choosing import Decision, choose
from spectral_sampler.sampler.counter import EpochCounter, Pass
from spectral_sampler.sampler.learner import Learner
from spectral_sampler.sampler.located import Located
from spectral_sampler.sampler.order import CandidateOrder
from spectral_sampler.sampler.plan import Plan
from spectral_sampler.sampler.run import Run
from spectral_sampler.sampler.scoring import Candidates, Epoch, Scorer
from spectral_sampler.validation import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch.utils.data import Sampler

    from spectral_sampler.sampler.arguments import KeepRatio
    from spectral_sampler.selection import Choice, Selection
    from spectral_sampler.store import ReferenceStore

__all__ = ["SpectralBatchIterator", "SpectralBatchSampler"]


class SpectralBatchSampler(BatchSampler):
    """Yields, for every candidate batch, the dataset indices to train on, as lists of distinct Python ints.

    ``DataLoader(dataset, batch_sampler=SpectralBatchSampler(store, dataset=dataset))``; the training loop does not
    change, and samples that are not selected are never read.

    The lists are a function of the arguments, the epoch and the position: the same for any number of workers, any
    ``lookahead``, after resuming, and for one process as for the union over 2, 4 or 8 ranks (with ``shuffle=False`` or
    ``reshuffle=False`` if the candidate batches fill the steps of all ranks). No global random state is read or
    advanced. A selection that uses learner losses depends, besides, on what was reported by then, hence on how far
    ahead of training the DataLoader pulls; its scores are computed ahead, its choice when a batch is due.

    The path of a candidate batch: `Plan.slot`, `CandidateOrder.indices`, `Scorer.score` (ahead, in a thread), `choose`,
    `Run.commit`. All that moves is in the `Run`. A shallow copy is independent but for the data it shares.

    Args:
        store: a ReferenceStore, or features (M, d) alone as tensor or array.
        candidate_batch_size: N, candidates offered at a time; of a smaller data set all, with a warning.
        epochs: the horizon of a scheduled ``keep_ratio``; a constant needs none. Beyond it the last ratio stays.
        start_epoch: the epoch of the first pass, for a loop that resumes and does not call `set_epoch`.
        keep_ratio: share of candidates that is kept: a number in (0, 1], a schedule, or a function of progress in
            [0, 1]. GSTDS' is ``SigmoidSchedule(0.18, 0.88, mean=0.30)``.
        selection: what decides; None takes what the study recommends for what the store holds, `PlausibleEven` where
            it has labels and else `Uniform`, and logs it.
        sampler: an index sampler that decides the candidate order, such as a DistributedSampler or
            WeightedRandomSampler. Samples it repeats within a candidate batch are offered once. Resuming within an
            epoch is exact if it has ``set_epoch`` or a ``generator``; see `CandidateOrder`.
        shuffle: offer candidates in an order keyed by (seed, epoch), else ascending. Not used with ``sampler``.
        reshuffle: a new order every epoch; False keeps epoch 0's order, so every candidate batch is scored once for the
            whole training.
        drop_last: leave out the candidates that do not fill a candidate batch, and the candidate batches that do not
            fill a step of all ranks; an order that is the same in every epoch leaves out others in the next. False
            yields a smaller last batch; one below ``min_keep``, and with several ranks any, is filled up with
            candidates from the start of the epoch, so that ranks stay equal.
        seed: of the order and of every draw.
        num_replicas, rank: this process's share; never detected, because some frameworks shard by themselves.
        emit: "shrink": ``ratio · N`` samples come out, rounded down or up so that the mean is met, and there is no
            attribute ``batch_size``, which frameworks would take for a promise. "constant": ``batch_size`` samples come
            out of ``⌈batch_size / ratio⌉`` candidates; an epoch still has ``⌊M / N⌋`` batches, and goes over the data
            as often as that takes.
        batch_size: with ``emit="constant"``.
        multiple_of: the budget is a multiple of it.
        min_keep: the least budget; 2 keeps batch normalisation alive.
        backend: see `spectral_sampler.explain`; refused here if it was asked for by name and cannot run. "auto" moves
            from the CPU to a GPU, at most once and with a line in the log, where `spectral_sampler.preference` says so.
        lookahead: candidate batches scored in one call, by a thread that runs while training uses the last ones.
            0: one at a time, without a thread. None: 16; on a GPU two for each multiprocessor, at most a quarter of the
            epoch and at least 16.
        dataset: of the loader. Give it: its kind, length and labels are compared with the store's, which is how another
            split or order is noticed; see `ReferenceStore.verify`.
        learner: the model in training, for a selection that needs its logits of the candidates, or its losses fresher
            than `observe` has them: a module, which reads ``dataset``, or a function from indices to logits or (logits,
            features). Its cost is in `statistics`.
        collate_fn: makes the input of a ``learner`` module of samples; default torch's.
        ignore_index: with ``learner``, the label of candidates that come last; else one that is no class is refused.
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
        store: ReferenceStore | torch.Tensor | NDArray[Any],
        candidate_batch_size: int = 128,
        *,
        epochs: int | None = None,
        start_epoch: int = 0,
        keep_ratio: KeepRatio = 0.3,
        selection: Selection | None = None,
        sampler: Collection[int] | Sampler[int] | None = None,
        shuffle: bool = True,
        reshuffle: bool = True,
        drop_last: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        emit: Literal["shrink", "constant"] = "shrink",
        batch_size: int | None = None,
        multiple_of: int = 1,
        min_keep: int = 2,
        backend: str = "auto",
        lookahead: int | None = None,
        dataset: Any = None,
        learner: Callable[..., Any] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        ignore_index: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        # BatchSampler.__init__ is not called: it would set batch_size.
        self.store = arguments.as_store(store)
        rows = len(self.store)
        if dataset is not None:
            arguments.check_dataset(dataset, rows, self.store)
        self.settings = chosen = arguments.Settings(
            candidate_batch_size, epochs, shuffle, reshuffle, drop_last, seed, num_replicas, rank, multiple_of,
            min_keep, lookahead,
        ).checked(rows, sampler)  # fmt: skip
        self.drop_last = chosen.drop_last
        counter = EpochCounter(whole_number("start_epoch", start_epoch, 0, "Epochs count from 0."))
        self.sampler = CandidateOrder(
            counter, rows, chosen.seed, chosen.shuffle, fixed=not chosen.reshuffle, source=sampler
        )
        constant = arguments.check_emission(emit, batch_size, len(self.sampler), chosen, sampler)
        if constant is not None:
            self.batch_size = constant
        self.selection = arguments.chosen_selection(selection, self.store, learner=learner is not None)
        arguments.check_balance(self.selection, sampler)
        if self.selection.proposes and constant is not None:
            rule = f'"shrink" with {self.selection.name}'
            raise argument_error("emit", rule, '"constant"', "It decides the candidates.")
        asked = None if learner is None else Learner(learner, dataset, self.selection, collate_fn, ignore_index)
        self._plan = Plan(len(self.sampler), chosen, constant, rotates=self.sampler.rotates)
        self._plan.follow(keep_ratio, chosen.epochs)
        self._placement = Placement(
            backend, device, chosen.lookahead, self.store.dtype, self.store.width, chosen.candidate_batch_size,
            len(self),
        )  # fmt: skip
        self.backend = self._placement.backend
        self._scorer = Scorer(self.selection, self.store, self._placement)
        self._run = Run(self.store, self.selection, chosen, self._plan, self.sampler, counter, asked, self._scorer)

    def __len__(self) -> int:
        """Batches of an epoch on this rank: exact, the same in every epoch and on every rank."""
        return self._plan.steps

    def __iter__(self) -> SpectralBatchIterator:
        return SpectralBatchIterator(self)

    def __copy__(self) -> SpectralBatchSampler:
        shared = (self.store, self._run.learner, self.sampler.source)
        return copy.deepcopy(self, {id(part): part for part in shared})

    def __repr__(self) -> str:
        return (
            f"SpectralBatchSampler({self.store!r}, {self.selection!r}, epoch={self.epoch}, batches={len(self)}, "
            f"backend={self.backend!r})"
        )

    # Epochs and state

    @property
    def epoch(self) -> int:
        """The epoch of the running pass, or of the next one."""
        return self._run.counter.epoch

    def set_epoch(self, epoch: int) -> None:
        """The next pass is ``epoch``. Idempotent; a running pass is not affected."""
        self.sampler.set_epoch(epoch)

    def state_dict(
        self, batches_consumed: int | None = None, epoch: int | None = None, *, full: bool = False
    ) -> dict[str, Any]:
        """Where the sampler is: plain numbers, strings and bools, under 2 KB, and what an adaptive schedule remembers.

        Args:
            batches_consumed: batches of the epoch that were trained on. A plain DataLoader with workers pulls batches
                ahead of training, so the sampler's own position is too far then; torchdata's StatefulDataLoader keeps
                count by itself.
            epoch: the epoch in which they were; default the latest one begun.
            full: also what the training loop reported, what the selection learnt and what it proposed for the epoch, as
                tensors of 12 bytes a sample: resuming is exact then for selections and ratios that listen, too; for one
                that learns by itself (Bayesian, gradient norm) where no batch was read ahead. Loads with
                ``torch.load(weights_only=True)``.
        """
        if batches_consumed is None:
            return self._run.state(None, full=full)
        consumed = whole_number("batches_consumed", batches_consumed, 0, "Count the batches of this epoch.")
        if consumed > len(self):
            raise argument_error("batches_consumed", f"at most {len(self)}", consumed, "Count them anew every epoch.")
        at = self._run.counter.epoch_of(consumed) if epoch is None else epoch
        return self._run.state((at, consumed), full=full)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ArgumentError: if it belongs to a sampler with other data or another order.
        """
        position = self._run.load(state)
        if position is not None:
            self._run.counter.load(*position)
            self.sampler.tell(self.epoch)

    # What the training loop tells and asks

    @property
    def listens(self) -> bool:
        """Does anything follow from `observe`?"""
        return self._run.listens

    def observe(self, indices: Any, losses: Any, gather: bool | None = None) -> None:
        """The learner's losses (n,) of the samples ``indices`` (n,), for selections that need them and for a keep ratio
        that follows them. Not waited for where they are on a GPU.

        Args:
            indices: dataset indices, as tensor, array or list.
            losses: of any dtype, one a sample; those that are not finite are counted and left out.
            gather: over all ranks, so that each hears of all samples: they are dealt anew every epoch. None: where a
                process group is initialised and ``num_replicas`` > 1. A collective call: all ranks make it, in step.
        """
        self._run.hear(indices, losses, gather)

    def observe_next(self, losses: Any, gather: bool | None = None) -> None:
        """As `observe`, of the oldest batch delivered that was not reported: once for every batch, in order, with any
        number of workers. A batch that is left out must be reported by `observe` or not be followed by this."""
        self._run.hear_next(losses, gather)

    def weights_for(self, indices: Any) -> torch.Tensor:
        """(n,) float32 factors for the losses of the samples ``indices`` (n,) of a batch delivered, on their device.

        ``(losses * sampler.weights_for(indices)).mean()`` is what a selection that weighs (`InfoBatch`,
        `SensitivitySampling`, `GradientNorm`, and with zeros `PlausibleEven`) stands for; all ones with the others.
        """
        return self._run.weights_for(indices)

    def lr_scale(self, size: int | None = None) -> float:
        """Size of a batch over ``candidate_batch_size`` (1 with ``emit="constant"``), for those who scale the learning
        rate linearly with the batch. ``size`` is that of the batch in training; default the last one delivered, which
        a DataLoader with workers has not trained on yet. Nothing here touches a learning rate."""
        if self._plan.batch_size is not None:
            return 1.0
        kept = self._run.statistics.kept if size is None else size
        return kept / self.settings.candidate_batch_size if kept else 1.0

    def statistics(self) -> dict[str, float]:
        """What happened since the latest pass began, as floats under ``spectral/``.

        ``keep_ratio`` and ``kept`` are those of the last batch; the shares are over the batches scored; ``matvecs`` is
        a mean per batch; ``seconds_waiting`` is what training waited for scores, ``seconds_selecting`` for choices.
        ``observed_known_share`` of the learner losses asked for were known, ``observed_stale_share`` too old;
        ``suspect_share`` of the samples have a label that is not believed. With ``learner=`` also how many candidates
        it forwarded, and for how long.
        """
        return self._run.as_floats()

    # What the iterator asks for

    def _look_ahead(self, which: Pass) -> LookAhead[Candidates]:
        prepare = Epoch(self._plan, self.sampler, self._scorer, which.epoch, which.proposal)
        with Located(which.epoch):
            self.sampler.prepare(which.epoch)  # in this thread: a caller's sampler may not be safe in another one
        self._placement.begin()
        threaded = self._scorer.works(len(self))
        return LookAhead(prepare, which.step, len(self), self._placement.lookahead, threaded=threaded)

    def _decide(self, epoch: int, candidates: Candidates) -> tuple[Candidates, Decision]:
        slot = self._run.due(epoch, candidates.slot, len(candidates.indices))
        candidates = candidates._replace(slot=slot)
        return candidates, choose(self._run.acting, self.store, candidates, self._run.view(epoch, slot))

    # To look at it

    def selection_at(self, epoch: int, batch: int) -> tuple[NDArray[np.int64], Choice, float]:
        """Candidates (N,), the choice among them, and the keep ratio of candidate batch ``batch`` of an epoch, counted
        over all ranks. Moves nothing."""
        epoch = whole_number("epoch", epoch, 0, "Epochs count from 0.")
        number = whole_number("batch", batch, 0, "Batches count from 0.")
        if number >= self._plan.batches:
            raise argument_error("batch", f"below {self._plan.batches}", number, "It counts an epoch's batches.")
        prepare = Epoch(self._plan, self.sampler, self._scorer, epoch, self._run.proposal(epoch))
        candidates, decision = self._decide(epoch, prepare.prepare([self._plan.slot(epoch, number)])[0])
        return candidates.indices, decision.choice, candidates.slot.ratio

    def describe(self) -> str:
        """What will happen, in at most ten lines: selection, batches, their sizes, keep ratio and samples of the first
        and the last epoch, the share of full training's samples, what a batch has cost so far, what the training loop
        has to report, and what to look out for. Computes no scores and reads no data."""
        return description.text(self._run)

    def _repr_html_(self) -> str:
        """`describe` as a table, for notebooks."""
        return description.html(self._run, type(self).__name__)

    def keep_ratios(self) -> NDArray[np.float64]:
        """(epochs · batches,) the keep ratio of every candidate batch of the horizon, over all ranks; NaN where an
        adaptive schedule decides."""
        ratios = self._plan.ratios.flat()
        return ratios if self._plan.adaptive is None else ratios * float("nan")

    def batch_sizes(self) -> set[int]:
        """The batch sizes that will occur on this rank, for compilers and for reserving memory."""
        return self._plan.batch_sizes(proposed=self.selection.proposes, repeats=self.sampler.repeats)


class SpectralBatchIterator:
    """One pass over the batches, lazy until the first: what ``iter(sampler)`` returns.

    It takes its epoch from the sampler at the first `next`, not before: a DataLoader makes several iterators for one
    pass. A pass ends by exhaustion, by `close` or by being dropped.
    """

    def __init__(self, sampler: SpectralBatchSampler) -> None:
        self._sampler, self._run = sampler, sampler._run  # noqa: SLF001 - the other half of the sampler
        self._pass: Pass | None = None
        self._resume: tuple[int, int] | None = None  # loaded, for the pass to begin with
        self._ahead: LookAhead[Candidates] | None = None
        self._closed = False

    def __iter__(self) -> SpectralBatchIterator:
        return self

    def __next__(self) -> list[int]:
        if self._closed:
            raise StopIteration
        try:
            if self._pass is None:
                self._pass, self._resume = self._run.begin(self._resume), None
                self._run.prepare(self._pass)
            if self._ahead is None:
                self._ahead = self._sampler._look_ahead(self._pass)  # noqa: SLF001
            if self._pass.step < len(self._sampler):
                return self._deliver(self._ahead, self._pass)
        except StopIteration as error:  # a selection's or a learner's own: the loop would take it for the end
            self.close()
            raise RuntimeError("StopIteration was raised while a batch was chosen") from error
        except BaseException:
            self.close()
            raise
        self.close(exhausted=True)
        raise StopIteration

    def _deliver(self, ahead: LookAhead[Candidates], which: Pass) -> list[int]:
        started = time.perf_counter()
        candidates = ahead.take()
        taken = time.perf_counter()
        placement = self._sampler._placement  # noqa: SLF001
        if placement.delivered(taken - started) and ahead.depth:
            ahead.depth = placement.lookahead
        candidates, decision = self._sampler._decide(which.epoch, candidates)  # noqa: SLF001
        # Counted before the batch leaves: a state taken while training works on it has it as delivered.
        return self._run.commit(which, candidates, decision, taken - started, time.perf_counter() - taken)

    def close(self, *, exhausted: bool = False) -> None:
        """End the pass: join the look-ahead thread and let the sampler go on. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        if self._pass is None:
            self._run.counter.asked_twice()
        else:
            self._run.end(self._pass, exhausted=exhausted)

    def __del__(self) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Where this pass is; see `SpectralBatchSampler.state_dict`."""
        return self._run.state(self._resume if self._pass is None else (self._pass.epoch, self._pass.step), full=False)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` with the next batch."""
        position = self._run.load(state)
        if self._pass is not None:
            self.close()
        self._closed, self._pass, self._resume = False, None, position

"""Where every batch comes from and how many samples it keeps: arithmetic alone, no data.

An epoch's candidate order is cut into candidate batches numbered b = 0, 1, …; step j on rank r handles
``b = j · num_replicas + r``. All ranks of a step share the keep ratio and the budget of batch ``j · num_replicas``, so
they keep equally many samples and averaging gradients over ranks stays exact.

A budget is a multiple of ``multiple_of`` next to ratio · N, the one below or the one above by a golden-ratio sequence
over groups of batches, so that their mean is what the ratio says. It depends on the place of the group alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.schedule import AdaptiveSchedule, FittedSchedule, Ratios, plan_ratios
from spectral_sampler.schedule.plan import group_sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.sampler.arguments import KeepRatio, Settings

__all__ = ["Plan", "Slot"]

_log = logging.getLogger("spectral_sampler")
_ROUNDING = 9  # decimals: 0.3 · 10 must give 3, not 2
_PHASES = np.arange(16) / 16  # where that sequence may begin
_FEW = 4096  # groups of a run in which it matters
_ENOUGH = 0.005  # of the mean keep ratio: what is not worth a warning
_PASS_TURNS = 1_051_116  # of a further pass: it moves a golden-ratio sequence by 0.414, far from what a few epochs do


class Slot(NamedTuple):
    """The place of one candidate batch in an epoch."""

    number: int
    """b, over all ranks."""
    order_pass: int
    """How often the epoch has gone over the data before; above 0 with ``emit="constant"`` only."""
    start: int
    """Where in the order of that pass it starts."""
    size: int
    """Candidates; positions run past the end of the order and wrap around where a tail is filled up."""
    ratio: float
    """Keep ratio."""
    budget: int
    """Samples to keep, 1 ≤ budget ≤ size."""
    first: int = 0
    """The first batch of its step, whose ratio and budget are those of all ranks."""


class Plan:
    """The arithmetic of one run.

    Args:
        samples: M, the length of the candidate order.
        settings: candidate batch size N, shard, ``drop_last``, and rounding and floor of the budget.
        batch_size: None for shrinking batches, else the size of every batch.
        rotates: the order is the same in every epoch and ours, so the rows that an epoch leaves out are to come in
            another one: shrinking batches shift the last of an odd epoch to the end of the data, batches of constant
            size go on where the last epoch stopped.
    """

    def __init__(self, samples: int, settings: Settings, batch_size: int | None, *, rotates: bool = False) -> None:
        self.samples, self.candidates, self.rotates = samples, settings.candidate_batch_size, rotates
        self.num_replicas, self.rank, self.drop_last = settings.num_replicas, settings.rank, settings.drop_last
        self.batch_size, self.multiple_of, self.min_keep = batch_size, settings.multiple_of, settings.min_keep
        whole = self.drop_last or batch_size is not None
        self.batches = samples // self.candidates if whole else -(-samples // self.candidates)
        self.steps = self.batches // self.num_replicas if whole else -(-self.batches // self.num_replicas)
        if self.steps == 0:
            raise argument_error(
                "num_replicas", f"at most the number of candidate batches of an epoch ({self.batches})",
                self.num_replicas, "Use smaller candidate batches or fewer ranks, else no rank gets a batch.",
            )  # fmt: skip
        self._least = -(-self.min_keep // self.multiple_of)  # multiples
        self._offered = self.steps * self.num_replicas  # batches of an epoch, over all ranks
        self._spare = max(0, samples - self._offered * self.candidates) if rotates and batch_size is None else 0
        self._shifting = -(-self._spare // self.candidates)  # batches at the end, to make room for the spare rows
        # A tail too small for min_keep takes candidates from the start of the order, as that of several ranks does.
        tail = 0 if whole or self.num_replicas > 1 else samples % self.candidates
        self._tail = max(tail, self._least * self.multiple_of) if tail else 0
        self._take(plan_ratios(1.0, None, self.batches))
        self.adaptive: AdaptiveSchedule | None = None
        self._phases = (0.0, 0.0, 0.5)  # of whole groups, of the last one of an epoch if shorter, and of the tail
        self._layouts: dict[int, NDArray[np.int64]] = {}
        self._settled: tuple[tuple[int, int, bool, float, int] | None, int] = (None, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_layouts": {}}

    def follow(self, keep_ratio: KeepRatio, epochs: int | None) -> None:
        """Take the keep ratios from a number, a schedule or a function; an adaptive schedule gives them one by one,
        and its smallest stands in until a batch is due."""
        if not isinstance(keep_ratio, AdaptiveSchedule):
            self._take(plan_ratios(keep_ratio, epochs, self.batches))
            if self.batch_size is None:
                fits = not (isinstance(keep_ratio, FittedSchedule) and self._constant)  # else a warning has been given
                self._settle(horizon=fits and epochs is not None)
            return
        if self.batch_size is not None:
            raise argument_error("emit", '"shrink" with an adaptive keep_ratio', '"constant"', "Use a schedule.")
        keep_ratio.begin(None if epochs is None else epochs * self.batches)
        self.adaptive = keep_ratio
        self._take(plan_ratios(keep_ratio.min, epochs, self.batches))

    def _take(self, ratios: Ratios) -> None:
        self.ratios, self._constant = ratios, ratios.min == ratios.max

    def _settle(self, *, horizon: bool) -> None:
        """Begin the sequence of a short run where its mean comes out best; warn where the mean cannot be met."""
        ratios, candidates = self.ratios, self.candidates
        wanted = ratios.mean
        reach = ratios._replace(values=self._target(ratios.values, candidates)).mean * self.multiple_of / candidates
        real = reach
        if ratios.epochs * self.batches <= _FEW * ratios.group:
            sizes = group_sizes(self.batches, ratios.group)
            values = np.broadcast_to(ratios.values, (ratios.epochs, len(sizes)))
            turns, _ = self._turns(np.arange(ratios.epochs)[:, None], np.arange(len(sizes)))
            kept = np.array([(self._budgets(values, candidates, turns, p) * sizes).sum(axis=0) for p in _PHASES])
            whole = self.batches // ratios.group
            shares = kept[:, None, :whole].sum(axis=2) + kept[None, :, whole:].sum(axis=2)
            shares = shares / (ratios.epochs * self.batches * candidates)
            best = np.unravel_index(np.argmin(np.abs(shares - wanted)), shares.shape)
            self._phases = (float(_PHASES[best[0]]), float(_PHASES[best[1]]), self._phases[2])
            real = float(shares[best]) if horizon else reach
        if abs(real - wanted) > _ENOUGH * wanted:
            floor = reach > wanted * (1 + _ENOUGH) and self.min_keep >= self.multiple_of
            reasons = [f"min_keep={self.min_keep}"] if floor else []
            if abs(reach - wanted) <= _ENOUGH * wanted:
                reasons.append("the run is short")
            if self.multiple_of > 1:
                reasons.append(f"multiple_of={self.multiple_of}")
            _log.warning(
                "the sampler keeps %.3g of the candidates, not %.3g, because %s, of %d candidates at a time",
                real, wanted, " and ".join(reasons), candidates,
            )  # fmt: skip

    def _target(self, ratio: Any, size: int) -> Any:
        """Multiples of ``multiple_of`` to keep of ``size`` candidates, as a real number within the bounds."""
        wanted = np.round(ratio * size / self.multiple_of, _ROUNDING)
        return np.minimum(np.maximum(wanted, self._least), size // self.multiple_of)

    def _budgets(self, ratio: Any, size: int, turn: Any, phase: float) -> Any:
        target = self._target(ratio, size)
        below = np.floor(target)
        return self.multiple_of * (below + ((turn * draws.TURN + phase) % 1.0 < target - below)).astype(np.int64)

    def _budget(self, epoch: int, number: int, ratio: float, size: int) -> int:
        if size < self._least * self.multiple_of:
            return size // self.multiple_of * self.multiple_of or size
        if self._tail and number == self.batches - 1:
            return int(self._budgets(ratio, size, epoch, self._phases[2]))
        return int(self._budgets(ratio, size, *self._turns(epoch, number // self.ratios.group)))

    def _turns(self, epoch: Any, group: Any) -> tuple[Any, Any]:
        """Turn and phase of groups. Whole ones count on from epoch to epoch; the last one of an epoch, if shorter, has
        a sequence of its own, because it weighs less."""
        whole = self.batches // self.ratios.group
        return np.where(group < whole, epoch * whole + group, epoch), np.where(group < whole, *self._phases[:2])

    def slot(self, epoch: int, number: int) -> Slot:
        """Candidate batch ``number``, over all ranks, of an epoch; numbers from `batches` on wrap around to the first
        ones."""
        first = number - number % self.num_replicas  # of its step
        ratio = self.ratios.at(epoch, first)
        number %= self.batches
        if self.batch_size is not None:
            return Slot(number, *self._span(epoch, number), ratio, self.batch_size, first)
        start = number * self.candidates
        if epoch % 2 and 0 < self._offered - number <= self._shifting:
            start += self._spare
        size = self._tail if self._tail and number == self.batches - 1 else self.candidates
        key, known = (epoch, first // self.ratios.group, number == self.batches - 1, ratio, size), self._settled
        if known[0] != key:  # held over a group, and dear beside the rest of a slot
            known = self._settled = (key, self._budget(epoch, first, ratio, size))
        return Slot(number, 0, start, size, ratio, known[1], first)

    def refitted(self, epoch: int, slot: Slot, size: int, ratio: float | None = None) -> Slot:
        """``slot`` with ``size`` candidates, where they are fewer than planned, and the budget in proportion; and with
        the ``ratio`` that an adaptive schedule says now that it is due."""
        ratio = slot.ratio if ratio is None else ratio
        return slot._replace(size=size, ratio=ratio, budget=self._budget(epoch, slot.first, ratio, size))

    def at_step(self, epoch: int, step: int) -> Slot:
        """This rank's slot at a step."""
        return self.slot(epoch, step * self.num_replicas + self.rank)

    def place(self, epoch: int, slot: Slot) -> dict[str, Any]:
        """Where in the run a slot is, as `CandidateBatch` has it; progress is the share of the horizon that has
        passed."""
        last = self.ratios.epochs * self.batches - 1
        progress = min(1.0, (epoch * self.batches + slot.number) / last) if last else 0.0
        return {"batch": slot.number, "turn": epoch + slot.order_pass * _PASS_TURNS, "progress": progress}

    @property
    def mean_ratio(self) -> float:
        """The mean keep ratio, expected or planned."""
        return self.ratios.mean if self.adaptive is None else self.adaptive.mean

    def by_step(self, epoch: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """(steps,) each: keep ratio, samples kept and candidates offered at the steps of an epoch on this rank."""
        groups = np.arange(self.steps) * self.num_replicas // self.ratios.group
        ratios = self.ratios.of_epoch(epoch)[groups]
        if self.batch_size is not None:
            return ratios, np.full(self.steps, self.batch_size), self._taken(ratios)
        kept = self._budgets(ratios, self.candidates, *self._turns(epoch, groups))
        offered = np.full(self.steps, self.candidates)
        last = self.at_step(epoch, self.steps - 1)
        kept[-1], offered[-1] = last.budget, last.size  # a tail
        return ratios, kept, offered

    def of_epoch(self, epoch: int) -> tuple[float, int]:
        """The mean keep ratio planned for an epoch, and how many samples this rank keeps in it."""
        ratios, kept, _ = self.by_step(epoch)
        return float(ratios.mean()), int(kept.sum())

    @property
    def recurs(self) -> bool:
        """Are the slots of every epoch (of every second one, where they rotate) cut alike?"""
        return self.batch_size is None or self._constant

    def batch_sizes(self, *, proposed: bool = False, repeats: bool = False) -> set[int]:
        """Every size that occurs on this rank within the horizon or ever after it.

        Where a size depends on what is not known yet, every size that can occur: with an adaptive keep ratio, with a
        selection that proposes candidates (``proposed``), which may be fewer, and with an order that offers a sample
        more than once (``repeats``), whose batches may come out smaller.
        """
        if self.batch_size is not None:
            return {self.batch_size}
        multiple, ratios = self.multiple_of, self.ratios
        if proposed or self.adaptive is not None:
            low, high = (ratios.min, ratios.max) if self.adaptive is None else (self.adaptive.min, self.adaptive.max)
            least = self._either(0.0 if proposed else low, self.candidates)
            if self._tail:
                least |= self._either(low, self._tail)
            sizes = set(range(min(least), max(self._either(high, self.candidates)) + 1, multiple))
        else:
            sizes = self._either(ratios.last, self.candidates)
            if self._tail:
                sizes |= self._either(ratios.last, self._tail)
            if not self._constant:
                epochs = np.arange(ratios.epochs)
                firsts = np.arange(self.steps - bool(self._tail)) * self.num_replicas
                groups = np.unique(firsts // ratios.group)
                turns = self._turns(epochs[:, None], groups)
                sizes |= set(self._budgets(ratios.values[:, groups], self.candidates, *turns).ravel().tolist())
                if self._tail:
                    last = self._budgets(ratios.values[:, -1], self._tail, epochs, self._phases[2])
                    sizes |= set(last.tolist())
        if repeats:
            sizes |= {*range(1, min(multiple, max(sizes))), *range(multiple, max(sizes), multiple)}
        return sizes

    def _either(self, ratio: float, size: int) -> set[int]:
        """The budgets below and above ``ratio · size``."""
        target = self._target(ratio, size)
        return {int(np.floor(target)) * self.multiple_of, int(np.ceil(target)) * self.multiple_of}

    def _taken(self, ratio: Any) -> Any:
        """Candidates from which ``batch_size`` samples are chosen."""
        wanted = np.ceil(np.round(int(self.batch_size or 0) / ratio, _ROUNDING)).astype(np.int64)
        return np.minimum(self.samples, wanted)

    def _span(self, epoch: int, number: int) -> tuple[int, int, int]:
        """(order pass, start, candidates) with a constant batch size.

        Candidates are taken one batch after the other; where the order has fewer left, the next pass over the data
        begins, so that no candidate batch holds a sample twice. An order that rotates is a ring: the last batch of
        every other pass shifts to the end of the data, or, where the ratio changes, batches wrap around.
        """
        if not self._constant:
            order_pass, start, size = self._layout(epoch)[:, number].tolist()
            return order_pass, start, size
        size = int(self._taken(self.ratios.last))
        begun, blocks = epoch * self._offered if self.rotates else 0, self.samples // size
        order_pass, block = divmod(begun + number, blocks)
        shifted = self.rotates and order_pass % 2 and block == blocks - 1
        return order_pass - begun // blocks, self.samples - size if shifted else block * size, size

    def _layout(self, epoch: int) -> NDArray[np.int64]:
        """(3, batches): the `_span` of every batch where the ratio changes."""
        if epoch not in self._layouts:
            groups = (np.arange(self.batches) // self.num_replicas * self.num_replicas) // self.ratios.group
            counts = np.bincount(groups[: self._offered], minlength=self.ratios.values.shape[1])
            rows = self._taken(self.ratios.values)
            last = int(self._taken(self.ratios.last))
            sizes = rows[epoch, groups] if epoch < len(rows) else np.full(self.batches, last)
            ends = np.cumsum(sizes)
            starts, passes = ends - sizes, np.zeros(self.batches, dtype=np.int64)
            if self.rotates:
                begun = int((rows[:epoch] @ counts).sum()) + max(0, epoch - len(rows)) * self._offered * last
                passes, starts = np.divmod(begun + starts, self.samples)
                passes -= begun // self.samples
            else:
                begin = 0
                while begin < self.batches:
                    stop = int(np.searchsorted(ends, starts[begin] + self.samples, side="right"))
                    starts[begin:stop] -= starts[begin]
                    passes[stop:] += 1
                    begin = stop
            # The running epoch is kept, besides one that is only looked at.
            self._layouts = {**dict(list(self._layouts.items())[-1:]), epoch: np.stack([passes, starts, sizes])}
        return self._layouts[epoch]

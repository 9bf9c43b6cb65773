"""Where every batch comes from and how many samples it keeps: arithmetic alone, no data.

An epoch's candidate order is cut into candidate batches numbered b = 0, 1, …; step j on rank r handles
``b = j · num_replicas + r``. All ranks of a step share one keep ratio, that of batch ``j · num_replicas``, so they keep
equally many samples and averaging gradients over ranks stays exact.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.schedule import AdaptiveSchedule, plan_ratios

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.sampler.arguments import KeepRatio, Settings

__all__ = ["Batch", "Plan"]

_ROUNDING = 1e-9  # 0.3 · 10 must give 3, not 2
_PASS_TURNS = 1_051_116  # of a further pass: it moves a golden-ratio sequence by 0.414, far from what a few epochs do


class Batch(NamedTuple):
    """One candidate batch of an epoch."""

    number: int
    """b, over all ranks."""
    order_pass: int
    """Which permutation of the epoch it is cut from; above 0 with ``emit="constant"`` only."""
    start: int
    """Where in that order it starts."""
    size: int
    """Candidates; positions run past the end of the order and wrap around where a rank's tail is padded."""
    ratio: float
    """Keep ratio."""
    budget: int
    """Samples to keep, 1 ≤ budget ≤ size."""


class Plan:
    """The arithmetic of one run.

    Args:
        samples: M, the length of the candidate order.
        settings: candidate batch size N, shard, ``drop_last``, and rounding and floor of the budget.
        batch_size: None for shrinking batches, else the size of every batch.
    """

    def __init__(self, samples: int, settings: Settings, batch_size: int | None) -> None:
        self.samples, self.candidates = samples, settings.candidate_batch_size
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
        self._ratios: NDArray[np.float64] = np.ones((1, self.batches))
        self.adaptive: AdaptiveSchedule | None = None
        self._layouts: dict[int, list[tuple[int, int, int]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A schedule is held over groups of batches: its runs are a fraction of the table, and a lambda need not travel.
        flat = self._ratios.ravel()
        starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
        runs = (flat[starts], starts.astype(np.int64), self._ratios.shape)
        return {**self.__dict__, "_ratios": runs, "_layouts": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        values, starts, shape = state["_ratios"]
        lengths = np.diff(np.append(starts, shape[0] * shape[1]))
        self.__dict__.update(state, _ratios=np.repeat(values, lengths).reshape(shape))

    def follow(self, keep_ratio: KeepRatio, epochs: int | None) -> None:
        """Take the keep ratios from a number, a schedule or a function; an adaptive schedule gives them one by one."""
        if not isinstance(keep_ratio, AdaptiveSchedule):
            self._ratios = plan_ratios(keep_ratio, epochs, self.batches)
            return
        if self.batch_size is not None:
            raise argument_error("emit", '"shrink" with an adaptive keep_ratio', '"constant"', "Use a schedule.")
        if self.num_replicas > 1:
            rule = "1 with an adaptive keep_ratio, which follows the losses this process saw"
            raise argument_error("num_replicas", rule, self.num_replicas, "Use a schedule fixed beforehand.")
        keep_ratio.begin(None if epochs is None else epochs * self.batches)
        self.adaptive = keep_ratio
        self._ratios = np.full((epochs or 1, self.batches), keep_ratio.min)  # stands in until a batch is due

    def due(self, epoch: int, batch: Batch, distinct: int, *, look: bool) -> Batch:
        """``batch`` with the ratio and budget of this moment, where those are decided when it is due. ``look``: without
        deciding them."""
        if self.adaptive is None:
            return batch
        schedule = copy.deepcopy(self.adaptive) if look else self.adaptive
        ratio = schedule.ratio(epoch * self.batches + batch.number)
        return batch._replace(ratio=ratio, budget=self.budget(ratio, distinct))

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Keep ratios (epochs, batches) of the horizon."""
        return self._ratios

    def ratio(self, epoch: int, number: int) -> float:
        """Keep ratio of candidate batch ``number``, that is, of the first batch of its step."""
        if epoch >= len(self._ratios):
            return float(self._ratios[-1, -1])
        return float(self._ratios[epoch, number - number % self.num_replicas])

    def budget(self, ratio: float, size: int) -> int:
        """``⌊ratio · size⌋`` rounded down to ``multiple_of``, at least ``min_keep`` and at most ``size``."""
        least = -(-self.min_keep // self.multiple_of) * self.multiple_of
        kept = math.floor(ratio * size + _ROUNDING) // self.multiple_of * self.multiple_of
        return min(size, max(kept, least))

    def batch(self, epoch: int, number: int) -> Batch:
        """Candidate batch ``number`` of an epoch; numbers from `batches` on wrap around to the first ones."""
        ratio = self.ratio(epoch, number)
        number %= self.batches
        if self.batch_size is not None:
            order_pass, start, size = self._layout(epoch)[number]
            return Batch(number, order_pass, start, size, ratio, self.batch_size)
        start = number * self.candidates
        # Several ranks share a step, so its tail is filled up from the start of the order, as DistributedSampler does.
        size = self.candidates if self.num_replicas > 1 else min(self.candidates, self.samples - start)
        return Batch(number, 0, start, size, ratio, self.budget(ratio, size))

    def at_step(self, epoch: int, step: int) -> Batch:
        """This rank's batch at a step."""
        return self.batch(epoch, step * self.num_replicas + self.rank)

    def place(self, epoch: int, batch: Batch) -> dict[str, Any]:
        """Where in the run a batch is, as `CandidateBatch` has it; progress is the share of the horizon that has
        passed."""
        last = self._ratios.size - 1
        progress = min(1.0, (epoch * self.batches + batch.number) / last) if last else 0.0
        return {"batch": batch.number, "turn": epoch + batch.order_pass * _PASS_TURNS, "progress": progress}

    def batch_sizes(self, *, proposed: bool) -> set[int]:
        """Every size that will occur on this rank; with an adaptive keep ratio, or where a selection that proposes
        candidates may propose fewer, that can."""
        if self.batch_size is not None:
            return {self.batch_size}
        if proposed or self.adaptive is not None:
            low, high = (float(self._ratios.min()), float(self._ratios.max()))
            if self.adaptive is not None:
                low, high = self.adaptive.min, self.adaptive.max
            least = self.budget(0.0 if proposed else low, self.candidates)
            return set(range(least, self.budget(high, self.candidates) + 1, self.multiple_of))
        firsts = self._ratios[:, :: self.num_replicas][:, : self.steps]
        sizes = {self.budget(float(ratio), self.candidates) for ratio in np.unique(firsts)}
        tail = self.samples % self.candidates
        if tail and not self.drop_last and self.num_replicas == 1:
            if self.batches > 1:
                sizes = {self.budget(float(r), self.candidates) for r in np.unique(firsts[:, :-1])}
                sizes.add(self.budget(float(self._ratios[-1, -1]), self.candidates))  # beyond the horizon
            sizes |= {self.budget(float(ratio), tail) for ratio in np.unique(firsts[:, -1])}
        else:
            sizes.add(self.budget(float(self._ratios[-1, -1]), self.candidates))
        return sizes

    def _layout(self, epoch: int) -> list[tuple[int, int, int]]:
        """(order pass, start, candidates) of every batch with a constant size.

        ``⌈batch_size / ratio⌉`` candidates are taken one batch after the other; where the order has fewer left, the
        next pass over the data begins, so that no candidate batch holds a sample twice.
        """
        layout = self._layouts.get(epoch)
        if layout is None:
            order_pass = start = 0
            layout = []
            for number in range(self.batches):
                size = math.ceil(int(self.batch_size or 0) / self.ratio(epoch, number) - _ROUNDING)
                size = min(self.samples, size)
                if start + size > self.samples:
                    order_pass, start = order_pass + 1, 0
                layout.append((order_pass, start, size))
                start += size
            for old in list(self._layouts)[:-1]:  # keep a running epoch besides one that is only looked at
                self._layouts.pop(old, None)
            self._layouts[epoch] = layout
        return layout

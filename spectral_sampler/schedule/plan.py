"""From a schedule to the keep ratio of every candidate batch of a run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.schedule.fitted import ConstantSchedule, FittedSchedule, checked_ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["RATIO_GROUPS", "Ratios", "plan_ratios"]

_log = logging.getLogger("spectral_sampler")

RATIO_GROUPS = (8, 4, 2, 1)
"""The ratio is held over groups of this many consecutive candidate batches (the first size that the schedule fits), so
that the ranks of one step share a budget and yet one process sees the lists that 2, 4 or 8 ranks see together."""


class Ratios(NamedTuple):
    """The keep ratio of every candidate batch of a run, held over groups of consecutive ones."""

    values: Array
    """(epochs, groups), or (1, 1) for one ratio throughout."""
    group: int
    """Batches to a group; the last one of an epoch may hold fewer."""
    batches: int
    """Of an epoch."""
    epochs: int
    """The horizon, 1 where there is none."""

    @property
    def min(self) -> float:
        """The smallest ratio."""
        return float(self.values.min())

    @property
    def max(self) -> float:
        """The largest ratio."""
        return float(self.values.max())

    @property
    def mean(self) -> float:
        """The mean over all candidate batches."""
        if self.values.size == 1:
            return self.last
        return float(self.values.mean(axis=0) @ group_sizes(self.batches, self.group) / self.batches)

    @property
    def last(self) -> float:
        """The ratio of the last candidate batch, and of all beyond the horizon."""
        return float(self.values[-1, -1])

    def at(self, epoch: int, number: int) -> float:
        """The ratio of candidate batch ``number`` of an epoch."""
        if epoch >= self.epochs or self.values.size == 1:
            return self.last
        return float(self.values[epoch, number // self.group])

    def of_epoch(self, epoch: int) -> Array:
        """(groups,) the ratios of an epoch."""
        groups = -(-self.batches // self.group)
        if epoch >= self.epochs or self.values.size == 1:
            return np.full(groups, self.last)
        found: Array = self.values[epoch]
        return found

    def flat(self) -> Array:
        """(epochs · batches,)."""
        if self.values.size == 1:
            return np.full(self.epochs * self.batches, self.last)
        return np.repeat(self.values, group_sizes(self.batches, self.group), axis=1).ravel()


def group_sizes(batches: int, group: int) -> NDArray[np.int64]:
    """Batches in every group of an epoch."""
    return np.diff(np.append(np.arange(0, batches, group), batches))


def _progress(epochs: int, batches: int, group: int) -> Array:
    """(epochs · groups,) progress of each group's first batch over the horizon; groups restart with every epoch."""
    positions = (np.arange(epochs)[:, None] * batches + np.arange(0, batches, group)).ravel().astype(np.float64)
    return np.asarray(positions / max(1.0, float(positions[-1])))


def plan_ratios(
    keep_ratio: float | ConstantSchedule | FittedSchedule | Callable[[float], float], epochs: int | None, batches: int
) -> Ratios:
    """The keep ratio of every candidate batch of a run.

    Args:
        keep_ratio: a float, one of the schedules above, or any callable from progress in [0, 1] to a ratio in (0, 1].
            A fitted schedule whose min, max and mean the run has too few steps for gives its mean, with a warning.
        epochs: length of the horizon; None is allowed for a constant ratio only.
        batches: candidate batches per epoch, over all ranks.

    Raises:
        ArgumentError: a ratio outside (0, 1], or a schedule without ``epochs``.
    """
    if not callable(keep_ratio):
        keep_ratio = ConstantSchedule(checked_ratio("keep_ratio", keep_ratio))
    group = RATIO_GROUPS[0]
    if isinstance(keep_ratio, ConstantSchedule):
        return Ratios(np.full((1, 1), keep_ratio.ratio), group, batches, epochs or 1)
    if epochs is None:
        raise argument_error(
            "epochs", "the number of training epochs when keep_ratio is a schedule", None,
            "Pass epochs=25, or a constant such as keep_ratio=0.3.",
        )  # fmt: skip
    if isinstance(keep_ratio, FittedSchedule):
        return _plan_fitted(keep_ratio, epochs, batches)
    progress = _progress(epochs, batches, group).tolist()
    ratios = [checked_ratio(f"keep_ratio at progress {t:.3g}", keep_ratio(t)) for t in progress]
    return Ratios(np.array(ratios).reshape(epochs, -1), group, batches, epochs)


def _plan_fitted(schedule: FittedSchedule, epochs: int, batches: int) -> Ratios:
    for group in RATIO_GROUPS:  # a short run has too few groups to reach min, max and mean: smaller ones then
        sizes = np.tile(group_sizes(batches, group), epochs).astype(np.float64)
        try:
            values = schedule.fit(_progress(epochs, batches, group), sizes)
        except ArgumentError:
            continue
        return Ratios(values.reshape(epochs, -1), group, batches, epochs)
    _log.warning(
        "%r does not fit a run of %d candidate batches, which keeps its mean of %g throughout: train for more epochs, "
        "or move the mean towards the middle", schedule, epochs * batches, schedule.mean,
    )  # fmt: skip
    return plan_ratios(schedule.mean, epochs, batches)

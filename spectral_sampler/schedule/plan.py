"""From a schedule to the keep ratio of every candidate batch of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.schedule.fitted import ConstantSchedule, FittedSchedule, checked_ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["RATIO_GROUPS", "plan_ratios"]

RATIO_GROUPS = (8, 4, 2, 1)
"""The ratio is held over groups of this many consecutive candidate batches (the first size that the schedule fits), so
that the ranks of one step share a budget and yet one process sees the lists that 2, 4 or 8 ranks see together."""


def _groups(epochs: int, batches: int, size: int) -> tuple[Array, Array]:
    """Progress of each group's first batch, and the group's size, over the whole horizon; groups restart with every
    epoch."""
    starts = np.arange(0, batches, size)
    sizes = np.minimum(starts + size, batches) - starts
    positions = (np.arange(epochs)[:, None] * batches + starts[None, :]).ravel().astype(np.float64)
    progress = positions / positions[-1] if positions[-1] > 0 else positions
    return progress, np.tile(sizes, epochs).astype(np.float64)


def plan_ratios(
    keep_ratio: float | ConstantSchedule | FittedSchedule | Callable[[float], float], epochs: int | None, batches: int
) -> Array:
    """The keep ratio of every candidate batch of a run.

    Args:
        keep_ratio: a float, one of the schedules above, or any callable from progress in [0, 1] to a ratio in (0, 1].
        epochs: length of the horizon; None is allowed for a constant ratio only.
        batches: candidate batches per epoch, over all ranks.

    Returns:
        (epochs, batches) float64, constant over groups of `RATIO_GROUPS` batches ((1, batches) without a horizon).

    Raises:
        ArgumentError: a ratio outside (0, 1], a schedule without ``epochs``, or one that does not fit the horizon.
    """
    if not callable(keep_ratio):
        keep_ratio = ConstantSchedule(checked_ratio("keep_ratio", keep_ratio))
    if isinstance(keep_ratio, ConstantSchedule):
        return np.full((epochs or 1, batches), keep_ratio.ratio)
    if epochs is None:
        raise argument_error(
            "epochs", "the number of training epochs when keep_ratio is a schedule", None,
            "Pass epochs=25, or a constant such as keep_ratio=0.3.",
        )  # fmt: skip
    if isinstance(keep_ratio, FittedSchedule):
        return _plan_fitted(keep_ratio, epochs, batches)
    progress, sizes = _groups(epochs, batches, RATIO_GROUPS[0])
    ratios = np.array([checked_ratio(f"keep_ratio at progress {t:.3g}", keep_ratio(float(t))) for t in progress])
    return np.repeat(ratios, sizes.astype(np.int64)).reshape(epochs, batches)


def _plan_fitted(schedule: FittedSchedule, epochs: int, batches: int) -> Array:
    for size in RATIO_GROUPS:
        progress, sizes = _groups(epochs, batches, size)
        try:
            ratios = schedule.fit(progress, sizes)
        except ArgumentError:
            # A short run has too few groups to reach min, max and mean; hold the ratio for fewer batches then.
            if size == RATIO_GROUPS[-1]:
                raise
            continue
        return np.repeat(ratios, sizes.astype(np.int64)).reshape(epochs, batches)
    raise RuntimeError("unreachable: the last group size returns or raises")

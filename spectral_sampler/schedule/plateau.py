"""PlateauSchedule: ours. More samples when the loss no longer falls by itself, and the mean is still exact."""

from __future__ import annotations

from typing import ClassVar

from spectral_sampler.errors import argument_error
from spectral_sampler.schedule.aimd import AdaptiveSchedule
from spectral_sampler.schedule.fitted import checked_ratio

__all__ = ["PlateauSchedule"]


class PlateauSchedule(AdaptiveSchedule):
    """A straight rise that takes more when the loss stops falling, less while it falls fast, and over the whole run
    exactly ``mean``, however the losses behave.

    The horizon of T candidate batches is cut into P periods of constant ratio. With ℓ_j the mean observed loss of
    period j, its progress is ``ρ_j = max(0, ℓ_{j−1} − ℓ_j)`` relative to the largest so far, and its slowness
    ``s_j = 1 − ρ_j / max ρ`` in [0, 1]. With b_j a line through ``mean`` that starts at ``min`` (or ends at ``max``,
    if that is nearer), and e what was saved or overspent so far, spread over the batches that remain,

        ratio = b_j + e + (max − min)/2 · (s_j − mean of s so far),

    clipped to [min, max] and to what keeps the exact mean within reach. Steady progress gives the line; a run that
    stalls is fed when it stalls, which no schedule fixed beforehand can do (the first open question of GSTDS). Losses
    may arrive a few batches late.

    Args:
        min, max, mean: smallest, largest and mean ratio; min and max bound it and need not be reached.
        periods: P.
    """

    _state: ClassVar[tuple[str, ...]] = ("_sum", "_count", "_ratios", "_slowness", "_best", "_last")

    def __init__(
        self,
        min: float = 0.18,  # noqa: A002
        max: float = 0.88,  # noqa: A002
        *,
        mean: float = 0.30,
        periods: int = 32,
    ) -> None:
        super().__init__(min, max)
        self.mean = checked_ratio("mean", mean)
        if not self.min < self.mean < self.max:
            rule = f"between min ({self.min}) and max ({self.max})"
            raise argument_error("mean", rule, self.mean, "It is the average keep ratio over the whole training.")
        if isinstance(periods, bool) or not isinstance(periods, int) or periods < 2:
            raise argument_error(
                "periods", "an integer of at least 2", repr(periods), "Two to five an epoch are enough."
            )
        self.periods = periods
        self._starts: list[int] = []
        self._line: list[float] = []
        self._ratios: list[float] = []
        self._slowness = [0.0, 0.0, 0.0]  # last, sum, count
        self._best = 0.0
        self._last: float | None = None

    def begin(self, steps: int | None) -> None:
        """Cuts the horizon of ``steps`` candidate batches into periods."""
        if steps is None:
            remedy = "Pass epochs=25, or steps= to an OnlineSelection."
            raise argument_error("epochs", "the number of training epochs with a PlateauSchedule", None, remedy)
        periods = min(self.periods, steps)
        self._starts = [steps * period // periods for period in range(periods + 1)]
        rise = 2.0 * min(self.mean - self.min, self.max - self.mean)
        middles = [(start + stop) / (2 * steps) for start, stop in zip(self._starts, self._starts[1:], strict=False)]
        self._line = [self.mean + rise * (middle - 0.5) for middle in middles]

    def observe(self, loss: float) -> None:
        """One observation; those that are not finite are left out."""
        if abs(loss) < float("inf"):
            self._sum, self._count = self._sum + loss, self._count + 1

    def ratio(self, step: int) -> float:
        """The ratio of candidate batch ``step``; a period's is decided when its first batch is asked for."""
        period = next((p for p in range(len(self._starts) - 1) if step < self._starts[p + 1]), len(self._starts) - 2)
        while len(self._ratios) <= period:
            self._ratios.append(self._decide(len(self._ratios)))
        return self._ratios[period]

    def _decide(self, period: int) -> float:
        sizes = [stop - start for start, stop in zip(self._starts, self._starts[1:], strict=False)]
        spent = sum(ratio * size for ratio, size in zip(self._ratios, sizes, strict=False))
        left, size, later = self.mean * self._starts[-1] - spent, sizes[period], sum(sizes[period + 1 :])
        planned = sum(ratio * size for ratio, size in zip(self._line[period:], sizes[period:], strict=True))
        self._listen()
        slowness, total, count = self._slowness
        shift = slowness - total / count if count else 0.0
        wanted = self._line[period] + (left - planned) / (size + later) + 0.5 * (self.max - self.min) * shift
        lowest = max(self.min, (left - later * self.max) / size)
        highest = min(self.max, (left - later * self.min) / size)
        return min(max(wanted, lowest), highest)

    def _listen(self) -> None:
        """Turns the period's observations into its slowness."""
        if not self._count:
            return
        loss, self._sum, self._count = self._sum / self._count, 0.0, 0
        if self._last is not None:
            progress = max(0.0, self._last - loss)
            self._best = max(self._best, progress)
            slowness = 1.0 - progress / self._best if self._best > 0 else 1.0
            self._slowness = [slowness, self._slowness[1] + slowness, self._slowness[2] + 1.0]
        self._last = loss

    def __repr__(self) -> str:
        return f"PlateauSchedule({self.min}, {self.max}, mean={self.mean}, periods={self.periods})"

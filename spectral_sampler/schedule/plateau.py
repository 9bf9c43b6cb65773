"""PlateauSchedule: ours. More samples when the loss no longer falls by itself, and the mean is still exact."""

from __future__ import annotations

from typing import Any, NamedTuple

from spectral_sampler.errors import argument_error
from spectral_sampler.schedule.aimd import AdaptiveSchedule
from spectral_sampler.schedule.fitted import checked_ratio

__all__ = ["PlateauSchedule"]


class _Past(NamedTuple):
    """What was decided, and what it was decided from."""

    ratios: tuple[float, ...] = ()
    """Of the periods so far."""
    slowness: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Last, sum, count."""
    best: float = 0.0
    last: float | None = None
    total: float = 0.0
    heard: int = 0


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
        self._past = _Past()

    def begin(self, steps: int | None) -> None:
        """Cuts the horizon of ``steps`` candidate batches into periods."""
        if steps is None:
            remedy = "Pass epochs=25, or steps= to an OnlineSelection."
            raise argument_error("epochs", "the number of training epochs with a PlateauSchedule", None, remedy)
        super().begin(steps)
        periods = min(self.periods, steps)
        self._starts = [steps * period // periods for period in range(periods + 1)]
        rise = 2.0 * min(self.mean - self.min, self.max - self.mean)
        middles = [(start + stop) / (2 * steps) for start, stop in zip(self._starts, self._starts[1:], strict=False)]
        self._line = [self.mean + rise * (middle - 0.5) for middle in middles]

    def observe(self, loss: float) -> None:
        """One observation; those that are not finite are left out."""
        if abs(loss) < float("inf"):
            self._past = self._past._replace(total=self._past.total + loss, heard=self._past.heard + 1)

    def ratio(self, step: int) -> float:
        """The ratio of candidate batch ``step``; a period's is decided when its first batch is asked for."""
        period, self._past = self._until(step)
        return self._past.ratios[period]

    def peek(self, step: int) -> float:
        """What `ratio` would say now."""
        period, past = self._until(step)
        return past.ratios[period]

    def _until(self, step: int) -> tuple[int, _Past]:
        """The period of a candidate batch, and the past with that decided."""
        period = next((p for p in range(len(self._starts) - 1) if step < self._starts[p + 1]), len(self._starts) - 2)
        past = self._past
        while len(past.ratios) <= period:
            past = self._decide(self._listen(past))
        return period, past

    def _decide(self, past: _Past) -> _Past:
        period = len(past.ratios)
        sizes = [stop - start for start, stop in zip(self._starts, self._starts[1:], strict=False)]
        spent = sum(ratio * size for ratio, size in zip(past.ratios, sizes, strict=False))
        left, size, later = self.mean * self._starts[-1] - spent, sizes[period], sum(sizes[period + 1 :])
        planned = sum(ratio * size for ratio, size in zip(self._line[period:], sizes[period:], strict=True))
        slowness, total, count = past.slowness
        shift = slowness - total / count if count else 0.0
        wanted = self._line[period] + (left - planned) / (size + later) + 0.5 * (self.max - self.min) * shift
        lowest = max(self.min, (left - later * self.max) / size)
        highest = min(self.max, (left - later * self.min) / size)
        return past._replace(ratios=(*past.ratios, min(max(wanted, lowest), highest)))

    @staticmethod
    def _listen(past: _Past) -> _Past:
        """Turns the period's observations into its slowness."""
        if not past.heard:
            return past
        loss, slowness, best = past.total / past.heard, past.slowness, past.best
        if past.last is not None:
            progress = max(0.0, past.last - loss)
            best = max(best, progress)
            slow = 1.0 - progress / best if best > 0 else 1.0
            slowness = (slow, slowness[1] + slow, slowness[2] + 1.0)
        return past._replace(slowness=slowness, best=best, last=loss, total=0.0, heard=0)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and None."""
        return {**self._past._asdict(), "ratios": list(self._past.ratios), "slowness": list(self._past.slowness)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._past = _Past(**{**state, "ratios": tuple(state["ratios"]), "slowness": tuple(state["slowness"])})

    def __repr__(self) -> str:
        return f"PlateauSchedule({self.min}, {self.max}, mean={self.mean}, periods={self.periods})"

"""How much of a candidate batch to keep, as a function of training progress.

A schedule is any callable ``progress in [0, 1] -> keep ratio in (0, 1]``. The ones below know their shape only up to
one parameter, which is solved so that **smallest, largest and mean ratio are met exactly on the discrete horizon** of
the run (GSTDS §3.2 states the mean as a limit over infinite time, which for a sigmoid would be its upper bound; we
take the mean over the training horizon). With ``s(t; p)`` the raw shape and ``g = (s − min s) / (max s − min s)`` over
the horizon,

    ratio(t) = min + (max − min) g(t; p),   p such that  Σ_i w_i g(t_i; p) / Σ_i w_i = (mean − min) / (max − min).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spectral_sampler.errors import ArgumentError, argument_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "RATIO_GROUPS",
    "ConstantSchedule",
    "FittedSchedule",
    "GammaSchedule",
    "LinearSchedule",
    "SigmoidSchedule",
    "SincSchedule",
    "SinusoidSchedule",
    "plan_ratios",
]

RATIO_GROUPS = (8, 4, 2, 1)
"""The ratio is held over groups of this many consecutive candidate batches (the first size that the schedule fits), so
that the ranks of one step share a budget and yet one process sees the lists that 2, 4 or 8 ranks see together."""

_GRID = 4097  # points that stand for the continuous horizon when a schedule is called without a run


def _checked_ratio(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise argument_error(name, "a number in (0, 1]", repr(value), "Pass a float such as 0.3.")
    ratio = float(value)
    if not 0.0 < ratio <= 1.0:  # also catches NaN
        raise argument_error(name, "in (0, 1]", ratio, "It is the share of candidates that is kept, such as 0.3.")
    return ratio


class ConstantSchedule:
    """The same keep ratio throughout (SALN). A float given as ``keep_ratio`` means this."""

    def __init__(self, ratio: float) -> None:
        self.ratio = _checked_ratio("ratio", ratio)

    def __call__(self, progress: float) -> float:  # noqa: ARG002 - the signature every schedule has
        """The ratio."""
        return self.ratio

    def __repr__(self) -> str:
        return f"ConstantSchedule({self.ratio})"


class FittedSchedule:
    """Base of the schedules with a prescribed minimum, maximum and mean.

    A subclass gives ``shape(t, p)`` and the bracket ``p in [low, high]`` in which the mean is searched; the mean need
    not be monotone in p, one crossing in the bracket is enough.

    Raises:
        ArgumentError: a bound outside (0, 1], ``min > max``, a mean outside (min, max), or, from `fit`, a horizon on
            which no parameter meets all three.
    """

    bracket: ClassVar[tuple[float, float]]

    def __init__(self, min: float, max: float, *, mean: float) -> None:  # noqa: A002 - the paper's words
        self.min, self.max, self.mean = (
            _checked_ratio("min", min),
            _checked_ratio("max", max),
            _checked_ratio("mean", mean),
        )
        if not self.min < self.max:
            raise argument_error("max", f"above min ({self.min})", self.max, "Use ConstantSchedule for one ratio.")
        if not self.min < self.mean < self.max:
            rule = f"between min ({self.min}) and max ({self.max})"
            raise argument_error("mean", rule, self.mean, "It is the average keep ratio over the whole training.")
        self._continuous: float | None = None

    def shape(self, progress: Array, parameter: float) -> Array:
        """The raw shape, (T,) -> (T,); only its form matters, not its scale or offset."""
        raise NotImplementedError

    def _normalised(self, progress: Array, parameter: float) -> Array:
        raw = self.shape(progress, parameter)
        low, high = float(raw.min()), float(raw.max())
        return (raw - low) / (high - low) if high > low else np.full_like(raw, np.nan)

    def _scaled(self, share: Array) -> Array:
        return self.min * (1.0 - share) + self.max * share  # exact at both ends

    def parameter(self, progress: Array, weights: Array) -> float:
        """The p that meets the mean on the points ``progress`` (T,) with ``weights`` (T,)."""
        target = (self.mean - self.min) / (self.max - self.min)
        weights = weights / weights.sum()

        def excess(parameter: float) -> float:
            return float(weights @ self._normalised(progress, parameter)) - target

        # The shape may rise and fall with p, so look for a change of sign on a grid before bisecting inside it.
        grid = np.linspace(*self.bracket, 257)
        values = np.array([excess(p) for p in grid])
        crossings = np.flatnonzero((np.sign(values[:-1]) * np.sign(values[1:])) <= 0)  # NaN compares false
        if not crossings.size:
            reach = values[np.isfinite(values)] + target
            span = (
                "no mean at all"
                if not reach.size
                else (
                    f"means from {self.min + reach.min() * (self.max - self.min):.4g} "
                    f"to {self.min + reach.max() * (self.max - self.min):.4g}"
                )
            )
            raise argument_error(
                "keep_ratio",
                f"a schedule whose min, max and mean fit the {len(progress)} steps of the run (it allows {span})",
                repr(self),
                "Train for more epochs, move the mean, or pass a constant such as keep_ratio=0.3.",
            )
        low, high = float(grid[crossings[0]]), float(grid[crossings[0] + 1])
        sign = np.sign(excess(low))
        for _ in range(200):
            middle = 0.5 * (low + high)
            if middle in (low, high):
                break
            if np.sign(excess(middle)) == sign:
                low = middle
            else:
                high = middle
        return low if abs(excess(low)) < abs(excess(high)) else high

    def fit(self, progress: Array, weights: Array) -> Array:
        """Ratios (T,) at the points ``progress`` (T,) in [0, 1], whose weighted mean is exactly `mean`."""
        return self._scaled(self._normalised(progress, self.parameter(progress, weights)))

    def continuous_parameter(self) -> float:
        """p for the continuous horizon [0, 1]."""
        if self._continuous is None:
            weights = np.ones(_GRID)
            weights[[0, -1]] = 0.5  # trapezoidal rule
            self._continuous = self.parameter(np.linspace(0.0, 1.0, _GRID), weights)
        return self._continuous

    def __call__(self, progress: float) -> float:
        """The ratio at ``progress`` of a continuous horizon; a run uses `fit` on its own steps instead."""
        points = np.append(np.linspace(0.0, 1.0, _GRID), np.clip(progress, 0.0, 1.0))
        return float(self._scaled(self._normalised(points, self.continuous_parameter()))[-1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.min}, {self.max}, mean={self.mean})"


class SigmoidSchedule(FittedSchedule):
    """``ratio(t) = a + (b − a) / (1 + exp(−k (t − x0)))`` (GSTDS §3.2; theirs is .18, .88, mean .30).

    Three constraints, four unknowns: ``steepness`` k is yours, a, b and x0 are solved.
    """

    bracket: ClassVar[tuple[float, float]] = (-2.0, 3.0)

    def __init__(
        self,
        min: float = 0.18,  # noqa: A002
        max: float = 0.88,  # noqa: A002
        *,
        mean: float = 0.30,
        steepness: float = 10.0,
    ) -> None:
        super().__init__(min, max, mean=mean)
        if not 0.0 < steepness < float("inf"):
            raise argument_error("steepness", "a positive number", steepness, "10 is a gentle slope, 30 nearly a step.")
        self.steepness = float(steepness)

    def shape(self, progress: Array, parameter: float) -> Array:
        """``1 / (1 + exp(−k (t − x0)))`` with p = x0."""
        exponent = np.clip(-self.steepness * (progress - parameter), -700.0, 700.0)  # e^709 overflows
        return np.asarray(1.0 / (1.0 + np.exp(exponent)))

    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, x0) for the continuous horizon."""
        x0 = self.continuous_parameter()
        first, last = (float(s) for s in self.shape(np.array([0.0, 1.0]), x0))
        span = (self.max - self.min) / (last - first)  # b − a
        a = self.min - span * first
        return a, a + span, x0

    def __repr__(self) -> str:
        return f"SigmoidSchedule({self.min}, {self.max}, mean={self.mean}, steepness={self.steepness})"


class LinearSchedule(FittedSchedule):
    """A straight rise from min to max, held at min before it or at max after it for as long as the mean asks."""

    bracket: ClassVar[tuple[float, float]] = (-0.999, 0.999)

    def __init__(self, min: float, max: float, *, mean: float | None = None) -> None:  # noqa: A002
        super().__init__(min, max, mean=0.5 * (min + max) if mean is None else mean)

    def shape(self, progress: Array, parameter: float) -> Array:
        """p > 0: starts to rise at t = p. p < 0: arrives at t = 1 + p."""
        start, stop = (parameter, 1.0) if parameter > 0 else (0.0, 1.0 + parameter)
        return np.clip((progress - start) / (stop - start), 0.0, 1.0)


class GammaSchedule(FittedSchedule):
    """``t^γ`` between min and max (GSTDS §4.1, "adjusted gamma"); the mean decides γ."""

    bracket: ClassVar[tuple[float, float]] = (-6.0, 6.0)

    def shape(self, progress: Array, parameter: float) -> Array:
        """``t^γ`` with p = ln γ."""
        return np.asarray(progress ** np.exp(parameter))


class SincSchedule(FittedSchedule):
    """The positive lobes of ``sin(πx)/(πx)``, highest in the middle of training (GSTDS §4.1); the mean decides their
    width."""

    bracket: ClassVar[tuple[float, float]] = (0.5, 32.0)

    def shape(self, progress: Array, parameter: float) -> Array:
        """``max(sinc(p (2t − 1)), 0)``: the ratio's lower bound replaces the negative lobes."""
        return np.maximum(np.sinc(parameter * (2.0 * progress - 1.0)), 0.0)


class SinusoidSchedule(FittedSchedule):
    """A sinusoid cut off at its lower bound (GSTDS §4.1, "lower-bounded sinusoid"); the mean decides the height of the
    cut."""

    bracket: ClassVar[tuple[float, float]] = (-1.0, 0.999)

    def __init__(self, min: float, max: float, *, mean: float, cycles: float = 3.0) -> None:  # noqa: A002
        super().__init__(min, max, mean=mean)
        if not 0.0 < cycles < float("inf"):
            raise argument_error("cycles", "a positive number of periods", cycles, "The papers' figure shows a few.")
        self.cycles = float(cycles)

    def shape(self, progress: Array, parameter: float) -> Array:
        """``max(−cos(2π · cycles · t) − p, 0)``."""
        return np.maximum(-np.cos(2.0 * np.pi * self.cycles * progress) - parameter, 0.0)


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
        keep_ratio = ConstantSchedule(_checked_ratio("keep_ratio", keep_ratio))
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
    ratios = np.array([_checked_ratio(f"keep_ratio at progress {t:.3g}", keep_ratio(float(t))) for t in progress])
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

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

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["ConstantSchedule", "FittedSchedule", "checked_ratio"]

_GRID = 4097  # points that stand for the continuous horizon when a schedule is called without a run
_NEAR = 0.01  # by no more than this may the mean over few points differ
_EXACT = 3e-15  # of the share between min and max: about what rounding leaves of it


def checked_ratio(name: str, value: float) -> float:
    """``value`` as a float in (0, 1], or one sentence about ``name``."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise argument_error(name, "a number in (0, 1]", repr(value), "Pass a float such as 0.3.")
    ratio = float(value)
    if not 0.0 < ratio <= 1.0:  # also catches NaN
        raise argument_error(name, "in (0, 1]", ratio, "It is the share of candidates that is kept, such as 0.3.")
    return ratio


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """A zero between ``low`` and ``high``, where the function has different signs: the Illinois form of the secant rule
    (Dowell and Jarratt 1971), with a bisection now and then in case the function is not smooth."""
    at_low, at_high = function(low), function(high)
    best = min((abs(at_low), low), (abs(at_high), high))
    moved = 0
    for turn in range(1, 200):
        middle = (low * at_high - high * at_low) / (at_high - at_low) if turn % 6 and at_high != at_low else low
        if not low < middle < high:
            middle = 0.5 * (low + high)
        if best[0] < _EXACT or middle in (low, high):
            break
        value = function(middle)
        best = min(best, (abs(value), middle))
        side = 1 if value * at_low > 0 else -1
        if side > 0:
            low, at_low, at_high = middle, value, at_high * (0.5 if moved == side else 1.0)
        else:
            high, at_high, at_low = middle, value, at_low * (0.5 if moved == side else 1.0)
        moved = side
    return best[1]


class ConstantSchedule:
    """The same keep ratio throughout (SALN). A float given as ``keep_ratio`` means this."""

    def __init__(self, ratio: float) -> None:
        self.ratio = checked_ratio("ratio", ratio)

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
            checked_ratio("min", min),
            checked_ratio("max", max),
            checked_ratio("mean", mean),
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
        values = np.empty(0)

        def excess(parameter: float, points: Array = progress, weights: Array = weights) -> float:
            return float(weights @ self._normalised(points, parameter) / weights.sum()) - target

        # The shape may rise and fall with p, so look for a change of sign on a grid, of few points of a long horizon
        # first, before narrowing it down on all.
        grid = np.linspace(*self.bracket, 257)
        for count in sorted({min(_GRID, len(progress)), len(progress)}):
            some = np.linspace(0, len(progress) - 1, count).astype(np.int64)
            values = np.array([excess(p, progress[some], weights[some]) for p in grid])
            crossings = np.flatnonzero((np.sign(values[:-1]) * np.sign(values[1:])) <= 0)  # NaN compares false
            for left, wider in ((left, wider) for left in crossings for wider in (0, 1)):  # of all may be next to it
                ends = float(grid[max(0, left - wider)]), float(grid[min(len(grid) - 1, left + 1 + wider)])
                if excess(ends[0]) * excess(ends[1]) <= 0:
                    return _root(excess, *ends)
            if not (np.abs(values) < _NEAR).any():
                break  # more points would not change that
        reach = self.min + (values[np.isfinite(values)] + target) * (self.max - self.min)
        span = f"means from {reach.min():.4g} to {reach.max():.4g}" if reach.size else "no mean at all"
        raise argument_error(
            "keep_ratio",
            f"a schedule whose min, max and mean fit the {len(progress)} steps of the run (it allows {span})",
            repr(self),
            "Train for more epochs, move the mean, or pass a constant such as keep_ratio=0.3.",
        )

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

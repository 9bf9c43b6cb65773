"""The published shapes: sigmoid (GSTDS §3.2) and those it is compared with in GSTDS §4.1, and a straight line."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.schedule.fitted import FittedSchedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["GammaSchedule", "LinearSchedule", "SigmoidSchedule", "SincSchedule", "SinusoidSchedule"]


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

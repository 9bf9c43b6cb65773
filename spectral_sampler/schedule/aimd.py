"""Schedules that listen to the training loss: mellow and aggressive AIMD (GSTDS §4.1)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from spectral_sampler.errors import argument_error
from spectral_sampler.schedule.fitted import checked_ratio

__all__ = ["AdaptiveSchedule", "AggressiveAIMD", "MellowAIMD"]


class AdaptiveSchedule:
    """A keep ratio that depends on the losses observed so far, not on progress alone.

    Losses are averaged over windows of ``window`` observations; a subclass gives `step`, which is told the mean of
    every window. Ranks of a distributed run have to hear the same, as `SpectralBatchSampler.observe` sees to.

    Args:
        min, max: bounds of the ratio.
        window: observations to a window; one epoch's worth smooths the noise of single batches.
    """

    def __init__(self, min: float, max: float, *, window: int = 1) -> None:  # noqa: A002
        self.min, self.max = checked_ratio("min", min), checked_ratio("max", max)
        if not self.min < self.max:
            raise argument_error("max", f"above min ({self.min})", self.max, "Use ConstantSchedule for one ratio.")
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise argument_error("window", "a positive integer", repr(window), "1 reacts to every observation.")
        self.window = window
        self.mean = (self.min + self.max) / 2.0
        """What to expect of it, where a subclass knows no better."""
        self._sum, self._count = 0.0, 0
        self._fresh: dict[str, Any] | None = None  # the state at the first `begin`

    def begin(self, steps: int | None) -> None:  # noqa: ARG002 - of a schedule with a horizon
        """Told the number of candidate batches of the run, None where it has no horizon, before the first one. What was
        heard in an earlier run is forgotten, so that one schedule may serve one run after the other."""
        if self._fresh is None:
            self._fresh = self.state_dict()
        self.load_state_dict(self._fresh)

    def ratio(self, step: int) -> float:
        """The keep ratio of candidate batch ``step``, counted over the whole run; it is decided now."""
        raise NotImplementedError

    def peek(self, step: int) -> float:
        """What `ratio` would say, without deciding it; the same where asking decides nothing."""
        return self.ratio(step)

    def step(self, loss: float) -> None:
        """A window of observations with mean ``loss`` has ended."""
        raise NotImplementedError

    def observe(self, loss: float) -> None:
        """One observation of the training loss; one that is not finite counts as a window of its own, for the worse."""
        if not math.isfinite(loss):
            self.step(math.inf)
            return
        self._sum, self._count = self._sum + loss, self._count + 1
        if self._count >= self.window:
            mean, self._sum, self._count = self._sum / self._count, 0.0, 0
            self.step(mean)

    _state: ClassVar[tuple[str, ...]] = ("_sum", "_count")

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and None."""
        return {name: list(value) if isinstance(value := getattr(self, name), list) else value for name in self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name in self._state:
            setattr(self, name, list(state[name]) if isinstance(state[name], list) else state[name])


class MellowAIMD(AdaptiveSchedule):
    """While the loss improves the ratio falls by ``decrease``; when it worsens the ratio is multiplied by ``increase``;
    after ``patience`` worse windows in a row it jumps to ``mean``.

    The paper (§4.1, Fig. 3) gives the rule without numbers; the defaults are ours, the bounds those of its sigmoid.
    "Worsens" means above the window before. Starts at ``mean``.
    """

    _state: ClassVar[tuple[str, ...]] = ("_sum", "_count", "_ratio", "_last", "_worse")

    def __init__(
        self,
        min: float = 0.18,  # noqa: A002
        max: float = 0.88,  # noqa: A002
        *,
        mean: float = 0.30,
        decrease: float = 0.01,
        increase: float = 1.1,
        patience: int | None = 5,
        window: int = 1,
    ) -> None:
        super().__init__(min, max, window=window)
        self.mean = checked_ratio("mean", mean)
        if not self.min <= self.mean <= self.max:
            raise argument_error(
                "mean", f"from min ({self.min}) to max ({self.max})", self.mean, "The ratio starts there."
            )
        if not 0.0 < decrease < 1.0:
            raise argument_error("decrease", "in (0, 1)", decrease, "It is subtracted while the loss improves.")
        if not 1.0 < increase < math.inf:
            raise argument_error("increase", "above 1", increase, "It multiplies the ratio when the loss worsens.")
        if patience is not None and (isinstance(patience, bool) or not isinstance(patience, int) or patience < 1):
            raise argument_error("patience", "a positive integer or None", repr(patience), "None never jumps.")
        self.decrease, self.increase, self.patience = float(decrease), float(increase), patience
        self._ratio, self._worse = self.mean, 0
        self._last: float | None = None

    def ratio(self, step: int) -> float:  # noqa: ARG002 - the signature every adaptive schedule has
        """The current ratio."""
        return self._ratio

    def step(self, loss: float) -> None:
        """One additive or multiplicative move."""
        last, self._last = self._last, loss
        if last is None:
            return
        if loss <= last and math.isfinite(loss):
            self._worse, ratio = 0, self._ratio - self.decrease
        else:
            self._worse, ratio = self._worse + 1, self._ratio * self.increase
            if self.patience is not None and self._worse >= self.patience:
                self._worse, ratio = 0, self.mean
        self._ratio = min(self.max, max(self.min, ratio))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.min}, {self.max}, mean={self.mean}, decrease={self.decrease}, "
            f"increase={self.increase}, window={self.window})"
        )


class AggressiveAIMD(MellowAIMD):
    """As `MellowAIMD`, with larger moves and no jump: sharper, and it oscillates (GSTDS §4.1)."""

    def __init__(
        self,
        min: float = 0.18,  # noqa: A002
        max: float = 0.88,  # noqa: A002
        *,
        mean: float = 0.30,
        decrease: float = 0.05,
        increase: float = 2.0,
        window: int = 1,
    ) -> None:
        super().__init__(min, max, mean=mean, decrease=decrease, increase=increase, patience=None, window=window)

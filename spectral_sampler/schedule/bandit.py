"""BanditSchedule: ours. Keep ratios are arms of a bandit whose reward is the learner's progress for what it cost."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.schedule.aimd import AdaptiveSchedule
from spectral_sampler.schedule.fitted import checked_ratio
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["BanditSchedule"]

_STREAM = 0x41524D
_LEAST = 1e-9  # of the largest decline: noise below it is rounding
_FREE = 1e-6  # of a ridge that only makes the solution one
_OPTIMISM = 1.0  # standard errors: an arm that was hardly tried is not given up
_STEEPEST = 50.0  # logit, and price of a ratio of one


class BanditSchedule(AdaptiveSchedule):
    """A few ratios compete, by how far the training loss falls for what a ratio costs; the second open question of
    GSTDS (arXiv 2507.04269), which proposes reinforcement learning of the ratio and gives no method.

    The horizon is cut into P periods, each with one of K ratios c_a from ``min`` to ``max``, geometrically spaced. ℓ_j
    is the interquartile mean of the losses heard in period j. The loss of *selected* samples depends on the ratio, so
    ℓ_j − ℓ_{j−1} is no progress where the ratio has changed: a level δ_a of every arm is estimated with its
    progress per cost ρ_a, by ridge regression of

        ℓ_{j−1} − ℓ_j = δ_{a_{j−1}} − δ_{a_j} + (k_{a_{j−1}} ρ_{a_{j−1}} + k_{a_j} ρ_{a_j}) / 2,

    k_a = c_a + ``selection_cost``, pairs of periods weighing ``discount`` to the power of their age, ρ shrunk to a
    common value by one pair's worth. A change of arm and back tells a level from progress, which stays.

    An arm's utility u_a is ρ_a and its standard error; with a ``mean``, k_a times that, because what is spent in all is
    fixed then, and what is left to choose is where it does most. Arms are drawn with
    q_a = (1 − ε) softmax(u / s) + ε / K, s the root mean square of the standard errors, so that noise decides nothing.
    With a ``mean`` q is tilted to ``p_a ∝ q_a exp(λ c_a)``, the nearest distribution (in Kullback-Leibler divergence)
    that spends per batch what is left per batch; λ is the price of a sample. The ratio drawn is clipped to what keeps
    the exact mean within reach.

    Exponential weights of upper confidence bounds rather than the largest bound, because progress changes all along a
    training, losses arrive late, and a distribution can be held to a mean; regression rather than EXP3's rewards by
    inverse chances, because those cannot tell an arm's level from its progress. Losses may arrive a few batches late.

    Args:
        min, max: smallest and largest arm.
        mean: over the whole run, exactly; None leaves it to the bandit.
        arms: K.
        periods: P; the bandit decides so often.
        exploration: ε.
        discount: of the evidence, from one period to the next.
        selection_cost: of looking at a candidate, in units of training on a sample: a third where the learner forwards
            all candidates.
        seed: of the draws.
    """

    _state: ClassVar[tuple[str, ...]] = ("_ratios", "_arms", "_levels", "_heard")

    def __init__(
        self,
        min: float = 0.18,  # noqa: A002
        max: float = 0.88,  # noqa: A002
        *,
        mean: float | None = 0.30,
        arms: int = 5,
        periods: int = 64,
        exploration: float = 0.1,
        discount: float = 0.98,
        selection_cost: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(min, max)
        self.arms = whole_number("arms", arms, 2, "Five ratios are a good start.")
        self.periods = whole_number("periods", periods, 2, "Two to five an epoch are enough.")
        self.exploration = within("exploration", exploration, "[0, 1]", "0.1 tries any arm now and then.")
        self.discount = within("discount", discount, "(0, 1]", "1 forgets nothing.")
        self.selection_cost = within("selection_cost", selection_cost, "[0, inf)", "0 where the store is enough.")
        self.seed = whole_number("seed", seed, None, "Use the same one on all ranks.")
        self._choices = np.geomspace(self.min, self.max, self.arms)
        self._exact = None if mean is None else checked_ratio("mean", mean)
        if self._exact is not None and not self.min < self._exact < self.max:
            rule = f"between min ({self.min}) and max ({self.max}), or None"
            raise argument_error("mean", rule, mean, "It is the average keep ratio over the whole training.")
        self.mean = float(self._choices.mean()) if self._exact is None else self._exact
        self._starts: list[int] = []
        self._ratios: list[float] = []
        self._arms: list[int] = []
        self._levels: list[float | None] = []
        self._heard: list[float] = []

    def begin(self, steps: int | None) -> None:
        """Cuts the horizon of ``steps`` candidate batches into periods."""
        if steps is None:
            remedy = "Pass epochs=25, or steps= to an OnlineSelection."
            raise argument_error("epochs", "the number of training epochs with a BanditSchedule", None, remedy)
        super().begin(steps)
        periods = min(self.periods, steps)
        self._starts = [steps * period // periods for period in range(periods + 1)]

    def observe(self, loss: float) -> None:
        """One observation; those that are not finite are left out."""
        if np.isfinite(loss):
            self._heard.append(float(loss))

    def ratio(self, step: int) -> float:
        """The ratio of candidate batch ``step``; a period's is decided when its first batch is asked for."""
        period = self._period(step)
        while len(self._ratios) <= period:
            if self._ratios:
                self._levels.append(_interquartile_mean(self._heard) if self._heard else None)
                self._heard = []
            self._decide()
        return self._ratios[period]

    def peek(self, step: int) -> float:
        """What `ratio` would say now."""
        period = self._period(step)
        return self._ratios[period] if period < len(self._ratios) else copy.deepcopy(self).ratio(step)

    def _period(self, step: int) -> int:
        return min(int(np.searchsorted(self._starts, step, side="right")), len(self._starts) - 1) - 1

    def _decide(self) -> None:
        """Draws the arm of the next period."""
        period, sizes = len(self._ratios), np.diff(self._starts)
        chances = (1.0 - self.exploration) * _softmax(self._logits()) + self.exploration / self.arms
        lowest, highest = self.min, self.max
        if self._exact is not None:
            left = self._exact * self._starts[-1] - float(np.dot(self._ratios, sizes[:period]))
            size, later = int(sizes[period]), int(sizes[period + 1 :].sum())
            chances = _tilted(chances, self._choices, left / (size + later))
            lowest, highest = (left - later * self.max) / size, (left - later * self.min) / size
        draw = draws.uniforms(self.seed, 0, period, np.zeros(1, dtype=np.int64), _STREAM)[0]
        arm = int(np.searchsorted(np.cumsum(chances)[:-1], draw))
        self._arms.append(arm)
        ratio = min(max(float(self._choices[arm]), lowest), highest)
        self._ratios.append(min(max(ratio, self.min), self.max))  # rounding is all that this changes

    def _logits(self) -> Array:
        """(K,) utilities in units of their standard error; zeros before anything is known."""
        known = [pair for pair in pairwise(range(len(self._levels))) if None not in [self._levels[j] for j in pair]]
        if not known:
            return np.zeros(self.arms)
        past, now = np.array(known).T
        levels = np.array([np.nan if level is None else level for level in self._levels])
        arm, costs = np.eye(self.arms)[self._arms], np.array(self._ratios) + self.selection_cost
        spent = (arm[past] * costs[past, None] + arm[now] * costs[now, None]) / 2.0
        declines, weights = levels[past] - levels[now], self.discount ** (len(levels) - 1.0 - now)
        # Columns: levels, deviations of the progress per cost from its common value, and that value.
        rows = np.concatenate([arm[past] - arm[now], spent, spent.sum(axis=1, keepdims=True)], axis=1)
        choices = self._choices + self.selection_cost
        ridge = np.concatenate([np.full(self.arms, _FREE), choices**2, [_FREE]])
        moments = (rows.T * weights) @ rows
        inverse = np.linalg.inv(moments + np.diag(ridge))
        found = inverse @ (rows.T @ (weights * declines))
        free = max(1.0, float(weights.sum() - np.trace(inverse @ moments)))  # degrees of freedom, discounted
        noise = np.sqrt(weights @ (declines - rows @ found) ** 2 / free) + _LEAST * np.abs(declines).max()
        scale = np.ones(self.arms) if self._exact is None else choices
        errors = noise * scale * np.sqrt(np.diag(inverse)[self.arms : -1])
        # The common value times the cost is a matter of price, so deviations from it are all that counts.
        utility, typical = scale * found[self.arms : -1] + _OPTIMISM * errors, float(np.sqrt(np.mean(errors**2)))
        logits = (utility - utility.mean()) / typical if typical > 0 else np.zeros(self.arms)
        return np.asarray(np.clip(logits, -_STEEPEST, _STEEPEST))

    def __repr__(self) -> str:
        return (
            f"BanditSchedule({self.min}, {self.max}, mean={self._exact}, arms={self.arms}, periods={self.periods}, "
            f"exploration={self.exploration}, discount={self.discount}, selection_cost={self.selection_cost}, "
            f"seed={self.seed})"
        )


def _interquartile_mean(values: list[float]) -> float:
    """The mean of what is left of ``values`` without a quarter at either end: one bad batch moves it little."""
    ordered = np.sort(values)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def _tilted(chances: Array, ratios: Array, mean: float) -> Array:
    """``p ∝ chances · exp(λ · ratios)`` with mean ratio ``mean``; the nearest end where that is out of reach."""
    low, high = -_STEEPEST / ratios[0], _STEEPEST / ratios[0]
    with np.errstate(divide="ignore"):
        logs = np.log(chances)
    for _ in range(60):
        price = (low + high) / 2.0
        low, high = (price, high) if _softmax(logs + price * ratios) @ ratios < mean else (low, price)
    return _softmax(logs + (low + high) / 2.0 * ratios)

"""From short trainings, and what was found in the data, to what whole trainings can be expected to show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.experiment.optional import optional
from spectral_sampler.experiment.policies import FULL
from spectral_sampler.experiment.report import by_policy
from spectral_sampler.selection import Uniform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spectral_sampler.experiment.pilot_facts import Facts

__all__ = ["Forecast", "against_full", "against_uniform", "differences"]

# All constants of this file were set on digits and on WordNet's verbs, with all their faults, and on nothing else;
# points of accuracy.
_GAIN_KEPT, _GAIN_SPREAD, _GAIN_ERROR = 0.25, 0.5, 0.3
"""Of a short training's gain over uniform a whole one shows about a quarter; how far off that is, relative and absolute.
"""
_LOSS_BIAS, _LOSS_ERROR = 6.0, 5.0
"""Short trainings are still learning, so that more samples show more: full training's lead is overstated by this."""
_SUSPECTED, _UNEVEN = 0.02, 2.0
"""Share of suspects and imbalance below which there is nothing to select by."""


class Forecast(NamedTuple):
    """A difference of test accuracies in points, and a 95 % interval."""

    points: float
    low: float
    high: float

    def scaled(self, factor: float) -> Forecast:
        """All of it times a factor that is not negative."""
        return Forecast(self.points * factor, self.low * factor, self.high * factor)


def differences(records: Iterable[dict[str, Any]], selection: str, baseline: str, noise: float, classes: int) -> Any:
    """(K,) points by which ``selection`` was ahead, paired by seed.

    Wrong labels hide a part of every difference from judges that share them: of labels of which a share ρ is one of
    the other C − 1 at random, an accuracy of a shows as ``a (1 − ρ) + (1 − a) ρ / (C − 1)``. That is undone.
    """
    runs = by_policy(records)
    hidden = max(0.3, 1.0 - noise * classes / max(classes - 1, 1))
    one, other = runs[selection], runs[baseline]
    return 100.0 * np.array([one[seed]["test_accuracy"] - other[seed]["test_accuracy"] for seed in one]) / hidden


def _standard_error(values: Any) -> float:
    """Of a mean of K values, enlarged so that 1.96 of it is the half-width of a t-interval."""
    quantile = float(optional("scipy.stats").t.ppf(0.975, len(values) - 1))
    return quantile / 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _combined(*guesses: tuple[float, float]) -> Forecast:
    """Means and standard deviations of independent guesses at one number, weighed by precision."""
    weights = [1.0 / max(deviation, 1e-6) ** 2 for _, deviation in guesses]
    mean = sum(weight * guess for weight, (guess, _) in zip(weights, guesses, strict=True)) / sum(weights)
    half = 1.96 / math.sqrt(sum(weights))
    return Forecast(mean, mean - half, mean + half)


def nothing_to_select_by(facts: Facts) -> bool:
    """Hardly a label is suspected, and classes are even."""
    return facts.share < _SUSPECTED and facts.imbalance < _UNEVEN


def against_uniform(short: Any, facts: Facts) -> Forecast:
    """Of the selection's lead over uniform selection, from its lead (K,) in short trainings and from the facts."""
    mean = _GAIN_KEPT * float(np.mean(short))
    deviation = math.hypot(_GAIN_KEPT * _standard_error(short), _GAIN_SPREAD * abs(mean), _GAIN_ERROR)
    if nothing_to_select_by(facts):
        return _combined((mean, deviation), (0.0, 0.5))
    believed = 12.0 * facts.share + 1.5 * math.log(facts.imbalance)
    return _combined((mean, deviation), (believed, 0.7 * believed))


def against_full(short: Any, facts: Facts) -> Forecast:
    """Of the selection's lead over training on everything."""
    seen = (float(np.mean(short)) + _LOSS_BIAS, math.hypot(_standard_error(short), _LOSS_ERROR))
    uneven = math.log(facts.imbalance)
    believed = 25.0 * facts.share - 0.5
    return _combined(seen, (believed, math.hypot(0.7, 0.5 * 25.0 * facts.share, uneven)))

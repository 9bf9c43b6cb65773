"""From short trainings, and what was found in the data, to what whole trainings can be expected to show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.experiment.report import by_policy
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SUSPECTED", "UNEVEN", "Forecast", "against_full", "against_uniform", "differences", "nothing_to_select_by"]

# All constants of this file were set on digits and on WordNet's verbs, with all their faults, and on nothing else.
# They are points of accuracy where they are not shares.
_KEPT, _SPREAD, _ERROR = 0.25, 0.5, 0.3
"""Of a short training's lead over uniform a whole one shows about a quarter, give or take a half of that, and this."""
_LEAST_KEPT = 0.1
"""The least that a whole one keeps of a lead that is clear of zero and comes of wrong labels; a sixth was seen."""
_SKEW = 1.75
"""The upper half of an interval over the lower one: what was underestimated was so by more than what was overestimated.
"""
_CAUGHT_UP, _LOSS_ERROR, _LOSS_SPREAD = 6.0, 6.0, 0.3
"""Short trainings are still learning, so that seeing more samples shows more: a whole one catches up by so much."""
_NOISE_GAIN, _UNEVEN_GAIN, _CLEAN_GAIN = 12.0, 1.5, 0.5
"""Lead over uniform by share of wrong labels and by logarithm of the imbalance; its deviation if there is neither."""
_NOISE_LEAD, _CLEAN_LOSS, _CLEAN_SPREAD, _UNEVEN_SPREAD = 30.0, 0.5, 0.7, 1.2
"""Lead over full training by share of wrong labels; what clean data lose; deviations, the last by that logarithm."""
_BELIEF, _SHARE_ERROR = 0.55, 0.05
"""Deviation of what the share of wrong labels promises, of itself; and of the estimate of that share."""
_QUANTILE = 2.2
"""Of an interval, in deviations: of t with ten degrees of freedom, for the deviations come from twelve pairs."""
SUSPECTED, UNEVEN = 0.02, 2.0
"""Share of wrong labels and imbalance below which there is nothing to select by."""


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
    """Of a mean of K values, scaled so that 2.2 of it is the half-width of a t-interval; infinite for one value."""
    if len(values) < 2:
        return math.inf
    quantile = float(optional("scipy.stats").t.ppf(0.975, len(values) - 1))
    return quantile / _QUANTILE * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _combined(*guesses: tuple[float, float]) -> Forecast:
    """Means and standard deviations of independent guesses at one number, weighed by precision."""
    weights = [1.0 / max(deviation, 1e-6) ** 2 for _, deviation in guesses]
    mean = sum(weight * guess for weight, (guess, _) in zip(weights, guesses, strict=True)) / sum(weights)
    half = _QUANTILE / math.sqrt(sum(weights))
    return Forecast(mean, mean - half, mean + half)


def nothing_to_select_by(facts: dict[str, Any]) -> bool:
    """Hardly a label is suspected, and classes are even."""
    return bool(facts["label_noise"] < SUSPECTED and facts["imbalance"] < UNEVEN)


def against_uniform(short: Any, facts: dict[str, Any]) -> Forecast:
    """Of the selection's lead over uniform selection, from its lead (K,) in short trainings and from the facts."""
    mean, sampling = _KEPT * float(np.mean(short)), _KEPT * _standard_error(short)
    if mean + _QUANTILE * sampling < 0.0:  # what the data promise is no answer to a clear loss
        return _combined((mean, math.hypot(sampling, _SPREAD * mean, _ERROR)))
    if nothing_to_select_by(facts):
        return _combined((mean, math.hypot(sampling, _SPREAD * mean, _ERROR)), (0.0, _CLEAN_GAIN))
    noise, uneven = _NOISE_GAIN * facts["label_noise"], _UNEVEN_GAIN * math.log(facts["imbalance"])
    # How far short trainings get differs most where there is most to learn by; of uneven classes little is known.
    seen = math.hypot(sampling, _SPREAD * mean, _ERROR, 0.4 * noise, uneven)
    believed = math.hypot(_BELIEF * noise, _NOISE_GAIN * _SHARE_ERROR, uneven)
    found = _combined((mean, seen), (noise + uneven, believed))
    low, high = found.low, found.points + _SKEW * (found.high - found.points)
    if facts["label_noise"] >= SUSPECTED:
        # Doubt about how much of a clear lead a whole training keeps is no doubt about its sign.
        surely = _LEAST_KEPT * (float(np.mean(short)) - _QUANTILE * _standard_error(short))
        low = max(low, min(surely, found.points))
    return Forecast(found.points, low, high)


def against_full(short: Any, facts: dict[str, Any]) -> Forecast:
    """Of the selection's lead over training on everything."""
    mean = float(np.mean(short)) + _CAUGHT_UP
    seen = math.hypot(_standard_error(short), _LOSS_ERROR, _LOSS_SPREAD * mean)
    noise, uneven = _NOISE_LEAD * facts["label_noise"], math.log(facts["imbalance"])
    doubt = 0.0 if nothing_to_select_by(facts) else _NOISE_LEAD * _SHARE_ERROR
    believed = math.hypot(_CLEAN_SPREAD, _BELIEF * noise, doubt, _UNEVEN_SPREAD * uneven)
    return _combined((mean, seen), (noise - _CLEAN_LOSS, believed))

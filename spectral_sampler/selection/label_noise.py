"""How many labels are wrong, and which: what the distribution of a held-out model's losses says about it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["LabelNoise", "estimate"]

_CONFIDENT = 0.1  # quantile of the losses that stands for "as certain as this model gets"
_STANDARD_ERRORS = 3.0
_HALVINGS = 50


class LabelNoise(NamedTuple):
    """What the losses say about the labels."""

    informative: bool
    """The model knows more about these labels than a guess; without it the other fields mean nothing."""
    share: float
    """Estimated share of wrong labels, in [0, 1]."""
    guess: float
    """ln C, the loss of a guess among C classes. A sample with a higher loss is a *suspect*."""
    doubt: float
    """Estimated probability that a suspect's label is wrong, in [0, 1]."""


def _mixture(chances: Array, classes: int) -> float:
    """η in [0, 1] that maximises ``Σ ln((1 − η) p_i + η / C)``, which is concave in η: bisection on its slope."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        slope = np.sum((1.0 / classes - chances) / ((1.0 - share) * chances + share / classes))
        low, high = (share, high) if slope > 0 else (low, share)
    return (low + high) / 2


def estimate(losses: NDArray[np.floating], classes: int) -> LabelNoise:
    """Share of wrong labels from the losses (M,) of a model that was trained on other samples.

    Two signs of wrong labels are put together. A model that is *surer than right* gives them next to no probability:
    η is the share of uniform labels in the mixture ``(1 − η) p + η / C`` that makes the losses most likely, p = e^{−r}
    the probability of the sample's own label, and as a uniform label is right once in C times, ``η₁ = η (C − 1) / C``.
    A model that learnt from labels as wrong as these is *never sure*: it reserves ``η₂ = 1 − e^{−q}``, q the loss that
    a tenth of the samples stay below. The share is ``1 − (1 − η₁)(1 − η₂)``.

    Wrong labels are suspects, so of these a part ``share / share of suspects`` is wrong. Where that is more than all of
    them, the model is unsure for another reason, the more so the further above one it is: ``doubt`` is this part or its
    reciprocal, whichever is smaller. A sure model of right labels has η₁ = η₂ = 0: its suspects are hard, not wrong.

    The model is informative if its mean loss is below ``ln C`` by three standard errors. One that is not may still find
    wrong labels, but it chooses the labels that share its own mistakes, and a learner fed on those learns the mistakes.

    The estimator is our own; Arazo et al. (arXiv 1904.11238) tell wrong from right by the distribution of the
    *learner's* losses instead.

    Args:
        losses: (M,) cross-entropies in nats; what is below zero counts as zero.
        classes: C, the classes that occur.
    """
    losses = np.maximum(losses.astype(np.float64), 0.0)
    chances, guess = np.maximum(np.exp(-losses), 1e-300), math.log(classes)
    uniform = _mixture(chances, classes)
    informative = guess - losses.mean() > _STANDARD_ERRORS * losses.std() / math.sqrt(len(losses))
    wrong = uniform * (classes - 1) / classes  # a uniform label is right once in C times
    share = 1.0 - (1.0 - wrong) * math.exp(-float(np.quantile(losses, _CONFIDENT)))
    suspects = float(np.mean(losses > guess))
    smaller, larger = sorted((share, suspects))
    return LabelNoise(bool(informative), share, guess, smaller / larger if larger else 0.0)

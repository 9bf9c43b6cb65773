"""A data set whose choice is known: a few samples that every selection by loss or by learner must keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler import ReferenceStore
from spectral_sampler.experiment.policies import POLICIES
from spectral_sampler.selection import BayesianSelection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.selection import Selection

_EVERY = 16  # one row in as many is planted: 8 of 128 candidates, fewer than any budget here
_SURE = 20.0  # logit, and so about the loss in nats, of a learner that has made up its mind
_EMBEDDED = 128

CHOSEN_BY_LOSS = frozenset({
    *("loss-weighted", "gstds", "rho-loss", "jest", "jest-joint", "bayesian", "gradient-norm"),
    *("divbs", "el2n", "plausible-learnable", "plausible-learnable-fresh"),
})  # fmt: skip
"""Names in `POLICIES` of the selections that keep every planted candidate."""


class Planted(NamedTuple):
    """The learner is sure and right, but sure and wrong on the planted rows, where the reference has no loss at all."""

    store: ReferenceStore
    """Labels drawn at random: the features do not contradict them."""
    marks: NDArray[np.bool_]
    """(M,) the planted rows."""
    logits: NDArray[np.float32]
    """(M, C) the learner's."""
    embeddings: NDArray[np.float32]
    """(M, h) inputs of the learner's last layer."""

    def learner_losses(self) -> NDArray[np.float64]:
        """(M,)."""
        return np.where(self.marks, _SURE, 0.0)

    def policy(self, name: str) -> Selection:
        """The selection by its name; the Bayesian one with a zero-shot predictor that is sure and right."""
        if name != BayesianSelection.name:
            return POLICIES[name]()
        labels = self.store.labels
        assert labels is not None
        return BayesianSelection(_SURE * np.eye(self.logits.shape[1], dtype=np.float32)[labels])


def plant(features: NDArray[np.floating], classes: int) -> Planted:
    """Around features (M, d)."""
    generator = np.random.default_rng(0)
    rows = np.arange(len(features))
    marks, labels = rows % _EVERY == 0, generator.integers(classes, size=len(rows))
    logits = generator.standard_normal((len(rows), classes), dtype=np.float32)
    logits[rows, np.where(marks, (labels + 1) % classes, labels)] += _SURE
    losses = np.where(marks, 0.0, generator.uniform(0.5, 1.5, size=len(rows)))
    embeddings = generator.standard_normal((len(rows), _EMBEDDED), dtype=np.float32)
    return Planted(ReferenceStore.from_arrays(features, losses, labels), marks, logits, embeddings)

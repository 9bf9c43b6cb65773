"""PlausibleLearnable: `PlausibleEven` with a preference for what the learner has yet to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.selection.needs import required
from spectral_sampler.selection.plausible_even import PlausibleEven
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.selection.protocol import CandidateBatch

__all__ = ["PlausibleLearnable"]


class PlausibleLearnable(PlausibleEven):
    """As `PlausibleEven`, but with

        w_i = exp((l_i − r_i) / T) · (n_max / n_{y_i})^b,

    l the learner's last observed loss and r the reference loss: the learnability of RHO-LOSS (arXiv 2206.07137) in the
    draw of JEST (arXiv 2406.17711) with ``joint=False``. Call ``sampler.observe(indices, losses)`` after every step.

    A candidate whose learner loss is unknown, because it was never observed or too long ago, counts as one of mean
    learnability, neither sought nor avoided; one that is not sought waits longer for its turn the smaller T is.

    Args:
        temperature: T; large values approach `PlausibleEven`, small ones rank.
        balance, label_noise: of `PlausibleEven`.
    """

    name = "plausible-learnable"
    needs = frozenset({"features", "labels", "losses", "learner_losses"})

    def __init__(self, temperature: float = 0.25, *, balance: float = 1.0, label_noise: float | None = None) -> None:
        super().__init__(balance=balance, label_noise=label_noise)
        self.temperature = within("temperature", temperature, "(0, inf)", "It divides the learnability, in nats.")

    def _preference(self, batch: CandidateBatch, plausible: NDArray[np.bool_]) -> NDArray[np.float64]:
        learnability = required(batch, "learner_losses") - required(batch, "losses")
        known = np.isfinite(learnability)
        sample = learnability[known & plausible]
        typical = sample.mean() if len(sample) else 0.0
        return np.asarray(np.where(known, learnability, typical) / self.temperature)

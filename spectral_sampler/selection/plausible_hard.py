"""PlausibleHard: `PlausibleEven` with a preference for what the reference finds hard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.selection.needs import within
from spectral_sampler.selection.plausible_even import PlausibleEven

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PlausibleHard"]


class PlausibleHard(PlausibleEven):
    """As `PlausibleEven`, but with probability proportional to

        w_i = (1 − e^{−r_i} + a) · (n_max / n_{y_i})^b,

    r the reference loss. ``1 − e^{−r}`` is the probability that the reference gives to other labels than the sample's:
    it rises with the loss but never above 1, so no single sample is drawn for its loss alone.

    The weights are our own; docs/results.md shows where they help and where they cost.

    Args:
        floor: a, the weight of what the reference is sure of, in (0, inf): large values approach `PlausibleEven`.
        balance, tolerance: of `PlausibleEven`.
    """

    name = "plausible-hard"

    def __init__(self, floor: float = 0.5, *, balance: float = 1.0, tolerance: float = 0.5) -> None:
        super().__init__(balance=balance, tolerance=tolerance)
        self.floor = within("floor", floor, "(0, inf)", "It is the weight of what is known; the default is 0.5.")

    def _hardness(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(self.floor - np.expm1(-np.maximum(losses, 0.0)))

    def __repr__(self) -> str:
        return f"PlausibleHard(floor={self.floor}, balance={self.balance}, tolerance={self.tolerance})"

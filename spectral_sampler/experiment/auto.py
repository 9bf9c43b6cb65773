"""``auto``: what the pilot says of these data, trained and judged as a policy of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from spectral_sampler.experiment.policy import Decision

if TYPE_CHECKING:
    from spectral_sampler.experiment.policy import Material

__all__ = ["piloted"]

_ORDINARY = "small"


def piloted(material: Material) -> Decision:
    """The selection that a pilot on these training rows recommends, unless it says no: then ordinary training on as
    many samples.

    Of its proposal the selection alone is taken. The keep ratio stays that of the comparison, so that all policies see
    equally many samples; a no to this ratio (everything is better) is a no to selecting. What the pilot costs is
    charged beside the reference.
    """
    from spectral_sampler.experiment.piloting import recommend  # which tries policies, and so imports them

    started = time.perf_counter()
    found = recommend(material.settings, material.task, material.seed, material.cache)
    flops = found.pop("flops")
    chosen = _ORDINARY if found["verdict"] == "no" else found["recommended"]
    return Decision(chosen, flops, time.perf_counter() - started, {"pilot_flops": flops, "pilot": found})

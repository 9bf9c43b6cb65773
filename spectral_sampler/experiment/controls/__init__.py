"""The simple means that a selection has to beat at equal samples, and the ceiling."""

from spectral_sampler.experiment.controls.cleaning import confidently_wrong, suspected, truly_wrong
from spectral_sampler.experiment.controls.held_out import with_held_out
from spectral_sampler.experiment.controls.ordinary import balanced, small
from spectral_sampler.experiment.controls.probe import linear_probe, out_of_sample

__all__ = [
    "balanced", "confidently_wrong", "linear_probe", "out_of_sample", "small", "suspected", "truly_wrong",
    "with_held_out",
]  # fmt: skip

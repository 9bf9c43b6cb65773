"""Does selection pay on these data? A pilot trains for short stretches, looks at the data, and concludes."""

from spectral_sampler.experiment.piloting.conduct import pilot, recommend
from spectral_sampler.experiment.piloting.plan import Plan
from spectral_sampler.experiment.piloting.summary import summary

__all__ = ["Plan", "pilot", "recommend", "summary"]

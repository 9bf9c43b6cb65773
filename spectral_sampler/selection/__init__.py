"""Selections: one paper per file behind the protocol of `spectral_sampler.selection.protocol`."""

from spectral_sampler.selection.gstds import GSTDS
from spectral_sampler.selection.loss_weighted import LossWeighted
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.saln import SALN
from spectral_sampler.selection.uniform import Uniform

__all__ = ["GSTDS", "KINDS", "SALN", "CandidateBatch", "Choice", "LossWeighted", "Scores", "Selection", "Uniform"]

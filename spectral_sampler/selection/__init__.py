"""Selections: one paper per file behind the protocol of `spectral_sampler.selection.protocol`."""

from spectral_sampler.selection.bayesian import BayesianSelection
from spectral_sampler.selection.gradient_norm import GradientNorm
from spectral_sampler.selection.gstds import GSTDS
from spectral_sampler.selection.infobatch import InfoBatch
from spectral_sampler.selection.jest import JEST
from spectral_sampler.selection.loss_weighted import LossWeighted
from spectral_sampler.selection.online import OnlineSelection
from spectral_sampler.selection.plausible_even import PlausibleEven, PlausibleLearnable
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.rho_loss import RHOLoss
from spectral_sampler.selection.saln import SALN
from spectral_sampler.selection.sensitivity import SensitivitySampling
from spectral_sampler.selection.strata import SpectralStrata
from spectral_sampler.selection.uniform import Uniform

__all__ = [
    "GSTDS",
    "JEST",
    "KINDS",
    "SALN",
    "BayesianSelection",
    "CandidateBatch",
    "Choice",
    "GradientNorm",
    "InfoBatch",
]
__all__ += ["LossWeighted", "OnlineSelection", "PlausibleEven", "PlausibleLearnable", "RHOLoss", "Scores", "Selection"]
__all__ += ["SensitivitySampling", "SpectralStrata", "Uniform"]

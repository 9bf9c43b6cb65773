"""Selections: one paper per file behind the protocol of `spectral_sampler.selection.protocol`."""

from spectral_sampler.selection.bayesian import BayesianSelection
from spectral_sampler.selection.chain import Chain
from spectral_sampler.selection.divbs import DivBS
from spectral_sampler.selection.el2n import EL2N
from spectral_sampler.selection.forgetting import Forgetting
from spectral_sampler.selection.gradient_norm import GradientNorm
from spectral_sampler.selection.gstds import GSTDS
from spectral_sampler.selection.guarded import Guarded
from spectral_sampler.selection.herding import Herding
from spectral_sampler.selection.infobatch import InfoBatch
from spectral_sampler.selection.jest import JEST
from spectral_sampler.selection.k_centre import KCentre
from spectral_sampler.selection.leverage import Leverage
from spectral_sampler.selection.loss_weighted import LossWeighted
from spectral_sampler.selection.mix import Mix
from spectral_sampler.selection.online import OnlineSelection
from spectral_sampler.selection.plausible_even import PlausibleEven, PlausibleLearnable
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.rho_loss import RHOLoss
from spectral_sampler.selection.saln import SALN
from spectral_sampler.selection.sensitivity import SensitivitySampling
from spectral_sampler.selection.seta import SeTa
from spectral_sampler.selection.strata import SpectralStrata
from spectral_sampler.selection.uds import UDS
from spectral_sampler.selection.uniform import Uniform

__all__ = [
    "EL2N",
    "GSTDS",
    "JEST",
    "KINDS",
    "SALN",
    "UDS",
    "BayesianSelection",
    "CandidateBatch",
    "Chain",
    "Choice",
    "DivBS",
    "Forgetting",
    "GradientNorm",
    "Guarded",
    "Herding",
    "InfoBatch",
    "KCentre",
    "Leverage",
]
__all__ += ["LossWeighted", "OnlineSelection", "PlausibleEven", "PlausibleLearnable", "RHOLoss", "Scores", "SeTa"]
__all__ += ["LossWeighted", "Mix", "OnlineSelection", "PlausibleEven", "PlausibleLearnable", "RHOLoss", "Scores"]
__all__ += ["Selection", "SensitivitySampling", "SpectralStrata", "Uniform"]

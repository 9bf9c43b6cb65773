"""Is a selection worth it? Policies compared by training the same learner, beside the controls this needs."""

from spectral_sampler.experiment.cell import Cell, Places, run_cell
from spectral_sampler.experiment.piloting import pilot
from spectral_sampler.experiment.policies import CONTROLS, DEFAULT, POLICIES, register
from spectral_sampler.experiment.policy import Policy
from spectral_sampler.experiment.report import rows, table, verdict
from spectral_sampler.experiment.runner import Comparison, compare
from spectral_sampler.experiment.settings import Settings

__all__ = [
    "CONTROLS",
    "DEFAULT",
    "POLICIES",
    "Cell",
    "Comparison",
    "Places",
    "Policy",
    "Settings",
    "compare",
    "pilot",
    "register",
    "rows",
    "run_cell",
    "table",
    "verdict",
]

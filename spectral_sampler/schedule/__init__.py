"""Schedules: how much of a candidate batch to keep, as a function of training progress."""

from spectral_sampler.schedule.aimd import AdaptiveSchedule, AggressiveAIMD, MellowAIMD
from spectral_sampler.schedule.bandit import BanditSchedule
from spectral_sampler.schedule.fitted import ConstantSchedule, FittedSchedule
from spectral_sampler.schedule.plan import RATIO_GROUPS, Ratios, plan_ratios
from spectral_sampler.schedule.plateau import PlateauSchedule
from spectral_sampler.schedule.shapes import (
    GammaSchedule,
    LinearSchedule,
    SigmoidSchedule,
    SincSchedule,
    SinusoidSchedule,
)

__all__ = [
    "RATIO_GROUPS",
    "AdaptiveSchedule",
    "AggressiveAIMD",
    "BanditSchedule",
    "ConstantSchedule",
    "FittedSchedule",
    "GammaSchedule",
    "LinearSchedule",
    "MellowAIMD",
    "PlateauSchedule",
    "Ratios",
    "SigmoidSchedule",
    "SincSchedule",
    "SinusoidSchedule",
    "plan_ratios",
]

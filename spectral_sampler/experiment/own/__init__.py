"""Anybody's data: pictures in folders, arrays, tables, texts, and whatever a function returns, as one task."""

from spectral_sampler.experiment.own.imported import called_without_arguments, is_function_name, look_here
from spectral_sampler.experiment.own.raw import DEFAULT_LABEL, Options, Raw
from spectral_sampler.experiment.own.reading import read, resolved, unusable_options
from spectral_sampler.experiment.own.task import SMALL_PICTURE, Cut, picture_size, task_of
from spectral_sampler.experiment.own.words import VOCABULARY

__all__ = [
    "DEFAULT_LABEL",
    "SMALL_PICTURE",
    "VOCABULARY",
    "Cut",
    "Options",
    "Raw",
    "called_without_arguments",
    "is_function_name",
    "look_here",
    "picture_size",
    "read",
    "resolved",
    "task_of",
    "unusable_options",
]

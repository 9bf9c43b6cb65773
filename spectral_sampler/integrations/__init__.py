"""Thin pieces for the frameworks in which a few lines of the loop are not enough. Each imports its framework lazily.

``integrations.accelerate.EpochLoader``, ``integrations.lightning.SelectionCallback``,
``integrations.transformers.SelectionMixin``, and `log_statistics` for whatever logs.
"""

from spectral_sampler.integrations.logs import log_statistics

__all__ = ["log_statistics"]

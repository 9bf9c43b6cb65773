"""The batch sampler: candidate order, budgets, look-ahead, state. Knows no eigenvalue."""

from spectral_sampler.sampler.batch_sampler import SpectralBatchSampler

__all__ = ["SpectralBatchSampler"]

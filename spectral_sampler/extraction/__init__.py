"""A frozen reference model over a data set: features, losses and labels for a store, and ready-made references."""

from spectral_sampler.extraction.extract import extract
from spectral_sampler.extraction.forward import Encoder

__all__ = ["Encoder", "extract"]

"""The command ``spectral-sampler``: a module a command, and what they share."""

from spectral_sampler.cli.program import main

__all__ = ["main"]

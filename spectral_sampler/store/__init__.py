"""Reference features, losses and labels: checked when they come in, crash-safe on disk, memory-mapped when read."""

from spectral_sampler.store.reference_store import ReferenceStore

__all__ = ["ReferenceStore"]

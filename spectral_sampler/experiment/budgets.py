"""How many samples curated policies train on, known before any training: what the controls are given, too."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.selection import Uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.settings import Settings

__all__ = ["budgets", "candidate_batches", "even_sizes"]


def candidate_batches(settings: Settings, rows: int) -> int:
    """Candidate batches in an epoch; the incomplete one is dropped."""
    return rows // settings.candidate_batch_size


@functools.lru_cache(maxsize=8)
def budgets(settings: Settings, rows: int) -> NDArray[np.int64]:
    """Samples kept from every candidate batch of the training, (epochs · batches,), read-only."""
    sampler = SpectralBatchSampler(
        np.ones((rows, 1)), settings.candidate_batch_size, epochs=settings.epochs,
        keep_ratio=settings.planned_ratio(), selection=Uniform(),
    )  # fmt: skip
    places = itertools.product(range(settings.epochs), range(candidate_batches(settings, rows)))
    found = np.array([len(sampler.selection_at(*place)[1].positions) for place in places])
    found.setflags(write=False)
    return found


def even_sizes(total: int, steps: int) -> NDArray[np.int64]:
    """(steps,) batch sizes whose sum is ``total`` and which differ by one at most, the larger ones spread evenly."""
    return np.diff(np.arange(steps + 1) * total // max(steps, 1))

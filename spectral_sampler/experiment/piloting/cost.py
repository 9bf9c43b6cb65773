"""Seconds of whole trainings, from those of short ones: what a pilot says selection costs and saves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.experiment.cell import candidate_batches
from spectral_sampler.experiment.policies import FULL
from spectral_sampler.selection import Uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectral_sampler.experiment.piloting.pool import Pool
    from spectral_sampler.experiment.settings import Settings

__all__ = ["Cost"]


class Cost(NamedTuple):
    """Seconds on this machine, as busy as it was."""

    extraction: float
    """The reference of all training rows, once."""
    judging: float
    """Looking for wrong labels among all training rows, once."""
    step: float
    sample: float
    """Of training: what a step costs, and every sample in it."""
    candidate: float
    """Selecting, for every candidate."""
    steps: int
    """Of the whole training."""
    candidates: int
    """In all of its steps."""

    @classmethod
    def of(
        cls, settings: Settings, pool: Pool, records: Sequence[dict[str, Any]], extraction: float, judging: float
    ) -> Cost:
        """From what a pool of rows and short trainings took; costs grow with rows, steps, samples and candidates."""
        scale = pool.rows_in_all / len(pool.rows)
        training = [record["seconds"]["training"] + record["seconds"]["data"] for record in records]
        sizes = np.array([[record["steps"], record["samples"]] for record in records], dtype=np.float64)
        # Medians by policy: one training that the machine was busy beside must not decide.
        rates = {
            whole: np.median([
                took / steps
                for record, took, (steps, _) in zip(records, training, sizes, strict=True)
                if (record["policy"] == FULL) == whole
            ])
            for whole in (True, False)
        }  # fmt: skip
        batch = {
            whole: float(np.mean([record["samples"] / record["steps"] for record in records
                                  if (record["policy"] == FULL) == whole]))
            for whole in (True, False)
        }  # fmt: skip
        sample = max(0.0, float(rates[True] - rates[False]) / (batch[True] - batch[False]))
        selecting = [
            record["seconds"]["selection"] / (record["steps"] * record["candidate_batch_size"])
            for record in records
            if record["policy"] not in {FULL, Uniform.name}
        ]
        steps = settings.epochs * candidate_batches(settings, pool.rows_in_all)
        return cls(
            extraction * scale, judging * scale, max(0.0, float(rates[False]) - sample * batch[False]), sample,
            float(np.median(selecting)), steps, steps * settings.candidate_batch_size,
        )  # fmt: skip

    @classmethod
    def of_samples(cls, settings: Settings, rows: int) -> Cost:
        """Nothing costs anything but training on a sample, which takes one: where no clock may decide."""
        steps = settings.epochs * candidate_batches(settings, rows)
        return cls(0.0, 0.0, 0.0, 1.0, 0.0, steps, steps * settings.candidate_batch_size)

    def seconds(self, keep_ratio: float, against_ratio: float) -> dict[str, float]:
        """Of a training that selects ``keep_ratio``, and the total of one that keeps ``against_ratio`` at random."""
        training, against = (
            self.step * self.steps + self.sample * ratio * self.candidates for ratio in (keep_ratio, against_ratio)
        )
        selection = self.judging + self.candidate * self.candidates
        parts = {"extraction": self.extraction, "selection": selection, "training": training}
        total = {"total": sum(parts.values()), "against_total": against}
        return {name: round(value, 3) for name, value in {**parts, **total}.items()}

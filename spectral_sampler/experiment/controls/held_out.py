"""The rows that were set aside for the reference, trained on instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.corruption import Corrupted, corrupt_held_out

if TYPE_CHECKING:
    from spectral_sampler.experiment.policy import Material

__all__ = ["with_held_out"]


def with_held_out(material: Material) -> Material:
    """The M training rows, then the H held-out rows with the labels that a reference would be trained on.

    Budgets stay those of the M rows, and so do the rows of the reference. Which held-out labels are wrong by nature
    nobody knows; they count as right.

    Raises:
        ArgumentError: no row is held out.
    """
    task, settings, before = material.task, material.settings, material.corrupted
    held_out, known = task.held_out, task.known
    if not len(held_out):
        rule, remedy = "one trained on held-out rows, for all-labelled", "Leave it out: it would be small."
        raise argument_error("reference", rule, repr(settings.reference), remedy)
    seen = corrupt_held_out(held_out.labels, settings.corruption, len(task.classes), material.seed, known)
    told, truth = (
        (seen, held_out.labels) if known.origins is None else (known.origins[seen], known.origins[held_out.labels])
    )
    corrupted = Corrupted(
        np.append(before.rows, len(task.train) + np.arange(len(held_out))),
        np.append(before.labels, seen),
        np.append(before.wrong, told != truth),
        before.facts,
    )
    train = material.train.joined(held_out.subset(np.arange(len(held_out)), seen))
    return material._replace(train=train, corrupted=corrupted)

"""Ordinary training without a selection, at the samples and steps of one: shuffled passes, plain and class-balanced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_sampler.class_balanced import balanced_order, passes
from spectral_sampler.experiment.budgets import even_sizes
from spectral_sampler.experiment.shuffles import Listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral_sampler.experiment.policy import Material, Policy

__all__ = ["balanced", "small"]


def small(policy: Policy, material: Material, rows: NDArray[np.int64]) -> Listed:  # noqa: ARG001 - the form of batches
    """Every one of ``rows`` (n,) once a pass, in batches of the mean budget.

    A pass ends where it ends, in the middle of an epoch or batch, and the next shuffle goes on: over the training all
    rows are shown equally often to within one. A batch on such an edge may hold a row of either pass twice.
    """
    return _listed(material, rows[passes(material.seed, len(rows), 0, int(material.budgets.sum()))])


def balanced(policy: Policy, material: Material, rows: NDArray[np.int64]) -> Listed:  # noqa: ARG001
    """`small`, with every class that is there shown equally often to within one, by the labels that are seen."""
    labels = material.train.labels[rows]
    return _listed(material, balanced_order(material.seed, rows, labels, 0, int(material.budgets.sum())))


def _listed(material: Material, order: NDArray[np.int64]) -> Listed:
    return Listed(order, even_sizes(len(order), len(material.budgets)), material.settings.epochs)

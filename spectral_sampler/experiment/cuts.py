"""Which rows train, and which are kept from training: every class in its proportion, the same for every seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cut_rows", "stratified"]


def stratified(labels: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """``size`` rows, ascending, with every class in its proportion of ``labels`` (M,) to within one row."""
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # shuffled inside each class
    counts = np.bincount(labels)
    within = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    quantile = (within + 0.5) / counts[labels[order]]
    return np.sort(order[np.argsort(quantile, kind="stable")[:size]])


def cut_rows(labels: NDArray[np.int64], train: int, held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Disjoint training and held-out rows; the held-out ones do not depend on how many are trained on."""
    if not 0 < train <= len(labels) - held_out:
        raise argument_error(
            "train-size",
            f"from 1 to {len(labels) - held_out}",
            train,
            f"{held_out} of the {len(labels)} rows train the reference.",
        )
    generator = np.random.default_rng(20250707)  # the split belongs to the data set: the same for every seed
    reference = stratified(labels, held_out, generator)
    rest = np.setdiff1d(np.arange(len(labels)), reference)
    return rest[stratified(labels[rest], train, generator)], reference

"""Rows of features a block at a time, whatever holds them: an array, a mapped file, the parts of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["blocks", "read"]


def blocks(places: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """``places`` (n,) in their order, at most ``size`` at a time."""
    return (places[start : start + size] for start in range(0, len(places), max(1, size)))


def read(features: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """(n, d) a copy of the ``rows`` (n,); ascending ones that lie close together are read in one piece."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first > 2 * len(rows) or np.any(np.diff(rows) <= 0):
        return np.array(features[rows], order="C")
    piece = np.asarray(features[first:last])
    return np.array(piece if last - first == len(rows) else piece[rows - first], order="C")

"""Rows read from a file that cannot be mapped, where a process may not have as much address space (``ulimit -v``)."""

from __future__ import annotations

import itertools
import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Unmapped"]


class Unmapped:
    """Rows (M, d) of one file: as much of an array as reading rows, and checking all bytes, takes.

    Holds the file open, so that whoever replaces it leaves these rows alone, as with a mapping.
    """

    def __init__(self, path: Path, descriptor: int, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> None:
        self._path, self._offset = path, offset
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        self.dtype, self.shape = dtype, shape
        self.strides = (shape[1] * dtype.itemsize, dtype.itemsize)
        self.nbytes = shape[0] * self.strides[0]

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: NDArray[np.int64], axis: int = 0) -> NDArray[Any]:
        """Rows (n,) as a new array (n, d); what is side by side is read at once."""
        del axis
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for first, last in itertools.pairwise(cuts):
            if first < last:
                self._read(int(rows[first]) * self.strides[0], found[first:last].reshape(-1).view(np.uint8))
        return found

    def chunks(self, size: int) -> Iterator[memoryview]:
        """All data in pieces of ``size`` bytes."""
        for start in range(0, self.nbytes, size):
            piece = np.empty(min(size, self.nbytes - start), np.uint8)
            self._read(start, piece)
            yield piece.data

    def _read(self, start: int, into: NDArray[np.uint8]) -> None:
        done = 0
        while done < len(into):  # a call reads two gigabytes at most
            got = os.preadv(self._descriptor, [into[done:].data], self._offset + start + done)
            if not got:
                raise StoreError(f"{self._path} ends before row {start // self.strides[0]}: it was truncated.")
            done += got

"""Features that are not one array of floats (several parts, few bits a number), read by index as if they were."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.store import paging
from spectral_sampler.store.quantised import restore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = ["Part", "Rows", "refuse_beyond_memory"]

_BLOCK_BYTES = 8 << 20
_TOUCHED = 1 << 17  # rows, each a page of 4 KiB, after which mapped pages are let go
_DENSE = 4  # times as many rows between the first and the last: read them all
_SHARE = 0.5  # of this machine's memory: more is refused where somebody asks for all rows at once


@dataclass(frozen=True)
class Part:
    """Features (m, d) as they lie in memory or in a file."""

    stored: Any
    """(m, d), an array or `Unmapped` rows, of float16, float32, int8, or uint16 for the bits of bfloat16."""
    scales: NDArray[np.float32] | None = None
    """(m,) of int8: a row is its scale times its numbers."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 where that is stored, else float32: what reading gives."""
        return np.dtype("float16" if self.stored.dtype == np.float16 else "float32")

    @property
    def name(self) -> str:
        """The dtype that is stored, "bfloat16" included."""
        return "bfloat16" if self.stored.dtype == np.uint16 else self.stored.dtype.name

    @property
    def nbytes(self) -> int:
        """Bytes that are stored."""
        return int(self.stored.nbytes) + (0 if self.scales is None else self.scales.nbytes)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows (n,) of this part as floats (n, d)."""
        if len(rows) > 1 and (last := int(rows.max())) - (first := int(rows.min())) < _DENSE * len(rows):
            paging.soon(self.stored, first, last)
        return restore(self.stored.take(rows, axis=0), None if self.scales is None else self.scales.take(rows))


class Rows:
    """Features (M, d) of one or more parts, one below the other; what is read is copied and nothing else is held.

    Indexed as an array is, by the first axis: numbers, slices, masks, arrays of numbers of any shape.
    ``np.asarray`` of it reads all; that, as a slice, is refused where it takes more than half of this machine's memory.
    """

    ndim = 2

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._starts = np.cumsum([0, *(len(part.stored) for part in self.parts)])
        self.shape = (int(self._starts[-1]), int(self.parts[0].stored.shape[1]))
        self.dtype = np.result_type(*(part.dtype for part in self.parts))
        self._touched = 0
        for part in self.parts:
            paging.at_random(part.stored)  # not the scales, few beside wide rows: read ahead, they are soon all there

    @property
    def nbytes(self) -> int:
        """Bytes that are stored."""
        return sum(part.nbytes for part in self.parts)

    @property
    def stored(self) -> str:
        """The dtype that is stored; several where parts differ."""
        return ", ".join(dict.fromkeys(part.name for part in self.parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if isinstance(key, slice):
            chosen = range(*key.indices(len(self)))
            self._refuse_beyond_memory(len(chosen), self.dtype)
            return self.take(np.arange(chosen.start, chosen.stop, chosen.step, dtype=np.int64))
        rows = np.asarray(key)
        if rows.dtype == np.bool_:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of shape {rows.shape} does not fit {len(self)} rows")
            rows = np.flatnonzero(rows)
        if isinstance(key, tuple) or (rows.size and rows.dtype.kind not in "iu"):
            raise IndexError("features of parts are indexed by rows: read the rows, then take columns of them")
        rows = rows.astype(np.int64)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return self.take(np.where(rows < 0, rows + len(self), rows).reshape(-1)).reshape(*rows.shape, self.shape[1])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows (n,), between 0 and M − 1, as a new array (n, d): ascending within each part, as a disk likes it."""
        self._touched += len(rows)
        if self._touched > _TOUCHED:
            self._touched = 0
            for part in self.parts:
                paging.release(part.stored)
        if len(self.parts) == 1:
            return self.parts[0].take(rows)
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        order = np.argsort(rows)
        ends = np.searchsorted(rows, self._starts, sorter=order)
        for number in np.flatnonzero(np.diff(ends)):
            places = order[ends[number] : ends[number + 1]]
            found[places] = self.parts[number].take(rows[places] - self._starts[number])
        return found

    def astype(self, dtype: DTypeLike) -> NDArray[Any]:
        """All rows as one array, as ``np.asarray(rows, dtype)``."""
        return np.asarray(self, dtype=dtype)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("features of parts become one array by a copy only")
        target = self.dtype if dtype is None else np.dtype(dtype)
        self._refuse_beyond_memory(len(self), target)
        found = np.empty(self.shape, target)
        step = max(1, _BLOCK_BYTES // (self.shape[1] * target.itemsize))
        for start in range(0, len(self), step):
            found[start : start + step] = self[start : start + step]
        return found

    def _refuse_beyond_memory(self, rows: int, dtype: np.dtype[Any]) -> None:
        width = self.shape[1]
        refuse_beyond_memory(f"{rows:,} x {width} {dtype.name}", rows * width * dtype.itemsize)


def refuse_beyond_memory(what: str, needed: int) -> None:
    """ArgumentError where ``what`` would take more than half of this machine's memory."""
    memory = _memory()
    if needed > _SHARE * memory:
        raise argument_error(
            "store", f"small enough to be held in memory at once, in half of {memory:,} bytes",
            f"{what}, {needed:,} bytes", "Take a selection that reads it by rows, or give a store of fewer rows.",
        )  # fmt: skip


def _memory() -> int:
    """Bytes of this machine, or more than any store where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62

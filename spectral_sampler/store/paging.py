"""Which pages of a mapped file are read, and which stay: for rows anywhere in files larger than memory.

Linux reads ahead around every page that is missing, megabytes on some disks, for a row of a hundred bytes; and every
page that was touched counts as resident until somebody else needs it. Where a system knows no such advice, nothing is
done.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["at_random", "mapping", "release", "soon"]


def mapping(array: Any) -> mmap.mmap | None:
    """The file's mapping that an array is a view of, if it is one."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "obj", None) if isinstance(array, memoryview) else getattr(array, "base", None)
    return array


def _advise(array: NDArray[Any], advice: str, start: int = 0, length: int | None = None) -> None:
    mapped = mapping(array)
    option = getattr(mmap, advice, None)
    if mapped is not None and option is not None:
        start -= start % mmap.PAGESIZE
        mapped.madvise(option, start, len(mapped) - start if length is None else min(length, len(mapped) - start))


def at_random(array: NDArray[Any]) -> None:
    """No reading ahead any more."""
    _advise(array, "MADV_RANDOM")


def soon(array: NDArray[Any], first: int, last: int) -> None:
    """Rows ``first`` to ``last`` are about to be read, in this order: now read ahead."""
    width = array.strides[0]
    _advise(array, "MADV_WILLNEED", first * width, (last + 1 - first) * width + mmap.PAGESIZE)


def release(array: NDArray[Any]) -> None:
    """Its pages are nobody's, until they are read again: mapped copy-on-write and never written, they lose nothing."""
    _advise(array, "MADV_DONTNEED")

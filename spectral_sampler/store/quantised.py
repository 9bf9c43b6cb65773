"""Features in few bits: int8 with one float32 scale a row, and bfloat16 as the upper half of a float32.

A row x is stored as q = round(x / s) with s = max|x| / 127, and read as s q. A scale a row, not a column: cosines do
not see it, no row clips or vanishes whatever the others hold, and parts of a store that are written apart need not
agree on it. The angle between a row and what is read of it is at most arcsin(√d s / 2|x|); bfloat16 rounds each number
by 2⁻⁸ of itself at most, and turns a row by no more than that (docs/design.md has what was measured).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BITS", "quantise", "restore"]

BITS = {"bfloat16": "uint16", "int8": "int8"}
"""What NumPy, which has no bfloat16, sees of them in memory and in files."""
_LEVELS = np.float32(127)


def quantise(rows: NDArray[np.float32], name: str) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Rows (n, d) float32 as they are stored, and for int8 their scales (n,): 0 where one would be subnormal, and
    infinite where what is read would be, so that such a row does not come back as another one."""
    if name == "bfloat16":
        return torch.from_numpy(rows).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16), None
    scales = np.abs(rows).max(axis=1) / _LEVELS
    scales[scales < np.finfo(np.float32).tiny] = 0.0
    scales[~np.isfinite(scales * _LEVELS)] = np.inf
    usable = (scales > 0) & np.isfinite(scales)
    return np.rint(rows / np.where(usable, scales, np.inf)[:, None]).astype(np.int8), scales


def restore(stored: NDArray[Any], scales: NDArray[np.float32] | None) -> NDArray[Any]:
    """What is read of stored rows (n, d): float16 and float32 themselves, float32 of the others."""
    if scales is not None:
        floats = torch.from_numpy(stored).to(torch.float32)  # six times as fast as NumPy's product of two types
        return np.asarray(floats.mul_(torch.from_numpy(scales)[:, None]).numpy())
    if stored.dtype != np.uint16:
        return stored
    return np.asarray(np.left_shift(stored, 16, dtype=np.uint32).view(np.float32))

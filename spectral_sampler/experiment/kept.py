"""Arrays that are computed once and kept in the cache folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["kept_arrays"]


def kept_arrays(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Arrays from ``path``, or computed and written there whole."""
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        np.savez(file, **found)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)  # temporary files are readable by their owner alone
    Path(file.name).replace(path)
    return found

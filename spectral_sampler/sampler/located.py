"""Where an error came up: selections, learners and data sets do not know which batch they were asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_sampler.errors import add_note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["Located"]

_SHOWN = 8  # candidates that are named


class Located:
    """An error that leaves the block says in a note where it came up; its type and message stay as they are.

    Args:
        epoch: of the batches.
        numbers: of the candidate batches, over all ranks, as `SpectralBatchSampler.selection_at` counts them; none
            where it is about the whole epoch.
        indices: (n,) their candidates each.
    """

    def __init__(self, epoch: int, numbers: Sequence[int] = (), indices: Sequence[NDArray[np.int64]] = ()) -> None:
        self._epoch, self._numbers, self._indices = epoch, numbers, indices

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            add_note(error, str(self))

    def __str__(self) -> str:
        place = f"in epoch {self._epoch}"
        if not self._numbers:
            return place
        first, last = min(self._numbers), max(self._numbers)
        indices = np.concatenate(self._indices)
        named = ", ".join(map(str, indices[:_SHOWN].tolist()))
        more = f", … ({len(indices)} in all)" if len(indices) > _SHOWN else ""
        batches = f"candidate batch {first}" if first == last else f"candidate batches {first} to {last}"
        return f"{place}, {batches}, candidates {named}{more}"

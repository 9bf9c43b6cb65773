"""One pass over the batches: a stateful iterator object, lazy until its first batch."""

# ruff: noqa: SLF001 - the iterator is the other half of the sampler

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spectral_sampler.sampler.batch_sampler import SpectralBatchSampler
    from spectral_sampler.sampler.lookahead import LookAhead
    from spectral_sampler.sampler.scoring import Candidates

__all__ = ["SpectralBatchIterator"]


class SpectralBatchIterator:
    """Yields lists of dataset indices; what ``iter(sampler)`` returns.

    It takes its epoch from the sampler at the first `next`, not before: a DataLoader makes several iterators for one
    pass. A pass ends by exhaustion, by `close` or by being dropped, and the sampler goes on to the next epoch then.
    """

    def __init__(self, sampler: SpectralBatchSampler) -> None:
        self._sampler = sampler
        self._position: tuple[int, int] | None = None  # (epoch, batches delivered), once known
        self._ahead: LookAhead[Candidates] | None = None
        self._closed = False

    def __iter__(self) -> SpectralBatchIterator:
        return self

    def __next__(self) -> list[int]:
        if self._closed:
            raise StopIteration
        try:
            if self._ahead is None or self._position is None:
                self._position = self._sampler._begin_pass(self._position)
                self._ahead = self._sampler._look_ahead(*self._position)
            return self._deliver(self._ahead, *self._position)
        except BaseException:  # StopIteration too
            self.close()
            raise

    def _deliver(self, ahead: LookAhead[Candidates], epoch: int, step: int) -> list[int]:
        if step >= len(self._sampler):
            raise StopIteration
        started = time.perf_counter()
        candidates = ahead.take()
        waited = time.perf_counter() - started
        if self._sampler._placement.delivered(waited) and ahead.depth:
            ahead.depth = self._sampler._placement.lookahead
        # Before the batch leaves: a state taken while training works on it counts it as delivered.
        self._position = (epoch, step + 1)
        return self._sampler._deliver(candidates, epoch, step + 1, waited)

    def close(self) -> None:
        """End the pass: join the look-ahead thread and let the sampler go on to the next epoch. Idempotent."""
        if self._closed:
            return
        self._closed = True
        ahead, self._ahead = self._ahead, None
        if ahead is not None and self._position is not None:
            ahead.close()
            self._sampler._end_pass(self._position[0])

    def __del__(self) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Where this pass is; see `SpectralBatchSampler.state_dict`."""
        return self._sampler._state(self._position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` with the next batch."""
        position = self._sampler._checked_position(state)
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self._closed = False
        self._position = position

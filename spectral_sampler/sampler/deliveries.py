"""The batches that went out, in order, with their weights: what a loop means by "this batch" when it reports."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Deliveries", "Delivery"]

_DEPTH = 1024  # batches that are remembered: more than any loader reads ahead


class Delivery(NamedTuple):
    """One batch that went out."""

    indices: NDArray[np.int64]
    """(n,) dataset indices, as yielded."""
    weights: NDArray[np.float32] | None
    """(n,) factors for the losses; None means ones."""

    def factors(self) -> NDArray[np.float32]:
        """(n,) the weights."""
        return np.ones(len(self.indices), dtype=np.float32) if self.weights is None else self.weights


class Deliveries:
    """A bounded queue; a DataLoader with workers takes from it long before the training loop reports."""

    def __init__(self) -> None:
        self._queue: deque[Delivery] = deque(maxlen=_DEPTH)
        self._unreported = 0  # at the end of the queue
        self._missed = 0  # went out of the queue without a report
        self._place = 0  # of the last batch whose weights were asked for

    def add(self, indices: NDArray[np.int64], *factors: NDArray[np.float64] | None) -> Delivery:
        """A batch goes out with the product of ``factors``, (n,) each or None; as it is remembered."""
        given = [factor for factor in factors if factor is not None]
        if len(self._queue) == _DEPTH:
            self._missed += self._unreported == _DEPTH
            self._place = max(0, self._place - 1)
        added = Delivery(indices, np.prod(given, axis=0).astype(np.float32) if given else None)
        self._queue.append(added)
        self._unreported = min(_DEPTH, self._unreported + 1)
        return added

    def clear(self) -> None:
        """Another pass begins: what an earlier one read ahead is never trained on."""
        self._queue.clear()
        self._unreported = self._missed = self._place = 0

    def next(self, count: int) -> NDArray[np.int64]:
        """The indices of the oldest batch that was not reported, of which ``count`` losses are at hand."""
        rule = "called once for every batch that is trained on"
        if self._missed or not self._unreported:
            found = f"{self._missed} batches that were not reported" if self._missed else "no batch that is left"
            raise argument_error(
                "observe_next", rule, found, "Use observe(indices, losses) where batches are left out."
            )
        indices = self._queue[-self._unreported].indices
        if len(indices) != count:
            rule = f"one loss for each of the {len(indices)} samples of the oldest batch that was not reported"
            remedy = (
                "Call observe_next once for every batch, in order, with reduction='none'; or observe(indices, losses)."
            )
            raise argument_error("losses", rule, f"{count} values", remedy)
        return indices

    def reported(self, rows: NDArray[np.int64]) -> None:
        """The losses of ``rows`` are known; where they are the oldest batch that was not reported, it is now."""
        if self._unreported and np.array_equal(self._queue[-self._unreported].indices, rows):
            self._unreported -= 1

    def weights_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n,) the weights with which ``rows`` (n,) went out: those of the batch that has exactly these samples in this
        order, the first one from the last that was asked for. Parts and sums of batches have weights too, as long as no
        sample of theirs went out with different ones."""
        batches = list(self._queue)
        if all(batch.weights is None for batch in batches):
            return np.ones(len(rows), dtype=np.float32)
        for place in [*range(self._place, len(batches)), *range(self._place)]:
            batch: Delivery = batches[place]
            if len(batch.indices) == len(rows) and np.array_equal(batch.indices, rows):
                self._place = place
                return batch.factors()
        return self._by_sample(batches, rows)

    @staticmethod
    def _by_sample(batches: list[Delivery], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        every = np.concatenate([batch.indices for batch in batches])
        weights = np.concatenate([batch.factors() for batch in batches])
        order = np.lexsort((weights, every))
        every, weights = every[order], weights[order]
        first, last = np.searchsorted(every, rows), np.searchsorted(every, rows, side="right") - 1
        missing = last < first
        if missing.any() or (weights[first] != weights[last]).any():
            found = (
                f"sample {rows[missing][0]}, which did not"
                if missing.any()
                else "samples that did with several weights"
            )
            raise argument_error(
                "indices", "those of one batch that went out lately", found, "Pass a batch's own list."
            )
        return weights[first]

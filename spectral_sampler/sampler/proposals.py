"""What a selection decides once an epoch, kept for as long as the epoch is in use; and the weights that follow."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.selection.proposal import EpochRequest, Proposal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.sampler.arguments import Settings
    from spectral_sampler.sampler.observed import ObservedLosses
    from spectral_sampler.sampler.order import CandidateOrder
    from spectral_sampler.sampler.plan import Plan
    from spectral_sampler.selection import Selection
    from spectral_sampler.store import ReferenceStore

__all__ = ["Proposals", "Weights"]


class Weights:
    """The factor for the loss of every sample, as of the last batch that held it; 1 where none was given."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._table: NDArray[np.float32] | None = None  # made by the first weight that is not 1

    def deliver(self, indices: NDArray[np.int64], *factors: NDArray[np.float64] | None) -> None:
        """The samples ``indices`` (n,) of a batch go out with the product of ``factors``, (n,) each or None."""
        given = [factor for factor in factors if factor is not None]
        if self._table is None:
            if not given:
                return
            self._table = np.ones(self._samples, dtype=np.float32)
        self._table[indices] = np.prod(given, axis=0) if given else 1.0

    def of(self, indices: Any) -> torch.Tensor:
        """(n,) float32 for dataset indices (n,), on their device."""
        device = indices.device if isinstance(indices, torch.Tensor) else None
        rows = np.asarray(indices.cpu() if isinstance(indices, torch.Tensor) else indices).reshape(-1)
        if rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= self._samples):
            remedy = "They count rows of the store."
            raise argument_error("indices", f"integers from 0 to {self._samples - 1}", rows.tolist(), remedy)
        return torch.as_tensor(
            np.ones(len(rows), np.float32) if self._table is None else self._table[rows], device=device
        )


class Proposals:
    """The proposal of each epoch, asked for when its pass begins and the same until it is over."""

    def __init__(
        self,
        selection: Selection,
        store: ReferenceStore,
        order: CandidateOrder,
        plan: Plan,
        observed: ObservedLosses,
        settings: Settings,
    ) -> None:
        self._selection = selection if selection.proposes else None
        self._store, self._order, self._plan, self._observed = store, order, plan, observed
        self._kept: dict[int, tuple[Proposal | None, NDArray[np.float64] | None]] = {}
        """By epoch: the proposal, and its weights as a table over all samples."""
        self._settings = settings
        if self._selection is not None and plan.batch_size is not None:
            raise argument_error("emit", f'"shrink" with {selection.name}', '"constant"', "It decides the candidates.")
        if self.any and "learner_losses" in selection.needs and settings.num_replicas > 1:
            rule = f"1 with {selection.name}, which decides the epoch from the losses this process saw"
            raise argument_error("num_replicas", rule, settings.num_replicas, "Choose another selection.")

    @property
    def any(self) -> bool:
        """Does the selection decide what is offered?"""
        return self._selection is not None

    def of(self, epoch: int, *, keep: bool = False) -> Proposal | None:
        """The proposal for ``epoch``; None for the order as it is. ``keep``: its pass begins, so it is final."""
        if self._selection is None or epoch in self._kept:
            return self._kept.get(epoch, (None, None))[0]
        horizon = self._settings.epochs
        rows = np.arange(len(self._store))
        selection, observed = self._selection, self._observed
        if not keep:  # only a look: copies count and remember for themselves
            selection, observed = copy.copy(selection), copy.copy(observed)
        request = EpochRequest(
            self._store, self._order.indices(epoch), self._plan.batches, self._plan.candidates,
            observed.of(rows) if "learner_losses" in selection.needs else None,
            self._settings.seed, epoch, min(1.0, epoch / horizon) if horizon else 0.0,
        )  # fmt: skip
        found = selection.propose(request)
        if found is not None and found.batches is None:
            found = None
        if keep:
            table = None
            if found is not None and found.weights is not None:
                table = np.ones(len(self._store))
                table[found.batches] = found.weights
            self._kept = {**dict(list(self._kept.items())[-1:]), epoch: (found, table)}  # a running and the next epoch
        return found

    def weights(self, epoch: int, indices: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """(n,) the proposal's weights of the samples ``indices`` of an epoch that has begun."""
        table = self._kept.get(epoch, (None, None))[1]
        return None if table is None else table[indices]

    def forget(self) -> None:
        """A state was loaded: ask anew."""
        self._kept.clear()

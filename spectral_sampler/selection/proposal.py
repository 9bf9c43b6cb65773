"""What a selection may decide once an epoch: which samples are offered as candidates, and with what weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["EpochRequest", "Proposal", "Proposes"]


class EpochRequest(NamedTuple):
    """An epoch about to start: K candidate batches of N are wanted."""

    store: ReferenceStore
    order: NDArray[np.int64]
    """(M',) the dataset indices in the order in which they would be offered."""
    batches: int
    """K, over all ranks."""
    size: int
    """N."""
    learner_losses: NDArray[np.float64] | None = None
    """(M,) last losses given to ``sampler.observe``, NaN where none was."""
    seed: int = 0
    epoch: int = 0
    progress: float = 0.0
    """Epochs done, as a share of all of them, in [0, 1)."""


class Proposal(NamedTuple):
    """The candidates of an epoch. K stays as requested, so that the length of the epoch does; N may shrink."""

    batches: NDArray[np.int64]
    """(K, N') dataset indices, N' ≤ N, unique within a row."""
    weights: NDArray[np.float64] | None = None
    """(K, N') factors for the loss; None means ones."""


@runtime_checkable
class Proposes(Protocol):
    """A selection that also decides what is offered."""

    def propose(self, request: EpochRequest) -> Proposal | None:
        """The candidates of the epoch, or None for the order as it is."""
        ...

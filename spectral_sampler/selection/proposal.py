"""What a selection may decide once an epoch: which samples are offered as candidates, and with what weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["EpochRequest", "Proposal"]


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
    memo: Any = None
    """`Proposal.memo` of this epoch's proposal where that was made before a checkpoint: propose the same again."""


class Proposal(NamedTuple):
    """The candidates of an epoch. K stays as requested, so that the length of the epoch does; N may shrink."""

    batches: NDArray[np.int64]
    """(K, N') dataset indices, N' ≤ N, unique within a row."""
    weights: NDArray[np.float64] | None = None
    """(K, N') factors for the loss; None means ones."""
    memo: Any = None
    """What it was decided from and cannot be asked for again, as a tensor: `EpochRequest.memo` after resuming."""

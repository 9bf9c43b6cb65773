"""InfoBatch: unbiased pruning of what is learnt already (Qin et al. 2024, arXiv 2303.04947)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.selection.protocol import EpochRequest, Proposal
from spectral_sampler.selection.uniform import Uniform
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["InfoBatch"]

_STREAM = 0x494E464F


class InfoBatch(Uniform):
    """At the start of an epoch a random share r of the samples whose last loss is below the mean is left out; those of
    them that stay weigh ``1 / (1 − r)``, so that the expected gradient is that of the whole data.

    Decides once an epoch (`propose`); within a candidate batch the budget is drawn uniformly, so a keep ratio of 1.0 is
    the paper's method. Samples never observed are kept, with weight one, and do not enter the mean. The last
    ``1 − annealing`` of the epochs take all the data; a sampler without ``epochs=`` does not know them and prunes on.

    Differs from the paper in: the number of steps of an epoch stays and the batches get smaller, so that the length of
    the loader stays exact; up to K − 1 of the samples left over by equal batches wait for another epoch, at random.

    Args:
        share: r, the paper's 0.5.
        annealing: δ, the paper's 0.875.
    """

    name = "infobatch"
    needs = frozenset({"learner_losses"})
    proposes = True

    def __init__(self, share: float = 0.5, *, annealing: float = 0.875) -> None:
        self.share = within("share", share, "[0, 1)", "The paper leaves out 0.5 of the samples below the mean.")
        self.annealing = within("annealing", annealing, "[0, 1]", "The paper prunes in 0.875 of the epochs.")

    def easy(self, losses: Array) -> NDArray[np.bool_]:
        """Which of ``losses`` (m,) lie strictly below the mean of the known ones, by more than its rounding.

        The mean of equal numbers may come out above them all.
        """
        known = np.isfinite(losses)
        below = np.zeros(len(losses), dtype=np.bool_)
        if known.any():
            below[known] = losses[known].mean() - losses[known] > 1e-12 * np.abs(losses[known]).max()
        return below

    def kept(
        self, below: NDArray[np.bool_], indices: NDArray[np.int64], seed: int, epoch: int
    ) -> tuple[NDArray[np.bool_], Array]:
        """Which of ``indices`` (m,) stay, and the weight of each, (m,) both, where ``below`` (m,) marks the easy ones.

        The random share is exact: ⌊r·k⌋ of the k easy ones are left out.
        """
        easy = np.flatnonzero(below)
        keys = draws.uniforms(seed, epoch, 0, indices[easy], _STREAM)
        kept = np.ones(len(below), dtype=np.bool_)
        kept[easy[np.argsort(keys)[: int(self.share * len(easy))]]] = False
        return kept, np.where(below, 1.0 / (1.0 - self.share), 1.0)

    def propose(self, request: EpochRequest) -> Proposal | None:
        """The pruned epoch in the order given, dealt into equal batches, or None where nothing is pruned. The memo (M,)
        says which samples are easy."""
        order = request.order
        if request.progress >= self.annealing or request.learner_losses is None:
            return None
        if request.memo is None:
            below = np.zeros(len(request.learner_losses), dtype=np.bool_)
            below[order] = self.easy(request.learner_losses[order])
        else:
            below = request.memo.cpu().numpy()
        kept, weights = self.kept(below[order], order, request.seed, request.epoch)
        stay = np.flatnonzero(kept)
        if not request.batches <= len(stay) < len(order):
            return None  # nothing pruned, or not a sample for every batch left
        size = min(request.size, max(1, len(stay) // request.batches))
        dealt = stay[: request.batches * size].reshape(request.batches, size)
        return Proposal(order[dealt], weights[dealt], torch.from_numpy(below))

"""SeTa: random pruning and a window that slides from easy to hard (Zhou, Gao and Wang 2025, arXiv 2503.13385)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.selection.protocol import EpochRequest, Proposal
from spectral_sampler.selection.uniform import Uniform
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["SeTa", "loss_groups"]

_STREAM, _BINS, _STEPS = 0x53455441, 512, 100


def _best_runs(values: Array, counts: Array, runs: int) -> Array:
    """Means of the ``runs`` runs of ascending ``values`` (n,) of least squared distance to them, n ≥ runs: dynamic
    programming over the places where they end (Wang and Song 2011)."""
    sums = [np.append(0.0, np.cumsum(counts * values**power)) for power in range(3)]
    weight, first, second = (part[None] - part[:, None] for part in sums)  # [i, j]: of the values i … j − 1
    some = weight > 0
    cost = np.where(some, second - first**2 / np.where(some, weight, 1.0), np.inf)
    best, starts = cost[0], []
    for _ in range(runs - 1):
        total = best[:, None] + cost
        starts.append(total.argmin(axis=0))
        best = total.min(axis=0)
    ends = [len(values)]
    for start in reversed(starts):
        ends.insert(0, int(start[ends[0]]))
    bounds = np.array([0, *ends])
    return first[bounds[:-1], bounds[1:]] / weight[bounds[:-1], bounds[1:]]  # type: ignore[no-any-return]


def loss_groups(losses: Array, groups: int) -> NDArray[np.int64]:
    """The cluster of each of ``losses`` (m,), 0 the easiest, none empty: at most ``groups`` of them, fewer where there
    are fewer different losses.

    k-means, which in one dimension needs no chance: the best partition of the different losses, of at most 512 bins
    where there are more, followed by Lloyd's steps. Equal losses share a cluster, and the order of the samples has no
    part in it.
    """
    ranked = np.sort(losses)
    different, counts = np.unique(ranked, return_counts=True)
    if len(different) > _BINS:  # half of the bins of one width, half of one size: an outlier does not widen them all
        places = np.linspace(0, len(different) - 1, _BINS // 2).astype(np.int64)
        edges = np.linspace(different[0], different[-1], _BINS // 2)
        starts = np.unique(np.append(places, np.searchsorted(different, edges[:-1])))
        sizes = np.add.reduceat(counts, starts)
        different, counts = np.add.reduceat(different * counts, starts) / sizes, sizes
    middle = different.mean()  # squares of numbers far from 0 would cancel
    centres = middle + _best_runs(different - middle, counts.astype(np.float64), min(groups, len(different)))
    sums = np.append(0.0, np.cumsum(ranked))
    for _ in range(_STEPS):
        ends = np.unique([0, *np.searchsorted(ranked, (centres[1:] + centres[:-1]) / 2.0, side="right"), len(ranked)])
        moved = np.diff(sums[ends]) / np.diff(ends)
        if len(moved) == len(centres) and np.array_equal(moved, centres):
            break
        centres = moved
    _, found = np.unique(np.searchsorted((centres[1:] + centres[:-1]) / 2.0, losses, side="left"), return_inverse=True)
    return found.astype(np.int64)


class SeTa(Uniform):
    """At the start of an epoch a random share r of the samples is left out; of the others those stay whose loss lies in
    a window of the k clusters of the losses, which slides by one cluster an epoch from the easiest to the hardest and
    then starts over. The last ``1 − annealing`` of the epochs leave out the random share alone.

    The window is ``w = round(k · window)`` clusters wide; in epoch e > 0 it begins at cluster
    ``e mod (k − w + 1)``, and epoch 0 takes all clusters, as in the released code. Nothing is weighed, unlike
    `InfoBatch`. Decides once an epoch (`propose`); within a candidate batch the budget is drawn uniformly, so a keep
    ratio of 1.0 is the paper's method.

    Ours: a sample whose loss is not known (never observed, or too long ago) is in the window, and in no cluster; the
    released code gives it a loss of 3, which may lose it for as long as the window is elsewhere. Clusters come from
    `loss_groups`; where there are fewer than k, k is their number. As with `InfoBatch` the number of steps of an
    epoch stays and batches get smaller, and up to K − 1 samples wait for another epoch, at random; a sampler without
    ``epochs=`` does not know the last epochs and slides on.

    Args:
        share: r; the released code's default is 0, ours 0.1.
        groups: k, the released code's 10.
        window: share of the clusters that the window is wide, the released code's 0.5.
        annealing: δ, 0.875 as in InfoBatch.
    """

    name = "seta"
    needs = frozenset({"learner_losses"})
    proposes = True

    def __init__(self, share: float = 0.1, *, groups: int = 10, window: float = 0.5, annealing: float = 0.875) -> None:
        self.share = within("share", share, "[0, 1)", "It is the share left out at random; the default is 0.1.")
        self.groups = whole_number("groups", groups, 1, "The released code makes 10 clusters.")
        self.window = within("window", window, "(0, 1]", "It is a share of the clusters; the default is 0.5.")
        self.annealing = within("annealing", annealing, "[0, 1]", "The paper slides in 0.875 of the epochs.")

    def in_window(self, losses: Array, epoch: int) -> NDArray[np.bool_]:
        """Which of ``losses`` (m,) are in the window of an epoch; NaN, an unknown one, is."""
        known = np.isfinite(losses)
        inside = np.ones(len(losses), dtype=np.bool_)
        if epoch and known.any():
            found = loss_groups(losses[known], self.groups)
            count = int(found.max()) + 1
            width = max(1, round(count * self.window))
            start = epoch % (count - width + 1)
            inside[known] = (found >= start) & (found < start + width)
        return inside

    def propose(self, request: EpochRequest) -> Proposal | None:
        """The pruned epoch in the order given, dealt into equal batches, or None where nothing is pruned. The memo (M,)
        says which samples are in the window, where the losses had a part in that."""
        order, memo = request.order, request.memo
        keys = draws.uniforms(request.seed, request.epoch, 0, order, _STREAM)
        kept = np.ones(len(order), dtype=np.bool_)
        kept[np.argsort(keys)[: int(self.share * len(order) + 1e-9)]] = False
        if request.epoch and request.progress < self.annealing and request.learner_losses is not None:
            if memo is None:
                inside = np.ones(len(request.learner_losses), dtype=np.bool_)
                inside[order[kept]] = self.in_window(request.learner_losses[order[kept]], request.epoch)
                memo = torch.from_numpy(inside)
            kept &= memo.cpu().numpy()[order]
        stay = np.flatnonzero(kept)
        if not request.batches <= len(stay) < len(order):
            return None  # nothing pruned, or not a sample for every batch left
        size = min(request.size, max(1, len(stay) // request.batches))
        return Proposal(order[stay[: request.batches * size].reshape(request.batches, size)], memo=memo)

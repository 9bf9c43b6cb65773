"""SensitivitySampling: few losses, clustered embeddings, unbiased weights (Axiotis et al. 2024, arXiv 2402.17327)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.estimates.blocks import blocks, read
from spectral_sampler.estimates.clustering import Clustering, cluster
from spectral_sampler.selection.importance import inclusion_probabilities
from spectral_sampler.selection.protocol import EpochRequest, Proposal
from spectral_sampler.selection.uniform import Uniform
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

    Array = NDArray[np.float64]
    Losses = Array | Callable[[NDArray[np.int64]], Any]

__all__ = ["Sensitivities", "SensitivitySampling", "Subset", "leverage_scores", "subset_size", "weighted_subset"]

_NUMBERS = 1 << 22  # of a block
_AT_THE_CENTRE = 1e-6  # of the largest distance: slopes over less are rounding
_PROBE_STREAM, _SUBSET_STREAM, _ORDER_STREAM = 0x50524F42, 0x53554253, 0x53454E53


_CLUSTERS: WeakKeyDictionary[ReferenceStore, dict[tuple[int, int, int], Clustering]] = WeakKeyDictionary()
"""By clusters, power and seed."""


class Sensitivities(NamedTuple):
    """What decides a sensitivity sample of M rows."""

    probabilities: Array
    """(M,) p_e, summing to 1."""
    proxies: Array
    """(M,) l̂(e), the loss at the row nearest to the centre of e's cluster."""
    spread: Array
    """(M,) Λ·v(e), the bound on |l(e) − l̂(e)|; its sum is the additive term of the guarantee."""
    losses_seen: int
    """How many losses were asked for."""


class Subset(NamedTuple):
    """A weighted subset: ``Σ weights · l[indices]`` estimates ``Σ l`` over all M rows."""

    indices: NDArray[np.int64]
    """(s,) rows, drawn with replacement."""
    weights: Array
    """(s,) ``1 / (s·p)``."""


def subset_size(error: float) -> int:
    """``s = ⌈ε⁻² (2 + 2ε/3)⌉`` for the relative error ε."""
    error = within("error", error, "(0, 1)", "It is the relative error ε of the estimated sum.")
    return math.ceil((2.0 + 2.0 * error / 3.0) / error**2)


def weighted_subset(probabilities: Array, size: int, *, seed: int = 0) -> Subset:
    """``size`` i.i.d. draws ∝ ``probabilities`` (M,), with weights ``1 / (s·p)``."""
    size = whole_number("size", size, 1, "subset_size(error) gives the paper's.")
    ends = np.cumsum(probabilities)
    uniform = draws.uniforms(seed, 0, 0, np.arange(size, dtype=np.int64), _SUBSET_STREAM)
    indices = np.searchsorted(ends, uniform * ends[-1], side="right").astype(np.int64)
    return Subset(indices, ends[-1] / (size * probabilities[indices]))


def leverage_scores(features: Any) -> Array:
    """``x_iᵀ (XᵀX)⁺ x_i`` (M,) of ``features`` (M, d): what the paper compares with on linear regression.

    Divided by their sum, the rank, they are the probabilities of a `weighted_subset`. By QR of blocks of rows, in
    float64 and O(d²) memory.
    """
    size, width = np.shape(features)
    every, triangle = np.arange(size), np.zeros((0, width))
    step = max(width, _NUMBERS // width)  # fewer rows than dimensions, and most of the work would be the triangle's
    for places in blocks(every, step):  # a Gram matrix would lose half the digits, and with them the rank
        stacked = np.vstack([triangle, read(features, places).astype(np.float64)])
        triangle = np.asarray(np.linalg.qr(stacked, mode="r"))
    _, values, directions = np.linalg.svd(triangle, full_matrices=False)
    rank = int(np.count_nonzero(values > values.max() * max(size, width) * np.finfo(np.float64).eps))
    inverse = directions[:rank].T / values[:rank]
    return np.concatenate([((read(features, places) @ inverse) ** 2).sum(axis=1) for places in blocks(every, step)])


class SensitivitySampling(Uniform):
    """Samples ∝ ``l̂(e) + Λ_i v(e)`` with weights ``1 / (s p_e)``, after a (k, z)-clustering of the embeddings.

    l̂(e) is the loss at the row nearest to the centre of e's cluster i, ``v(e) = |e − c_i|^z``. With ``smoothness=None``
    Λ_i is, per cluster, the p-quantile of ``|l(e) − l̂(e)| / v(e)`` over ``⌈ln(100 k) / −ln(1 − p)⌉`` random probes.

    Two uses: `subset`, once, with the guarantee ``|Σ w·l − Σ l| ≤ ε (Σ l + 2 Λ Φ_k)``; and, as a selection, the
    proposal that fills candidate batches (`propose`): a sample's chance per candidate batch is ``N p_e``, capped
    at 1, its weight ``1 / (M p_e)``, and the budget is drawn uniformly.

    Args:
        clusters: k.
        power: z, 2 (k-means) or 1 (k-medians).
        smoothness: Λ, one number, or None.
        quantile: p.
        losses: (M,), or ``losses(indices)``; None takes the reference losses of the store. Only those of the k centres
            and the probes are looked at. ``"learner"``, for candidate batches only: those the training loop gives to
            ``observe``, anew every epoch, with the mean of a cluster's for l̂ and all that are known for probes. The
            paper's losses are those of the model in training; a trained reference's say which samples *it* still gets
            wrong, and have made the learner starve on the rest (docs/results.md).
        seed: of the clustering and the probes.
    """

    name = "sensitivity"
    proposes = True

    def __init__(
        self,
        clusters: int = 100,
        *,
        power: int = 2,
        smoothness: float | None = None,
        quantile: float = 0.9,
        losses: Losses | str | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(losses, str) and losses != "learner":
            remedy = '"learner" follows what the loop gives to observe.'
            raise argument_error("losses", 'an array, a function, None or "learner"', repr(losses), remedy)
        if power not in {1, 2}:
            raise argument_error("power", "1 or 2", repr(power), "2 is k-means, 1 is k-medians.")
        self.clusters, self.power = whole_number("clusters", clusters, 1, "A hundred is a good start."), power
        self.smoothness = None if smoothness is None else within("smoothness", smoothness, "[0, inf)", "None fits it.")
        self.quantile = within("quantile", quantile, "(0, 1)", "The default is 0.9.")
        self._losses, self.seed = losses, int(seed)
        self._fitted: tuple[ReferenceStore, Sensitivities] | None = None
        further = {"learner_losses"} if isinstance(losses, str) else {"losses"} if losses is None else set()
        self.needs = frozenset({"features"} | further)

    def _loss_of(self, store: ReferenceStore, indices: NDArray[np.int64]) -> Array:
        source: Any = self._losses if self._losses is not None else store.losses
        if isinstance(source, str):
            remedy = "A subset is drawn before any is observed."
            raise argument_error("losses", "an array, a function or None for a subset", repr(source), remedy)
        if source is None:
            raise argument_error("store", "one with losses", repr(store), "Or pass losses= to SensitivitySampling.")
        values = source(indices) if callable(source) else np.asarray(source)[indices]
        found = np.asarray(values, dtype=np.float64)
        if found.shape != indices.shape or not (np.isfinite(found).all() and (found >= 0).all()):
            raise argument_error("losses", "one finite loss of at least 0 for each index", found.shape, "Check them.")
        return found

    def sensitivities(self, store: ReferenceStore) -> Sensitivities:
        """Clusters and asks for the losses it needs; once for each store."""
        if self._fitted is not None and self._fitted[0] is store:
            return self._fitted[1]
        found = self._clustering(store)
        centre_losses = self._loss_of(store, found.medoids)
        proxies, spans = centre_losses[found.labels], found.distances**self.power
        seen, smoothness = len(centre_losses), np.full(len(centre_losses), self.smoothness or 0.0)
        if self.smoothness is None:
            probes = self._probes(found.labels, spans)
            slopes = np.abs(self._loss_of(store, probes) - proxies[probes]) / spans[probes]
            for one in np.unique(found.labels[probes]):
                own = slopes[found.labels[probes] == one]
                smoothness[one] = np.quantile(own, self.quantile, method="higher")
            seen += len(probes)
        spread = smoothness[found.labels] * spans
        mass = proxies + spread
        total = mass.sum()
        probabilities = mass / total if total > 0 else np.full(len(mass), 1.0 / len(mass))
        self._fitted = (store, Sensitivities(probabilities, proxies, spread, seen))
        return self._fitted[1]

    def _clustering(self, store: ReferenceStore) -> Clustering:
        if self.clusters > len(store):
            raise argument_error("clusters", f"at most {len(store)}, the store's rows", self.clusters, "Use fewer.")
        known = _CLUSTERS.setdefault(store, {})
        key = (self.clusters, self.power, self.seed)
        if key not in known:
            known[key] = cluster(store.features, self.clusters, power=self.power, seed=self.seed)
        return known[key]

    def _observed(self, request: EpochRequest) -> tuple[Array | None, torch.Tensor | None]:
        """Probabilities (M,) from the learner's losses, None where none is known; and what they follow from, l̂ and Λ of
        every cluster, (2, k)."""
        found, losses, memo = self._clustering(request.store), request.learner_losses, request.memo
        spans, clusters = found.distances**self.power, int(found.labels.max()) + 1
        if memo is None:
            if losses is None or not np.isfinite(losses).any():
                return None, None
            memo = torch.tensor(self._fit_known(found.labels, spans, losses), dtype=torch.float64)
        if memo.shape[1] != clusters:
            remedy = "Restore it into a selection with as many."
            raise argument_error("state", f"that of {clusters} clusters", memo.shape[1], remedy)
        proxies, smoothness = memo.cpu().numpy()
        mass = proxies[found.labels] + smoothness[found.labels] * spans
        return (mass / mass.sum() if mass.sum() > 0 else None), memo

    def _fit_known(self, labels: NDArray[np.int64], spans: Array, losses: Array) -> tuple[list[float], list[float]]:
        """Mean loss and smoothness of every cluster; for one of which none is known the mean of all samples, and 0."""
        known = np.isfinite(losses)
        if (losses[known] < 0).any():
            remedy = "A chance is in proportion to a loss."
            raise argument_error("losses", "at least 0 where given to observe", losses[known].min(), remedy)
        least = float(_AT_THE_CENTRE**self.power * spans.max())
        everyone = float(losses[known].mean())
        proxies, smoothness = [], []
        for one in range(int(labels.max()) + 1):
            own = losses[known & (labels == one)]
            proxies.append(float(own.mean()) if len(own) else everyone)
            far = known & (labels == one) & (spans > least)
            slopes = np.abs(losses[far] - proxies[-1]) / spans[far]
            fitted = float(np.quantile(slopes, self.quantile)) if len(slopes) else 0.0
            smoothness.append(fitted if self.smoothness is None else self.smoothness)
        return proxies, smoothness

    def _probes(self, labels: NDArray[np.int64], spans: Array) -> NDArray[np.int64]:
        """Random rows, off the centre by more than its rounding, as many of each cluster as the quantile takes."""
        count = math.ceil(math.log(100 * self.clusters) / -math.log(1.0 - self.quantile))
        keys = draws.uniforms(self.seed, 0, 0, np.arange(len(labels), dtype=np.int64), _PROBE_STREAM)
        order = np.lexsort((keys, labels))
        least = float(_AT_THE_CENTRE**self.power * spans.max())
        order = order[spans[order] > least]
        starts = np.searchsorted(labels[order], labels[order], side="left")
        return order[np.arange(len(order)) - starts < count].astype(np.int64)

    def subset(self, store: ReferenceStore, *, size: int | None = None, error: float | None = None) -> Subset:
        """A one-off weighted subset of ``size`` draws, or as many as the relative error ``error`` takes."""
        if (size is None) == (error is None):
            raise argument_error("size", "given, or error instead", f"size={size}, error={error}", "Pass one of them.")
        count = size if size is not None else subset_size(float(error or 0.0))
        return weighted_subset(self.sensitivities(store).probabilities, count, seed=self.seed)

    def propose(self, request: EpochRequest) -> Proposal | None:
        """Every sample of ``request.order`` has the chance ``min(1, c·N·p_e)`` in every candidate batch.

        Systematic sampling in the epoch's random order: batch k takes the points ``start_k, start_k + 1, …`` with the
        starts spread evenly over the unit interval, so that an epoch repeats a sample as rarely as its chance allows.
        None, the order as it is, before the learner's losses are known, if it is by those.
        """
        order, size = request.order, min(request.size, len(request.order))
        if isinstance(self._losses, str):
            probabilities, memo = self._observed(request)
        else:
            probabilities, memo = self.sensitivities(request.store).probabilities, None
        if probabilities is None:
            return None
        chances = inclusion_probabilities(probabilities[order], size)
        first = draws.uniforms(request.seed, request.epoch, 0, np.zeros(1, dtype=np.int64), _ORDER_STREAM)[0]
        starts = (first + draws.permutation(request.seed, request.epoch, request.batches) / request.batches) % 1.0
        ends = np.cumsum(chances)
        ends *= size / ends[-1]
        points = starts[:, None] + np.arange(size)
        hits = np.minimum(np.searchsorted(ends, points.ravel(), side="right"), len(order) - 1).reshape(points.shape)
        return Proposal(order[hits], size / (len(order) * chances[hits]), memo)

    def __repr__(self) -> str:
        losses = ', losses="learner"' if isinstance(self._losses, str) else ""
        return (
            f"SensitivitySampling({self.clusters}, power={self.power}, smoothness={self.smoothness}, "
            f"quantile={self.quantile}{losses}, seed={self.seed})"
        )

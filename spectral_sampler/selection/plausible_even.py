"""PlausibleEven: our own selection, samples whose label can be believed, every class alike, evenly over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.fiedler import Status
from spectral_sampler.selection.label_noise import LabelNoise, estimate
from spectral_sampler.selection.needs import required, within
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores
from spectral_sampler.selection.ranking import draw_without_replacement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["PlausibleEven"]

_STREAM = 0x504C4155


class _Facts(NamedTuple):
    """What is computed once for a store."""

    losses: NDArray[np.float32]
    rarity: NDArray[np.float64]
    """(M,) rows of the largest class over those of the row's own."""
    noise: LabelNoise


_FACTS: WeakKeyDictionary[ReferenceStore, _Facts] = WeakKeyDictionary()


def _facts(store: ReferenceStore) -> _Facts:
    if store not in _FACTS:
        if store.labels is None or store.losses is None:
            got = "one without labels" if store.labels is None else "one without losses"
            raise argument_error("store", "a reference store with labels and losses", got, "See ReferenceStore.")
        _, classes, counts = np.unique(store.labels, return_inverse=True, return_counts=True)
        _FACTS[store] = _Facts(store.losses, (counts.max() / counts)[classes], estimate(store.losses, len(counts)))
    return _FACTS[store]


class PlausibleEven:
    """``n`` of the candidates without replacement, with probability proportional to

        w_i = (n_max / n_{y_i})^b,

    n_y the rows of class y, *without suspects* where most suspects are wrong.

    - A *suspect* has a reference loss ``r_i > ln C``: a model that never saw it finds its label less likely than a
      guess among C classes would. Whether suspects are wrong or merely hard is estimated from the distribution of all
      losses (`spectral_sampler.selection.label_noise`). If more than ``tolerance`` of them are wrong, they are taken
      only where a budget exceeds the other candidates, the least suspect first, and with weight zero: a loop that
      multiplies its losses by ``sampler.weights_for(indices)`` learns nothing from them. Otherwise they are hard, and
      welcome.
    - A reference that the labels contradict more than they would a guess is not asked.
    - The draw of a sample moves from epoch to epoch by the golden ratio instead of being made anew
      (`spectral_sampler.draws.recurring`). Each epoch's draw has the same distribution, but over several epochs a
      sample is drawn about as often as it should be: one drawn now is less likely to be drawn next. A ``sampler=``
      that offers a sample twice in one epoch gives it the same draw twice.

    The combination is our own. Distrusting labels that a held-out model finds implausible has RHO-LOSS (arXiv
    2206.07137) as its nearest relative; the draw is Efraimidis and Spirakis' (2006), the sequence Weyl's.
    docs/results.md has what it is worth, and where it is not.

    Args:
        balance: b; 0 leaves the classes as they are, 1 shows every class equally often, for a test in which classes
            count alike.
        tolerance: share of wrong labels among the suspects up to which they are kept, in [0, 1]; 1 never excludes them.
    """

    name = "plausible-even"
    needs = frozenset({"losses", "labels"})

    def __init__(self, *, balance: float = 1.0, tolerance: float = 0.5) -> None:
        self.balance = within("balance", balance, "[0, inf)", "0 leaves the classes as they are, 1 evens them out.")
        self.tolerance = within("tolerance", tolerance, "[0, 1]", "It is a share of the suspects; the default is 0.5.")

    def _hardness(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithm of a further factor of w, from reference losses that are trusted."""
        return np.zeros_like(losses)

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:  # noqa: ARG002
        """(B, N) logarithms of the weights, −inf for an excluded suspect. They are exact: the error is 0."""
        facts = _facts(store)
        values = self.balance * np.log(facts.rarity[indices])
        if facts.noise.informative:
            losses = facts.losses[indices].astype(np.float64)
            values += self._hardness(losses)
            if facts.noise.doubt > self.tolerance:
                values[losses > facts.noise.guess] = -np.inf
        exact = np.full(len(indices), int(Status.CONVERGED), dtype=np.int64)
        return Scores(values, np.zeros(len(indices)), exact, np.zeros_like(exact))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """Plausible candidates in the order drawn, then suspects if the budget asks for them."""
        scores, losses = required(batch, "scores"), required(batch, "losses")
        plausible = np.isfinite(scores)
        count = min(budget, int(plausible.sum()))
        uniforms = draws.recurring(batch.seed, batch.turn, batch.indices, _STREAM)
        drawn = draw_without_replacement(np.exp(scores), count, uniforms, plausible).positions
        suspects = np.flatnonzero(~plausible)
        suspects = suspects[np.lexsort((batch.indices[suspects], losses[suspects]))][: budget - count]
        positions = np.concatenate([drawn, suspects])
        kinds = np.full(budget, KINDS.index("weighted"), dtype=np.int8)
        factors = np.repeat([1.0, 0.0], [count, len(suspects)]) if len(suspects) else None
        return Choice(positions, kinds, weights=factors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(balance={self.balance}, tolerance={self.tolerance})"

"""PlausibleEven: our own selection, samples whose label can be believed, every class alike, evenly over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.fiedler import Status
from spectral_sampler.selection.importance import draw_by_logits
from spectral_sampler.selection.label_noise import LabelNoise, estimate
from spectral_sampler.selection.needs import required, within
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

    Array = NDArray[np.float64]

__all__ = ["PlausibleEven"]

_STREAM = 0x504C4155
_SUSPECT = -1e6  # below every logarithm of a weight; a doubt is a difference of two scores near [0, 1]


class _Facts(NamedTuple):
    """What is computed once for a store."""

    rarity: Array
    """(M,) rows of the largest class over those of the row's own."""
    noise: LabelNoise
    suspects: dict[float | None, NDArray[np.bool_]]
    """(M,) by the share that was asked for, None for the estimate."""


_FACTS: WeakKeyDictionary[ReferenceStore, _Facts] = WeakKeyDictionary()


def _facts(store: ReferenceStore, share: float | None) -> _Facts:
    if store not in _FACTS:
        if store.labels is None:
            raise argument_error("store", "a reference store with labels", "one without", "Make it with labels=.")
        _, classes, counts = np.unique(store.labels, return_inverse=True, return_counts=True)
        _FACTS[store] = _Facts((counts.max() / counts)[classes], estimate(store.features, store.labels), {})
    facts = _FACTS[store]
    if share not in facts.suspects:
        facts.suspects[share] = facts.noise.suspects(share)
    return facts


class PlausibleEven(Selection):
    """``n`` of the candidates without replacement, with probability proportional to

        w_i = (n_max / n_{y_i})^b,

    n_y the rows of class y, *without suspects*.

    - *Suspects* are the samples whose labels the features of all others contradict most, as many as labels are
      estimated to be wrong (`spectral_sampler.selection.label_noise`): none to speak of where they are right. They are
      taken only where a budget exceeds the other candidates, the least doubtful first, and with weight zero: a loop
      that multiplies its losses by ``sampler.weights_for(indices)`` learns nothing from them.
    - The draw of a sample moves from epoch to epoch by the golden ratio instead of being made anew
      (`spectral_sampler.draws.recurring`). Each epoch's draw has the same distribution, but over several epochs a
      sample is drawn about as often as it should be: one drawn now is less likely to be drawn next. A ``sampler=``
      that offers a sample twice in one epoch gives it the same draw twice.

    The combination is our own. The draw is Efraimidis and Spirakis' (2006), the sequence Weyl's. docs/results.md has
    what it is worth, and where it is not. The first batch of a store waits for the estimate, seconds for 10,000 rows.

    Args:
        balance: b; 0 leaves the classes as they are, 1 shows every class equally often, for a test in which classes
            count alike.
        label_noise: share of the samples that are suspects, in [0, 1); None estimates it, 0 trusts every label.
    """

    name = "plausible-even"
    needs = frozenset({"features", "labels"})
    judges_all = True
    """A candidate batch that is kept whole is judged too, for the weights of the suspects in it."""

    def __init__(self, *, balance: float = 1.0, label_noise: float | None = None) -> None:
        self.balance = within("balance", balance, "[0, inf)", "0 leaves the classes as they are, 1 evens them out.")
        self.label_noise = None
        if label_noise is not None:
            self.label_noise = within("label_noise", label_noise, "[0, 1)", "None estimates it, 0 trusts every label.")

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:  # noqa: ARG002
        """(B, N) logarithms of the weights; of suspects −10⁶ minus the doubt. They are exact: the error is 0."""
        facts = _facts(store, self.label_noise)
        suspects, doubts = facts.suspects[self.label_noise][indices], facts.noise.doubts[indices]
        values = np.where(suspects, _SUSPECT - doubts, self.balance * np.log(facts.rarity[indices]))
        exact = np.full(len(indices), int(Status.CONVERGED), dtype=np.int64)
        return Scores(values, np.zeros(len(indices)), exact, np.zeros_like(exact))

    def _preference(self, batch: CandidateBatch, plausible: NDArray[np.bool_]) -> Array:  # noqa: ARG002
        """(N,) logarithm of a further factor of the weights."""
        return np.zeros(len(batch.indices))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """Plausible candidates in the order drawn, then suspects if the budget asks for them."""
        scores = required(batch, "scores")
        plausible = scores > _SUSPECT / 2
        count = min(budget, int(plausible.sum()))
        uniforms = draws.recurring(batch.seed, batch.turn, batch.indices, _STREAM)
        drawn = draw_by_logits(scores + self._preference(batch, plausible), count, uniforms, plausible)
        suspects = np.flatnonzero(~plausible)
        suspects = suspects[np.lexsort((batch.ties()[suspects], -scores[suspects]))][: budget - count]
        positions = np.concatenate([drawn, suspects])
        kinds = np.full(budget, KINDS.index("weighted"), dtype=np.int8)
        factors = np.repeat([1.0, 0.0], [count, len(suspects)]) if len(suspects) else None
        return Choice(positions, kinds, weights=factors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(balance={self.balance}, label_noise={self.label_noise})"

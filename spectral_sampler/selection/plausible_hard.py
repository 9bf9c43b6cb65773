"""PlausibleHard: our own selection, hard samples whose label can be believed, every class alike, evenly over epochs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.fiedler import Status
from spectral_sampler.selection.needs import required, within
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores
from spectral_sampler.selection.ranking import draw_without_replacement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

    Array = NDArray[np.float64]

__all__ = ["PlausibleHard"]

_STREAM = 0x504C4155


class _Facts(NamedTuple):
    """What is computed once for a store."""

    labels: NDArray[np.int64]
    losses: NDArray[np.float32]
    counts: NDArray[np.int64]
    """Rows of every class number."""
    mean_loss: float


_FACTS: WeakKeyDictionary[ReferenceStore, _Facts] = WeakKeyDictionary()


def _facts(store: ReferenceStore) -> _Facts:
    if store not in _FACTS:
        if store.labels is None or store.losses is None:
            got = "one without labels" if store.labels is None else "one without losses"
            raise argument_error("store", "a reference store with labels and losses", got, "See ReferenceStore.")
        mean = float(np.mean(store.losses, dtype=np.float64))
        _FACTS[store] = _Facts(store.labels, store.losses, np.bincount(store.labels), mean)
    return _FACTS[store]


def _missed(losses: Array) -> Array:
    """``1 − e^{−loss}``, the probability given to other labels; losses below zero count as zero."""
    return np.asarray(-np.expm1(-np.maximum(losses, 0.0)))


class PlausibleHard:
    """``n`` of the candidates without replacement, with probability proportional to

        w_i = (1 − e^{−r_i} + a) · (1 − e^{−l_i} + a) · (n_max / n_{y_i})^b,

    r the reference loss, l the loss last given to ``sampler.observe``, n_y the rows of class y, *except suspects*.

    - ``1 − e^{−r}`` and ``1 − e^{−l}`` are the probabilities that the reference and the learner give to other labels
      than the sample's: both rise with the loss but never above 1, so no single sample is drawn for its loss alone. A
      sample that was never observed counts as unlearnt.
    - A *suspect* has ``r_i > ln C``: a reference that never saw it finds its label less likely than a guess among C
      classes would. Suspects are taken only where a budget exceeds the other candidates, the least suspect first, and
      with weight zero: a loop that multiplies its losses by ``sampler.weights_for(indices)`` learns nothing from them.
    - A reference whose *mean* loss exceeds ``ln C`` knows less about these labels than a guess. Then no loss counts,
      ``w_i = (n_max / n_{y_i})^b``, and nobody is a suspect.
    - The draw of a sample moves from epoch to epoch by the golden ratio instead of being made anew
      (`spectral_sampler.draws.recurring`). Each epoch's draw has the same distribution, but over several epochs a
      sample is drawn about as often as it should be: one drawn now is less likely to be drawn next.

    The weights are our own. Distrusting labels that a held-out model finds implausible has RHO-LOSS (arXiv 2206.07137)
    as its nearest relative; the draw is Efraimidis and Spirakis' (2006), the sequence Weyl's. docs/results.md has what
    it is worth, and where it is not.

    Args:
        floor: a, the weight of what is known already, in (0, inf): large values approach a uniform draw.
        balance: b; 0 leaves the classes as they are, 1 shows every class equally often, for a test in which classes
            count alike.
        cut: reference loss above which a sample is a suspect, whatever the mean; None is ``ln C`` if the mean is below
            it, C the number of classes that occur in the store.
    """

    name = "plausible-hard"
    needs = frozenset({"losses", "labels", "learner_losses"})

    def __init__(self, floor: float = 0.2, *, balance: float = 1.0, cut: float | None = None) -> None:
        self.floor = within("floor", floor, "(0, inf)", "It is the weight of what is known; the default is 0.2.")
        self.balance = within("balance", balance, "[0, inf)", "0 leaves the classes as they are, 1 evens them out.")
        self.cut = None if cut is None else within("cut", cut, "(0, inf)", "None is the loss of a guess, ln C.")

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:  # noqa: ARG002
        """(B, N) logarithms of what the store says of the weights; −inf for a suspect. The error is 0, or infinite for
        a reference that is no better than a guess.
        """
        facts = _facts(store)
        guess = math.log(np.count_nonzero(facts.counts))
        values = self.balance * np.log(facts.counts.max() / facts.counts[facts.labels[indices]])
        trusted = self.cut is not None or facts.mean_loss <= guess
        if trusted:
            losses = facts.losses[indices].astype(np.float64)
            values += np.log(_missed(losses) + self.floor)
            values[losses > (guess if self.cut is None else self.cut)] = -np.inf
        exact = np.full(len(indices), int(Status.CONVERGED), dtype=np.int64)
        error = np.full(len(indices), 0.0 if trusted else np.inf)
        return Scores(values, error, exact, np.zeros_like(exact))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """Plausible candidates in the order drawn, then suspects if the budget asks for them."""
        scores, losses = required(batch, "scores"), required(batch, "losses")
        plausible = np.isfinite(scores)
        weights = np.where(plausible, np.exp(scores), 0.0)
        if np.isfinite(batch.error):
            seen = required(batch, "learner_losses")
            weights *= np.where(np.isfinite(seen), _missed(seen), 1.0) + self.floor
        count = min(budget, int(plausible.sum()))
        uniforms = draws.recurring(batch.seed, batch.epoch, batch.indices, _STREAM)
        drawn = draw_without_replacement(weights, count, uniforms, plausible).positions
        suspects = np.flatnonzero(~plausible)
        suspects = suspects[np.lexsort((batch.indices[suspects], losses[suspects]))][: budget - count]
        positions = np.concatenate([drawn, suspects])
        kinds = np.full(budget, KINDS.index("weighted"), dtype=np.int8)
        factors = np.repeat([1.0, 0.0], [count, len(suspects)]) if len(suspects) else None
        return Choice(positions, kinds, weights=factors)

    def __repr__(self) -> str:
        return f"PlausibleHard(floor={self.floor}, balance={self.balance}, cut={self.cut})"

"""PlausibleEven: our own selection, samples whose label can be believed, evenly over the epochs."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from spectral_sampler import draws
from spectral_sampler.estimates.label_noise import label_noise, labelled, labels_of, suspects
from spectral_sampler.fiedler import Status
from spectral_sampler.selection.importance import draw_by_chances
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.rho_loss import learnability
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

    Array = NDArray[np.float64]

__all__ = ["PlausibleEven", "PlausibleLearnable"]

_log = logging.getLogger("spectral_sampler")
_STREAM = 0x504C4155
_SUSPECT = -1e6  # below every logarithm of a weight; a doubt is a difference of two scores near [0, 1]
_UNLABELLED = -1e5  # between the two
_LOUD = 0.02  # share of the rows from which withholding them is a warning; of right, separable labels it is less
_UNEVEN = 2.0  # rows of the largest class over those of the smallest, from which somebody should say what counts
_USUAL = 0.3  # a keep ratio


class _Judged(NamedTuple):
    """What is computed once for a store and a share of suspects."""

    suspects: NDArray[np.bool_]
    share: float
    names: NDArray[np.int64]
    """(C,) labels, ascending."""
    rarity: Array
    """(C,) logarithm of the rows of the largest class over those of each, without suspects; NaN for no label."""
    counts: NDArray[np.int64]
    """(C,) those rows; 0 for no label."""


_JUDGED: WeakKeyDictionary[ReferenceStore, dict[float | None, _Judged]] = WeakKeyDictionary()
_SPOKEN: dict[bool, WeakSet[ReferenceStore]] = {True: WeakSet(), False: WeakSet()}  # of what was asked; of a shortfall


def _judged(store: ReferenceStore, share: float | None) -> _Judged:
    known = _JUDGED.setdefault(store, {})
    if share not in known:
        labels, accused = labels_of(store), suspects(store, share)
        names, classes = np.unique(labels, return_inverse=True)
        meant = labelled(labels)
        counts = np.bincount(classes[meant & ~accused], minlength=len(names))
        rarity = np.log(counts.max() / np.maximum(counts, 1.0))
        rarity[classes[~meant]] = np.nan
        judged = _Judged(accused, float(accused.mean()), names, rarity, counts)
        if known.setdefault(share, judged) is judged and share != 0.0:
            _log.log(
                logging.WARNING if share is None and judged.share > _LOUD else logging.INFO,
                "label noise: %.1f %% of the labels are suspected (%s of %s rows; a probe predicts %.0f %%) and will "
                "not be drawn unless a budget asks for them; overlapping classes look the same: see suspects(store), "
                "or pass label_noise=0",
                *(100.0 * judged.share, f"{accused.sum():,}", f"{len(labels):,}", 100.0 * label_noise(store).accuracy),
            )
    return known[share]


def _speak_of_balance(store: ReferenceStore, judged: _Judged, balance: float | None) -> None:
    """Once a store: nobody said whether the classes, which are uneven, count alike; or candidates cannot be evened out
    as was said."""
    present, spoken = judged.counts > 0, _SPOKEN[balance is None]
    rarity, rows = judged.rarity[present], judged.counts[present]
    if store in spoken or balance == 0.0 or not len(rows) or rarity.max() < math.log(_UNEVEN):
        return
    spoken.add(store)
    if balance is None:
        _log.warning(
            "classes are uneven (%.3g : 1) and are drawn as they are; pass balance=1 if rare and frequent ones count "
            "alike in your test, balance=0 if it is as uneven",
            math.exp(rarity.max()),
        )
        return
    weights = np.exp(balance * rarity)
    largest = float(rows @ weights / (len(store) * weights.max()))
    _log.log(
        logging.WARNING if largest < _USUAL else logging.INFO,
        "at keep ratios above %.2g balance=%g takes the rarest classes whole, and shows them less often than meant; "
        "sampler=ClassBalancedSampler(labels), with balance=0, offers all classes equally often",
        largest, balance,
    )  # fmt: skip


class PlausibleEven(Selection):
    """``n`` of the candidates without replacement, each with the chance ``min(1, c·w_i)``, c such that they sum to n:

        w_i = (n_max / n_{y_i})^b,

    n_y the rows of class y, *without suspects*, which have no part in it. With b = 1 every class that a candidate batch
    has enough of is shown equally often; what it has too few of is taken whole (`ClassBalancedSampler` offers more of
    it, with b = 0). Whether that is wanted nobody can see from training data: it gains where rare and frequent classes
    count alike in the test, and loses where they do not.

    - *Suspects* are the samples whose labels the features of all others contradict most, as many as labels are
      estimated to be wrong (`spectral_sampler.estimates.label_noise`); a line in the log says how many,
      `spectral_sampler.suspects` which. They are taken only where a budget exceeds the other candidates, the least
      doubtful first, and with weight zero: a loop that multiplies its losses by ``sampler.weights_for(indices)`` learns
      nothing from them. Classes of fewer than five are not judged. **Classes that overlap look like wrong labels**;
      where yours do, pass ``label_noise=0``.
    - *Rows without a label*, marked −1, are neither a class nor suspects. They come after all labelled candidates and
      before suspects, with weight one; a loss with ``ignore_index=-1`` learns nothing from them.
    - The draw of a sample moves from epoch to epoch by the golden ratio instead of being made anew
      (`spectral_sampler.draws.recurring`). Each epoch's draw has the same distribution, but over several epochs a
      sample is drawn about as often as it should be: one drawn now is less likely to be drawn next. It moves too
      where a ``sampler=`` offers a sample again in one epoch.

    The combination is our own. The draw is Rosén's (1997) Pareto sampling, the sequence Weyl's. docs/results.md has
    what it is worth, and where it is not. The first batch waits for the estimate: `spectral_sampler.label_noise`.

    Args:
        balance: b; 0 leaves the classes as they are, 1 shows every class equally often, for a test in which classes
            count alike. None is 0, and a warning where the classes are uneven.
        label_noise: share of the samples that are suspects, in [0, 1); None estimates it, 0 trusts every label and
            computes nothing.
    """

    name = "plausible-even"
    needs = frozenset({"features", "labels"})
    judges_all = True
    """A candidate batch that is kept whole is judged too, for the weights of the suspects in it."""

    def __init__(self, *, balance: float | None = None, label_noise: float | None = None) -> None:
        self.balance = None
        if balance is not None:
            self.balance = within("balance", balance, "[0, inf)", "0 leaves the classes as they are, 1 evens them out.")
        self.label_noise = None
        if label_noise is not None:
            self.label_noise = within("label_noise", label_noise, "[0, 1)", "None estimates it, 0 trusts every label.")

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores:  # noqa: ARG002
        """(B, N) logarithms of the weights; −10⁵ without a label, of suspects −10⁶ minus the doubt. They are exact: the
        error is 0."""
        judged, labels = _judged(store, self.label_noise), labels_of(store)[indices]
        _speak_of_balance(store, judged, self.balance)
        rarity = (self.balance or 0.0) * judged.rarity[np.searchsorted(judged.names, labels)]
        values, accused = np.where(np.isnan(rarity), _UNLABELLED, rarity), judged.suspects[indices]
        if accused.any():
            values = np.where(accused, _SUSPECT - label_noise(store).doubts[indices], values)
        exact = np.full(len(indices), int(Status.CONVERGED), dtype=np.int64)
        return Scores(values, np.zeros(len(indices)), exact, np.zeros_like(exact))

    def facts(self, store: ReferenceStore) -> dict[str, float]:
        """``suspect_share``: share of the rows that are suspects, once a first batch has asked for them."""
        judged = _JUDGED.get(store, {}).get(self.label_noise)
        return {} if judged is None else {"suspect_share": judged.share}

    def _preference(self, batch: CandidateBatch, plausible: NDArray[np.bool_]) -> Array:  # noqa: ARG002
        """(N,) logarithm of a further factor of the weights."""
        return np.zeros(len(batch.indices))

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """Plausible candidates in the order drawn, then those without a label, then suspects."""
        scores = required(batch, "scores")
        plausible = scores > _UNLABELLED / 2
        count = min(budget, int(plausible.sum()))
        places, others = np.flatnonzero(plausible), np.flatnonzero(~plausible)
        again = 0 if batch.again is None else batch.again
        uniforms = draws.recurring(batch.seed, batch.turn, batch.indices, _STREAM, again=again)
        logits = scores + self._preference(batch, plausible)
        drawn = places[draw_by_chances(logits[places], count, uniforms[places])]
        others = others[np.lexsort((batch.ties()[others], -scores[others]))][: budget - count]
        positions = np.concatenate([drawn, others])
        kinds, factors = np.full(budget, KINDS.index("weighted"), dtype=np.int8), scores[positions] > _SUSPECT / 2
        forced = int(budget - factors.sum())
        return Choice(
            positions, kinds, zero_weight_draws=forced, weights=factors.astype(np.float64) if forced else None
        )


class PlausibleLearnable(PlausibleEven):
    """As `PlausibleEven`, but with

        w_i = exp((l_i − r_i) / T) · (n_max / n_{y_i})^b,

    l the learner's last observed loss and r the reference loss: the learnability of RHO-LOSS (arXiv 2206.07137) in the
    draw of JEST (arXiv 2406.17711) with ``joint=False``. Call ``sampler.observe(indices, losses)`` after every step.

    A candidate whose learner loss is unknown, because it was never observed or too long ago, counts as the most
    learnable of the known ones that are plausible, as in `learnability`: it is tried rather than forgotten.

    Args:
        temperature: T; large values approach `PlausibleEven`, small ones rank.
        balance, label_noise: of `PlausibleEven`.
    """

    name = "plausible-learnable"
    needs = frozenset({"features", "labels", "losses", "learner_losses"})

    def __init__(
        self, temperature: float = 0.25, *, balance: float | None = None, label_noise: float | None = None
    ) -> None:
        super().__init__(balance=balance, label_noise=label_noise)
        self.temperature = within("temperature", temperature, "(0, inf)", "It divides the learnability, in nats.")

    def _preference(self, batch: CandidateBatch, plausible: NDArray[np.bool_]) -> Array:
        return learnability(batch, plausible) / self.temperature

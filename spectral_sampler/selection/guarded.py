"""Guarded: a selection that acts while it teaches more than uniform draws, and never again once that is refuted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.estimates.label_noise import labelled, labels_of
from spectral_sampler.selection.protocol import Selection, as_selection
from spectral_sampler.selection.uniform import Uniform
from spectral_sampler.validation import within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from spectral_sampler.selection.protocol import CandidateBatch, Choice, EpochRequest, Proposal, Scores
    from spectral_sampler.store import ReferenceStore

    Array = NDArray[np.float64]

__all__ = ["Guarded", "lead"]

_log = logging.getLogger("spectral_sampler")
_BLOCK, _LEAST = 512, 32  # samples of a comparison, at most and at least
_EVERY = 64  # comparisons while as many samples as the store has rows are trained on, at most: they cost time
_JUDGES = 2048  # rows that two probes are compared on, at most
_FOLDS = 4
_SORTED = 1 << 14  # rows up to which sorting hashes is as fast as an order that is never formed
_WIDEST = 512  # columns of features; wider ones are projected
_PENALTY = 0.05  # λ over the Frobenius norm of the second moment
_MEMORY = 0.9  # weight of a comparison beside the next one: the last ten decide who acts
_STAKES = {0.9: 0.75, 0.5: 0.25}  # share of the wealth that is bet on every comparison, and that bettor's weight
_FLOOR_STREAM, _JUDGE_STREAM, _FOLD_STREAM, _PROJECTION = 0x47464C52, 0x474A4447, 0x47464C44, 0x47505244


class Guarded(Selection):
    """``selection`` while it teaches no less than ``floor``, else ``floor``.

    The test runs beside the training and costs it no sample. A *comparison*: one linear probe on the reference features
    learns from the samples of the selection, with the weights with which they go out, another from as many drawn
    uniformly from what is on offer. Both then predict up to 2048 random rows, without having learnt from them (four
    folds), and the share Z of right answers of the first less that of the second says which taught more. A label that
    is wrong by chance is as wrong for either: under symmetric noise the better probe stays ahead on noisy labels (Ghosh
    et al. 2017, arXiv 1712.09482, of 0-1 loss).

    *Probation.* Choices are pure, so what chooses by the store alone (no losses or outputs of the learner, nothing that
    ``trained`` learns) is judged by what it would choose, before it is let act: eight comparisons, each of two virtual
    passes together, 512 samples of each at least where a pass has as many; rows that both show are seen to be the same.
    It acts as long as its lead, Σ_s 0.9^(t−s) Z_s, is not negative; else it is on probation: ``floor`` acts, and
    comparisons are of what it would choose. What goes by the learner would choose otherwise if it were trained with,
    and acts from the start.

    Comparisons go on at the end of every pass, and within long ones (of 512 samples, every 512 or every 64th of the
    store's rows, whichever is more); what proposes a pass acts or not for the whole of it.

    *Evidence* is the wealth of one who begins with 1 and bets, at even odds, that the selection loses the next
    comparison (Z < 0; ties do not count)::

        E_t = Σ_λ π_λ Π_{s ≤ t} (1 ± λ),    + where the selection lost, − where it won; π_0.9 = 0.75, π_0.5 = 0.25.

    As long as losing is at most as likely as winning, whatever went before, E is a non-negative supermartingale, and
    the chance that it *ever* reaches 1/level is at most ``level`` (Ville 1939; Waudby-Smith and Ramdas 2024, arXiv
    2010.09686, Prop. 2): looking after every comparison is allowed. Then one warning is logged, and ``floor`` selects
    from the next batch on, for good. Five comparisons lost in a row are enough at 0.05: what chooses by the store alone
    and loses them is never trained on. ``statistics()`` has ``spectral/guard_probation``, ``guard_lead``,
    ``guard_evidence``, ``guard_comparisons``, ``guard_lost`` and ``guard_fallen``.

    What it does not see: the probe is not the learner. A selection that shows what a linear probe on these features
    learns from, and the learner does not, passes, and the other way round; so does one by the learner's losses whose
    harm is not visible within a pass, and what that was trained on until the evidence sufficed stays trained on.

    With several ranks what would be chosen on all of them is judged, and what went out as the loop reports it to
    ``observe``, each sample with weight one: every rank decides alike. Where a whole pass is not reported the guard
    cannot judge, says so once and gives way to ``floor``. With one process nothing needs to be reported. A pass that a
    selection proposes (InfoBatch, SensitivitySampling) ends as it was proposed: ``floor`` draws from that, then from
    all the data. With a caller's ``sampler`` that can only be iterated itself there are no virtual passes: the
    selection acts until it gives way.

    Args:
        selection: any, but for another guard.
        floor: one that neither scores, proposes nor learns; default `Uniform`.
        level: bound on the chance of giving up a selection that is as good as the floor.
        balance: b of the weights ``n_y^(−b)`` of the rows that probes are compared on, as in `PlausibleEven`: 1 for a
            test in which classes count alike, 0 for one that looks like the data. None: ``selection.balance`` where
            that is a number, else 0.

    Raises:
        ArgumentError: for another kind of selection or floor, or a number out of range.
    """

    def __init__(
        self, selection: Selection, floor: Selection | None = None, *, level: float = 0.05, balance: float | None = None
    ) -> None:
        self.selection = as_selection(selection)
        self.floor = Uniform() if floor is None else as_selection(floor, "floor")
        if isinstance(self.selection, Guarded):
            raise argument_error("selection", "one that is not guarded yet", repr(selection), "Guard it once.")
        scores = getattr(self.floor.score, "__func__", None) is not Selection.score
        if scores or self.floor.proposes or self.floor.judges_all:
            rule = "a selection that neither scores, proposes nor learns"
            raise argument_error("floor", rule, repr(floor), "Leave it out for Uniform().")
        self.level = within("level", level, "(0, 1)", "0.05 gives up one good selection in twenty at most.")
        own = getattr(self.selection, "balance", None) if balance is None else balance
        self.balance = within(
            "balance", 0.0 if own is None else own, "[0, inf)", "0 counts rows alike, 1 counts classes alike."
        )
        self.name = f"guarded-{self.selection.name}"
        self.needs = self.selection.needs | self.floor.needs | {"features", "labels"}
        self.judges_all, self.proposes = self.selection.judges_all, self.selection.proposes
        self.wealth = dict.fromkeys(_STAKES, 1.0)
        """By stake: what a bettor who began with 1 has."""
        self.comparisons = self.lost = 0
        self.lead, self.acts = 0.0, True
        """By how much it is ahead lately, and whether it is let act: not on probation, not given up."""
        self.since: int | None = None
        """The first epoch whose candidates are no longer proposed, once it has given way."""
        self.epoch = -1
        """That of the samples not compared yet."""
        self._rows, self._weights = np.empty(0, dtype=np.int64), np.empty(0)

    # Selecting

    @property
    def acting(self) -> Selection:
        """Who selects at this moment."""
        return self.selection if self.acts else self.floor

    @property
    def on_probation(self) -> bool:
        """Is it judged by what it would choose?"""
        return not self.acts and self.since is None

    def score(self, store: ReferenceStore, indices: NDArray[np.int64], *, backend: str) -> Scores | None:
        """The selection's, on probation, too: it may act before what is scored ahead is due."""
        return self.selection.score(store, indices, backend=backend) if self.since is None else None

    def propose(self, request: EpochRequest) -> Proposal | None:
        """The selection's proposal where it acts, and of epochs before it gave way."""
        proposes = self.acts or (self.since is not None and request.epoch < self.since)
        return self.selection.propose(request) if proposes else None

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The choice of the acting selection."""
        return self.acting.select(batch, budget)

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:
        """For the acting selection."""
        self.acting.trained(batch, choice)

    # Judging

    @property
    def evidence(self) -> float:
        """E, 1 before the first comparison; ≥ 1/level from the moment on at which it gives way by evidence."""
        return sum(weight * self.wealth[stake] for stake, weight in _STAKES.items())

    def shown(self, rows: NDArray[np.int64], weights: NDArray[np.floating] | None, epoch: int) -> None:
        """The samples ``rows`` (n,) of all ranks are trained on in ``epoch``, with ``weights`` (n,), None for ones."""
        if self.since is None:
            given = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
            self._rows, self._weights = np.append(self._rows, rows), np.append(self._weights, given)
            self.epoch = epoch

    def due(self, samples: int, epoch: int) -> bool:
        """Is a comparison due before the next choice in ``epoch``, of a store of so many samples?"""
        least = max(_BLOCK, samples // _EVERY) if epoch == self.epoch else _LEAST
        return self.since is None and len(self._rows) >= least

    def compare(
        self, store: ReferenceStore, pool: NDArray[np.int64] | None, seed: int, epoch: int,
        would_be: Sequence[tuple[NDArray[np.int64], Array]] = (),
    ) -> None:  # fmt: skip
        """One comparison of what was shown, or of the rows and weights that ``would_be`` in some passes, with rows
        drawn from ``pool``, all that is on offer, None for all rows, keyed by ``seed``. The next choice is one of
        ``epoch``."""
        within_pass, done = epoch == self.epoch, max(_BLOCK, len(store) // _EVERY)
        passes = would_be or [(self._rows[:_BLOCK], self._weights[:_BLOCK])]
        self._rows, self._weights = self._rows[done:], self._weights[done:]
        z = lead(store, passes, pool, seed=seed, number=self.comparisons, balance=self.balance)
        self.comparisons += 1
        self.lost += z < 0
        self.lead = _MEMORY * self.lead + z
        for stake in self.wealth:
            self.wealth[stake] *= 1.0 - stake * float(np.sign(z))
        _log.debug("guard: comparison %d, lead %+.4f, evidence %.2f", self.comparisons, z, self.evidence)
        if self.evidence >= 1.0 / self.level:
            _log.warning(
                "epoch %d: %s gives way to %s for the rest of the training: probes learnt less from its samples than "
                "from as many uniform ones in %d of %d comparisons (evidence %.1f, level %g)", epoch,
                self.selection.name, self.floor.name, self.lost, self.comparisons, self.evidence, self.level,
            )  # fmt: skip
            self._give_way(epoch + (within_pass and self.acts))

    def settle(self, epoch: int) -> None:
        """Who acts from the next choice on, which is one of ``epoch``."""
        acts = self.since is None and self.lead >= 0.0
        if self.since is not None or acts == self.acts or (self.proposes and epoch == self.epoch):
            return
        self.acts, self._rows, self._weights = acts, self._rows[:0], self._weights[:0]
        _log.info(
            "epoch %d: %s %s, after %d of %d comparisons lost", epoch, self.selection.name,
            "acts" if acts else f"is on probation, {self.floor.name} acts", self.lost, self.comparisons,
        )  # fmt: skip

    def unheard(self, epoch: int) -> None:
        """A whole pass before ``epoch`` was not reported, so that ranks do not know of each other's samples."""
        if self.since is None:
            _log.warning(
                "epoch %d: %s gives way to %s for the rest of the training: with several ranks its guard goes by what "
                "sampler.observe_next(losses) reports, and of the last pass nothing was reported", epoch,
                self.selection.name, self.floor.name,
            )  # fmt: skip
            self._give_way(epoch)

    def _give_way(self, since: int) -> None:
        self.since, self.acts = since, False
        self._rows, self._weights = self._rows[:0], self._weights[:0]

    # What it knows

    def facts(self, store: ReferenceStore) -> dict[str, float]:
        """Those of the selection; lead, evidence, comparisons, how many of them it lost, and 1 on probation, and 1 once
        it gave way."""
        found = {"lead": self.lead, "evidence": self.evidence, "comparisons": self.comparisons, "lost": self.lost}
        found |= {"probation": self.on_probation, "fallen": self.since is not None}
        return {**self.selection.facts(store), **{f"guard_{name}": float(value) for name, value in found.items()}}

    def state_dict(self) -> dict[str, Any]:
        """The selection's, the counts, who acts, and the samples that wait for a comparison."""
        return {
            "selection": self.selection.state_dict(), "wealth": list(self.wealth.values()), "since": self.since,
            "comparisons": self.comparisons, "lost": int(self.lost), "lead": self.lead, "acts": self.acts,
            "epoch": self.epoch,
            "rows": torch.from_numpy(self._rows.copy()), "weights": torch.from_numpy(self._weights.copy()),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.selection.load_state_dict(state["selection"])
        self.wealth = dict(zip(_STAKES, map(float, state["wealth"]), strict=True))
        self.comparisons, self.lost, self.epoch = state["comparisons"], state["lost"], state["epoch"]
        self.lead, self.acts, self.since = state["lead"], state["acts"], state["since"]
        self._rows, self._weights = state["rows"].cpu().numpy().copy(), state["weights"].cpu().numpy().copy()


def lead(
    store: ReferenceStore, passes: Sequence[tuple[NDArray[np.int64], Array]], pool: NDArray[np.int64] | None, *,
    seed: int, number: int, balance: float = 0.0,
) -> float:  # fmt: skip
    """Z in [−1, 1]: how much better a probe that learnt from ``passes`` predicts than one that learnt from as many of
    ``pool``, drawn for each of the passes without replacement.

    Args:
        store: with labels; rows labelled −1 beside others take no part.
        passes: (n,) samples of each, repeated where they are shown again, and the factors of their losses, at least 0.
        pool: (P,) distinct rows on offer; None for all.
        seed, number: of the draws, and of the comparison.
        balance: b of the weights ``n_y^(−b)`` of the rows that are predicted.
    """
    among = len(store) if pool is None else len(pool)
    rows, weights = (np.concatenate(parts) for parts in zip(*passes, strict=True))
    drawn = np.concatenate([
        _drawn(len(store), pool, min(len(own), among), (seed, number), _FLOOR_STREAM + turn)
        for turn, (own, _) in enumerate(passes)
    ])  # fmt: skip
    judges = _drawn(len(store), pool, _JUDGES, (seed, number), _JUDGE_STREAM)
    known = labelled(labels_of(store))
    every = np.unique(np.concatenate([rows, drawn, judges]))
    every = every[known[every]]
    judges = np.searchsorted(every, np.sort(judges[known[judges]]))
    if len(judges) < _FOLDS:
        return 0.0
    names, classes = np.unique(labels_of(store)[every], return_inverse=True)
    shown = np.zeros((2, len(every)))
    for arm, (own, factors) in enumerate(((rows, weights), (drawn, np.ones(len(drawn))))):
        kept = known[own]
        np.add.at(shown[arm], np.searchsorted(every, own[kept]), factors[kept])
    features = _features(store, every)
    folds = (draws.uniforms(seed, number, 0, every, _FOLD_STREAM) * _FOLDS).astype(np.int64)
    right = np.zeros((2, len(every)))
    for fold in range(_FOLDS):
        here = folds == fold
        for arm in range(2):
            taught = np.where(here, 0.0, shown[arm])
            right[arm, here] = _predicted(features, classes, len(names), taught, here) == classes[here]
    importance = np.bincount(classes[judges])[classes[judges]] ** -float(balance)
    # Sums of equal terms in one order, so that probes that answer alike tie exactly.
    return float(importance @ (right[0] - right[1])[judges] / importance.sum())


def _drawn(
    samples: int, pool: NDArray[np.int64] | None, size: int, key: tuple[int, int], stream: int
) -> NDArray[np.int64]:
    """``size`` rows of ``pool``, None for all ``samples``, without replacement; all where there are fewer."""
    among = samples if pool is None else len(pool)
    if among <= _SORTED:
        rows = np.arange(samples) if pool is None else pool
        return np.asarray(rows[np.argsort(draws.uniforms(*key, 0, rows, stream), kind="stable")[:size]])
    places = draws.permuted(key[0] ^ stream, key[1], among, np.arange(min(size, among)))
    return places if pool is None else pool[places]


def _features(store: ReferenceStore, rows: NDArray[np.int64]) -> Array:
    """(n, d) of unit length; of more than 512 columns a projection onto random signs, which keeps angles."""
    features = np.asarray(store.features[rows], dtype=np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    width = features.shape[1]
    if width <= _WIDEST:
        return features
    signs = draws.uniforms(0, 0, 0, np.arange(width * _WIDEST), _PROJECTION) < 0.5
    projected: Array = features @ np.where(signs, 1.0, -1.0).reshape(width, _WIDEST) / _WIDEST**0.5
    return projected


def _predicted(
    features: Array, classes: NDArray[np.int64], count: int, weights: Array, asked: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(k,) the classes of the rows ``asked``, of which there are k, by a ridge regression onto one-hot labels from the
    rows of positive weight; −1 where there are none."""
    taught = np.flatnonzero(weights > 0)
    if not len(taught):
        return np.full(int(asked.sum()), -1)
    shares = weights[taught] / weights[taught].sum()
    mean = shares @ features[taught]
    roots = np.sqrt(shares)[:, None]
    rows = (features[taught] - mean) * roots
    prior = np.bincount(classes[taught], shares, minlength=count)
    targets = (np.eye(count)[classes[taught]] - prior) * roots
    wide = len(taught) < features.shape[1]
    moment = rows @ rows.T if wide else rows.T @ rows
    moment.flat[:: len(moment) + 1] += _PENALTY * float(np.linalg.norm(moment)) + np.finfo(np.float64).tiny
    learnt = rows.T @ np.linalg.solve(moment, targets) if wide else np.linalg.solve(moment, rows.T @ targets)
    return np.asarray(((features[asked] - mean) @ learnt + prior).argmax(axis=1))

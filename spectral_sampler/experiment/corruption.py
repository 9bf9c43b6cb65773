"""Faults put into a data set on purpose: wrong labels, rare classes, repeated rows. Seeded, counted, recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Corrupted", "Corruption", "Known", "corrupt", "corrupt_held_out", "flip_labels"]

_IMBALANCE, _NOISE, _DUPLICATE, _HELD_OUT, _CONFUSION, _HELD_OUT_CONFUSION = range(6)


class Corruption(NamedTuple):
    """What to do to the training rows."""

    label_noise: float = 0.0
    """Share of rows whose label becomes another class, each other class equally likely."""
    imbalance: float = 1.0
    """Rows of the most frequent class per row of the rarest; the classes between fall geometrically."""
    duplicate: float = 0.0
    """Share of rows that are exact copies of another row, label included."""
    confusion_noise: float = 0.0
    """Share of each class's rows whose label becomes the class that it is taken for most often (`Known.partners`)."""

    def checked(self) -> Corruption:
        """Itself, or one sentence."""
        if not 0.0 <= self.label_noise < 1.0:
            raise argument_error("label-noise", "in [0, 1)", self.label_noise, "0.2 makes every fifth label wrong.")
        if not 1.0 <= self.imbalance < float("inf"):
            raise argument_error("imbalance", "at least 1", self.imbalance, "10 keeps a tenth of the rarest class.")
        if not 0.0 <= self.duplicate < 1.0:
            raise argument_error("duplicate", "in [0, 1)", self.duplicate, "0.5 makes every second row a copy.")
        if not 0.0 <= self.confusion_noise < 1.0:
            remedy = "0.2 gives a fifth of each class the label of its look-alike."
            raise argument_error("confusion-noise", "in [0, 1)", self.confusion_noise, remedy)
        if self.label_noise + self.confusion_noise >= 1.0:
            rule, remedy = f"below 1 - confusion-noise ({self.confusion_noise})", "No row is made wrong by both."
            raise argument_error("label-noise", rule, self.label_noise, remedy)
        return self


class Known(NamedTuple):
    """What is known of a data set beside its labels. A learner and a reference see none of it."""

    truth: NDArray[np.int64] | None = None
    """(M,) the right labels of the training rows, where the data come with wrong ones."""
    origins: NDArray[np.int64] | None = None
    """(C,) the same number for classes that cannot be told apart; see `overlap.overlapping`."""
    partners: NDArray[np.int64] | None = None
    """(C,) the class that each is taken for most often, never its own; see `confusions.partners`."""
    facts: tuple[tuple[str, Any], ...] = ()
    """For the JSON."""


_NOTHING = Known()


class Corrupted(NamedTuple):
    """The training rows a learner gets, and what is wrong with them."""

    rows: NDArray[np.int64]
    """(M,) rows of the clean training set, in the learner's order; copies repeat a number."""
    labels: NDArray[np.int64]
    """(M,) labels the learner sees."""
    wrong: NDArray[np.bool_]
    """(M,) label differs from the true one. Which of two indistinguishable classes a label names is no mistake."""
    facts: tuple[tuple[str, Any], ...] = ()
    """For the JSON; see `Known.facts`."""

    def record(self, classes: int) -> dict[str, Any]:
        """Counts for the JSON."""
        return {
            "rows": len(self.rows),
            "wrong_labels": int(self.wrong.sum()),
            "copies": len(self.rows) - len(np.unique(self.rows)),
            "rows_per_class": np.bincount(self.labels, minlength=classes).tolist(),
            **dict(self.facts),
        }


def _generator(seed: int, purpose: int) -> np.random.Generator:
    if seed < 0:
        raise argument_error("seed", "at least 0", seed, "NumPy's generators take no other.")
    return np.random.default_rng([seed, purpose])


def flip_labels(
    labels: NDArray[np.int64],
    share: float,
    classes: int,
    generator: np.random.Generator,
    among: NDArray[np.int64] | None = None,
    origins: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """A copy of ``labels`` (M,) with exactly ``round(share · M)`` of them changed to another of ``classes``.

    Args:
        among: rows that may be changed, all by default; where they are fewer, they all are.
        origins: see `Known.origins`; no label becomes one of the same origin.
    """
    flipped: NDArray[np.int64] = labels.copy()
    rows = np.arange(len(labels)) if among is None else among
    changed = rows[generator.choice(len(rows), size=min(round(share * len(labels)), len(rows)), replace=False)]
    while len(changed):
        flipped[changed] = (labels[changed] + generator.integers(1, classes, size=len(changed))) % classes
        if origins is None:
            break
        changed = changed[origins[flipped[changed]] == origins[labels[changed]]]
    return flipped


def _confused(
    labels: NDArray[np.int64], share: float, known: Known, generator: np.random.Generator
) -> NDArray[np.int64]:
    """A copy of ``labels`` (M,) in which exactly ``round(share · n_c)`` of each class c are its partner's."""
    if not share:
        return labels
    if known.partners is None:
        remedy = "They come of the probe in confusions.py."
        raise argument_error("confusion-noise", "0 where no partners of the classes are known", share, remedy)
    confused: NDArray[np.int64] = labels.copy()
    for label, partner in enumerate(known.partners):
        rows = np.flatnonzero(labels == label)
        confused[generator.choice(rows, size=round(share * len(rows)), replace=False)] = partner
    return confused


def _noisy(
    labels: NDArray[np.int64],
    corruption: Corruption,
    classes: int,
    known: Known,
    generators: tuple[np.random.Generator, np.random.Generator],
) -> NDArray[np.int64]:
    """Noise between look-alikes first, then noise among all classes in rows that the first has left alone."""
    confused = _confused(labels, corruption.confusion_noise, known, generators[0])
    left = np.flatnonzero(confused == labels)
    return flip_labels(confused, corruption.label_noise, classes, generators[1], left, known.origins)


def _imbalanced(labels: NDArray[np.int64], ratio: float, classes: int, seed: int) -> NDArray[np.int64]:
    """Rows kept, ascending: class at place p of a seeded order keeps ``ratio^(−p / (C − 1))`` of its rows, at least
    one."""
    generator = _generator(seed, _IMBALANCE)
    kept = []
    for place, label in enumerate(generator.permutation(classes)):
        rows = np.flatnonzero(labels == label)
        count = max(1, round(len(rows) * ratio ** (-place / max(classes - 1, 1)))) if len(rows) else 0
        kept.append(generator.choice(rows, size=count, replace=False))
    return np.sort(np.concatenate(kept))


def _duplicated(count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Positions (count,) in which exactly ``round(share · count)`` repeat one of the others."""
    generator = _generator(seed, _DUPLICATE)
    copies = round(share * count)
    order = generator.permutation(count)
    originals, replaced = order[copies:], order[:copies]
    positions = np.arange(count)
    positions[replaced] = np.resize(generator.permutation(originals), copies)
    return positions


def corrupt(
    labels: NDArray[np.int64], corruption: Corruption, classes: int, seed: int, known: Known = _NOTHING
) -> Corrupted:
    """Rows and labels of a corrupted training set, a function of its arguments alone.

    Overlapping classes are in the data already (`overlap.overlapping`). Then imbalance, by the labels in the data; then
    noise between look-alikes, the same share of every class that is left; then noise among all classes, as many rows as
    its share of all, none of them made wrong before, so that the shares add up; then copies, which share their
    original's label, right or wrong.
    """
    rows = np.arange(len(labels))
    if corruption.imbalance > 1.0:
        rows = _imbalanced(labels, corruption.imbalance, classes, seed)
    generators = _generator(seed, _CONFUSION), _generator(seed, _NOISE)
    seen = _noisy(labels[rows], corruption, classes, known, generators)
    if corruption.duplicate > 0.0:
        positions = _duplicated(len(rows), corruption.duplicate, seed)
        rows, seen = rows[positions], seen[positions]
    told, truth = seen, (labels if known.truth is None else known.truth)[rows]
    if known.origins is not None:
        told, truth = known.origins[told], known.origins[truth]
    return Corrupted(rows, seen, told != truth, known.facts)


def corrupt_held_out(
    labels: NDArray[np.int64], corruption: Corruption, classes: int, seed: int, known: Known = _NOTHING
) -> NDArray[np.int64]:
    """Labels a reference is trained on: as noisy as the learner's, for nobody has clean ones to spare."""
    generators = _generator(seed, _HELD_OUT_CONFUSION), _generator(seed, _HELD_OUT)
    return _noisy(labels, corruption, classes, known, generators)

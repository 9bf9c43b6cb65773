"""Faults put into a clean data set on purpose: wrong labels, rare classes, repeated rows. Seeded, counted, recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Corrupted", "Corruption", "corrupt", "flip_labels"]

_IMBALANCE, _NOISE, _DUPLICATE, _HELD_OUT = range(4)


class Corruption(NamedTuple):
    """What to do to the training rows."""

    label_noise: float = 0.0
    """Share of rows whose label becomes another class, each other class equally likely."""
    imbalance: float = 1.0
    """Rows of the most frequent class per row of the rarest; the classes between fall geometrically."""
    duplicate: float = 0.0
    """Share of rows that are exact copies of another row, label included."""

    def checked(self) -> Corruption:
        """Itself, or one sentence."""
        if not 0.0 <= self.label_noise < 1.0:
            raise argument_error("label-noise", "in [0, 1)", self.label_noise, "0.2 makes every fifth label wrong.")
        if not 1.0 <= self.imbalance < float("inf"):
            raise argument_error("imbalance", "at least 1", self.imbalance, "10 keeps a tenth of the rarest class.")
        if not 0.0 <= self.duplicate < 1.0:
            raise argument_error("duplicate", "in [0, 1)", self.duplicate, "0.5 makes every second row a copy.")
        return self


class Corrupted(NamedTuple):
    """The training rows a learner gets, and what is wrong with them."""

    rows: NDArray[np.int64]
    """(M,) rows of the clean training set, in the learner's order; copies repeat a number."""
    labels: NDArray[np.int64]
    """(M,) labels the learner sees."""
    wrong: NDArray[np.bool_]
    """(M,) label differs from the true one."""

    def record(self, classes: int) -> dict[str, Any]:
        """Counts for the JSON."""
        return {
            "rows": len(self.rows),
            "wrong_labels": int(self.wrong.sum()),
            "copies": len(self.rows) - len(np.unique(self.rows)),
            "rows_per_class": np.bincount(self.labels, minlength=classes).tolist(),
        }


def _generator(seed: int, purpose: int) -> np.random.Generator:
    if seed < 0:
        raise argument_error("seed", "at least 0", seed, "NumPy's generators take no other.")
    return np.random.default_rng([seed, purpose])


def flip_labels(
    labels: NDArray[np.int64], share: float, classes: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """A copy of ``labels`` (M,) with exactly ``round(share · M)`` of them changed to another of ``classes``."""
    flipped: NDArray[np.int64] = labels.copy()
    chosen = generator.choice(len(labels), size=round(share * len(labels)), replace=False)
    flipped[chosen] = (labels[chosen] + generator.integers(1, classes, size=len(chosen))) % classes
    return flipped


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


def corrupt(labels: NDArray[np.int64], corruption: Corruption, classes: int, seed: int) -> Corrupted:
    """Rows and labels of a corrupted training set, a function of its arguments alone.

    Imbalance first, then wrong labels, then copies (which share their original's label, right or wrong).
    """
    rows = np.arange(len(labels))
    if corruption.imbalance > 1.0:
        rows = _imbalanced(labels, corruption.imbalance, classes, seed)
    seen = flip_labels(labels[rows], corruption.label_noise, classes, _generator(seed, _NOISE))
    if corruption.duplicate > 0.0:
        positions = _duplicated(len(rows), corruption.duplicate, seed)
        rows, seen = rows[positions], seen[positions]
    return Corrupted(rows, seen, seen != labels[rows])


def corrupt_held_out(labels: NDArray[np.int64], corruption: Corruption, classes: int, seed: int) -> NDArray[np.int64]:
    """Labels a reference is trained on: as noisy as the learner's, for nobody has clean ones to spare."""
    return flip_labels(labels, corruption.label_noise, classes, _generator(seed, _HELD_OUT))

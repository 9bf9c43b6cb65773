"""Opinions of words: ten people said how each word feels, and a learner is told what one of them said. Label noise as
it comes: known, because there are nine others, larger where words are harder, and nearly always to the next level."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.packaged import package_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["LEVELS", "Opinions", "levels", "opinions"]

LEVELS = ("very negative", "negative", "positive", "very positive")
_BOUNDS = (-1.5, 0.0, 1.5)


class Opinions(NamedTuple):
    """M words."""

    words: list[str]
    said: NDArray[np.int64]
    """(M,) the level that one person, drawn at random among those who took sides, put the word in."""
    agreed: NDArray[np.int64]
    """(M,) the level of the mean of all ten."""
    version: str


def levels(ratings: NDArray[np.floating]) -> NDArray[np.int64]:
    """Places in `LEVELS` of ratings in [−4, 4] that are not 0: up to −1.5, up to 0, below 1.5, from 1.5 on."""
    places: NDArray[np.int64] = np.searchsorted(_BOUNDS, ratings, side="right").astype(np.int64)
    return np.where(ratings == _BOUNDS[0], 0, places)


def opinions(root: Path | None) -> Opinions:
    """The lexicon of VADER (Hutto and Gilbert 2014) from the package vaderSentiment, whose lines are a word, mean and
    deviation of its ratings, and the ratings of ten people from −4, extremely negative, to 4, extremely positive.

    Words of letters alone are kept, each once, unless their mean is 0 or nobody took sides. Which of the ten is heard
    belongs to the data set: it is the same for every seed.

    Raises:
        MissingPackage: vaderSentiment is not installed.
        ArgumentError: the folder ``root`` has no ``vader_lexicon.txt``, or another one.
    """
    path = package_file(root, "vaderSentiment", "vader_lexicon.txt")
    content, rated = path.read_bytes(), dict[str, list[int]]()
    try:
        for line in content.decode("utf-8").splitlines():
            word, _, _, ratings = line.rstrip().split("\t")
            if word.isalpha():
                rated.setdefault(word, json.loads(ratings))
        kept = {word: ratings for word, ratings in rated.items() if sum(ratings)}
        table = np.array(list(kept.values()), dtype=np.float64).reshape(-1, 10)
    except (TypeError, ValueError) as error:
        remedy = f"A line of it is not a word, two numbers and ten ratings: {error}."
        raise argument_error("data-root", "a folder with VADER's vader_lexicon.txt", path, remedy) from None
    chances = np.random.default_rng(20250707).random(table.shape)
    heard = np.where(table == 0.0, -1.0, chances).argmax(1)
    said = levels(table[np.arange(len(table)), heard])
    version = f"opinions-{hashlib.sha256(content).hexdigest()[:12]}"
    return Opinions(list(kept), said, levels(table.mean(1)), version)

"""Diamonds: how well a stone is cut, from what it measures, weighs and costs. A table whose classes are uneven by
nature and overlap: five grades, one after the other, the best thirteen times as frequent as the worst."""

from __future__ import annotations

import csv
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.packaged import package_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CUTS", "Stones", "diamonds"]

CUTS = ("Fair", "Good", "Very Good", "Premium", "Ideal")
_COLOURS = "JIHGFED"  # worst to best
_CLARITIES = ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF")
_MEASURES = ("carat", "depth", "table", "price", "x", "y", "z")
_FURTHEST = 5.0  # deviations; a few stones have impossible sizes, which are left as they are otherwise


class Stones(NamedTuple):
    """All of them, each once."""

    inputs: NDArray[np.float32]
    """(M, 9) standardised: log weight and log price, depth, table, three lengths, grades of colour and clarity."""
    labels: NDArray[np.int64]
    """(M,) places in `CUTS`."""
    version: str


def diamonds(root: Path | None) -> Stones:
    """The table ``diamonds.csv`` of ggplot2, as the package plotnine ships it; repeated lines are left out.

    Raises:
        MissingPackage: plotnine is not installed.
        ArgumentError: the folder ``root`` has no such file, or another one of that name.
    """
    path = package_file(root, "plotnine", "data/diamonds.csv" if root is None else "diamonds.csv")
    content = path.read_bytes()
    lines = [tuple(line.items()) for line in csv.DictReader(content.decode("utf-8").splitlines())]
    stones: list[dict[str, Any]] = [dict(line) for line in dict.fromkeys(lines)]
    try:
        measures = [[float(stone[name]) for name in _MEASURES] for stone in stones]
        grades = [[_COLOURS.index(stone["color"]), _CLARITIES.index(stone["clarity"])] for stone in stones]
        labels = np.array([CUTS.index(stone["cut"]) for stone in stones], dtype=np.int64)
    except (KeyError, ValueError) as error:
        remedy = f"Another number, grade or column is in it: {error}."
        raise argument_error("data-root", "a folder with ggplot2's diamonds.csv", path, remedy) from None
    values = np.hstack([measures, grades])
    values[:, [0, 3]] = np.log(values[:, [0, 3]])  # weight and price are skewed
    values -= values.mean(0)
    values /= np.where(values.std(0) > 0.0, values.std(0), 1.0)
    version = f"diamonds-{hashlib.sha256(content).hexdigest()[:12]}"
    return Stones(np.clip(values, -_FURTHEST, _FURTHEST).astype(np.float32), labels, version)

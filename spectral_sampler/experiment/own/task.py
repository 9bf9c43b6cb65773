"""A data set as its owner has it, cut and brought into the form that learners and references want."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.augmentation import photograph_transforms
from spectral_sampler.experiment.cuts import cut_rows, stratified
from spectral_sampler.experiment.own.labels import class_numbers
from spectral_sampler.experiment.own.words import VOCABULARY, word_rows
from spectral_sampler.experiment.samples import DatasetSamples, ImageSamples, Samples, Task, TensorSamples, TextSamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spectral_sampler.experiment.own.raw import Raw

__all__ = ["SMALL_PICTURE", "Cut", "picture_size", "task_of"]

_LOG = logging.getLogger("spectral_sampler.experiment")
_FEWEST = 20
_BLOCK = 4096

SMALL_PICTURE = 32
"""Pictures of up to so many pixels a side are kept in memory, are not augmented and go through a small network."""


class Cut(NamedTuple):
    """How to cut it."""

    train_size: int | None = None
    image_size: int = 64
    ready_rows: int | None = None
    """Rows of a reference with losses that is there already, in which case no rows are held out to train one."""


class _Scale(NamedTuple):
    """What inputs are standardised by."""

    mean: Any
    deviation: Any


def _moments(values: NDArray[Any], rows: NDArray[np.int64], axes: tuple[int, ...]) -> _Scale:
    """Mean and deviation of ``values[rows]`` over ``axes``, in float64, block by block."""
    total = squares = np.zeros(())
    count = 0
    for start in range(0, len(rows), _BLOCK):
        block = values[rows[start : start + _BLOCK]].astype(np.float64)
        total, squares = total + block.sum(axes), squares + (block**2).sum(axes)
        count += block.size // max(np.size(total), 1)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-30)  # what is left of a constant is rounding
    return _Scale(mean, np.where(constant, 1.0, deviation))


def _scaled_images(
    parts: list[NDArray[Any]], rows: NDArray[np.int64], labels: list[NDArray[np.int64]]
) -> list[Samples]:
    """Images normalised by the mean and deviation of all training pixels; encoders read those that are in [0, 1]."""
    mean, deviation = map(float, _moments(parts[0], rows, (0, 1, 2, 3)))
    if parts[0].dtype == np.uint8:
        mean, deviation = mean / 255.0, deviation / 255.0
    elif any(part.min() < 0.0 or part.max() > 1.0 for part in parts):
        parts = [((part - mean) / deviation).astype(np.float32) for part in parts]
        return [TensorSamples(torch.from_numpy(part), own) for part, own in zip(parts, labels, strict=True)]
    return [
        TensorSamples(torch.from_numpy(part), own, (mean, deviation)) for part, own in zip(parts, labels, strict=True)
    ]


def _standardised(parts: list[NDArray[Any]], rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Columns with mean 0 and deviation 1 over the training rows; constant ones become 0."""
    mean, deviation = _moments(parts[0], rows, (0,))
    return [((part.astype(np.float64) - mean) / deviation).astype(np.float32) for part in parts]


def picture_size(dataset: Any) -> int:
    """Pixels a side that pictures are scaled to by default: 32 where the first ones are no larger, else 64."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(16, len(dataset))).astype(int)).tolist()
    return SMALL_PICTURE if max(max(dataset[row][0].size) for row in rows) <= SMALL_PICTURE else 64


def _decoded(dataset: Any, size: int) -> NDArray[np.uint8]:
    """Pictures (M, 3, H, W): in their own size where they are all of one that is small enough, else squares."""
    pictures = [dataset[row][0] for row in range(len(dataset))]
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1 or max(next(iter(sizes))) > size:
        pictures = [picture.resize((size, size)) for picture in pictures]
    return np.ascontiguousarray(np.stack([np.asarray(each, dtype=np.uint8) for each in pictures]).transpose(0, 3, 1, 2))


def _photographs(datasets: list[Any], labels: list[NDArray[np.int64]], size: int) -> list[Samples]:
    augmented, evaluated = photograph_transforms(size)
    every: list[Samples] = [
        ImageSamples(dataset, np.arange(len(own)), own, augmented, evaluated)
        for dataset, own in zip(datasets, labels, strict=True)
    ]
    return [every[0], *(part.plain() for part in every[1:])]


def _samples(raw: Raw, labels: list[NDArray[np.int64]], pool: NDArray[np.int64], size: int) -> list[Samples]:
    """The parts as `Samples`; what is normalised is so by the rows ``pool`` of the training part."""
    inputs = [part.inputs for part in (raw.train, raw.test, raw.validation) if part is not None]
    kind = raw.kind
    if kind == "photographs" and size > SMALL_PICTURE:
        return _photographs(inputs, labels, size)
    if kind == "photographs":
        decoded = [_decoded(dataset, size) for dataset in inputs]
        if len({part.shape[1:] for part in decoded}) > 1:  # one part is all of one size and another is not
            resized = [[(dataset[row][0].resize((size, size)),) for row in range(len(dataset))] for dataset in inputs]
            decoded = [_decoded(pictures, size) for pictures in resized]
        inputs, kind = decoded, "images"
    if kind == "images":
        return _scaled_images(inputs, pool, labels)
    if kind == "table":
        inputs = _standardised(inputs, pool)
    paired = list(zip(inputs, labels, strict=True))
    if kind == "texts":
        return [TextSamples(word_rows(texts), own, texts, VOCABULARY) for texts, own in paired]
    found: list[Samples] = [
        TensorSamples(torch.from_numpy(part), own)
        if isinstance(part, np.ndarray)
        else DatasetSamples(part, np.arange(len(own)), own)
        for part, own in paired
    ]
    if raw.augmented is not None:
        found[0] = DatasetSamples(raw.augmented, np.arange(len(labels[0])), labels[0], found[0])
    return found


def task_of(raw: Raw, cut: Cut) -> Task:
    """The task that ``raw`` is: a test part, rows that train the reference alone, and rows for the learner.

    A training part without a test part gives up a stratified fifth for it, and another fifth is held out unless a
    reference with losses is there already. The cut belongs to the data: it is the same for every seed.

    Raises:
        ArgumentError: fewer than 20 rows, one class, or more training rows than there are.
    """
    parts = [part for part in (raw.train, raw.test, raw.validation) if part is not None]
    labels, classes = class_numbers(raw.argument, [part.labels for part in parts], raw.classes)
    total = len(labels[0])
    if total < _FEWEST:
        raise argument_error("data", f"of at least {_FEWEST} training rows", total, "A comparison needs more.")
    pool = np.arange(total)
    if raw.test is None:
        tested = stratified(labels[0], total // 5, np.random.default_rng(0))
        pool = np.setdiff1d(pool, tested)
        _LOG.info("%s has no test part: a stratified fifth, %d of %d rows, is it.", raw.name, len(tested), total)
    ready = cut.ready_rows is not None and cut.ready_rows == total
    held = 0 if ready else len(pool) // 5
    train, reference = cut_rows(labels[0][pool], cut.train_size or len(pool) - held, held)
    train, reference = pool[train], pool[reference]
    every = _samples(raw, labels, pool, cut.image_size)
    given = None if raw.features is None else (raw.features, raw.losses)
    return Task(
        re.sub(r"[^\w.-]", "_", raw.name), every[0].subset(train), every[0].subset(reference),
        every[0].plain().subset(tested) if raw.test is None else every[1], classes,
        f"own-{raw.content}-{cut.image_size}", None if raw.validation is None else every[-1],
        train, reference, total, given, labels[0],
    )  # fmt: skip

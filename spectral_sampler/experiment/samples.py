"""Labelled samples as a map-style data set that can be cut, relabelled and seen without augmentation."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from spectral_sampler.experiment.corruption import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["DatasetSamples", "ImageSamples", "Samples", "Task", "TensorSamples", "TextSamples", "sample_shape"]


_IMAGENET = (torch.tensor((0.485, 0.456, 0.406))[:, None, None], torch.tensor((0.229, 0.224, 0.225))[:, None, None])
"""Mean and deviation of the channels, by which photographs are normalised."""


class Samples(Dataset[Any]):
    """M samples ``(input, label)`` with their labels at hand.

    Attributes:
        labels: (M,) int64.
    """

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: NDArray[np.int64], labels: NDArray[np.int64] | None = None) -> Samples:
        """The samples ``rows`` (n,), repeats allowed, with ``labels`` (n,) in place of their own if given."""
        raise NotImplementedError

    def joined(self, others: Samples) -> Samples:
        """These samples, then ``others`` of the same kind and source."""
        raise NotImplementedError

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with the inputs or their order, not with the labels."""
        raise NotImplementedError

    def plain(self) -> Samples:
        """The same samples without augmentation: what a reference model and an evaluation see."""
        return self


class TensorSamples(Samples):
    """Samples held in memory; a batch is one gather instead of n reads.

    Args:
        inputs: (M, ...) tensor.
        labels: (M,) integers.
        scale: for inputs that are uint8 or in [0, 1], ``(mean, deviation)`` of the values in [0, 1]; the input becomes
            ``(x / 255 − mean) / deviation`` in float32, undivided where x is in [0, 1] already.
    """

    def __init__(
        self, inputs: torch.Tensor, labels: NDArray[np.int64], scale: tuple[float, float] | None = None
    ) -> None:
        self.inputs, self.labels, self.scale = inputs, np.asarray(labels, dtype=np.int64), scale
        self._labels = torch.from_numpy(self.labels)

    def _prepared(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            return inputs
        mean, deviation = self.scale
        values = inputs.to(torch.float32)
        return ((values / 255.0 if inputs.dtype == torch.uint8 else values) - mean) / deviation

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._prepared(self.inputs[row]), self._labels[row]

    def digest(self) -> str:
        """See `Samples.digest`."""
        return hashlib.sha256(np.ascontiguousarray(self.inputs.numpy()).data).hexdigest()[:16]

    def gather(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (n, ...) and labels (n,) of ``rows``."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return self._prepared(self.inputs.index_select(0, index)), self._labels.index_select(0, index)

    def subset(self, rows: NDArray[np.int64], labels: NDArray[np.int64] | None = None) -> TensorSamples:
        """See `Samples.subset`."""
        inputs = self.inputs.index_select(0, torch.from_numpy(np.asarray(rows, dtype=np.int64)))
        return TensorSamples(inputs, self.labels[rows] if labels is None else labels, self.scale)

    def joined(self, others: Samples) -> TensorSamples:
        """See `Samples.joined`."""
        inputs = torch.cat([self.inputs, cast("TensorSamples", others).inputs])
        return TensorSamples(inputs, np.append(self.labels, others.labels), self.scale)


class TextSamples(TensorSamples):
    """Token numbers (M, length) for the learner, and the texts (M,) they came from for a reference.

    Args:
        vocabulary: token numbers there are, 0 for padding; None for MiniLM's tokenizer.
    """

    def __init__(
        self, inputs: torch.Tensor, labels: NDArray[np.int64], texts: list[str], vocabulary: int | None = None
    ) -> None:
        super().__init__(inputs, labels)
        self.texts, self.vocabulary = texts, vocabulary

    def subset(self, rows: NDArray[np.int64], labels: NDArray[np.int64] | None = None) -> TextSamples:
        """See `Samples.subset`."""
        tensors = super().subset(rows, labels)
        return TextSamples(tensors.inputs, tensors.labels, [self.texts[row] for row in rows], self.vocabulary)

    def joined(self, others: Samples) -> TextSamples:
        """See `Samples.joined`."""
        tensors, texts = super().joined(others), [*self.texts, *cast("TextSamples", others).texts]
        return TextSamples(tensors.inputs, tensors.labels, texts, self.vocabulary)


class ImageSamples(Samples):
    """Images of a torchvision data set, decoded when they are read.

    Args:
        source: data set whose items are ``(PIL image, label)``.
        rows: (M,) items of ``source``.
        labels: (M,) integers.
        augmented, evaluated: transforms from a PIL image to a tensor, with and without augmentation.
    """

    def __init__(
        self,
        source: Any,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        augmented: Callable[[Any], torch.Tensor],
        evaluated: Callable[[Any], torch.Tensor],
    ) -> None:
        self.source, self.rows, self.labels = source, np.asarray(rows, dtype=np.int64), np.asarray(labels, np.int64)
        self.augmented, self.evaluated = augmented, evaluated

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, _ = self.source[int(self.rows[row])]
        return self.augmented(image), torch.tensor(int(self.labels[row]))

    def digest(self) -> str:
        """See `Samples.digest`; rows stand for their images, which the task's version names."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()[:16]

    def picture(self, row: int) -> torch.Tensor:
        """Sample ``row`` without augmentation and with the normalisation undone, RGB (3, side, side) in [0, 1]."""
        image, _ = self.source[int(self.rows[row])]
        return (self.evaluated(image) * _IMAGENET[1] + _IMAGENET[0]).clamp(0.0, 1.0)

    def subset(self, rows: NDArray[np.int64], labels: NDArray[np.int64] | None = None) -> ImageSamples:
        """See `Samples.subset`."""
        chosen = self.labels[rows] if labels is None else labels
        return ImageSamples(self.source, self.rows[rows], chosen, self.augmented, self.evaluated)

    def joined(self, others: Samples) -> ImageSamples:
        """See `Samples.joined`."""
        rows = np.append(self.rows, cast("ImageSamples", others).rows)
        return ImageSamples(self.source, rows, np.append(self.labels, others.labels), self.augmented, self.evaluated)

    def plain(self) -> ImageSamples:
        """See `Samples.plain`."""
        return ImageSamples(self.source, self.rows, self.labels, self.evaluated, self.evaluated)


class DatasetSamples(Samples):
    """Samples of anybody's map-style data set, read when they are wanted; uint8 becomes float32 in [0, 1].

    Args:
        source: data set whose items begin with the input.
        rows: (M,) items of ``source``.
        labels: (M,) integers.
        evaluated: the same M samples without augmentation; None where ``source`` has none.
    """

    def __init__(
        self, source: Any, rows: NDArray[np.int64], labels: NDArray[np.int64], evaluated: Samples | None = None
    ) -> None:
        self.source, self.rows, self.labels = source, np.asarray(rows, dtype=np.int64), np.asarray(labels, np.int64)
        self.evaluated = evaluated

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.as_tensor(self.source[int(self.rows[row])][0])
        if inputs.dtype == torch.uint8:
            inputs = inputs.float() / 255.0
        return inputs.float() if inputs.is_floating_point() else inputs, torch.tensor(int(self.labels[row]))

    def digest(self) -> str:
        """See `Samples.digest`; rows stand for their samples, which the task's version names."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()[:16]

    def subset(self, rows: NDArray[np.int64], labels: NDArray[np.int64] | None = None) -> DatasetSamples:
        """See `Samples.subset`."""
        chosen = self.labels[rows] if labels is None else labels
        evaluated = self.evaluated and self.evaluated.subset(rows, chosen)
        return DatasetSamples(self.source, self.rows[rows], chosen, evaluated)

    def joined(self, others: Samples) -> DatasetSamples:
        """See `Samples.joined`."""
        rows = np.append(self.rows, cast("DatasetSamples", others).rows)
        evaluated = self.evaluated and self.evaluated.joined(others.plain())
        return DatasetSamples(self.source, rows, np.append(self.labels, others.labels), evaluated)

    def plain(self) -> Samples:
        """See `Samples.plain`."""
        return self if self.evaluated is None else self.evaluated


def sample_shape(samples: Samples) -> tuple[int, ...]:
    """Shape of one input as the learner gets it, without the batch."""
    return tuple(samples[0][0].shape)


class Task(NamedTuple):
    """A classification task, split so that the reference's rows are never the learner's."""

    name: str
    train: Samples
    held_out: Samples
    """For training the reference, without augmentation (`Samples.plain`)."""
    test: Samples
    """Clean labels, whatever happens to the other two."""
    classes: tuple[str, ...]
    version: str = ""
    """Names the content, so that cached features of another content are not taken for these."""
    validation: Samples | None = None
    """Rows of the training set that neither the learner nor the reference is trained on, if any were cut."""
    rows: NDArray[np.int64] | None = None
    """(M,) where the training rows stand in the data set as its owner counts them; None for one of ours."""
    held_out_rows: NDArray[np.int64] | None = None
    total: int = 0
    """Rows that its owner counts."""
    given: tuple[NDArray[Any], NDArray[Any] | None] | None = None
    """Features (total, d) and losses (total,) of a reference that came with the data."""
    labels: NDArray[np.int64] | None = None
    """(total,) of all rows that its owner counts."""
    known: Known = Known()
    """What is known beside the labels: which are wrong by nature, which classes look alike."""
    encoded: Mapping[str, NDArray[Any]] | None = None
    """Features (n, d) of an encoder by part (train, held_out), where a larger task's are at hand."""

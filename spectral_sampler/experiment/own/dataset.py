"""Map-style data sets that somebody's function returns: read, checked, and known by their content."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, Subset, TensorDataset

from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.experiment.own.arrays import digest_of
from spectral_sampler.experiment.own.folder import in_colour
from spectral_sampler.experiment.own.labels import checked_labels
from spectral_sampler.experiment.own.raw import Part

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pictures", "ReadPart", "as_array", "is_random", "item", "read_part"]

_LOG = logging.getLogger("spectral_sampler.experiment")
_IN_MEMORY = 1 << 30  # bytes; what is smaller is read once and kept
_PROBES, _PICTURE_PROBES = 64, 1024
_INPUT_KEYS, _LABEL_KEYS = ("image", "img", "text", "pixel_values"), ("label", "labels", "target")


class ReadPart(NamedTuple):
    """A part, its kind, and what tells its content from another's."""

    part: Part
    kind: str
    content: str


class Pictures:
    """Map-style ``(PIL picture in RGB, label)`` of a data set of PIL pictures."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        picture, label = item("data", self.dataset, row)
        return in_colour(picture, f"sample {row}"), label


def _pair(argument: str, sample: Any) -> tuple[Any, Any]:
    """Input and label of a sample: a tuple's or list's first two, or a mapping's ``label`` and what else it has.

    Raises:
        ArgumentError: anything else.
    """
    if isinstance(sample, Mapping):
        label = next((key for key in _LABEL_KEYS if key in sample), None)
        rest = [key for key in sample if key != label]
        found = next((key for key in _INPUT_KEYS if key in sample), rest[0] if len(rest) == 1 else None)
        if label is not None and found is not None:
            return sample[found], sample[label]
        what = f"a sample with the keys {', '.join(map(str, sample))}"
    elif isinstance(sample, (tuple, list)) and len(sample) >= 2:
        return sample[0], sample[1]
    else:
        what = f"a sample of type {type(sample).__name__}"
    raise argument_error(argument, "a data set of (input, label)", what, "Return such pairs from __getitem__.")


def item(argument: str, dataset: Any, row: int) -> tuple[Any, Any]:
    """Input and label of sample ``row``.

    Raises:
        ArgumentError: a sample that cannot be read, or is no such pair.
    """
    try:
        sample = dataset[row]
    except (ArgumentError, ImportError):
        raise
    except Exception as error:  # somebody's data set may raise anything
        remedy = f"{type(error).__name__}: {error}".rstrip(".") + "."
        raise argument_error(argument, "a data set that can be read", f"an error in sample {row}", remedy) from error
    return _pair(argument, sample)


def _map_style(argument: str, dataset: Any) -> None:
    usable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not usable or isinstance(dataset, (np.ndarray, torch.Tensor, str)):
        remedy = "Samples need numbers and labels: (x, y) arrays, or a data set with __len__ and __getitem__."
        raise argument_error(argument, "a map-style data set", type(dataset).__name__, remedy)
    if not len(dataset):
        raise argument_error(argument, "a data set with samples", "none", "Is the right folder read?")


def as_array(argument: str, tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor of any type and device that NumPy can have.

    Raises:
        ArgumentError: sparse, quantised and other tensors.
    """
    tensor = tensor.detach().cpu()
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        what, remedy = f"{tensor.layout} {tensor.dtype}", f"NumPy cannot have it ({str(error).splitlines()[0]})."
        raise argument_error(argument, "a dense tensor of numbers", what, remedy) from None


def _content(value: Any) -> Any:
    """Something `digest_of` reads that changes with an input."""
    if isinstance(value, torch.Tensor):
        return as_array("data", value)
    if callable(getattr(value, "convert", None)):  # a PIL picture
        return [str(value.size), value.mode, value.tobytes()]
    return value if isinstance(value, (str, bytes)) else np.asarray(value)


def _probes(rows: int, count: int) -> list[int]:
    return [int(row) for row in np.unique(np.linspace(0, rows - 1, min(count, rows)).round())]


def is_random(dataset: Any) -> bool:
    """Whether some of 64 samples, read twice, differ."""

    def digest(row: int) -> str:
        return digest_of(_content(item("data", dataset, row)[0]))

    return any(digest(row) != digest(row) for row in _probes(len(dataset), _PROBES))


def _label(value: Any) -> Any:
    """A label as Python has it; what is no single value stays what it is."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0 else value


def _column(dataset: Any) -> Any:
    """Labels (M,) that the data set keeps, without reading a sample; None where none are found."""
    if isinstance(dataset, Subset):
        inner = _column(dataset.dataset)
        return None if inner is None else np.asarray(inner)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1].cpu().numpy()
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, list):  # as Hugging Face data sets have it
        return next((np.asarray(dataset[key]) for key in _LABEL_KEYS if key in columns), None)
    for name in ("targets", "labels", "_labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, (list, np.ndarray, torch.Tensor)) and len(found) == len(dataset):
            return np.asarray(found)
    return None


def _labels(argument: str, dataset: Any) -> Any:
    """Labels (M,): those that the data set keeps where they are its samples', else from reading every sample."""
    kept = _column(dataset)
    if kept is not None and kept.ndim == 1:
        probes = _probes(len(dataset), 8)
        if all(_label(item(argument, dataset, row)[1]) == _label(kept[row]) for row in probes):
            return checked_labels(argument, kept, len(dataset))
    return checked_labels(argument, [_label(item(argument, dataset, row)[1]) for row in range(len(dataset))])


def _array(argument: str, row: int, value: Any) -> Any:
    array = _content(value)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.ndim == 0:
        what = f"{type(value).__name__} in sample {row}"
        remedy = "Pictures, tensors, arrays and texts can be compared."
        raise argument_error(argument, "a data set whose inputs are one of a kind", what, remedy)
    return array.astype(np.float32) if array.dtype.kind in "fb" else array


def _read_tensors(argument: str, dataset: Any) -> tuple[np.ndarray[Any, Any], Any]:
    first = _array(argument, 0, item(argument, dataset, 0)[0])
    inputs, labels = np.empty((len(dataset), *first.shape), dtype=first.dtype), []
    for row in range(len(dataset)):
        value, label = item(argument, dataset, row)
        array = _array(argument, row, value)
        if array.shape != first.shape or array.dtype != first.dtype:
            what = f"{array.shape} {array.dtype} in sample {row} after {first.shape} {first.dtype}"
            raise argument_error(argument, "a data set of inputs of one shape", what, "Resize or pad them.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise argument_error(argument, "a data set of finite inputs", f"NaN or Inf in sample {row}", "Repair it.")
        inputs[row] = array
        labels.append(_label(label))
    return inputs, checked_labels(argument, labels)


def _read_texts(argument: str, dataset: Any) -> tuple[list[str], Any]:
    pairs = [item(argument, dataset, row) for row in range(len(dataset))]
    for row, (text, _) in enumerate(pairs):
        if not isinstance(text, str):
            what = f"{type(text).__name__} in sample {row}"
            raise argument_error(argument, "a data set of texts throughout", what, "Fill in what is missing.")
    return [text for text, _ in pairs], checked_labels(argument, [_label(label) for _, label in pairs])


def read_part(argument: str, dataset: Any) -> ReadPart:
    """A data set without augmentation: texts, and tensors up to 1 GiB, are read once and kept; pictures when needed.

    Raises:
        ArgumentError: no map-style data set, samples that are no pairs or of several shapes, labels of no classes.
    """
    _map_style(argument, dataset)
    first, _ = item(argument, dataset, 0)
    if isinstance(first, str):
        texts, labels = _read_texts(argument, dataset)
        return ReadPart(Part(texts, labels), "texts", digest_of(texts, labels))
    if callable(getattr(first, "convert", None)):
        labels = _labels(argument, dataset)
        return ReadPart(Part(Pictures(dataset), labels), "photographs", _probed(dataset, labels, _PICTURE_PROBES))
    array = _array(argument, 0, first)
    if array.nbytes * len(dataset) > _IN_MEMORY:
        labels = _labels(argument, dataset)
        return ReadPart(Part(dataset, labels), "tensors", _probed(dataset, labels, _PICTURE_PROBES))
    inputs, labels = _read_tensors(argument, dataset)
    kind = {1: "table" if inputs.dtype.kind == "f" else "tensors", 3: "images"}.get(array.ndim, "tensors")
    kind = "tensors" if kind == "images" and inputs.dtype != np.uint8 else kind  # it was normalised by its owner
    return ReadPart(Part(inputs, labels), kind, digest_of(inputs, labels))


def _probed(dataset: Any, labels: Any, count: int) -> str:
    probes = _probes(len(dataset), count)
    if len(probes) < len(dataset):
        _LOG.info("Inputs are known by %d of %d; labels by all.", len(probes), len(dataset))
    return digest_of(labels, [digest_of(_content(item("data", dataset, row)[0])) for row in probes])

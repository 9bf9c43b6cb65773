"""Data from a function: data sets or arrays, a training and a test part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.own.arrays import digest_of, from_arrays
from spectral_sampler.experiment.own.dataset import ReadPart, as_array, is_random, item, read_part
from spectral_sampler.experiment.own.imported import called_without_arguments
from spectral_sampler.experiment.own.raw import Part, Raw
from spectral_sampler.modules import global_randomness_kept

__all__ = ["read_function"]

_KEYS = ("train", "test", "validation", "reference", "classes")
_FORMS = "Return (train, test), each a map-style data set or (x, y) arrays, or a dict with train and test."


def _refused(text: str, what: str) -> Exception:
    return argument_error("data", "a function that returns a training and a test part", f"{what} from {text}", _FORMS)


def _as_array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return as_array("data", value)
    return value.to_numpy() if callable(getattr(value, "to_numpy", None)) else value


def _are_arrays(part: Any) -> bool:
    """Whether it is (x, y) and no data set of two samples."""
    return (
        isinstance(part, (tuple, list))
        and len(part) == 2
        and not any(isinstance(value, (tuple, Mapping)) for value in part)
        and all(hasattr(value, "__len__") and not isinstance(value, str) for value in part)
    )


def _named(text: str, result: Any) -> dict[str, Any]:
    """The parts by name."""
    if isinstance(result, Mapping):
        if "train" not in result:
            raise _refused(text, f"a dict with {', '.join(map(str, result)) or 'nothing'}")
        if unknown := [key for key in result if key not in _KEYS]:
            rule = f"a function that returns a dict with {', '.join(_KEYS)}"
            raise argument_error("data", rule, f"{unknown[0]!r} from {text}", "Leave it out.")
        return {key: value for key, value in result.items() if value is not None}
    if isinstance(result, (tuple, list)) and len(result) == 2:
        if all(isinstance(part, (np.ndarray, torch.Tensor)) for part in result):
            raise _refused(text, "two arrays, which are one part (x, y)")
        return dict(zip(("train", "test"), result, strict=True))
    what = type(result).__name__ + (f" of {len(result)}" if isinstance(result, (tuple, list)) else "")
    raise _refused(text, what)


def read_function(text: str) -> Raw:
    """What the function ``text`` (``module:function``) returns.

    Raises:
        ArgumentError: no such function, another return value, samples of a stream, parts that do not fit together, and
            random augmentation without a ``reference``, the same samples without it.
    """
    with global_randomness_kept():  # a data set may draw from the global generators
        result = called_without_arguments("data", text)
        name = text.replace(":", ".")
        if isinstance(result, Mapping) and "x" in result:
            return from_arrays(name, {key: _as_array(value) for key, value in result.items()})
        parts = _named(text, result)
        classes = parts.pop("classes", None)
        if any(_are_arrays(part) for part in parts.values()):
            return _from_arrays(name, parts, classes)
        return _from_datasets(name, parts, classes)


def _from_arrays(name: str, parts: dict[str, Any], classes: Any) -> Raw:
    arrays: dict[str, Any] = {} if classes is None else {"classes": classes}
    for key, part in parts.items():
        if not _are_arrays(part) or key == "reference":
            rule, remedy = "(x, y) arrays in every part, without a reference", "Arrays have no augmentation."
            raise argument_error(f"the part {key!r}", rule, type(part).__name__, remedy)
        suffix = "" if key == "train" else f"_{key}"
        arrays[f"x{suffix}"], arrays[f"y{suffix}"] = map(_as_array, part)
    return from_arrays(name, arrays)


def _from_datasets(name: str, parts: dict[str, Any], classes: Any) -> Raw:
    train, augmented = parts["train"], "reference" in parts
    read: dict[str, ReadPart] = {}
    for key, part in parts.items():
        if key == "train" and augmented:
            continue
        read[key] = read_part(f"the part {key!r}", part)
        if is_random(part):
            rule = "without random augmentation" if key != "train" else "without random augmentation, or with a twin"
            remedy = "Return {'train': …, 'test': …, 'reference': the training samples without augmentation}."
            raise argument_error(f"the part {key!r}", rule, "samples that differ between two readings", remedy)
    plain = read["reference" if augmented else "train"]
    if augmented:
        _check_twin(train, plain)
    for key in {"test", "validation"} & set(read):
        _check_layout(key, plain, read[key])
    found = classes if classes is not None else _class_names(train, plain)
    names = None if found is None else tuple(map(str, found))
    content = digest_of(names, *(value for key in sorted(read) for value in (key, read[key].content)))
    test, validation = (read[key].part if key in read else None for key in ("test", "validation"))
    raw = Raw(name, plain.kind, plain.part, content, test, validation, names, argument="labels of the samples")
    return _with_twin(raw, train) if augmented else raw


def _with_twin(raw: Raw, train: Any) -> Raw:
    """With ``train`` to be learnt from: whatever else is read stays as it is read, as ``train`` must."""

    def as_read(part: Part | None) -> Part | None:
        if part is None or not isinstance(part.inputs, np.ndarray) or part.inputs.dtype != np.uint8:
            return part
        return Part(part.inputs.astype(np.float32) / np.float32(255.0), part.labels)  # see `DatasetSamples`

    plain = as_read(raw.train)
    assert plain is not None  # noqa: S101 - it was there before
    return raw._replace(
        kind="tensors", train=plain, test=as_read(raw.test), validation=as_read(raw.validation), augmented=train
    )


def _check_twin(train: Any, reference: ReadPart) -> None:
    """That the reference part holds the training samples in their order."""
    rows = len(reference.part.labels)
    argument, rule = "the part 'reference'", "the training samples in their order, without augmentation"
    remedy = "Build it from the same list."
    if len(train) != rows:
        raise argument_error(argument, rule, f"{rows} for {len(train)} samples", remedy)
    for row in np.unique(np.linspace(0, rows - 1, min(16, rows)).astype(int)).tolist():
        value, label = item("the part 'train'", train, row)
        if str(getattr(label, "item", lambda given=label: given)()) != str(reference.part.labels[row]):
            raise argument_error(argument, rule, f"another label in sample {row}", remedy)
        if reference.kind in {"texts", "photographs"} or np.shape(value) != np.shape(reference.part.inputs[row]):
            rule = "of tensors, of the same shape as the training part's"
            what = f"{reference.kind} with another shape in sample {row}"
            raise argument_error(argument, rule, what, "Let both transforms end in the same size.")


def _check_layout(key: str, train: ReadPart, other: ReadPart) -> None:
    same = train.kind == other.kind
    if same and isinstance(train.part.inputs, np.ndarray):
        inputs = train.part.inputs, other.part.inputs
        same = inputs[0].shape[1:] == inputs[1].shape[1:] and inputs[0].dtype == inputs[1].dtype
    if not same:
        shapes = [getattr(part.part.inputs, "shape", (0,))[1:] for part in (train, other)]
        rule = f"of the training part's kind and shape ({train.kind}, {shapes[0]} a sample)"
        what = f"{other.kind}, {shapes[1]}"
        raise argument_error(f"the part {key!r}", rule, what, "Both parts go through the same learner.")


def _class_names(dataset: Any, read: ReadPart) -> Any:
    """The names that torchvision's data sets carry, where they are those of the labels."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None
    labels = set(read.part.labels.tolist())
    return names if labels <= set(names) or labels <= set(range(len(names))) else None

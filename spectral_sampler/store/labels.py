"""The labels of a data set: all of them where they lie at hand, else those of the samples that are read."""

from __future__ import annotations

import array
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KEYS", "bare", "delivered_as_kept", "label_columns", "label_of"]

KEYS = ("labels", "label", "targets", "target", "y", "fine_label", "coarse_label")
_SLOW = 1 << 16  # tensors of one number each, which convert at a few hundred thousand a second
_INDEXED = "spectral_sampler.indexed.Indexed"


def bare(dataset: Any) -> Any:
    """``dataset`` without an `Indexed` around it, whose samples have their index at the end."""
    while f"{type(dataset).__module__}.{type(dataset).__qualname__}" == _INDEXED:
        dataset = dataset.dataset
    return dataset


def delivered_as_kept(dataset: Any) -> bool:
    """Is there no ``target_transform`` between the labels kept and those delivered?"""
    if isinstance(dataset, ConcatDataset):
        return all(map(delivered_as_kept, dataset.datasets))
    inner = [getattr(dataset, "transforms", None), getattr(dataset, "dataset", None)]
    own = getattr(dataset, "target_transform", None) is None
    return own and all(part is None or part is dataset or delivered_as_kept(part) for part in inner)


def label_columns(dataset: Any) -> list[NDArray[np.int64]]:
    """Columns (M,) that may be the labels, without reading a sample: the likeliest first; empty where there are none.

    Those of a TensorDataset and of Subset, ConcatDataset and `Indexed`; attributes ``samples`` (pairs of path and
    class), ``targets``, ``labels``; columns of that name of a Hugging Face data set; the second entries, or entries of
    that name, of a list of samples. Properties are not asked, because they may read everything.
    """
    dataset = bare(dataset)
    if isinstance(dataset, Subset):
        inner, rows = label_columns(dataset.dataset), _class_numbers(dataset.indices)
        return [] if rows is None else [column[rows] for column in inner]
    if isinstance(dataset, ConcatDataset):
        parts = [label_columns(part) for part in dataset.datasets]
        return [np.concatenate(columns) for columns in zip(*parts, strict=False)]
    if isinstance(dataset, TensorDataset):
        found: list[Any] = [*dataset.tensors[1:], *_attributes(vars(dataset), len(dataset))]
    elif isinstance(dataset, (list, tuple)):
        found = [_second(dataset)]
    elif isinstance(names := getattr(dataset, "column_names", None), (list, tuple)):
        found = [_table_column(dataset, name) for name in KEYS if name in names]
    else:
        found = _attributes(getattr(dataset, "__dict__", {}), len(dataset))
    columns = [_class_numbers(values) for values in found]
    return [column for column in columns if column is not None and len(column) == len(dataset)]


def _attributes(own: Mapping[str, Any], size: int) -> list[Any]:
    found = [own.get(name) for name in ("targets", "labels", "_labels")]
    pairs = own.get("samples", own.get("imgs"))
    if isinstance(pairs, list) and len(pairs) == size and isinstance(pairs[0], (tuple, list)):
        found.insert(0, _second(pairs))
    return found


def _second(samples: Any) -> Any:
    """The labels of samples that lie in memory."""
    if not len(samples):
        return None
    first = samples[0]
    if isinstance(first, Mapping):
        key: Any = next((name for name in KEYS if name in first), None)
    else:
        key = 1 if isinstance(first, (tuple, list)) and len(first) > 1 else None
    try:
        return None if key is None else list(map(operator.itemgetter(key), samples))
    except (TypeError, KeyError, IndexError):  # samples of several kinds
        return None


def _table_column(dataset: Any, name: str) -> Any:
    """A column of a Hugging Face data set, past its format and transform, without the other columns."""
    try:
        if hasattr(dataset, "with_format"):
            return dataset.with_format("numpy", columns=[name])[:][name]
        return dataset[name]
    except Exception:  # noqa: BLE001 - another class with column names
        return None


def _class_numbers(values: Any) -> NDArray[np.int64] | None:
    """(M,) int64, or None for what are no class numbers."""
    if isinstance(values, torch.Tensor):
        plain = values.layout is torch.strided and not values.is_floating_point() and not values.is_complex()
        values = values.detach().cpu().numpy() if plain and values.ndim == 1 else None
    elif isinstance(values, range):
        values = np.arange(values.start, values.stop, values.step)
    elif isinstance(values, (list, tuple)):
        if values and isinstance(values[0], torch.Tensor):
            kinds = {(one.dtype, one.ndim) if isinstance(one, torch.Tensor) else None for one in values[:_SLOW]}
            alike = len(values) <= _SLOW and kinds == {(values[0].dtype, 0)}
            return _class_numbers(torch.stack(list(values))) if alike else None
        try:  # much faster than NumPy's conversion, and takes integers alone
            return np.frombuffer(array.array("q", values), np.int64)
        except (TypeError, OverflowError):
            return None
    elif not isinstance(values, np.ndarray):
        values = np.asarray(values) if type(values).__module__.partition(".")[0] == "pandas" else None
    if values is None or values.ndim != 1 or values.dtype.kind not in "iub":
        return None
    return np.asarray(values, np.int64)


def label_of(sample: Any) -> int | None:
    """The class number of one sample as it is delivered, or None where it has none that is known as such."""
    if isinstance(sample, Mapping):
        value = next((sample[name] for name in KEYS if name in sample), None)
    else:
        value = sample[1] if isinstance(sample, (tuple, list)) and len(sample) > 1 else None
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = value.item() if value.ndim == 0 else None
    return int(value) if isinstance(value, (int, np.integer, np.bool_)) else None

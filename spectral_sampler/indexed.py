"""Indexed: a data set whose samples carry their index, for loops that tell the sampler what they observed."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from spectral_sampler.errors import argument_error

__all__ = ["Indexed"]


class Indexed(Dataset[Any]):
    """``dataset`` with the index beside every sample, so that ``sampler.observe(indices, losses)`` has it.

    A tuple or list becomes ``(*sample, index)`` (a named tuple too), a mapping a dict with the index under ``key``, and
    anything else ``(sample, index)``. Batches are read by ``__getitems__`` where ``dataset`` has it. Where that, or
    ``dataset[[3, 1]]``, gives a mapping of columns, as Hugging Face data sets do, they get a column ``key`` (n,) int64.
    Other attributes, such as ``targets``, are those of ``dataset``.

    Args:
        dataset: map-style, with a length.
        key: of the index in mappings.

    Raises:
        ArgumentError: a data set without items or a length; when read, a mapping that has ``key`` already.
        TypeError: when read, an index that is neither an integer nor a list of them, such as a slice.
    """

    def __init__(self, dataset: Any, key: str = "index") -> None:
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        ):
            rule, remedy = "map-style (indexable, with a length)", "The samples of a stream have no index."
            raise argument_error("dataset", rule, type(dataset).__name__, remedy)
        self.dataset, self.key = dataset, key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return self._batch(self.dataset[index], index)
        row = self._row(index)
        return self._sample(self.dataset[row], row)

    def __getitems__(self, indices: list[int]) -> Any:
        if not callable(getattr(self.dataset, "__getitems__", None)):
            return [self[index] for index in indices]
        return self._batch(self.dataset.__getitems__(indices), indices)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # as while it is being unpickled
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.dataset, name)

    def _row(self, index: Any) -> int:
        row = operator.index(index)
        return row + len(self) if row < 0 else row

    def _batch(self, batch: Any, indices: list[int]) -> Any:
        rows = [self._row(index) for index in indices]
        if isinstance(batch, Mapping):
            return self._sample(batch, torch.tensor(rows))
        return [self._sample(sample, row) for sample, row in zip(batch, rows, strict=True)]

    def _sample(self, sample: Any, index: Any) -> Any:
        if isinstance(sample, Mapping):
            if self.key in sample:
                rule, remedy = "a key that no sample has", 'Pass another, such as key="row".'
                raise argument_error("key", rule, repr(self.key), remedy)
            return {**sample, self.key: index}
        return (*sample, index) if isinstance(sample, (tuple, list)) else (sample, index)

    def __repr__(self) -> str:
        return f"Indexed({self.dataset!r}, key={self.key!r})"

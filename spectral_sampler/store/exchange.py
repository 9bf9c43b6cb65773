"""Stores as single files of other programs: safetensors and Parquet. Both are written under a temporary name first."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import StoreError
from spectral_sampler.store import atomic

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["read_parquet", "read_safetensors", "write_parquet", "write_safetensors"]

_NAMES = ("features", "losses", "labels")
_SHOWN = 10


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"this needs {package}. Install it: pip install {package}") from error


def _write(path: str | os.PathLike[str], needed: int, write: Callable[[Path], Any]) -> None:
    target = Path(path)
    staged = target.with_name(atomic.temporary_name(target.name))
    with atomic.disk_errors(target.parent, needed):
        try:
            write(staged)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)


def _ours(path: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Which of ``names`` a store takes; StoreError, with what there is instead, unless the features are among them."""
    found = sorted(names)
    if "features" not in found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise StoreError(
            f"{path} holds {', '.join(map(repr, found[:_SHOWN])) or 'nothing'}{more}; "
            f"a store needs at least 'features'. Give the features that name."
        )
    return [name for name in _NAMES if name in found]


def write_safetensors(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """One tensor per array, under the array's name."""
    save_file = _package("safetensors.numpy").save_file
    _write(path, sum(array.nbytes for array in arrays.values()), lambda staged: save_file(dict(arrays), staged))


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays as tensors, so that bfloat16 is read too."""
    package = _package("safetensors")
    try:
        with package.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in _ours(path, file.keys())}
    except (OSError, package.SafetensorError) as error:
        raise StoreError(f"cannot read {path} as safetensors: {error}.") from error


def write_parquet(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """One row per sample; ``features`` is a column of fixed-size lists."""
    arrow, parquet = _package("pyarrow"), _package("pyarrow.parquet")
    columns = {name: arrow.array(array) for name, array in arrays.items() if array.ndim == 1}
    features = arrays["features"]
    rows = arrow.FixedSizeListArray.from_arrays(arrow.array(features.reshape(-1)), features.shape[1])
    table = arrow.table({"features": rows, **columns})
    _write(path, sum(array.nbytes for array in arrays.values()), lambda staged: parquet.write_table(table, staged))


def read_parquet(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a table with a list column ``features`` and, optionally, ``losses`` and ``labels``.

    One file, whose rows have one order. The files of a directory are read as their names sort (``part-10`` before
    ``part-2``) or by the values they are partitioned by, so row i would no longer belong to sample i.
    """
    arrow, parquet = _package("pyarrow"), _package("pyarrow.parquet")
    if Path(path).is_dir():
        raise StoreError(
            f"{path} is a directory, whose files have no order that is sure to be the data set's. "
            f"Pass one Parquet file, or concatenate the parts in the order of the data set and use from_arrays."
        )
    try:
        with parquet.ParquetFile(path) as file:  # never a directory, and no columns made up from the names of folders
            table = file.read(_ours(path, file.schema_arrow.names))
        arrays = {name: table[name] for name in table.column_names}
        features = _matrix(path, arrays.pop("features").combine_chunks())
        return {"features": features, **{name: column.to_numpy() for name, column in arrays.items()}}
    except (OSError, ValueError, KeyError, arrow.ArrowException) as error:
        raise StoreError(f"cannot read {path} as Parquet: {error}.") from error


def _matrix(path: str | os.PathLike[str], rows: Any) -> NDArray[Any]:
    if not hasattr(rows, "value_lengths"):  # which lists of every kind have
        raise StoreError(
            f"{path} has features of type {rows.type}; a store needs a list of numbers per row. "
            f"Put the numbers of a sample into one list column."
        )
    if rows.null_count or np.unique(rows.value_lengths()).size > 1:
        raise StoreError(f"{path} has rows of features that are missing or differ in length. Pad or pool them to one.")
    flat: NDArray[Any] = rows.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(rows), -1) if len(rows) else flat.reshape(0, 0)

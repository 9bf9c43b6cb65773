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
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["read_parquet", "read_safetensors", "write_parquet", "write_safetensors"]

_NAMES = ("features", "losses", "labels")


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


def _complete(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> dict[str, Any]:
    if "features" not in arrays:
        raise StoreError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; a store needs at least 'features'.")
    return {name: arrays[name] for name in _NAMES if name in arrays}


def write_safetensors(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """One tensor per array, under the array's name."""
    save_file = _package("safetensors.numpy").save_file
    _write(path, sum(array.nbytes for array in arrays.values()), lambda staged: save_file(dict(arrays), staged))


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays as tensors, so that bfloat16 is read too."""
    package = _package("safetensors")
    try:
        with package.safe_open(path, "pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys() if name in _NAMES}  # noqa: SIM118
    except (OSError, package.SafetensorError) as error:
        raise StoreError(f"cannot read {path} as safetensors: {error}.") from error
    return _complete(path, arrays)


def write_parquet(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """One row per sample; ``features`` is a column of fixed-size lists."""
    arrow, parquet = _package("pyarrow"), _package("pyarrow.parquet")
    columns = {name: arrow.array(array) for name, array in arrays.items() if array.ndim == 1}
    features = arrays["features"]
    rows = arrow.FixedSizeListArray.from_arrays(arrow.array(features.reshape(-1)), features.shape[1])
    table = arrow.table({"features": rows, **columns})
    _write(path, sum(array.nbytes for array in arrays.values()), lambda staged: parquet.write_table(table, staged))


def read_parquet(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a table with a list column ``features`` and, optionally, ``losses`` and ``labels``."""
    arrow, parquet = _package("pyarrow"), _package("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
        arrays = _complete(path, {name: table[name] for name in _NAMES if name in table.column_names})
        rows = arrays.pop("features").combine_chunks()
        flat = rows.flatten().to_numpy(zero_copy_only=False)
        features = flat.reshape(table.num_rows, -1) if table.num_rows else flat.reshape(0, 0)
        if rows.null_count or (np.unique(rows.value_lengths()).size > 1):
            raise StoreError(f"{path} has rows of features that are missing or differ in length.")
        return {"features": features, **{name: column.to_numpy() for name, column in arrays.items()}}
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise StoreError(f"cannot read {path} as Parquet: {error}.") from error

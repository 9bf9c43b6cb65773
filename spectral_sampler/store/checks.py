"""What may enter a store: every refusal names the argument, the rule, and the offending rows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.store.quantised import BITS, quantise, restore
from spectral_sampler.store.rows import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "FEATURE_DTYPES",
    "checked_features",
    "checked_labels",
    "checked_losses",
    "checked_part",
    "checked_zero_rows",
    "feature_dtype",
    "filled_text",
    "rows_text",
]

FEATURE_DTYPES = ("float16", "float32")
_BLOCK_BYTES = 8 << 20  # rows are cast and checked in blocks of about this size, so a mapped file stays on disk
_NAMED_ROWS = 5
_VALUES = (Real, Decimal, np.bool_, str, bytes)


def rows_text(rows: NDArray[np.int64], total: int | None = None) -> str:
    """``rows 3, 17, 40 and 12 more``."""
    total = len(rows) if total is None else total
    named = ", ".join(str(int(row)) for row in rows[:_NAMED_ROWS])
    more = f" and {total - _NAMED_ROWS} more" if total > _NAMED_ROWS else ""
    return f"{'row' if total == 1 else 'rows'} {named}{more}"


def _any_array(argument: str, values: Any) -> NDArray[Any]:
    """A NumPy view of a tensor, array or nested sequence; types of tensors that NumPy has not become float32."""
    if isinstance(values, (list, tuple)) and values and all(isinstance(part, torch.Tensor) for part in values):
        same = len({part.shape for part in values}) == 1
        values = torch.stack([part.detach().cpu() for part in values]) if same else [part.tolist() for part in values]
    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided:
            raise argument_error(argument, "a dense tensor", values.layout, "Call .to_dense() on it first.")
        if values.is_nested or values.is_meta:
            remedy = "Give each row one width first." if values.is_nested else "Load it onto a device first."
            raise argument_error(argument, "a dense tensor", "a nested or a meta tensor", remedy)
        values = (values.dequantize() if values.is_quantized else values).detach().cpu()
        narrow = values.is_floating_point() and values.dtype not in (torch.float16, torch.float32, torch.float64)
        values = (values.float() if narrow else values).resolve_conj().resolve_neg()
        array: NDArray[Any] = values.numpy()
        return array
    if hasattr(values, "toarray"):  # scipy's sparse ones, which NumPy takes for one object
        raise argument_error(argument, "a dense array", type(values).__name__, "Call .toarray() on it first.")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise argument_error(argument, "without masked values", type(values).__name__, "Repair these rows first.")
    try:
        return np.asarray(values)
    except ValueError as error:  # ragged nested lists
        raise argument_error(argument, "a rectangular array", "rows of different length", str(error)) from None


def _as_array(argument: str, values: Any) -> NDArray[Any]:
    """`_any_array`, of real numbers."""
    array = _any_array(argument, values)
    if array.dtype.kind not in "fiub":
        raise argument_error(
            argument, "an array of real numbers", f"dtype {array.dtype}", "Convert it to float32 first."
        )
    return array


def feature_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The little-endian dtype that ``dtype`` names, if it is float16 or float32."""
    little: np.dtype[Any] = np.dtype(_dtype_name(dtype, FEATURE_DTYPES)).newbyteorder("<")
    return little


def _dtype_name(dtype: DTypeLike, among: tuple[str, ...]) -> str:
    try:
        of_torch = isinstance(dtype, torch.dtype) or dtype == "bfloat16"
        name = str(dtype).removeprefix("torch.") if of_torch else np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in among:
        rule = f"{', '.join(among[:-1])} or {among[-1]}"
        raise argument_error("dtype", rule, name, "Features are kept in one of these here.")
    return name


def _blocks(rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _refuse_rows(argument: str, rule: str, what: str, found: list[NDArray[np.int64]], remedy: str) -> None:
    total = sum(len(rows) for rows in found)
    if total:
        named = rows_text(np.concatenate(found), total)
        raise argument_error(argument, rule, f"{what} in {named}", remedy)


def checked_zero_rows(zero_rows: Any) -> list[int] | None:
    """An empty list for the numbers of the rows that "uniform" is to fill, None for "refuse"."""
    if zero_rows not in ("refuse", "uniform"):
        raise argument_error("zero_rows", "'refuse' or 'uniform'", repr(zero_rows), "Pass one of them.")
    return [] if zero_rows == "uniform" else None


def filled_text(filled: list[int]) -> str:
    """What is logged of rows that were filled."""
    count = f"{len(filled)} row{'s' if len(filled) > 1 else ''} of zeros"
    return f"{count} stored as unit vectors of equal entries: {rows_text(np.array(filled))}"


def checked_features(
    features: Any, dtype: DTypeLike | None = None, first_row: int = 0, *, filled: list[int] | None = None
) -> NDArray[Any]:
    """Features (M, d) as a C-contiguous little-endian float16 or float32 array, without a copy where none is needed:
    the ``stored`` of `checked_part`.
    """
    part = checked_part(features, None if dtype is None else feature_dtype(dtype), first_row, filled=filled)
    return np.asarray(part.stored)


def checked_part(
    features: Any, dtype: DTypeLike | None = None, first_row: int = 0, *, filled: list[int] | None = None
) -> Part:
    """Features (M, d) as a store keeps them.

    float16 and float32 stay as they are; bool, integers, bfloat16 and float64 become float32; ``dtype`` overrides.
    A row is refused by number if it holds a NaN or an Inf, is zero throughout, or becomes so in the stored dtype;
    ``first_row`` is the number of the first one.

    With a list ``filled``, rows of zeros become the unit vector of d equal entries instead, and their numbers are
    added to it; the caller's array is left alone.
    """
    array = _as_array("features", features)
    if array.ndim != 2 or 0 in array.shape:
        raise argument_error(
            "features", "a non-empty (M, d) array", f"shape {array.shape}", "Flatten each sample's features to one row."
        )
    kept = array.dtype.name if array.dtype.name in FEATURE_DTYPES else "float32"
    name = _dtype_name(kept if dtype is None else dtype, (*FEATURE_DTYPES, *BITS))
    target: np.dtype[Any] = np.dtype(BITS.get(name, name)).newbyteorder("<")
    ready = array.dtype == target and array.flags.c_contiguous and name not in BITS
    result = array if ready else np.empty(array.shape, target)
    scales = np.empty(len(array), "<f4") if name == "int8" else None

    def keep(rows: Any, values: NDArray[Any]) -> NDArray[Any]:
        """Stores the rows, and gives what will be read of them."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if name not in BITS:
                result[rows] = values
                return np.asarray(result[rows])
            result[rows], found = quantise(values.astype(np.float32), name)
            if scales is not None:
                scales[rows] = found
            return restore(result[rows], found)

    bad: list[NDArray[np.int64]] = []
    zero: list[NDArray[np.int64]] = []
    overflow: list[NDArray[np.int64]] = []
    underflow: list[NDArray[np.int64]] = []
    for rows in _blocks(len(array), array.shape[1] * 8):
        source = array[rows]
        finite, nonzero = np.isfinite(source).all(axis=1), source.any(axis=1)
        bad.append(first_row + rows.start + np.flatnonzero(~finite))
        zero.append(first_row + rows.start + np.flatnonzero(~nonzero))
        if not ready:
            read = keep(rows, source)
            overflow.append(first_row + rows.start + np.flatnonzero(finite & ~np.isfinite(read).all(axis=1)))
            underflow.append(first_row + rows.start + np.flatnonzero(nonzero & ~read.any(axis=1)))
    _refuse_rows("features", "finite", "NaN or Inf", bad, "Repair or drop these rows.")
    if filled is not None and (empty := np.sort(np.concatenate(zero + underflow))).size:
        result = result.copy() if ready else result
        keep(empty - first_row, np.full((len(empty), result.shape[1]), result.shape[1] ** -0.5))
        filled += empty.tolist()
        zero, underflow = [], []
    _refuse_rows(
        "features",
        "non-zero in every row",
        "only zeros",
        zero,
        'A zero row has no direction, hence no cosine; pass zero_rows="uniform" for equal entries, or drop these rows.',
    )
    _refuse_rows(
        "features",
        f"within the range of {name}",
        "overflow",
        overflow,
        "Rescale these rows (cosines do not change) or store a wider dtype.",
    )
    _refuse_rows(
        "features",
        f"within the range of {name}",
        "underflow to zero",
        underflow,
        'Rescale these rows (cosines do not change), store a wider dtype, or pass zero_rows="uniform".',
    )
    return Part(result, scales)


def _one_per_row(argument: str, array: NDArray[Any], rows: int) -> None:
    if array.shape != (rows,):
        raise argument_error(
            argument,
            f"of shape ({rows},), one value per row of features",
            f"shape {array.shape}",
            "Pass them in the order of the data set.",
        )


def checked_losses(losses: Any, rows: int, first_row: int = 0) -> NDArray[np.float32]:
    """Reference losses (M,) as float32, finite and at least 0."""
    array = _as_array("losses", losses)
    _one_per_row("losses", array, rows)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        result = np.ascontiguousarray(array, dtype="<f4")
    bad = first_row + np.flatnonzero(~np.isfinite(result))
    _refuse_rows("losses", "finite (in float32)", "NaN, Inf or overflow", [bad], "Repair or drop these rows.")
    _refuse_rows(
        "losses",
        "at least 0",
        "negative values",
        [first_row + np.flatnonzero(result < 0)],
        "A loss used as weight 1/(loss + eps) cannot be negative; subtract its minimum.",
    )
    return result


def checked_labels(labels: Any, rows: int) -> NDArray[np.int64]:
    """Labels (M,) as int64; of what else people keep labels in, the error says how to make class numbers."""
    if isinstance(labels, Mapping):
        rule = f"an array of {rows} class numbers"
        raise argument_error("labels", rule, f"keys {', '.join(map(str, labels))}", "Pass the one of its values.")
    if str(getattr(labels, "dtype", "")) == "category":  # pandas' Series, Categorical and index
        remedy = f"Pass {'.cat' if hasattr(labels, 'cat') else ''}.codes of it, where -1 stands for none."
        raise argument_error("labels", "integers", f"categories ({type(labels).__name__})", remedy)
    array = _any_array("labels", labels)
    if array.shape != (rows,) and array.ndim == 2 and len(array) == rows and array.dtype.kind in "fiub":
        one_hot = array.shape[1] > 1
        remedy = "Pass .argmax(1) where it is one-hot" if one_hot else "Pass .reshape(-1)"
        remedy += ", or no labels where a sample has several or shares of classes." if one_hot else "."
        raise argument_error("labels", f"of shape ({rows},), one class number per row", f"shape {array.shape}", remedy)
    _one_per_row("labels", array, rows)
    _refuse_values(array)
    if array.dtype == np.uint64:
        _refuse_rows(
            "labels",
            "below 2**63",
            "larger values",
            [np.flatnonzero(array > np.iinfo(np.int64).max)],
            "Renumber the classes from 0.",
        )
    return np.ascontiguousarray(array, dtype="<i8")


def _refuse_values(array: NDArray[Any]) -> None:
    """One sentence for each kind that is no integer: holes, names, other types of numbers, targets of a regression."""
    if array.dtype.kind in "iub":
        return
    rule, got = "integers", f"dtype {array.dtype}"
    names, missing = array.dtype.kind in "USaT", np.zeros(len(array), dtype=bool)
    if array.dtype.kind == "O":
        kinds = {type(entry).__name__: entry for entry in array}
        got = f"objects ({', '.join(sorted(kinds))})"
        names = any(isinstance(entry, (str, bytes)) for entry in kinds.values())
        # NaN, of any type, is not equal to itself
        missing = np.array([not isinstance(entry, _VALUES) or entry != entry for entry in array], dtype=bool)
        if not names and not missing.any():
            with contextlib.suppress(OverflowError):  # an integer of hundreds of digits
                array = array.astype(np.float64)
    if array.dtype.kind == "f":
        missing = ~np.isfinite(array)
    fractions = np.flatnonzero(array % 1) if array.dtype.kind == "f" and not missing.any() else np.empty(0, int)
    remedy = "Cast class numbers with .astype('int64'), or .long() of a tensor."
    if missing.any():
        got += f" with no class in {rows_text(np.flatnonzero(missing))}"
        remedy = "Give these rows a number of their own, such as -1, and the sampler ignore_index=-1; cast to int64."
    elif names:
        remedy = "Number the classes, as numpy.unique(labels, return_inverse=True)[1] does."
    elif fractions.size:
        got += f" with fractions in {rows_text(fractions)}"
        remedy = "Leave labels out for targets of a regression, or bin them into classes."
    elif array.dtype.kind not in "fO" or (np.abs(array) >= 2.0**63).any():
        remedy = "Number the classes from 0."
    raise argument_error("labels", rule, got, remedy)

"""Labels as people have them, class numbers as a learner wants them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["checked_labels", "class_numbers"]

_LOG = logging.getLogger("spectral_sampler.experiment")


def _from_objects(argument: str, rule: str, array: NDArray[Any]) -> NDArray[Any]:
    """Strings or integers, if all are such."""
    values = array.reshape(-1).tolist()
    missing = [row for row, value in enumerate(values) if value is None or value != value]
    if missing:
        raise argument_error(argument, rule, _nothing_in(missing), "Label these rows or leave them out.")
    if array.ndim == 1 and all(isinstance(value, str) for value in values):
        return array.astype(str)
    whole = array.ndim == 1 and all(isinstance(value, (int, np.integer)) for value in values)
    return array.astype(np.int64) if whole else array


def _nothing_in(rows: Sequence[int]) -> str:
    return f"nothing in row {rows[0]}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")


def checked_labels(argument: str, labels: Any, rows: int | None = None) -> NDArray[Any]:
    """``labels`` (M,) of integers or strings.

    Raises:
        ArgumentError: any other shape, type or length, and what is missing.
    """
    rule = "one class number or name per row"
    try:
        array = np.asarray(labels)
    except ValueError:  # NumPy's sentence about nested lists
        what = "labels of different shapes"
        raise argument_error(argument, rule, what, "Give every row one number or name.") from None
    if array.dtype.kind == "O":
        array = _from_objects(argument, rule, array)
    if array.ndim == 2 and array.shape[1] > 1:
        raise argument_error(argument, rule, f"shape {array.shape}", "Take .argmax(1) of one-hot rows.")
    if array.ndim != 1:
        raise argument_error(argument, rule, f"shape {array.shape}", "Take .reshape(-1) of a column.")
    if array.dtype.kind == "f":
        remedy = "Use .astype('int64') if they are class numbers; targets to regress on cannot be compared here."
        raise argument_error(argument, rule, str(array.dtype), remedy)
    if array.dtype.kind not in "iubU":
        raise argument_error(argument, rule, f"dtype {array.dtype}", "Use integers or strings.")
    if rows is not None and len(array) != rows:
        raise argument_error(argument, f"of length {rows}, as the samples", len(array), "Row i belongs to sample i.")
    if array.dtype.kind == "U" and (empty := np.flatnonzero(np.char.strip(array) == "")).size:
        raise argument_error(argument, rule, _nothing_in(empty.tolist()), "Label these rows or leave them out.")
    return array


def _order(argument: str, train: NDArray[Any]) -> NDArray[Any]:
    """The distinct labels in the order of their class numbers; 0 … C−1 stay what they are."""
    found = np.unique(train)
    if found.dtype.kind in "iu" and found[0] < 0:
        others = found[found >= 0]
        if len(others) > 1 and others[-1] == len(others) - 1:
            what = f"{found[0]} in {int((train < 0).sum())} of them"
            remedy = "Leave out rows without a class."
            raise argument_error(argument, "numbers of at least 0", what, remedy)
    return found


def class_numbers(
    argument: str, parts: Sequence[NDArray[Any]], classes: tuple[str, ...] | None = None
) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Class numbers of every part, the training part first, and the names of the classes.

    Strings and numbers with gaps are numbered in their order. ``classes`` are names given for the numbers 0 … C−1, or
    the strings themselves in the order wanted.

    Raises:
        ArgumentError: fewer than two classes, nearly as many as rows, or a class that is not in the training part.
    """
    train = parts[0]
    order = _order(argument, train)
    if classes is not None:
        order = np.array(classes) if order.dtype.kind == "U" else np.arange(len(classes))
        if len(classes) != len(set(classes)):
            raise argument_error("classes", "names that differ", list(classes), "Every class has one name.")
    named = classes or tuple(str(label) for label in order.tolist())
    names = tuple(name.encode("utf-8", "backslashreplace").decode() for name in named)  # of folders, it may be no text
    present = len(np.unique(train))
    if present < 2:
        what = f"{present} in {len(train)} rows"
        raise argument_error(argument, "of two classes at least", what, "There is nothing to tell apart.")
    if present > len(train) / 2:
        what = f"{present} different ones in {len(train)} rows"
        raise argument_error(argument, "classes with several rows each", what, "Are these names or numbers of rows?")
    ranked = np.argsort(order, kind="stable")
    numbered = []
    for part in parts:
        if part.dtype.kind != order.dtype.kind and "U" in {part.dtype.kind, order.dtype.kind}:
            what = f"{order.dtype} in one part and {part.dtype} in another"
            raise argument_error(argument, "of one type", what, "Write them the same way in both.")
        places = np.searchsorted(order[ranked], part).clip(max=len(order) - 1)
        unknown = order[ranked][places] != part
        if unknown.any():
            strange = sorted(set(part[unknown].tolist()))
            known = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            what = f"{strange[0]!r} in {int(unknown.sum())} rows"
            raise argument_error(argument, f"one of the training part's classes ({known})", what, "Is it misspelt?")
        numbered.append(ranked[places].astype(np.int64))
    if order.dtype.kind != "U" and not np.array_equal(order, np.arange(len(order))):
        _LOG.info("%s are numbered from 0: %s.", argument, ", ".join(f"{a} is {i}" for i, a in enumerate(names[:10])))
    return numbered, names

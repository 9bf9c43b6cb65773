"""Checks of single values; every refusal is one sentence that names the argument."""

from __future__ import annotations

import operator
from numbers import Real
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["row_numbers", "true_or_false", "whole_number", "within"]


def whole_number(argument: str, value: Any, minimum: int | None, remedy: str) -> int:
    """``value`` as an int (NumPy's and torch's integers too; bool and float are refused), at least ``minimum``."""
    rule = "a whole number" if minimum is None else f"a whole number of at least {minimum}"
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise argument_error(argument, rule, repr(value), remedy)
    number = operator.index(value)
    if minimum is not None and number < minimum:
        raise argument_error(argument, rule, number, remedy)
    return number


def within(argument: str, value: Any, interval: str, remedy: str) -> float:
    """``value`` as a float in ``interval``, written like "(0, 1]"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else float("nan")
    above = number >= low if interval[0] == "[" else number > low
    if not (above and (number <= high if interval[-1] == "]" else number < high)):
        raise argument_error(argument, f"a number in {interval}", repr(value), remedy)
    return number


def true_or_false(argument: str, value: object) -> bool:
    """``value`` where it is a bool; 0, 1 and strings are more often a slip than a decision."""
    if not isinstance(value, bool):
        raise argument_error(argument, "True or False", repr(value), "Arguments may have been given in another order.")
    return value


def row_numbers(indices: Tensor, rows: int) -> None:
    """ArgumentError unless ``indices``, at least one, lie in [0, ``rows``)."""
    first, last = int(indices.min()), int(indices.max())
    if not 0 <= first <= last < rows:
        rule, remedy = f"between 0 and {rows - 1}", "They count rows of the features."
        raise argument_error("indices", rule, f"{first} to {last}", remedy)

"""Arrays as samples: images, rows of a table, texts; and the ``.npz`` files that hold them."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.experiment.own.labels import checked_labels
from spectral_sampler.experiment.own.raw import Part, Raw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["KEYS", "array_kind", "checked_inputs", "digest_of", "from_arrays", "read_npz", "same_layout"]

KEYS = ("x", "y", "x_test", "y_test", "x_validation", "y_validation", "features", "losses", "classes")
"""What an ``.npz`` file may hold. ``features`` (M, d) and ``losses`` (M,) are a reference's, of the rows of ``x``."""

_REQUIRED = ("x", "y")
_CHANNELS = {1, 3, 4}


def digest_of(*values: Any) -> str:
    """Sixteen hexadecimal digits over arrays (type, shape, content), strings, bytes and None."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            digest.update(digest_of(value.tolist()).encode())  # not the addresses of what it holds
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        elif isinstance(value, bytes):
            digest.update(b"b" + value)
        elif isinstance(value, (list, tuple)):
            digest.update(f"{len(value)}:{digest_of(*value)}".encode())
        else:
            digest.update(f"{value!r};".encode())
    return digest.hexdigest()[:16]


def array_kind(inputs: NDArray[Any]) -> str:
    """ "texts", "table", or "images" of an array (M, …)."""
    if inputs.dtype.kind == "U":
        return "texts"
    return "table" if inputs.ndim == 2 else "images"


def _channels_first(argument: str, images: NDArray[Any]) -> NDArray[Any]:
    """(M, H, W), (M, H, W, C) or (M, C, H, W) as (M, C, H, W): the axis of channels is the shortest, or 1, 3 or 4."""
    first, height, last = images.shape[1:] if images.ndim == 4 else (0, 1, 1)
    if images.ndim == 4 and first >= min(height, last):
        if last >= min(first, height) and (first in _CHANNELS) == (last in _CHANNELS):
            remedy = "Which axis has the channels cannot be told from that; use a longer side."
            raise argument_error(argument, "(M, C, H, W) or (M, H, W, C)", f"shape {images.shape}", remedy)
        if last < min(first, height) or last in _CHANNELS:
            images = images.transpose(0, 3, 1, 2)
    return images if images.ndim == 4 else images[:, None]


def _not_finite(argument: str, inputs: NDArray[Any]) -> None:
    wrong = np.flatnonzero(~np.isfinite(inputs).reshape(len(inputs), -1).all(1))
    if wrong.size:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        what = f"NaN or infinity in row {wrong[0]}{more}"
        raise argument_error(argument, "finite", what, "Fill in what is missing, or leave these rows out.")


def _unmasked(argument: str, values: Any) -> NDArray[Any]:
    if np.ma.is_masked(values):
        raise argument_error(argument, "an array without a mask", "masked values", "Fill in what is missing.")
    try:
        return np.asarray(values)
    except ValueError:  # NumPy's sentence about nested lists
        remedy = "Pad or resize them."
        raise argument_error(argument, "an array", "rows of different lengths", remedy) from None


def checked_inputs(argument: str, values: Any) -> NDArray[Any]:
    """Texts (M,) of dtype U, a table (M, d) float32, or images (M, C, H, W) uint8 or float32.

    Raises:
        ArgumentError: any other shape or type, and values that are not finite.
    """
    inputs = _unmasked(argument, values)
    if not inputs.size:
        raise argument_error(argument, "of one row at least", f"shape {inputs.shape}", "Leave out an empty part.")
    if inputs.dtype.kind == "O" and inputs.ndim == 1 and all(isinstance(value, str) for value in inputs.tolist()):
        inputs = inputs.astype(str)
    if inputs.dtype.kind == "U":
        if inputs.ndim != 1:
            raise argument_error(argument, "one text per row, (M,)", f"shape {inputs.shape}", "Join them to one.")
        return inputs
    if inputs.dtype.kind not in "fiub":
        remedy = "Use numbers, or .astype(str) for texts."
        raise argument_error(argument, "an array of numbers or of texts", f"dtype {inputs.dtype}", remedy)
    if not 2 <= inputs.ndim <= 4:
        rule = "(M, d) for a table, (M, H, W), (M, C, H, W) or (M, H, W, C) for images"
        remedy = "Use .reshape(-1, 1) for one number a row." if inputs.ndim == 1 else "Bring it into one of these."
        raise argument_error(argument, rule, f"shape {inputs.shape}", remedy)
    if inputs.dtype.kind == "f":
        _not_finite(argument, inputs)
    if inputs.ndim == 2:
        return _float32(argument, inputs)
    inputs = _channels_first(argument, inputs)
    whole = inputs.dtype.kind in "iu" and inputs.size and inputs.min() >= 0 and 1 < inputs.max() <= 255
    return np.ascontiguousarray(inputs, dtype=np.uint8) if whole else _float32(argument, inputs)


def _float32(argument: str, values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # looked for right below, by row
        converted = np.ascontiguousarray(values, dtype=np.float32)
    _not_finite(argument, converted)
    return converted


def same_layout(argument: str, train: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """``other``, with the type of ``train``.

    Raises:
        ArgumentError: samples of another shape or kind.
    """
    if array_kind(train) != array_kind(other) or train.shape[1:] != other.shape[1:]:
        rule = f"of the training part's kind and shape ({array_kind(train)}, {train.shape[1:]} a sample)"
        what = f"{array_kind(other)}, {other.shape[1:]}"
        raise argument_error(argument, rule, what, "Both parts go through the same learner.")
    if array_kind(train) == "images" and train.dtype != other.dtype:
        rule, remedy = f"of the type of x ({train.dtype})", "Both parts must have the same scale."
        raise argument_error(argument, rule, other.dtype, remedy)
    return other


def from_arrays(name: str, arrays: Mapping[str, Any]) -> Raw:
    """What the arrays under `KEYS` say.

    Raises:
        ArgumentError: a key that is missing, unknown or without its partner, and whatever a part breaks.
    """
    known = f"{', '.join(KEYS)}"
    for key in _REQUIRED:
        if key not in arrays:
            what = f"{', '.join(map(str, arrays)) or 'nothing'}"
            raise argument_error(f"{name}", f"arrays with {key}", what, f"The names are {known}.")
    if unknown := [key for key in arrays if key not in KEYS]:
        raise argument_error(name, f"arrays out of {known}", unknown[0], "Leave it out or rename it.")
    parts: dict[str, Part | None] = {}
    for part in ("", "_test", "_validation"):
        x, y = f"x{part}", f"y{part}"
        if (x in arrays) != (y in arrays):
            there, missing = (x, y) if x in arrays else (y, x)
            raise argument_error(name, f"arrays with {missing} beside {there}", f"{there} alone", "Add it.")
        parts[part] = None
        if x in arrays:
            inputs = checked_inputs(x, arrays[x])
            parts[part] = Part(inputs, checked_labels(y, arrays[y], len(inputs)))
    train, test, validation = parts[""], parts["_test"], parts["_validation"]
    assert train is not None  # noqa: S101 - required above
    for x, other in (("x_test", test), ("x_validation", validation)):
        if other is not None:
            same_layout(x, train.inputs, other.inputs)
    kind = array_kind(train.inputs)
    if kind == "texts":
        train, test, validation = (part and part._replace(inputs=part.inputs.tolist()) for part in parts.values())
        assert train is not None  # noqa: S101 - as above
    features, losses = _reference(arrays, len(train.labels))
    classes = None if "classes" not in arrays else tuple(str(label) for label in np.asarray(arrays["classes"]).tolist())
    content = digest_of(*(np.asarray(arrays[key]) if key in arrays else None for key in KEYS))
    return Raw(name, kind, train, content, test, validation, classes, features, losses)


def _reference(arrays: Mapping[str, Any], rows: int) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Features (M, d) and losses (M,) that came with the rows; the store checks what they hold."""
    features, losses = (None if key not in arrays else np.asarray(arrays[key]) for key in ("features", "losses"))
    if losses is not None and features is None:
        raise argument_error("losses", "beside features", "losses alone", "A reference has features (M, d).")
    for key, array in (("features", features), ("losses", losses)):
        if array is not None and (array.ndim != (2 if key == "features" else 1) or len(array) != rows):
            rule = f"({rows}, d), one row for every row of x" if key == "features" else f"({rows},), one for every row"
            raise argument_error(key, rule, f"shape {array.shape}", "Row i belongs to sample i.")
    return features, losses


def _array(path: Path, file: Mapping[str, Any], key: str) -> Any:
    try:
        return file[key]
    except ValueError:
        rule, remedy = "an array of numbers or of dtype U", "Python objects are not read; use .astype(str)."
        raise argument_error(f"{key} in {path.name}", rule, "Python objects", remedy) from None


def read_npz(path: Path) -> Raw:
    """The data set in an ``.npz`` file. Nothing is unpickled.

    Raises:
        ArgumentError: what is no such file, holds Python objects, or breaks a rule of `from_arrays`.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: _array(path, file, key) for key in file.files}
    except ArgumentError:
        raise
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        remedy = f"It cannot be read ({type(error).__name__})."
        raise argument_error("data", "a file that np.savez wrote", str(path), remedy) from None
    return from_arrays(path.stem, arrays)

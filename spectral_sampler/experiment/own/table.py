"""Tables with named columns: a label, and a text or numbers; from ``.csv``, ``.tsv`` and ``.parquet``."""

from __future__ import annotations

import csv
import logging
import math
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.own.arrays import checked_inputs, digest_of
from spectral_sampler.experiment.own.labels import checked_labels
from spectral_sampler.experiment.own.raw import DEFAULT_TEXT, Options, Part, Raw
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_table"]

_LOG = logging.getLogger("spectral_sampler.experiment")
_SPLITS = {"train": "train", "training": "train", "test": "test", "val": "validation", "valid": "validation",
           "validation": "validation"}  # fmt: skip

_NUMBERED = {"", "id", "index", "Unnamed: 0", "__index_level_0__"}  # the row numbers that pandas writes, and the like

Columns = dict[str, "NDArray[Any]"]


def _csv_columns(path: Path, label: str) -> Columns:
    """Every column as integers where all fields are such, else as floats (an empty field is NaN), else as strings.

    Labels that are not written as numbers are (01, +1) stay strings: 01 and 1 are two classes.
    """
    csv.field_size_limit(1 << 30)  # texts may be long
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            names = next(reader, [])
            rows = []
            for row in reader:
                if row and len(row) != len(names):
                    what = f"{len(row)} fields in line {reader.line_num} of {path.name}"
                    raise argument_error("data", f"a table of {len(names)} columns", what, "Quote fields with commas.")
                if row:
                    rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        what, remedy = f"{path} ({error})", "Save it as CSV in UTF-8."
        raise argument_error("data", "a readable table", what, remedy) from None
    if len(set(names)) != len(names) or not rows:
        what = f"{path.name} with columns {', '.join(names) or 'none'} and {len(rows)} rows"
        remedy = "Columns need different names." if rows else "Is it the right file?"
        raise argument_error("data", "a table with named columns and rows", what, remedy)
    fields = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns = {name: _typed(column) for name, column in fields.items()}
    if label in columns and columns[label].dtype.kind == "i":
        written = [field.strip() for field in fields[label]]
        if written != list(map(str, columns[label].tolist())):
            columns[label] = np.array(written, dtype=object)
    return columns


def _typed(fields: list[str]) -> NDArray[Any]:
    if any("_" in field for field in fields):  # Python reads 1_2 as 12
        return np.array(fields, dtype=object)
    try:
        return np.array([int(field) for field in fields], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return np.array([float(field) if field.strip() else np.nan for field in fields])
    except ValueError:
        return np.array(fields, dtype=object)


def _parquet_columns(path: Path) -> Columns:
    pyarrow = optional("pyarrow", "tables")
    try:
        table = optional("pyarrow.parquet", "tables").read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise argument_error("data", "a readable Parquet file", f"{path} ({error})", "Write it anew.") from None
    columns: Columns = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        numbers = all(value is None or isinstance(value, (bool, int, float, Decimal)) for value in values)
        if numbers and any(value is None or isinstance(value, (float, Decimal)) for value in values):
            columns[name] = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        elif numbers:
            columns[name] = np.array(values)
        else:
            columns[name] = np.empty(len(values), dtype=object)
            columns[name][:] = values
    return columns


def _columns(path: Path, label: str) -> Columns:
    if not path.is_file():
        raise argument_error("test-data", "a file that exists", str(path), "It holds the test rows of a table.")
    return _parquet_columns(path) if path.suffix.lower() == ".parquet" else _csv_columns(path, label)


def _number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _numbers_rows(name: str, column: NDArray[Any]) -> bool:
    """Whether it says nothing but which row this is: where rows are sorted by class, that is the class."""
    return name in _NUMBERED and column.dtype.kind in "iu" and len(np.unique(column)) == len(column)


def _used_columns(columns: Columns, options: Options) -> tuple[list[str], str]:
    """All columns of numbers, or else the one of texts."""
    if options.text_column and options.text_column not in columns:
        what = f"{options.text_column!r} where there are {', '.join(columns)}"
        raise argument_error("text-column", "a column of the table", what, "Leave it out for a table of numbers.")
    text, roles = options.text_column or DEFAULT_TEXT, (options.label_column, "split")
    if options.text_column or (text in columns and columns[text].dtype.kind == "O"):
        _left_out("that are not the text", [name for name in columns if name not in {text, *roles}])
        return [], text
    counts = [name for name in columns if name not in roles and _numbers_rows(name, columns[name])]
    rest = [name for name in columns if name not in {*roles, *counts}]
    numbers = [name for name in rest if columns[name].dtype.kind in "iufb"]
    _left_out("that number the rows", counts)
    if not numbers:
        rule = f"a table with a column of texts called {DEFAULT_TEXT!r} or columns of numbers"
        raise argument_error("data", rule, f"columns {', '.join(columns)}", "Or pass text-column.")
    others = [name for name in rest if name not in numbers]
    for name in others:
        strange = [row for row, value in enumerate(columns[name].tolist()) if not _number(value)]
        if len(strange) < len(columns[name]) / 2:
            row = strange[0] if strange else 0  # a string column of Parquet may hold nothing but numbers
            what = f"{columns[name][row]!r} in row {row}, and {len(strange) or len(columns[name])} such in all"
            raise argument_error(f"column {name!r}", "a number in every row", what, "Repair it or drop the column.")
    _left_out("that are not numbers", others)
    return numbers, ""


def _left_out(which: str, names: list[str]) -> None:
    if names:
        _LOG.warning("Columns %s are left out: %s.", which, ", ".join(name or "''" for name in names))


def _inputs(columns: Columns, names: list[str], text: str, where: str) -> Any:
    """Texts as a list, or the numbers (M, d)."""
    if missing := [name for name in ([text] if text else names) if name not in columns]:
        rule = f"a table with the columns {text or ', '.join(names)}"
        raise argument_error(where, rule, f"none called {missing[0]!r}", "Both parts need the same columns.")
    if text:
        texts = columns[text].tolist()
        wrong = [row for row, text in enumerate(texts) if not isinstance(text, str)]
        if wrong:
            what = f"{texts[wrong[0]]!r} in row {wrong[0]}"
            raise argument_error("text-column", "a column of texts in every row", what, "Fill in what is missing.")
        return texts
    for name in names:
        column = columns[name]
        if column.dtype.kind not in "iufb":
            raise argument_error(f"column {name!r}", "of numbers in both parts", f"dtype {column.dtype}", "Convert it.")
        if wrong_rows := np.flatnonzero(~np.isfinite(column)).tolist():
            what = f"nothing, or no finite number, in {len(wrong_rows)} rows (the first is row {wrong_rows[0]})"
            raise argument_error(f"column {name!r}", "a number in every row", what, "Fill it in or drop the column.")
    return checked_inputs("data", np.stack([columns[name].astype(np.float64) for name in names], axis=1))


def _labels(columns: Columns, options: Options, where: str) -> NDArray[Any]:
    if options.label_column not in columns:
        what = f"{options.label_column!r} where {where} has {', '.join(columns)}"
        raise argument_error("label-column", "a column of the table", what, "It holds the classes.")
    labels = columns[options.label_column]
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        missing = np.flatnonzero(np.isnan(labels))
        what = f"nothing in row {missing[0]} and {len(missing)} in all"
        raise argument_error("label-column", "filled in every row", what, "Leave out rows without a class.")
    return checked_labels("label-column", labels)


def _rows(columns: Columns, stated: str) -> dict[str, NDArray[np.int64]]:
    """Which rows are for what, by the column ``split``; those of its value ``stated`` test, if it is."""
    values = [str(value).strip() for value in columns["split"].tolist()]
    known = {**_SPLITS, **({"test": ""} if stated else {})}  # rows of another test part are left out
    found = ["test" if value == stated else known.get(value.lower()) for value in values]
    if strange := sorted({value for value, part in zip(values, found, strict=True) if part is None}):
        rule, remedy = "train, test or validation in every row", "Rename or drop the column to have a fifth tested on."
        raise argument_error("column 'split'", rule, repr(strange[0]), remedy)
    of = np.array(found)
    if not (of == "test").any() and not stated:
        of[of == "validation"] = "test"
    for part in ("train", "test"):
        if not (of == part).any():
            raise argument_error("column 'split'", f"{stated if stated and part == 'test' else part} in some rows",
                                 f"none in {len(of)}", "Drop the column.")  # fmt: skip
    return {part: np.flatnonzero(of == part) for part in ("train", "test", "validation")}


def read_table(path: Path, options: Options) -> Raw:
    """The rows of a table: texts where there is a column for them, else all columns of numbers.

    The test part is what a column ``split`` says, or the table ``options.test_data``.

    Raises:
        ArgumentError: a column that is missing or has holes, labels that are no classes, an unknown split.
        MissingPackage: Parquet without pyarrow.
    """
    columns = _columns(path, options.label_column)
    names, text = _used_columns(columns, options)
    inputs, labels = _inputs(columns, names, text, "data"), _labels(columns, options, path.name)
    if not text:
        _LOG.info("Columns taken as features: %s.", ", ".join(names))
    parts: dict[str, Part | None] = {"train": Part(inputs, labels), "test": None, "validation": None}
    if options.test_split and "split" not in columns:
        rule, remedy = "left out for a table without a column 'split'", "Or name the table with test-data."
        raise argument_error("test-split", rule, repr(options.test_split), remedy)
    if "split" in columns and options.test_data:
        rule, remedy = "left out where the table has a column 'split'", "Drop one of the two."
        raise argument_error("test-data", rule, options.test_data, remedy)
    if "split" in columns:
        for part, rows in _rows(columns, options.test_split).items():
            chosen = [inputs[row] for row in rows] if isinstance(inputs, list) else inputs[rows]
            parts[part] = Part(chosen, labels[rows]) if len(rows) else None
    elif options.test_data:
        test = _columns(Path(options.test_data), options.label_column)
        parts["test"] = Part(
            _inputs(test, names, text, "test-data"), _labels(test, options, Path(options.test_data).name)
        )
    content = digest_of(names, text, *(value for part in parts.values() for value in (part or (None, None))))
    train = parts["train"]
    assert train is not None  # noqa: S101 - there is always one
    kind = "texts" if isinstance(inputs, list) else "table"
    return Raw(path.stem, kind, train, content, parts["test"], parts["validation"], argument="label-column")

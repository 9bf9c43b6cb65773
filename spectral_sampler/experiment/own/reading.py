"""From the text that names somebody's data to what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.own.arrays import read_npz
from spectral_sampler.experiment.own.folder import read_folder
from spectral_sampler.experiment.own.function import read_function
from spectral_sampler.experiment.own.imported import is_function_name
from spectral_sampler.experiment.own.table import read_table

if TYPE_CHECKING:
    from spectral_sampler.experiment.own.raw import Options, Raw

__all__ = ["read", "resolved", "unusable_options"]

_FILES = (".npz", ".csv", ".tsv", ".parquet")
_USABLE = {"table": {"label_column", "text_column", "test_data", "test_split"}, "folder": {"test_split"}}
_remembered: dict[tuple[str, Options], Raw] = {}  # a process reads its data once


def _form(data: str) -> str:
    if Path(data).is_dir():
        return "folder"
    if is_function_name(data) and not Path(data).exists():
        return "function"
    return "npz" if data.lower().endswith(".npz") else "table"


def resolved(data: str, known: tuple[str, ...]) -> str:
    """``data`` so that it means the same in any folder: a path made absolute, or ``module:function``.

    Raises:
        ArgumentError: no folder, file of a known kind or function; ``known`` are the names there are.
    """
    path = Path(data).expanduser()
    if path.is_dir() or (path.suffix.lower() in _FILES and path.is_file()):
        return str(path.resolve())
    if is_function_name(data):
        return data
    rule = f"one of {', '.join(known)}, a folder of pictures, FILE{', FILE'.join(_FILES)} or module:function"
    remedy = f"There is no such {'file' if path.suffix else 'file or folder'}." if not path.exists() else "Convert it."
    raise argument_error("data", rule, repr(data), remedy if path.suffix else f"{remedy} digits needs no files.")


def unusable_options(data: str, given: set[str]) -> None:
    """Refuses options that say nothing about ``data``; "" for a data set of ours."""
    form = _form(data) if data else "built in"
    for name in sorted(given & set().union(*_USABLE.values()) - _USABLE.get(form, set())):
        remedy = "It would have no effect."
        raise argument_error(name.replace("_", "-"), f"left out for data of the form {form}", "a value", remedy)


def read(data: str, options: Options, content: str = "") -> Raw:
    """What `resolved` data holds; read anew unless its ``content`` is stated, and then it must be that.

    Raises:
        ArgumentError: what a reader refuses, and data that changed.
    """
    key = (data, options)
    if content and key in _remembered and _remembered[key].content == content:
        return _remembered[key]
    form = _form(data)
    if form == "function":
        raw = read_function(data)
    elif form == "folder":
        raw = read_folder(Path(data), options)
    else:
        raw = read_npz(Path(data)) if form == "npz" else read_table(Path(data), options)
    if content and raw.content != content:
        what = f"content {raw.content} instead of {content}"
        remedy = "It changed, or a function draws it anew at every call: fix its seed, or make the settings again."
        raise argument_error("data", "the same as when the settings were made", what, remedy)
    if len(_remembered) > 1:
        _remembered.clear()
    _remembered[key] = raw
    return raw

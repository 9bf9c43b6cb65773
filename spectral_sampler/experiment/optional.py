"""Packages that only experiments need, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["MissingPackage", "optional"]


class MissingPackage(ImportError):
    """An optional package is not installed; the message is the line that installs it."""


def optional(module: str, extra: str = "experiment") -> Any:
    """The imported ``module``.

    Raises:
        MissingPackage: naming the ``pip install`` line of the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        line = f"pip install 'spectral-sampler[{extra}]'"
        raise MissingPackage(f"This needs the package {top}, which is not installed. {line}") from error

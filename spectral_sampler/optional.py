"""Packages that only parts of this one need, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["MissingPackage", "optional"]


class MissingPackage(ImportError):
    """An optional package cannot be imported; the message says why, and the line that installs it."""


def optional(module: str, extra: str = "experiment") -> Any:
    """The imported ``module``.

    Raises:
        MissingPackage: naming the ``pip install`` line of the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        line = f"Install it: pip install 'spectral-sampler[{extra}]'"
        package = module.partition(".")[0]
        raise MissingPackage(
            f"This needs {package}, which cannot be imported ({error}). {line}", name=module
        ) from error

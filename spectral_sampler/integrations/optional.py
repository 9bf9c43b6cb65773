"""Frameworks are imported where they are used; one that is missing says how it is installed."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["framework"]


def framework(name: str, extra: str) -> Any:
    """The module ``name``.

    Raises:
        ImportError: naming the pip line of ``extra``.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this integration needs {name}, which cannot be imported ({error}). "
            f"Install it: pip install 'spectral-sampler[{extra}]'",
            name=name,
        ) from error

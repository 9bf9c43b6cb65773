"""``module:function`` as a string, so that a process started anew finds the same thing."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import ArgumentError, argument_error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["called_without_arguments", "imported", "is_function_name", "look_here"]

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_function_name(text: str) -> bool:
    """Whether ``text`` reads ``package.module:function``."""
    return _NAME.fullmatch(text) is not None


def look_here() -> str:
    """Lets modules be found from the current folder too, as by ``python -m``; returns it."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the module may have been written since this folder was listed
    return here


def imported(argument: str, text: str) -> Callable[..., Any]:
    """The function that ``text`` names, found from the current folder too, as by ``python -m``.

    Raises:
        ArgumentError: about ``argument``, where there is no such module or function, or its import fails.
    """
    module_name, _, path = text.partition(":")
    rule = "module:function that can be imported"
    here = look_here()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            remedy = f"There is no module {error.name}; it is looked for in {here} and where Python's packages are."
            raise argument_error(argument, rule, repr(text), remedy) from None
        raise argument_error(argument, rule, repr(text), f"Importing {module_name} failed: {error}.") from error
    except (Exception, SystemExit) as error:  # somebody's module may raise anything
        raise argument_error(argument, rule, repr(text), _failed(f"Importing {module_name}", error)) from error
    for name in path.split("."):
        if not hasattr(found, name):
            public = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            remedy = f"{module_name} has no {path}; it has {', '.join(sorted(public)[:8]) or 'no functions'}."
            raise argument_error(argument, rule, repr(text), remedy)
        found = getattr(found, name)
    if not callable(found):
        remedy = f"{path} is of type {type(found).__name__}; write a function that returns it."
        raise argument_error(argument, "module:function", repr(text), remedy)
    return found  # type: ignore[no-any-return]


def called_without_arguments(argument: str, text: str) -> Any:
    """What the function that ``text`` names returns.

    Raises:
        ArgumentError: as `imported`; where it needs arguments; and where it raises anything else.
    """
    function = imported(argument, text)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        remedy = f"It needs arguments ({error}); give them defaults or wrap it."
        raise argument_error(argument, "a function without arguments", repr(text), remedy) from None
    except ValueError:  # no signature to be had of what is written in C
        pass
    try:
        return function()
    except (ArgumentError, ImportError):
        raise
    except (Exception, SystemExit) as error:  # somebody's function may raise anything
        rule = "a function that can be called"
        raise argument_error(argument, rule, repr(text), _failed("Calling it", error)) from error


def _failed(what: str, error: BaseException) -> str:
    return f"{what} failed with {type(error).__name__}: {error}".rstrip(".") + "."

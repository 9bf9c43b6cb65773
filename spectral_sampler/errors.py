"""The errors a user can meet, and the one sentence each of them says."""

from __future__ import annotations

import logging

__all__ = ["ArgumentError", "BackendUnavailable", "StoreError", "add_note", "argument_error"]

_log = logging.getLogger("spectral_sampler")


class ArgumentError(ValueError):
    """An argument broke its rule. The parts of the sentence stay readable as attributes."""

    def __init__(self, argument: str, rule: str, value: object, remedy: str) -> None:
        super().__init__(f"{argument} must be {rule}, got {value}. {remedy}")
        self.argument, self.rule, self.value, self.remedy = argument, rule, value, remedy

    def __reduce__(self) -> tuple[object, ...]:  # DataLoader workers pickle exceptions
        return type(self), (self.argument, self.rule, self.value, self.remedy)


class StoreError(RuntimeError):
    """A reference store on disk is missing, damaged, of another format, or cannot be written."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot run here; the message says why."""


def argument_error(argument: str, rule: str, value: object, remedy: str) -> ArgumentError:
    """``{argument} must be {rule}, got {value}. {remedy}`` as an exception ready to be raised."""
    return ArgumentError(argument, rule, value, remedy)


def add_note(error: BaseException, note: str) -> None:
    """Says ``note`` below somebody's error in its traceback, and leaves type and message as they are. The tracebacks of
    Python 3.10 have no notes: there it is logged."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
        _log.error("%s: %s", type(error).__name__, note)

"""The errors a user can meet, and the one sentence each of them says."""

from __future__ import annotations

__all__ = ["ArgumentError", "BackendUnavailable", "StoreError", "argument_error"]


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

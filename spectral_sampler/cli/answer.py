"""What a command answers: for people, and for programs."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Answer"]


class Answer(NamedTuple):
    """The same facts twice."""

    text: str
    """Empty where another process answers."""
    data: dict[str, Any]
    """Plain values, printed by ``--json``."""
    status: int = 0
    """Exit status of the command."""

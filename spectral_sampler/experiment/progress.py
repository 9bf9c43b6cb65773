"""How far a comparison is: a bar on a terminal, a line now and then in a file."""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING, Any

from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["Progress"]

_FIRST, _EVERY = 5.0, 30.0  # seconds: the first line says that something happens, the others how long it will


class Progress:
    """Counts what finishes.

    Args:
        events: a queue in which workers put 1 for every part that is done.
        say: takes the lines where stderr is no terminal.
    """

    def __init__(self, events: Any, say: Callable[[str], None]) -> None:
        self._events, self._say = events, say

    def finish(self, futures: list[Future[Any]], what: str, total: int, unit: str) -> list[Any]:
        """Waits for ``futures``; raises the first error.

        Args:
            what: the futures compute, in the plural.
            total: number of parts, of which ``unit`` is the name; a future is one where that names it.
        """
        bar = optional("tqdm.auto").tqdm(total=total, desc=what, unit=unit, disable=None)
        started, done, due = time.monotonic(), 0, _FIRST
        pending = set(futures)
        with bar:
            while pending:
                ended, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
                step = len(ended) if what.startswith(unit) else self._counted()
                bar.update(step)
                done, seconds = done + step, time.monotonic() - started
                if not sys.stderr.isatty() and pending and seconds >= due:
                    due = seconds + _EVERY
                    left = f", about {_spoken(seconds * (total - done) / done)} to go" if done else ""
                    finished = f"{len(futures) - len(pending)} of {len(futures)} {what}"
                    self._say(f"{finished} after {_spoken(seconds)}{left}")
            bar.update(max(0, total - done))  # the queue may lag behind the last result
        return [future.result() for future in futures]

    def _counted(self) -> int:
        count = 0
        with contextlib.suppress(queue.Empty):
            while True:
                count += self._events.get_nowait()
        return count


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

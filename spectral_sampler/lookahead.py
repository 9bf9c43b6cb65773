"""Results computed some at a time, one chunk ahead of their use, by a thread that lives for one chunk.

A DataLoader's workers do not hide work done in a batch sampler: it runs in the training process between two steps. So
the next chunk is computed by a thread while training uses the last. There is no thread before the first result is asked
for, and none outlives its chunk: an iterator that is forgotten half-way leaves nothing running.
"""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LookAhead"]

T = TypeVar("T")


_collecting: int | None = None


def _note(phase: str, _: dict[str, int]) -> None:
    """Which thread is collecting garbage."""
    global _collecting  # noqa: PLW0603 - there is one collector
    _collecting = threading.get_ident() if phase == "start" else None


class _Chunk(threading.Thread, Generic[T]):
    """``compute(start, stop)`` in a thread. Holds no reference to who waits for it, so that one can be collected."""

    def __init__(self, compute: Callable[[int, int], list[T]], start: int, stop: int) -> None:
        super().__init__(name="spectral-lookahead", daemon=False)  # not killed inside native code at exit
        if _note not in gc.callbacks:
            gc.callbacks.append(_note)
        self._compute, self._span = compute, (start, stop)
        self._results: list[T] | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results = self._compute(*self._span)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            self._error = error

    def finish(self) -> None:
        """Wait for the thread, unless this is the thread, or garbage is being collected in this one: that may happen
        anywhere, also where the interpreter holds the lock without which no thread begins or ends."""
        if _collecting != threading.get_ident() and self is not threading.current_thread():
            self.join()

    def take(self) -> list[T]:
        """The results; an error is raised here with the traceback it had there."""
        self.finish()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # break the cycle error → traceback → frame → error
        # A process forked while the thread was running has a copy of this object, but not the thread.
        return self._compute(*self._span) if self._results is None else self._results


class LookAhead(Generic[T]):
    """Results ``start`` … ``stop − 1`` of ``compute``, one after the other.

    Args:
        compute: ``compute(i, k)`` returns results i … k − 1; called in one thread at a time, and the same whatever the
            chunks are.
        start, stop: the range.
        depth: results per call; may be changed. 0: one at a time in the caller's thread, without any other thread.
        threaded: False computes ``depth`` results at a time in the caller's thread: not worth another one.
    """

    def __init__(
        self, compute: Callable[[int, int], list[T]], start: int, stop: int, depth: int, *, threaded: bool = True
    ) -> None:
        self._compute, self._next, self._stop, self.depth, self._threaded = compute, start, stop, depth, threaded
        self._ready: list[T] = []  # reversed
        self._chunk: _Chunk[T] | None = None

    def _span(self) -> tuple[int, int]:
        start = self._next
        self._next = min(self._stop, start + max(1, self.depth))
        return start, self._next

    def take(self) -> T:
        """The next result; IndexError after the last one."""
        if not self._ready:
            if self._chunk is not None:
                results = self._chunk.take()  # interrupted, it is still there for `close`
                self._chunk = None
            elif self._next < self._stop:
                results = self._compute(*self._span())
            else:
                raise IndexError("no result is left")
            self._ready = results[::-1]
            if self.depth and self._threaded and self._next < self._stop:
                self._chunk = _Chunk(self._compute, *self._span())
                self._chunk.start()
        return self._ready.pop()

    def close(self) -> None:
        """Drop what is ready and wait for the running chunk, if any; but not from within a garbage collection."""
        self._ready, self._next = [], self._stop
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            chunk.finish()

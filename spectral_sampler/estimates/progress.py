"""How far a long estimate is: a line of the log every ten seconds, and a bar on a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Progress"]

_PERIOD = 10.0  # seconds between lines; what takes less says nothing
_PATIENCE = 5.0  # seconds before a bar is drawn
_log = logging.getLogger("spectral_sampler")


class Progress:
    """The share of a total (multiplications, about) that is done, said while it is entered.

    Seconds left are those spent times what is left over what is done, so a total of the right proportions is enough.
    """

    def __init__(self, name: str, total: float = 1.0) -> None:
        self.name, self.total, self.done = name, max(total, 1.0), 0.0
        self._started = self._said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                from tqdm.auto import tqdm

                form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
                self._bar = tqdm(total=self.total, desc=self.name, leave=False, delay=_PATIENCE, bar_format=form)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def expect(self, total: float) -> None:
        """The total, where it was not known before."""
        self.total = max(total, 1.0)
        if self._bar is not None:
            self._bar.total = self.total

    def advance(self, amount: float) -> None:
        """``amount`` more of the total is done."""
        amount = min(amount, self.total - self.done)
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
        now = time.monotonic()
        if now - self._said < _PERIOD or not self.done:
            return
        spent, self._said = now - self._started, now
        left = spent * (self.total - self.done) / self.done
        _log.info("%s: %.0f %% done, about %.0f s left", self.name, 100.0 * self.done / self.total, left)

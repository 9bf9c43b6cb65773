"""A bar of what all ranks have done, drawn by a thread that looks at the disk: who waits has nothing to count."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["progress_bar"]

_PAUSE = 0.5  # seconds between two looks, and at least twenty times what a look takes


@contextlib.contextmanager
def progress_bar(total: int, done: Callable[[], int], *, shown: bool) -> Iterator[None]:
    """Draws ``done()`` of ``total`` while the body runs, if stderr is a terminal and tqdm is installed."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield
        return
    ended = threading.Event()
    with tqdm(total=total, initial=done(), desc="reference features", unit="batch") as bar:

        def watch() -> None:
            pause = _PAUSE
            while not ended.wait(pause):
                started = time.monotonic()
                bar.update(max(0, done() - bar.n))
                pause = max(_PAUSE, 20 * (time.monotonic() - started))

        thread = threading.Thread(target=watch, name="spectral_sampler progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        bar.update(total - bar.n)  # it has ended well

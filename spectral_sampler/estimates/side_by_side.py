"""Blocks on all cores: as many Python threads as torch has, each of which computes on one.

Threads inside an operation wait for each other at its end, which costs a multiple where others use the machine, and
may add in another order. Here a block is computed alike whoever does it, and results come in the order of the blocks:
the bits do not depend on the number of threads.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["one_thread", "side_by_side"]

Item = TypeVar("Item")
Found = TypeVar("Found")


def side_by_side(function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[tuple[Item, Found]]:
    """Every item and ``function(item)``, in their order; one result more than there are threads is held at most.

    ``function`` runs in other threads and is given back what it raises.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from ((item, function(item)) for item in items)
        return
    left = iter(items)
    with _pool(threads) as pool:
        running: deque[tuple[Item, Future[Found]]] = deque()
        try:
            running.extend((item, pool.submit(function, item)) for item in islice(left, threads + 1))
            while running:
                item, future = running.popleft()
                yield item, future.result()
                running.extend((item, pool.submit(function, item)) for item in islice(left, 1))
        finally:
            for _, future in running:
                future.cancel()


def one_thread(function: Callable[[], Found]) -> Found:
    """``function()`` on one thread of torch: decompositions gain little from more, and their signs depend on them."""
    if torch.get_num_threads() == 1:
        return function()
    with _pool(1) as pool:
        return pool.submit(function).result()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that compute on one thread each.

    torch keeps the number for every thread, and one for threads to come, which is set back as soon as these have begun.
    """
    pool, begun, before = ThreadPoolExecutor(threads), threading.Barrier(threads + 1), torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # what is asked for first in a thread sets the number for threads to come in it
        torch.set_num_threads(1)
        begun.wait()

    try:
        for _ in range(threads):
            pool.submit(begin)
        begun.wait()
    except BaseException:  # a thread that cannot be started: those that are would wait for it for ever
        begun.abort()
        pool.shutdown(cancel_futures=True)  # or one of those would set the number for threads to come
        raise
    finally:
        torch.set_num_threads(before)
    return pool

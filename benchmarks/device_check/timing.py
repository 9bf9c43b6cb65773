"""Times of one method on rotating inputs, within a budget of seconds."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[int], Any]  # solves the k-th of the rotating inputs
_RUNS = 50
_ROUNDS = 3


def wait() -> None:
    """Until the device has done what is queued; nothing without one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def warm_clocks(seconds: float) -> None:
    """Keep the device busy: an idle one runs at a fifth of its clock."""
    if not torch.cuda.is_available():
        return
    square = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for _ in range(20):
            square @ square
        wait()


def _called(call: Call, number: int) -> float:
    """Seconds of one call and its wait."""
    start = time.perf_counter()
    call(number)
    wait()
    return time.perf_counter() - start


def between_events(action: Callable[[], Any]) -> float:
    """Seconds that the device takes for what the action queues."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    action()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e-3


def calls(call: Call, cap: float, *, queued: bool) -> dict[str, float]:
    """Microseconds a call, of a method that has been called before.

    latency_us: one call and its wait, by the wall clock; the median, its quintiles, and the number of runs. queued_us:
    one of many that are queued one after another, by the device's clock: the larger of its work and its launch.

    Args:
        cap: seconds this may take; a call that takes longer is made once.
    """
    stop = time.perf_counter() + cap
    each = _called(call, 0)
    runs = int(max(1, min(_RUNS, 0.4 * cap / each)))
    walls = [each] if runs == 1 else []
    while len(walls) < runs and (time.perf_counter() < stop or not walls):
        walls.append(_called(call, 1 + len(walls)))
    cuts = statistics.quantiles(walls, n=5) if len(walls) > 1 else walls * 4
    found = {"latency_us": statistics.median(walls), "p20_us": cuts[0], "p80_us": cuts[-1]}
    if queued and runs > 1 and time.perf_counter() < stop:
        rounds = [between_events(lambda: [call(k) for k in range(runs)]) / runs for _ in range(_ROUNDS)]
        found |= {"queued_us": statistics.median(rounds), "queued_spread_us": max(rounds) - min(rounds)}
    return {name: round(seconds * 1e6, 2) for name, seconds in found.items()} | {"runs": len(walls)}


def replayed(call: Call, inputs: int) -> float:
    """Microseconds of a call within one CUDA graph of so many, replayed: without the host's part of a launch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(0)
    torch.cuda.current_stream().wait_stream(side)
    wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call(number) for number in range(inputs)]
    graph.replay()
    wait()
    seconds = between_events(lambda: [graph.replay() for _ in range(_ROUNDS)])
    del kept  # outputs live in the memory of the graph
    return round(seconds / (_ROUNDS * inputs) * 1e6, 2)


def ceilings() -> dict[str, float]:
    """Bytes a second that a copy reads and writes on the device, and operations a second of an fp16 product."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    rates = {}
    for name, amount, action in (
        ("copy_bytes_s", 2 * source.numel(), lambda: target.copy_(source)),
        ("fp16_flops", 2 * 8192**3, lambda: square @ square),
    ):
        action()
        rates[name] = 10 * amount / between_events(lambda action=action: [action() for _ in range(10)])
    return rates

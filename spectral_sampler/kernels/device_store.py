"""The rows of a feature store where a device's kernels can read them, beside a training run on the same device.

    resident    the whole store is copied once, in its own dtype, where it fits into the budget
    gathered    otherwise each call copies the rows it names through one pinned buffer

Work is queued on a stream of its own and waited for by an event in the calling thread (the sampler's look-ahead), so
neither the training stream nor the default stream waits for it. Nothing touches the device before the first
`DeviceRows.solve`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from spectral_sampler.errors import argument_error

__all__ = ["BUDGET_VARIABLE", "DeviceRows", "Solver"]

# (features (M, d), indices (B, N)) -> outputs, all on one device
Solver = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
_SHARE = 0.25  # of the device's memory, used or free: which rows are resident must not depend on the moment
BUDGET_VARIABLE = "SPECTRAL_SAMPLER_DEVICE_MEMORY"


class DeviceRows:
    """Features (M, d) for a device.

    Args:
        features: on the host, float16 or float32; not copied until used.
        device: where to solve; "cpu" solves in place, without streams.
        budget: bytes the resident copy may take; None reads SPECTRAL_SAMPLER_DEVICE_MEMORY, by default a quarter of the
            device's memory.
    """

    def __init__(self, features: Tensor, device: torch.device | str = "cuda", *, budget: int | None = None) -> None:
        if budget is not None and budget < 0:
            raise argument_error("budget", "None or at least 0 bytes", budget, "0 gathers the rows of each call.")
        self._host, self.device, self._budget = features, torch.device(device), budget
        self._lock = threading.Lock()
        self._resident: Tensor | None = None
        self._buffer: Tensor | None = None
        self._stream: torch.cuda.Stream | None = None
        self._prepared = False

    @property
    def resident(self) -> bool | None:
        """Is the whole store on the device? None before the first use."""
        return self._resident is not None if self._prepared else None

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def _side(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()

    def _prepare(self) -> None:
        if self._prepared:
            return
        if self._on_cuda:
            if self.device == torch.device("cuda"):  # the next thread's current device may be another
                self.device = torch.device("cuda", torch.cuda.current_device())
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        if self._host.nbytes <= (self._default_budget() if self._budget is None else self._budget):
            with self._side():
                self._resident = self._host.to(self.device, non_blocking=True)
        self._prepared = True

    def _default_budget(self) -> int:
        text = os.environ.get(BUDGET_VARIABLE)
        if text is not None:
            if not text.isdecimal():
                raise argument_error(
                    BUDGET_VARIABLE, "a number of bytes", repr(text), "0 gathers the rows of each call."
                )
            return int(text)
        if not self._on_cuda:
            return self._host.nbytes
        return int(_SHARE * torch.cuda.get_device_properties(self.device).total_memory)

    def _gathered(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that are named, on the device, and the indices among them. The order of the indices is kept."""
        names, places = torch.unique(indices, return_inverse=True)
        if self._buffer is None or len(self._buffer) < len(names):
            self._buffer = torch.empty(
                (len(names), self._host.shape[1]), dtype=self._host.dtype, pin_memory=self._on_cuda
            )
        part = self._buffer[: len(names)]
        torch.index_select(self._host, 0, names, out=part)
        return part.to(self.device, non_blocking=True, copy=True), places.to(self.device)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock, self._side():
            yield

    def solve(self, indices: Tensor, solver: Solver) -> tuple[Tensor, ...]:
        """``solver(features, indices)`` on the device; its outputs on the host, complete.

        Args:
            indices: (B, N) int64 on the host. Gathered rows are renumbered in the same order, so a start vector that
                hashes them differs and a result agrees with the resident one to rounding, not to the bit.
            solver: is given tensors on the device and must use the current stream.
        """
        with self._lock:
            self._prepare()
        with self._turn():
            if self._resident is not None:
                rows = self._resident
                places = (indices.pin_memory() if self._on_cuda else indices).to(self.device, non_blocking=True)
            else:
                rows, places = self._gathered(indices)
            outputs = tuple(field.to("cpu", non_blocking=True) for field in solver(rows, places))
            if self._stream is not None:
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                done.record(self._stream)
                done.synchronize()  # this thread waits for this stream, and no other
        return outputs

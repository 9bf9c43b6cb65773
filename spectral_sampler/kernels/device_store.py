"""The rows of a feature store where a device's kernels can read them, beside a training run on the same device.

    resident    the whole store is copied once, in its own dtype, where it fits into the budget
    gathered    otherwise each call copies the rows it names through one pinned buffer

Features that are read by index (a store of parts, or of int8) are copied in blocks, as the floats that reading gives.

Which of the two it is depends on the memory that is free at the first call; results agree to rounding.
Work is queued on a stream of its own and waited for by an event in the calling thread (the sampler's look-ahead), so
neither the training stream nor the default stream waits for it. Nothing touches the device before the first
`DeviceRows.solve`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BUDGET_VARIABLE", "DeviceRows", "Readable", "Solver"]

# (features (M, d), indices (B, N)) -> outputs, all on one device
Solver = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
_SHARE = 0.25  # of the memory that is free at the first call; training has often yet to take its part of the rest
_GATHERED_BYTES = 1 << 28  # of rows at a time: pinned memory is taken from the whole machine
BUDGET_VARIABLE = "SPECTRAL_SAMPLER_DEVICE_MEMORY"
_BLOCK_BYTES = 1 << 26  # of rows that are read at a time for the resident copy
_log = logging.getLogger("spectral_sampler")


class Readable(Protocol):
    """Features (M, d) that are no tensor."""

    @property
    def shape(self) -> tuple[int, int]:
        """(M, d)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32, of what `take` gives."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows (n,) as a new array (n, d)."""


class DeviceRows:
    """Features (M, d) for a device.

    Args:
        features: on the host, float16 or float32; not copied until used.
        device: where to solve; "cpu" solves in place, without streams. "cuda" is the current device of the first call.
        budget: bytes the resident copy may take, whatever is free; None reads SPECTRAL_SAMPLER_DEVICE_MEMORY, by
            default a quarter of what is free at the first call. A copy that fails for want of memory leaves the rows
            gathered.
    """

    def __init__(
        self, features: Tensor | Readable, device: torch.device | str = "cuda", *, budget: int | None = None
    ) -> None:
        if budget is not None and budget < 0:
            raise argument_error("budget", "None or at least 0 bytes", budget, "0 gathers the rows of each call.")
        self._host, self.device, self._budget = features, torch.device(device), budget
        self._rows, self._width = features.shape
        self._dtype = features.dtype if isinstance(features, Tensor) else getattr(torch, features.dtype.name)
        self._nbytes = self._rows * self._width * self._dtype.itemsize
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
        budget = self._asked_budget()
        if self._nbytes <= (self._default_budget() if budget is None else budget):
            self._copy()
        elif budget is None:
            self._say("more than a quarter of what is free")
        self._prepared = True

    def _copy(self) -> None:
        try:
            with self._side():
                self._resident = self._copied()
        except torch.OutOfMemoryError:  # what was free a moment ago, or the budget that was asked for, is not
            self._say("which could not be had")

    def _copied(self) -> Tensor:
        if isinstance(self._host, Tensor):
            return self._host.to(self.device, non_blocking=True)
        whole = torch.empty((self._rows, self._width), dtype=self._dtype, device=self.device)
        step = max(1, _BLOCK_BYTES * self._rows // self._nbytes)
        for start in range(0, self._rows, step):
            numbers = torch.arange(start, min(start + step, self._rows), device="cpu").numpy()
            whole[start : start + step] = torch.from_numpy(self._host.take(numbers))
        return whole

    def _say(self, why: str) -> None:
        _log.warning(
            "a copy of the features on %s takes %.1f GB, %s: the rows of each call are copied instead (%s allows more "
            "bytes, a float16 store needs half)",
            self.device, self._nbytes / 1e9, why, BUDGET_VARIABLE,
        )  # fmt: skip

    def _asked_budget(self) -> int | None:
        text = os.environ.get(BUDGET_VARIABLE)
        if self._budget is not None or text is None:
            return self._budget
        if not text.isdecimal():
            raise argument_error(BUDGET_VARIABLE, "a number of bytes", repr(text), "0 gathers the rows of each call.")
        return int(text)

    def _default_budget(self) -> int:
        return int(_SHARE * torch.cuda.mem_get_info(self.device)[0]) if self._on_cuda else self._nbytes

    def _gathered(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that are named, on the device, and the indices among them: each member's own rows, in their order,
        so that its start vector, a hash of differences of indices, knows no neighbour."""
        names, order = indices.sort(dim=1)
        places = torch.empty_like(indices).scatter_(1, order, torch.arange(names.numel(), device="cpu").view_as(names))
        if self._buffer is None or len(self._buffer) < names.numel():
            shape = (names.numel(), self._width)
            self._buffer = torch.empty(shape, dtype=self._dtype, device="cpu", pin_memory=self._on_cuda)
        part = self._buffer[: names.numel()]
        if isinstance(self._host, Tensor):
            torch.index_select(self._host, 0, names.flatten(), out=part)
        else:
            part.copy_(torch.from_numpy(self._host.take(names.flatten().numpy())))
        return part.to(self.device, non_blocking=True, copy=True), places.to(self.device)

    def _placed(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        if self._resident is None:
            return self._gathered(indices)
        indices = indices.pin_memory() if self._on_cuda else indices
        return self._resident, indices.to(self.device, non_blocking=True)

    def _at_a_time(self, size: int) -> int:
        """Candidate batches of ``size`` rows in one call."""
        if self._resident is not None:
            return sys.maxsize
        return max(1, _GATHERED_BYTES // (size * self._width * self._dtype.itemsize))

    def _solved(self, indices: Tensor, solver: Solver) -> tuple[Tensor, ...]:
        outputs = tuple(field.to("cpu", non_blocking=True) for field in solver(*self._placed(indices)))
        if self._stream is not None:
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # spinning takes a core from loading
            done.record(self._stream)
            done.synchronize()  # this thread waits for this stream, and no other
        return outputs

    def solve(self, indices: Tensor, solver: Solver) -> tuple[Tensor, ...]:
        """``solver(features, indices)`` on the device; its outputs on the host, complete.

        Args:
            indices: (B, N) int64 on the host. Gathered rows are renumbered in the same order, so start vectors differ
                and a result agrees with the resident one to rounding, not to the bit.
            solver: is given tensors on the device and must use the current stream. Rows that are gathered may reach it
                in several calls.
        """
        with self._lock:
            self._prepare()
            step = self._at_a_time(indices.shape[1])
            with self._side():
                parts = [self._solved(indices[at : at + step], solver) for at in range(0, len(indices), step)]
        return tuple(torch.cat(field) for field in zip(*parts, strict=True)) if len(parts) > 1 else parts[0]

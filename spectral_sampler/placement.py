"""Where a sampler's graphs are solved, how many at a time, and when "auto" moves from the CPU to a GPU."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from spectral_sampler import ops, preference
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spectral_sampler.kernels.nvidia import Gpu

__all__ = ["Placement", "check_device"]

_LOOKAHEAD = 16
_SLICE = 4  # at least so many look-aheads in an epoch: training does not wait for all of it before its first batch
_WAITING = 0.1  # of the time: training that waits longer than that for the CPU's scores waits for the CPU
_PATIENCE = 3  # look-aheads in a row; a loader that fills its queue waits for one or two
_log = logging.getLogger("spectral_sampler")


def check_device(device: object, backend: str) -> torch.device | None:
    """A device that this machine has and ``backend`` solves on, or None where none was named. Initialises nothing."""
    if device is None:
        return None
    remedy = "Leave it out for the current device of a GPU's backend."
    try:
        place = torch.device(device) if isinstance(device, (str, torch.device)) else None
    except RuntimeError:
        place = None
    kinds = ("cpu", "cuda") if backend == "auto" else ops.devices(backend)
    if place is None or place.type not in ("cpu", "cuda"):
        raise argument_error("device", '"cpu", "cuda" or one such as "cuda:1"', repr(device), remedy)
    if place.type not in kinds:
        rule = f'of type {" or ".join(kinds)} with backend="{backend}"'
        raise argument_error("device", rule, repr(str(place)), 'Pass backend="auto" or one of that device.')
    count = torch.cuda.device_count() if place.type == "cuda" else 1
    if (place.index or 0) >= count:
        raise argument_error("device", f"one of the CUDA devices that torch sees ({count})", repr(str(place)), remedy)
    return place


class Placement:
    """The backend and device of one sampler. Nothing touches a GPU before the first batch is asked for.

    Args:
        backend, device, lookahead: as the sampler got them.
        dtype, width: of the features, on the host.
        candidates: N.
        steps: candidate batches of an epoch on this rank.

    Raises:
        BackendUnavailable: ``backend`` was named and cannot run.
        ArgumentError: ``device`` is not there, or not one that ``backend`` solves on.
    """

    def __init__(
        self, backend: str, device: Any, lookahead: int | None, dtype: torch.dtype, width: int, candidates: int,
        steps: int,
    ) -> None:  # fmt: skip
        self.backend = ops.requested(backend)
        auto = self.backend == "auto"
        home = "cpu" if auto else ops.devices(self.backend)[0]
        ops.resolve(self.backend, home, dtype)
        self._named = check_device(device, self.backend)
        self._on_gpu = (home if self._named is None else self._named.type) == "cuda"
        self._may_move = auto and self._named is None
        self._candidates, self._width = candidates, width
        self._steps, self._asked = steps, lookahead
        self._unsettle()

    def _unsettle(self) -> None:
        self._device: torch.device | None = None  # where to solve; None: on the host
        self._gpu: Gpu | None = None
        self._reason = ""  # for which "auto" moved, until it is said
        self._behind = False
        self._late, self._since, self._batches, self._waited = 0, -1.0, 0, 0.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._unsettle()  # another process has devices of its own

    @property
    def lookahead(self) -> int:
        """Candidate batches in one call: the caller's number, else 16, and on a GPU two for each multiprocessor as far
        as that leaves several calls an epoch."""
        if self._asked is not None:
            return self._asked
        return _LOOKAHEAD if self._device is None else self._filling()

    def _filling(self) -> int:
        fill = 0 if self._gpu is None else 2 * self._gpu.multiprocessors
        return max(_LOOKAHEAD, min(fill, self._steps // _SLICE))

    def begin(self) -> None:
        """A pass begins. Called in the consumer's thread, whose current device is the one that training uses."""
        self._since = -1.0
        if self._gpu is None and (self._on_gpu or (self._may_move and ops.in_use())):
            from spectral_sampler.kernels.nvidia import gpu_of

            self._gpu = gpu_of(self._named or torch.device("cuda"))
        if self._gpu is None or self._device is not None:
            return
        if self._on_gpu:
            self._device = self._gpu.device
        else:
            self._consider(self._gpu)

    def _consider(self, gpu: Gpu) -> bool:
        members = self._filling() if self._asked is None else max(1, self._asked)
        decision = preference.move(
            preference.table(), gpu.name, self._candidates, self._width, members,
            behind=self._behind, usable=lambda name: ops.unusable_reason(name) is None,
        )  # fmt: skip
        if decision.pays:
            self._device, self._reason = gpu.device, decision.reason
        return decision.pays

    def delivered(self, waited: float) -> bool:
        """Training waited so many seconds for a batch. True where it did so too often and solving moves to the GPU."""
        if self._device is not None or self._gpu is None or self._behind:
            return False
        now = time.perf_counter()
        if self._since < 0:  # the first batch of a pass is always waited for
            self._since, self._batches, self._waited = now, 0, 0.0
            return False
        self._batches, self._waited = self._batches + 1, self._waited + waited
        if self._batches < max(1, self.lookahead):
            return False
        self._late = self._late + 1 if self._waited > _WAITING * (now - self._since) else 0
        self._since, self._batches, self._waited = now, 0, 0.0
        self._behind = self._late >= _PATIENCE
        return self._behind and self._consider(self._gpu)

    def __call__(self) -> torch.device | None:
        """Where to solve, asked by whoever has a graph to solve; None is the host."""
        if self._on_gpu and self._device is None:  # without a pass, as `SpectralBatchSampler.selection_at` does
            self.begin()
        if self._reason:
            _log.warning('backend="auto" solves on %s from here on: %s (this is said once)', self._device, self._reason)
            self._reason = ""
        return self._device

    @contextlib.contextmanager
    def solving(self) -> Iterator[None]:
        """Within this context, in this thread, solves are placed by this object."""
        with ops.use_backend(self.backend), ops.use_place(self):
            yield

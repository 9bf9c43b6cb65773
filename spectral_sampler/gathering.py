"""What every rank observed, on all ranks: one collective a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed

from spectral_sampler.errors import argument_error
from spectral_sampler.validation import true_or_false

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    Pairs = tuple[NDArray[np.int64], NDArray[np.float64]]

__all__ = ["begun", "gathered", "pairs", "refused", "wanted"]

_FAULTY = -1  # a rank's count where its arguments were refused


def wanted(gather: bool | None, num_replicas: int) -> bool:
    """Are losses gathered? None: where a process group is initialised and ``num_replicas`` is above 1."""
    ready = distributed.is_available() and distributed.is_initialized()
    if gather is None:
        return ready and num_replicas > 1
    if true_or_false("gather", gather) and not ready:
        remedy = "Call torch.distributed.init_process_group() first, or leave gather out."
        raise argument_error("gather", "None or False without a process group", gather, remedy)
    return gather


def pairs(indices: Any, losses: Any) -> tuple[Tensor, Tensor]:
    """``indices`` and ``losses`` (n,) as flat tensors, where they lie.

    Raises:
        ArgumentError: indices that are not integers, or another number of losses.
    """
    rows, values = (
        (given.detach() if isinstance(given, torch.Tensor) else torch.from_numpy(np.array(given))).reshape(-1)
        for given in (indices, losses)
    )
    if rows.numel() and (rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool):
        raise argument_error("indices", "integers", f"dtype {rows.dtype}", "Pass the dataset indices of the batch.")
    if len(rows) != len(values):
        rule, remedy = f"one value for each of the {len(rows)} indices", 'Compute the loss with reduction="none".'
        raise argument_error("losses", rule, f"{len(values)} values", remedy)
    return rows, values


def gathered(indices: Any, losses: Any, *, capacity: int, device: torch.device | None = None) -> Pairs:
    """The pairs of all ranks of the default process group, in rank order: the same on every rank.

    A rank sends its count, its indices and the bits of its losses as float64, so all arrive exactly, NaN too. That is
    one collective; a second one follows on all ranks where some rank has more than ``capacity`` pairs. A rank whose
    arguments are refused takes part and says so: every rank raises and none is left waiting. Checks of the pairs
    that come back (say, their range) end alike on all ranks.

    Args:
        indices, losses: (n,) of this rank, n ≥ 0: tensors on any device, arrays or lists.
        capacity: pairs that the first collective has room for; the same on all ranks.
        device: where the collective runs; default the CPU if the group serves it (gloo), else the current device.

    Returns:
        Indices (Σ n,) and losses (Σ n,).

    Raises:
        ArgumentError: as `pairs` does; on the other ranks naming those that were refused.
    """
    return begun(indices, losses, capacity=capacity, device=device)()


def begun(indices: Any, losses: Any, *, capacity: int, device: torch.device | None = None) -> Callable[[], Pairs]:
    """`gathered` in two: the collective runs, and what is returned waits for its end when it is called.

    On a GPU a second collective would have to run then, on ranks that need not all call it: more than ``capacity``
    pairs are refused there.
    """
    place = _place() if device is None else device
    try:
        rows, values = pairs(indices, losses)
        if place.type != "cpu" and len(rows) > capacity:
            rule = f"at most {capacity} at a time where ranks gather on a GPU"
            raise argument_error("losses", rule, len(rows), "Report them batch by batch.")  # noqa: TRY301
    except Exception:  # whatever it was, the others must hear of it
        _exchange(_FAULTY, capacity, place)
        raise
    received = _exchange(len(rows), capacity, place, rows, values)

    def ended() -> Pairs:
        table = received.cpu().numpy()
        refused = np.flatnonzero(table[:, 0] == _FAULTY)
        if refused.size:
            rule = "one loss for each of the indices, which are integers, on every rank"
            raise argument_error(
                "losses", rule, f"others on ranks {refused.tolist()}", "Those ranks say what is wrong."
            )
        counts = table[:, 0].copy()
        size = int(counts.max())
        if size > capacity:
            table = _exchange(len(rows), size, place, rows, values).cpu().numpy()
        size = table.shape[1] // 2
        held = np.arange(size) < counts[:, None]
        return table[:, 1 : 1 + size][held], table[:, 1 + size :].view(np.float64)[held]

    if place.type != "cpu":
        return ended
    found = ended()  # a second collective has to run now, on all ranks
    return lambda: found


def refused(capacity: int) -> None:
    """This rank has nothing to send, for a fault of its own; the others are told and do not wait."""
    _exchange(_FAULTY, capacity, _place())


def _place() -> torch.device:
    """The device type that the default group serves, such as "cpu:gloo,cuda:nccl"; without an index the current one."""
    kinds = [entry.partition(":")[0] for entry in distributed.get_backend_config().split(",")]
    return torch.device("cpu" if "cpu" in kinds else kinds[0])


def _exchange(count: int, size: int, place: torch.device, *columns: Tensor) -> Tensor:
    """(ranks, 1 + 2·size): every rank's count, indices and losses, the last two where they fit."""
    sent = torch.zeros(1 + 2 * size, dtype=torch.int64, device=place)
    sent[0] = count
    if count <= size:
        parts = sent[1 : 1 + count], sent[1 + size : 1 + size + count].view(torch.float64)
        for part, column in zip(parts, columns, strict=False):  # the host need not wait for a device that still trains
            part.copy_(column, non_blocking=place.type != "cpu")
    received = sent.new_empty(distributed.get_world_size() * len(sent))
    # The name from torch 2.14 on, where the older one warns.
    getattr(distributed, "all_gather_single", distributed.all_gather_into_tensor)(received, sent)
    return received.reshape(-1, len(sent))

"""The table that ``backend="auto"`` follows, and the rule that reads it: pure functions, no device needed.

A table is a JSON file ``{"source": words, "rows": [row, …]}`` with the fields of `Row` in every row. For one problem
the first row that fits counts, so limits ascend and `Row.members` descend; a device that is not named is served by the
rows of its type. The package's own is ``kernels/preference.json``. ``python -m benchmarks.device_check --write-table
PATH`` measures a device and writes another, and SPECTRAL_SAMPLER_PREFERENCE=PATH makes it the one that counts.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DEVICES", "INSTALLED", "LARGE", "PREFERENCE_VARIABLE", "Move", "Row", "fitting", "move", "parsed", "table"]

DEVICES = {"eager": ("cpu", "cuda"), "native": ("cpu",), "triton": ("cuda",), "cuda": ("cuda",), "cupy": ("cuda",)}
"""Every backend, with the types of device it solves on."""
LARGE = 1024
"""Candidates from which a solve takes tens of milliseconds of a CPU: too long to hide behind most training steps."""
PREFERENCE_VARIABLE = "SPECTRAL_SAMPLER_PREFERENCE"
INSTALLED = Path(__file__).parent / "kernels" / "preference.json"
_FORMAT = "See spectral_sampler/preference.py; python -m benchmarks.device_check --write-table PATH writes one."


class Row(NamedTuple):
    """One row: for such problems, on such a device, these backends are the fastest."""

    device: str
    """A type, "cpu" or "cuda", or the name that `torch.cuda.get_device_name` gives; names go before types."""
    store: str
    """Where the features lie: "device", with the kernels, or "host", and then transfers are part of the times and
    `order` holds CPU backends too."""
    max_nodes: int | None
    """The row holds up to this N, the candidates of a batch; None for all."""
    max_width: int | None
    """The row holds up to this d, the width of the features; None for all."""
    members: int
    """The row holds from so many candidate batches in one call."""
    order: tuple[str, ...]
    """Backends, fastest first."""
    measured: str | None
    """Date and device of the measurement; None: estimated, which is good enough to order backends on the device that
    has the features, and never to bring them to another."""

    def fits(self, nodes: int | None, width: int | None, members: int | None) -> bool:
        """Does the row hold for N, d and the members of a call? None: not known yet, which every row takes."""
        return (
            (nodes is None or self.max_nodes is None or nodes <= self.max_nodes)
            and (width is None or self.max_width is None or width <= self.max_width)
            and (members is None or members >= self.members)
        )

    def limits(self) -> str:
        """The problems it holds for, in words; "" for all."""
        parts = [f" to {name} = {most}" for name, most in (("N", self.max_nodes), ("d", self.max_width)) if most]
        parts += [f" from {self.members} at a time"] * (self.members > 1)
        parts += [" with features on the host"] * (self.store == "host" and self.device != "cpu")
        return ",".join(parts)


class Move(NamedTuple):
    """Should features on the host be solved on the GPU?"""

    pays: bool
    reason: str
    """Half a sentence."""


def _row(source: Any) -> Row:
    row = Row(**source)  # TypeError where a field lacks or is not one of ours
    row = row._replace(order=tuple(row.order))
    limits = (row.max_nodes, row.max_width, row.members)
    if not row.order or not DEVICES.keys() >= set(row.order) or row.store not in ("host", "device"):
        raise ValueError(source)
    if not all(limit is None or (type(limit) is int and limit > 0) for limit in limits) or row.members is None:
        raise ValueError(source)
    return row


def parsed(text: str, argument: str = PREFERENCE_VARIABLE) -> tuple[Row, ...]:
    """The rows of a table; one sentence about ``argument`` where it is not one."""
    try:
        return tuple(_row(source) for source in json.loads(text)["rows"])
    except (ValueError, TypeError, KeyError) as error:
        raise argument_error(argument, "a table of backends", f"{type(error).__name__}: {error}", _FORMAT) from error


@cache
def table() -> tuple[Row, ...]:
    """The rows in force: of SPECTRAL_SAMPLER_PREFERENCE, else the package's own; read once."""
    try:
        return parsed(Path(os.environ.get(PREFERENCE_VARIABLE) or INSTALLED).read_text(encoding="utf-8"))
    except OSError as error:
        raise argument_error(PREFERENCE_VARIABLE, "a file that can be read", str(error), _FORMAT) from error


def fitting(
    rows: tuple[Row, ...],
    devices: tuple[str, ...],
    store: str,
    nodes: int | None = None,
    width: int | None = None,
    members: int | None = None,
) -> Iterator[Row]:
    """The rows that hold for a problem, the one that counts first.

    Args:
        devices: what the device goes by, its name before its type.
        store, nodes, width, members: see `Row`.
    """
    for device in devices:
        for row in rows:
            if row.device == device and row.store == store and row.fits(nodes, width, members):
                yield row


def move(
    rows: tuple[Row, ...],
    gpu: str | None,
    nodes: int,
    width: int,
    members: int,
    *,
    behind: bool = False,
    usable: Callable[[str], bool] = lambda _: True,
) -> Move:
    """Does it pay to bring candidate batches from the host to a GPU beside a training run?

    It does where a measurement on this GPU, transfers included, has one of its backends ahead of the CPU's, and the CPU
    is too slow: N is at least `LARGE`, or training was seen to wait for it, because steps are short or the loading of
    data needs the cores. Elsewhere a look-ahead thread hides what the CPU takes, and training keeps the whole GPU.

    Args:
        gpu: its name; None where this process uses none.
        nodes, width, members: N, d, and candidate batches in one call.
        behind: training was seen to wait for the CPU.
        usable: can this backend run here?
    """
    if gpu is None:
        return Move(pays=False, reason="this process does not use a CUDA device")
    row = next((row for row in fitting(rows, (gpu, "cuda"), "host", nodes, width, members) if row.measured), None)
    if row is None:
        return Move(
            pays=False, reason=f"nothing has been measured on {gpu} for N = {nodes}, d = {width}, {members} at a time"
        )
    first = next((name for name in row.order if usable(name)), "eager")
    if DEVICES[first] != ("cuda",):
        return Move(pays=False, reason=f"{first} was the fastest for N = {nodes} ({row.measured})")
    if nodes < LARGE and not behind:
        return Move(
            pays=False, reason=f"below N = {LARGE} the CPU solves unseen while training goes on, as long as it keeps up"
        )
    why = "training waits for the CPU" if nodes < LARGE else f"N = {nodes} is long for a CPU"
    return Move(pays=True, reason=f"{why} and {first} was faster ({row.measured})")

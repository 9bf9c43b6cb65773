"""The sampler's state: plain integers, strings and booleans, well under 2 KB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VERSION", "checked_state", "make_state"]

VERSION = 1
_SETTINGS = (
    *("samples", "candidate_batch_size", "num_replicas", "drop_last", "batch_size", "seed", "shuffle"),
    *("reshuffle", "multiple_of", "min_keep", "selection", "store"),
)


def make_state(
    settings: Mapping[str, Any], epoch: int, next_batch: int, observed: str, schedule: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A state that loads with ``torch.load(weights_only=True)`` and as JSON.

    The keep ratio is a function of the epoch and the position, so only an adaptive schedule adds a state. Of the
    observed losses the state holds a digest alone: the table itself has a row for every sample.
    """
    return {
        "version": VERSION,
        "epoch": int(epoch),
        "next_batch": int(next_batch),
        "observed": observed,
        "settings": {name: settings[name] for name in _SETTINGS},
        **({} if schedule is None else {"schedule": schedule}),
    }


def checked_state(state: Any, settings: Mapping[str, Any], steps: int) -> tuple[int, int]:
    """(epoch, next batch) of a state made by a sampler like this one."""
    remedy = "Load what state_dict() of a sampler of this version returned."
    if not isinstance(state, dict) or not {"version", "epoch", "next_batch", "settings"} <= state.keys():
        raise argument_error("state", "a dictionary made by state_dict()", type(state).__name__, remedy)
    if state["version"] != VERSION:
        raise argument_error("state", f"of version {VERSION}", state["version"], remedy)
    for name in _SETTINGS:
        theirs, mine = state["settings"].get(name), settings[name]
        if theirs != mine:
            raise argument_error(
                "state", f"of a sampler with {name}={mine!r}", f"{name}={theirs!r}",
                "A position means something else there; build the sampler as it was when the state was saved.",
            )  # fmt: skip
    epoch, next_batch = int(state["epoch"]), int(state["next_batch"])
    if epoch < 0 or not 0 <= next_batch <= steps:
        raise argument_error("state", f"a position from 0 to {steps}", f"epoch {epoch}, batch {next_batch}", remedy)
    return epoch, next_batch

"""Checks of the sampler's arguments; every refusal is one sentence, raised by the constructor."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from spectral_sampler.class_balanced import ClassBalancedSampler
from spectral_sampler.errors import argument_error
from spectral_sampler.selection import PlausibleEven, Selection, Uniform
from spectral_sampler.selection.needs import FORWARDED, NEEDS
from spectral_sampler.selection.protocol import as_selection, leaves
from spectral_sampler.store import ReferenceStore
from spectral_sampler.store.verification import check_labels, check_length
from spectral_sampler.validation import true_or_false, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from spectral_sampler.schedule import AdaptiveSchedule, ConstantSchedule, FittedSchedule

KeepRatio: TypeAlias = "float | AdaptiveSchedule | ConstantSchedule | FittedSchedule | Callable[[float], float]"

__all__ = ["KeepRatio", "Settings", "as_store", "check_balance", "check_dataset", "check_emission", "check_order"]
__all__ += ["chosen_selection"]

_log = logging.getLogger("spectral_sampler")


class Settings(NamedTuple):
    """The checked arguments that are plain values."""

    candidate_batch_size: int
    epochs: int | None
    shuffle: bool
    reshuffle: bool
    drop_last: bool
    seed: int
    num_replicas: int
    rank: int
    multiple_of: int
    min_keep: int
    lookahead: int | None

    def checked(self, rows: int, sampler: Any) -> Settings:
        """Every value of its type and in its range, together with a candidate order over ``rows`` samples."""
        replicas = whole_number("num_replicas", self.num_replicas, 1, "It is the number of processes that train.")
        rank = whole_number("rank", self.rank, 0, "Ranks count from 0.")
        if rank >= replicas:
            raise argument_error("rank", f"below num_replicas ({replicas})", rank, "Ranks count from 0.")
        if sampler is not None:
            check_order(sampler, replicas)
        samples = rows if sampler is None else len(sampler)
        candidates = whole_number("candidate_batch_size", self.candidate_batch_size, 2, "A choice needs candidates.")
        if candidates > samples >= 2:
            _log.warning("candidate_batch_size is %d, and there are %d samples: all are offered", candidates, samples)
            candidates = samples
        epochs = self.epochs
        if epochs is not None:
            epochs = whole_number("epochs", epochs, 1, "It is the length of the training that a schedule spans.")
        return Settings(
            candidates,
            epochs,
            true_or_false("shuffle", self.shuffle),
            true_or_false("reshuffle", self.reshuffle),
            true_or_false("drop_last", self.drop_last),
            whole_number("seed", self.seed, None, "Use the same one on all ranks."),
            replicas,
            rank,
            whole_number("multiple_of", self.multiple_of, 1, "Use 1 for no rounding."),
            whole_number("min_keep", self.min_keep, 1, "It is the least number of samples in a batch."),
            None if self.lookahead is None
            else whole_number("lookahead", self.lookahead, 0, "Use 0 for no look-ahead thread."),
        )  # fmt: skip


def check_balance(selection: Selection, sampler: Any) -> None:
    """Classes are evened out once, by the order or by the selection; the order has answered where that has not said."""
    if not isinstance(sampler, ClassBalancedSampler):
        return
    for leaf in leaves(selection):
        balance = getattr(leaf, "balance", None)
        if balance:
            remedy = "That offers all classes equally often already."
            raise argument_error("balance", "0 with a ClassBalancedSampler", balance, remedy)
        if isinstance(leaf, PlausibleEven):
            leaf.balance = 0.0


def as_store(store: object) -> ReferenceStore:
    """A store as it is; features alone, as a tensor or an array, as a store without losses and labels."""
    if isinstance(store, ReferenceStore):
        return store
    if isinstance(store, torch.Tensor) or hasattr(store, "__array__"):
        return ReferenceStore.from_arrays(store)
    raise argument_error(
        "store", "a ReferenceStore, or features as a tensor or array of shape (M, d)", type(store).__name__,
        "Open one with ReferenceStore.open(path).",
    )  # fmt: skip


def check_dataset(dataset: Any, rows: int, store: ReferenceStore | None = None) -> None:
    """The data set is indexable and has the store's length and, where that holds labels, its labels."""
    check_length(dataset, rows)
    if store is not None:
        check_labels(store, dataset)


def chosen_selection(selection: object, store: ReferenceStore, *, learner: bool) -> Selection:
    """The selection, or for None the one that the evidence recommends for what the store holds; the store, and a
    learner if there is one, have what it needs."""
    if selection is None:
        chosen: Selection = Uniform() if store.labels is None else PlausibleEven()
        held = "has labels" if store.labels is not None else "has no labels; PlausibleEven() needs them and gains more"
        _log.info("selection: %r, because the store %s", chosen, held)
    else:
        chosen = as_selection(selection)
    offered = set(NEEDS) if learner else set(NEEDS) - FORWARDED
    unknown = chosen.needs - offered
    if unknown:
        raise argument_error(
            "selection", f"one whose needs are among {sorted(offered)}", f"{chosen.name} needing {sorted(unknown)}",
            "Give the sampler learner=, or use OnlineSelection in the training loop: nothing else is known before a "
            "batch is read.",
        )  # fmt: skip
    for need in ("losses", "labels"):
        if need in chosen.needs and getattr(store, need) is None:
            instead = "PlausibleEven(), which needs labels" if store.labels is not None else "Uniform()"
            raise argument_error(
                "selection", f"one that does without {need}, which this store lacks", repr(chosen),
                f"Pass ReferenceStore.from_arrays(features, {need}=...), or selection={instead}.",
            )  # fmt: skip
    return chosen


def check_order(sampler: Any, num_replicas: int) -> None:
    """A candidate order given by the caller has a length, is of indices, and is not sharded twice."""
    if not (hasattr(sampler, "__iter__") and hasattr(sampler, "__len__")):
        raise argument_error("sampler", "an index sampler with a length", repr(sampler), "Give it a __len__.")
    if not len(sampler):
        raise argument_error("sampler", "one that yields an index", "length 0", "Without samples there is no epoch.")
    first = sampler[0] if isinstance(sampler, (list, tuple)) else sampler
    if isinstance(first, bool) or str(getattr(first, "dtype", "")) in {"bool", "torch.bool"}:
        remedy = "Pass numpy.flatnonzero(mask): True and False would count as the indices 1 and 0."
        raise argument_error("sampler", "one that yields indices", "a mask", remedy)
    if num_replicas != 1 and getattr(sampler, "num_replicas", 1) != 1:
        raise argument_error(
            "num_replicas", f"1 when the order is that of a {type(sampler).__name__}, which shards", num_replicas,
            "One of the two shards the data, not both; an order of the sampler's own (shuffle=) gives identical lists "
            "on any number of ranks.",
        )  # fmt: skip


def check_emission(emit: str, batch_size: object, samples: int, settings: Settings, sampler: Any) -> int | None:
    """The size of every emitted batch with ``emit="constant"``, None with ``emit="shrink"``."""
    if emit not in {"shrink", "constant"}:
        raise argument_error("emit", '"shrink" or "constant"', repr(emit), 'The papers shrink: emit="shrink".')
    multiple = settings.multiple_of
    least = -(-settings.min_keep // multiple) * multiple
    if least > settings.candidate_batch_size:
        raise argument_error(
            "min_keep", f"at most {settings.candidate_batch_size} (candidate_batch_size) once rounded up to a multiple "
            f"of multiple_of ({multiple})", least, "Lower min_keep or multiple_of.",
        )  # fmt: skip
    if emit == "shrink":
        if batch_size is not None:
            raise argument_error(
                "batch_size", 'left out with emit="shrink"', batch_size,
                'Batches vary in size then; pass emit="constant" for batches of one size.',
            )  # fmt: skip
        return None
    remedy = 'With emit="constant" it is the number of samples in every batch.'
    size = whole_number("batch_size", batch_size, 1, remedy)
    if size > samples:
        raise argument_error("batch_size", f"at most the number of samples ({samples})", size, remedy)
    if size % multiple:
        raise argument_error("batch_size", f"a multiple of multiple_of ({multiple})", size, "Change one of the two.")
    if getattr(sampler, "replacement", False) or isinstance(sampler, ClassBalancedSampler):
        raise argument_error(
            "emit", f'"shrink" with a {type(sampler).__name__}, which may offer a sample twice', repr(emit),
            "In one candidate batch it is offered once, so a batch may come out smaller.",
        )  # fmt: skip
    return size

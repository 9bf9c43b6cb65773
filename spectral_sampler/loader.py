"""curate: the same DataLoader, reading only what is selected."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from spectral_sampler.errors import argument_error
from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.sampler.arguments import check_dataset

if TYPE_CHECKING:
    from spectral_sampler.store import ReferenceStore

__all__ = ["curate"]

_log = logging.getLogger("spectral_sampler")

_KEPT = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator"),
    *("prefetch_factor", "persistent_workers", "pin_memory_device", "in_order"),
    "snapshot_every_n_steps",  # torchdata's StatefulDataLoader
)


def curate(
    loader: DataLoader[Any], store: ReferenceStore, *, epochs: int | None = None, **sampler_options: Any
) -> DataLoader[Any]:
    """A new loader over the same data set that loads only selected samples.

    Workers, collate function, pinned memory and the rest are those of ``loader``, and so is its class where that takes
    a batch sampler (torchdata's StatefulDataLoader does). Its batch size becomes the candidate batch size; its
    drop_last and its order are kept: shuffled, sequential, or that of its own sampler. ``loader`` is left as it is.

    Args:
        loader: a DataLoader over a map-style data set.
        store: reference features of every sample of that data set, in its order.
        epochs: length of the training, for a scheduled keep ratio.
        **sampler_options: anything else `SpectralBatchSampler` takes; wins over what is read off the loader.

    Returns:
        The loader; its sampler is ``.batch_sampler``.

    Raises:
        ArgumentError: an iterable data set, a store of another length, a loader whose batch size cannot be read off, or
            an argument the sampler refuses.
    """
    if not isinstance(loader, DataLoader):
        raise argument_error("loader", "a DataLoader", type(loader).__name__, "Build one over a map-style data set.")
    if isinstance(loader.dataset, IterableDataset):
        check_dataset(loader.dataset, len(store))  # first, because such a loader has no order to read off
    options = {**_read_off(loader), **sampler_options, "dataset": loader.dataset, "epochs": epochs}
    if "candidate_batch_size" not in options:
        raise argument_error(
            "candidate_batch_size", "given where the loader has a batch sampler of its own", "none",
            "Pass candidate_batch_size=128; the loader's own batches are replaced.",
        )  # fmt: skip
    return _rebuilt(loader, SpectralBatchSampler(store, **options))


def _read_off(loader: DataLoader[Any]) -> dict[str, Any]:
    """candidate_batch_size, drop_last and order, as far as the loader tells them."""
    if loader.batch_size is None:
        if loader.batch_sampler is None:
            raise argument_error(
                "loader", "one that forms batches", "batch_size=None", "Build it with the size of a candidate batch."
            )
        return {}
    options: dict[str, Any] = {"candidate_batch_size": loader.batch_size, "drop_last": loader.drop_last}
    order: Any = loader.sampler
    whole = hasattr(loader.dataset, "__len__") and hasattr(order, "__len__") and len(order) == len(loader.dataset)
    if whole and isinstance(order, SequentialSampler):
        options["shuffle"] = False
    elif whole and type(order).__name__ == "RandomSampler" and not getattr(order, "replacement", True):
        options["shuffle"] = True  # torch's, or torchdata's class of the same name
    else:
        options["sampler"] = order
    return options


def _rebuilt(loader: DataLoader[Any], batch_sampler: SpectralBatchSampler) -> DataLoader[Any]:
    kept = {name: getattr(loader, name) for name in _KEPT if hasattr(loader, name)}
    if kept["num_workers"] == 0:
        kept.pop("prefetch_factor", None)
        kept.pop("multiprocessing_context", None)
    if not kept.get("pin_memory_device"):
        kept.pop("pin_memory_device", None)  # deprecated; passing even its default warns
    cls = type(loader)
    accepted = inspect.signature(cls).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        if not {"dataset", "batch_sampler"} <= accepted.keys():
            _log.warning("%s takes no batch_sampler; curate returns a plain DataLoader", cls.__name__)
            cls, accepted = DataLoader, inspect.signature(DataLoader).parameters
        kept = {name: value for name, value in kept.items() if name in accepted}
    return cls(dataset=loader.dataset, batch_sampler=batch_sampler, **kept)

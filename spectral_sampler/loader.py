"""curate: the same DataLoader, reading only what is selected."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler

from spectral_sampler.errors import argument_error
from spectral_sampler.indexed import Indexed
from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.sampler.arguments import check_dataset
from spectral_sampler.validation import true_or_false

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    from spectral_sampler.sampler.arguments import KeepRatio
    from spectral_sampler.selection import Selection
    from spectral_sampler.store import ReferenceStore

    class CuratedLoader(DataLoader[T]):
        """To a type checker what `curate` returns; at run time it is of the class of the loader given."""

        batch_sampler: SpectralBatchSampler


__all__ = ["curate"]

_log = logging.getLogger("spectral_sampler")
_DRAWN, _SEEDS = torch.initial_seed(), 1 << 32  # as it was on import, and what people seed with

_KEPT = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator"),
    *("prefetch_factor", "persistent_workers", "pin_memory_device", "in_order"),
    "snapshot_every_n_steps",  # torchdata's StatefulDataLoader
)


def curate(
    loader: DataLoader[T],
    store: ReferenceStore | torch.Tensor | NDArray[Any],
    *,
    with_indices: bool = False,
    candidate_batch_size: int | None = None,
    epochs: int | None = None,
    start_epoch: int = 0,
    keep_ratio: KeepRatio = 0.3,
    selection: Selection | None = None,
    sampler: Collection[int] | Sampler[int] | None = None,
    shuffle: bool | None = None,
    reshuffle: bool = True,
    drop_last: bool | None = None,
    seed: int | None = None,
    num_replicas: int = 1,
    rank: int = 0,
    emit: Literal["shrink", "constant"] = "shrink",
    batch_size: int | None = None,
    multiple_of: int = 1,
    min_keep: int = 2,
    backend: str = "auto",
    lookahead: int | None = None,
    learner: Callable[..., Any] | None = None,
    ignore_index: int | None = None,
    device: torch.device | str | None = None,
) -> CuratedLoader[T]:
    """A new loader over the same data set that loads only selected samples.

    Workers, collate function, pinned memory and the rest are those of ``loader``, and so is its class where that takes
    a batch sampler (torchdata's StatefulDataLoader does). ``loader`` is left as it is. What is not given here is read
    off it: its batch size becomes the candidate batch size, and its drop_last and its order are kept: shuffled,
    sequential, or that of its own sampler.

    Args:
        loader: a DataLoader over a map-style data set.
        store: reference features of every sample of that data set, in its order.
        with_indices: the data set is wrapped in `Indexed`, so that batches hold the indices that ``observe`` takes; a
            collate function of the loader's own is then given samples with their index.
        seed: default that of the loader's generator, else that of ``torch.manual_seed``, so that another seed there is
            another order here; 0 where nobody called that, and where several processes train: they are often seeded
            differently, and have to agree on the order.

    Everything else is what `SpectralBatchSampler` takes.

    Returns:
        The loader; its sampler is ``.batch_sampler``.

    Raises:
        ArgumentError: an iterable data set, a store of another length, a loader whose batch size cannot be read off, or
            an argument the sampler refuses.
    """
    if not isinstance(loader, DataLoader):
        raise argument_error("loader", "a DataLoader", type(loader).__name__, "Build one over a map-style data set.")
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        check_dataset(dataset, len(store))  # first, because such a loader has no order to read off
    if true_or_false("with_indices", with_indices) and not isinstance(dataset, Indexed):
        dataset = Indexed(dataset)
    given: dict[str, Any] = {"candidate_batch_size": candidate_batch_size, "drop_last": drop_last, "seed": seed}
    given |= {"shuffle": shuffle, "sampler": sampler}
    options = _read_off(loader, num_replicas) | {name: value for name, value in given.items() if value is not None}
    if "candidate_batch_size" not in options:
        raise argument_error(
            "candidate_batch_size", "given where the loader has a batch sampler of its own", "none",
            "Pass candidate_batch_size=128; the loader's own batches are replaced.",
        )  # fmt: skip
    if shuffle is not None and sampler is None:
        options.pop("sampler", None)  # an order asked for wins over the loader's
    batch_sampler = SpectralBatchSampler(
        store, epochs=epochs, start_epoch=start_epoch, keep_ratio=keep_ratio, selection=selection, reshuffle=reshuffle,
        num_replicas=num_replicas, rank=rank, emit=emit, batch_size=batch_size, multiple_of=multiple_of,
        min_keep=min_keep, backend=backend, lookahead=lookahead, dataset=dataset, learner=learner,
        collate_fn=loader.collate_fn, ignore_index=ignore_index, device=device, **options,
    )  # fmt: skip
    return cast("CuratedLoader[T]", _rebuilt(loader, dataset, batch_sampler))


def _read_off(loader: DataLoader[Any], num_replicas: object) -> dict[str, Any]:
    """candidate_batch_size, drop_last, order and seed, as far as the loader tells them."""
    options: dict[str, Any] = {"seed": _seed(loader, num_replicas)}
    if loader.batch_size is None:
        if loader.batch_sampler is None:
            raise argument_error(
                "loader", "one that forms batches", "batch_size=None", "Build it with the size of a candidate batch."
            )
        return options
    options |= {"candidate_batch_size": loader.batch_size, "drop_last": loader.drop_last}
    order: Any = loader.sampler
    whole = hasattr(loader.dataset, "__len__") and hasattr(order, "__len__") and len(order) == len(loader.dataset)
    if whole and isinstance(order, SequentialSampler):
        options["shuffle"] = False
    elif whole and type(order).__name__ == "RandomSampler" and not getattr(order, "replacement", True):
        options["shuffle"] = True  # torch's, or torchdata's class of the same name
    else:
        options["sampler"] = order
    return options


def _seed(loader: DataLoader[Any], num_replicas: object) -> int:
    processes = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if num_replicas != 1 or processes > 1:
        return 0
    if loader.generator is not None:
        return int(loader.generator.initial_seed())
    seed = torch.initial_seed()  # which every process draws for itself until somebody sets it
    return seed if seed != _DRAWN or seed < _SEEDS else 0


def _rebuilt(loader: DataLoader[Any], dataset: Any, batch_sampler: SpectralBatchSampler) -> DataLoader[Any]:
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
    return cls(dataset=dataset, batch_sampler=batch_sampler, **kept)

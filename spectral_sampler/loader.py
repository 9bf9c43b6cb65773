"""curate: the same DataLoader, reading only what is selected."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler

from spectral_sampler.errors import ArgumentError, argument_error
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

_DRAWN, _SEEDS = torch.initial_seed(), 1 << 32  # as it was on import, and what people seed with

_SHARE = "with num_replicas= and rank= given to curate"
_PREPARED = {
    "accelerate": ("accelerator.prepare()", "Give it what curate returns"),
    **dict.fromkeys(
        ("lightning", "lightning_fabric", "pytorch_lightning"),
        (
            "fabric.setup_dataloaders() or Trainer.fit()",
            f"Give them what curate returns: use_distributed_sampler=False, {_SHARE}",
        ),
    ),
    "ray": ("prepare_data_loader()", f"Give it what curate returns: add_dist_sampler=False, {_SHARE}"),
    "deepspeed": ("deepspeed.initialize()", f"Iterate over a loader of your own, {_SHARE}"),
}
"""Packages that wrap or shard a loader: before what to curate, and how. They are known by the modules of classes."""
_ORDER = {"dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}  # what curate replaces


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

    Workers, collate function, pinned memory and the rest are those of ``loader``, and so is its class (torchdata's
    StatefulDataLoader, or your own if it can be built anew). ``loader`` is left as it is. What is not given here is
    read off it, or off the plain BatchSampler it was given: its batch size becomes the candidate batch size, and its
    drop_last and its order are kept: shuffled, sequential, or that of its own sampler. The order of any other batch
    sampler cannot be read off: give ``candidate_batch_size`` and ``sampler`` or ``shuffle``. Of a loader that is
    curated already, size, drop_last, order and seed are kept, and nothing else is.

    Args:
        loader: a DataLoader over a map-style data set, before a framework prepares it.
        store: reference features of every sample of that data set, in its order.
        with_indices: the data set is wrapped in `Indexed`, so that batches hold the indices that ``observe`` takes; a
            collate function of the loader's own is then given samples with their index.
        seed: default that of the generator of the loader or of its RandomSampler, else that of ``torch.manual_seed``,
            so that another seed there is another order here; 0 where nobody called that, and where several processes
            train: they are often seeded differently, and have to agree on the order.

    Everything else is what `SpectralBatchSampler` takes.

    Returns:
        The loader; its sampler is ``.batch_sampler``.

    Raises:
        ArgumentError: an iterable data set, a store of another length, a loader whose order cannot be read off, that
            is prepared already or cannot be built anew, or an argument the sampler refuses.
    """
    _check_loader(loader, ordered=sampler is not None or shuffle is not None)
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        check_dataset(dataset, len(store))  # first, because such a loader has no order to read off
    if true_or_false("with_indices", with_indices) and not isinstance(dataset, Indexed):
        dataset = Indexed(dataset)
    given: dict[str, Any] = {"candidate_batch_size": candidate_batch_size, "drop_last": drop_last, "seed": seed}
    given |= {"shuffle": shuffle, "sampler": sampler}
    given = {name: value for name, value in given.items() if value is not None}
    options = _read_off(loader, given, num_replicas, rank) | given
    if shuffle is not None and sampler is None:
        options.pop("sampler", None)  # an order asked for wins over the loader's
    batch_sampler = SpectralBatchSampler(
        store, epochs=epochs, start_epoch=start_epoch, keep_ratio=keep_ratio, selection=selection, reshuffle=reshuffle,
        num_replicas=num_replicas, rank=rank, emit=emit, batch_size=batch_size, multiple_of=multiple_of,
        min_keep=min_keep, backend=backend, lookahead=lookahead, dataset=dataset, learner=learner,
        collate_fn=loader.collate_fn, ignore_index=ignore_index, device=device, **options,
    )  # fmt: skip
    return cast("CuratedLoader[T]", _rebuilt(loader, dataset, batch_sampler))


def _check_loader(loader: Any, *, ordered: bool) -> None:
    """A DataLoader that no framework has prepared; its sampler does not matter where the order is given."""
    batches = getattr(loader, "batch_sampler", None)
    parts = [loader, batches, *([] if ordered else [getattr(part, "sampler", None) for part in (loader, batches)])]
    for part in parts:
        for cls in type(part).__mro__:  # some pretend to be of another __class__
            package = str(cls.__module__).partition(".")[0]
            if package in _PREPARED:
                before, remedy = _PREPARED[package]
                found = type(part).__name__ if part is loader else f"one with a {type(part).__name__}"
                because = "what is prepared already may be sharded, and curating it would undo that."
                raise argument_error("loader", f"curated before {before}", found, f"{remedy}; {because}")
    if not isinstance(loader, DataLoader):
        inner = [name for name in ("loader", "dataloader") if isinstance(getattr(loader, name, None), DataLoader)]
        remedy = "Build one over a map-style data set."
        if inner:
            remedy = f"Curate the one in it: loader.{inner[0]} = curate(loader.{inner[0]}, store)."
        raise argument_error("loader", "a DataLoader", type(loader).__name__, remedy)


def _read_off(loader: DataLoader[Any], given: dict[str, Any], num_replicas: object, rank: object) -> dict[str, Any]:
    """candidate_batch_size, drop_last, order and seed, as far as the loader tells them and they are not ``given``."""
    batches: Any = loader.batch_sampler
    if batches is None:
        raise argument_error(
            "loader", "one that forms batches", "batch_size=None", "Build it with the size of a candidate batch."
        )
    again = isinstance(batches, SpectralBatchSampler)
    order = batches.sampler.source if again else getattr(batches, "sampler", None)
    if num_replicas == 1 and "shuffle" in given and "sampler" not in given:
        _check_shards(batches, order)
    if again:
        return _read_again(batches, {"num_replicas": num_replicas, "rank": rank})
    plain = _torchs(batches) == "BatchSampler"
    if not plain and loader.batch_size is not None:
        raise _not_anew(loader, f"which makes a {type(batches).__name__} of its batch sampler")
    options: dict[str, Any] = {"seed": _seed(loader, order, num_replicas)}
    if isinstance(getattr(batches, "drop_last", None), bool):
        options["drop_last"] = batches.drop_last
    if plain:
        return options | {"candidate_batch_size": batches.batch_size, **_order(order, loader.dataset)}
    if "candidate_batch_size" not in given or not given.keys() & {"sampler", "shuffle"}:
        raise argument_error(
            "loader", "one whose batches a plain BatchSampler makes", f"one with a {type(batches).__name__}",
            "Which samples it draws cannot be read off: pass candidate_batch_size=, and sampler= or shuffle=, for the "
            "order in which samples are offered; its own batches are replaced.",
        )  # fmt: skip
    return options


def _check_shards(*parts: object) -> None:
    """An order asked for does not undo the shards of the loader's own."""
    for part in parts:
        if getattr(part, "num_replicas", 1) != 1:
            raise argument_error(
                "shuffle", "left out where the loader's own order is that of a rank", type(part).__name__,
                "All ranks would train on the same samples: let that sampler shuffle, or pass num_replicas= and rank=.",
            )  # fmt: skip


def _read_again(earlier: SpectralBatchSampler, share: dict[str, Any]) -> dict[str, Any]:
    """As `_read_off`, of a loader that is curated already."""
    settings = earlier.settings
    for name, value in share.items():
        if settings.num_replicas != 1 and getattr(settings, name) != value:
            raise argument_error(
                name, f"{getattr(settings, name)}, as in the sampler that the loader has already", value,
                "Pass num_replicas= and rank= again, or curate the loader that it was made of.",
            )  # fmt: skip
    names = ("candidate_batch_size", "drop_last", "shuffle", "seed")
    return {"sampler": earlier.sampler.source, **{name: getattr(settings, name) for name in names}}


def _torchs(sampler: object) -> str | None:
    """The name of a class of torch's or torchdata's; None of any other, derived ones included: they do what they
    like."""
    cls = type(sampler)
    return cls.__name__ if str(cls.__module__).partition(".")[0] in {"torch", "torchdata"} else None


def _order(order: Any, dataset: Any) -> dict[str, Any]:
    """Our own order where that is the same, for it depends on no generator; else the loader's."""
    sizes = [
        len(part) if hasattr(part, "__len__") else -1 for part in (order, getattr(order, "data_source", ()), dataset)
    ]
    if len(set(sizes)) == 1 and _torchs(order) == "SequentialSampler":
        return {"shuffle": False}
    if len(set(sizes)) == 1 and _torchs(order) == "RandomSampler" and not order.replacement:
        return {"shuffle": True}
    return {"sampler": order}


def _seed(loader: DataLoader[Any], order: Any, num_replicas: object) -> int:
    processes = os.environ.get("WORLD_SIZE", "1")  # as launchers set it, for who curates before the group is there
    if distributed.is_available() and distributed.is_initialized():
        processes = str(distributed.get_world_size())
    if num_replicas != 1 or processes != "1":
        return 0
    own = getattr(order, "generator", None) if type(order) is RandomSampler else None  # torchdata's draws itself one
    generator = loader.generator or own
    if generator is not None:
        return int(generator.initial_seed())
    seed = torch.initial_seed()  # which every process draws for itself until somebody sets it
    return seed if seed != _DRAWN or seed < _SEEDS else 0


def _rebuilt(loader: DataLoader[Any], dataset: Any, batch_sampler: SpectralBatchSampler) -> DataLoader[Any]:
    """A loader of the same class and the same arguments but for the batch sampler, or one sentence."""
    cls, accepted, kept = type(loader), _accepted(type(loader)), {}
    if not {"dataset", "batch_sampler"} <= accepted:
        raise _not_anew(loader, "which takes no batch_sampler")
    for name in sorted(accepted - _ORDER):
        held = [kept_as for kept_as in (name, f"_{name}") if hasattr(loader, kept_as)]
        if not held:
            raise _not_anew(loader, f"which does not keep its argument {name}")
        kept[name] = getattr(loader, held[0])
    if loader.num_workers == 0:
        kept.pop("prefetch_factor", None)
        kept.pop("multiprocessing_context", None)
    if not kept.get("pin_memory_device"):
        kept.pop("pin_memory_device", None)  # deprecated; passing even its default warns
    try:
        rebuilt = cls(dataset=dataset, batch_sampler=batch_sampler, **kept)
    except (TypeError, ValueError) as error:
        raise _not_anew(loader, f"which refuses one ({error})") from error
    if rebuilt.batch_sampler is not batch_sampler:
        raise _not_anew(loader, f"which makes a {type(rebuilt.batch_sampler).__name__} of its batch sampler")
    now = vars(rebuilt)
    for name, value in vars(loader).items():
        if not name.startswith("_") and name not in _ORDER and name in now and not _alike(value, now[name]):
            raise _not_anew(loader, f"which comes out with another {name}")
    return rebuilt


def _accepted(cls: type) -> set[str]:
    """The names of what a constructor takes, those of its bases included where it hands keywords on."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base).parameters.values())
        names |= {one.name for one in parameters if one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD}}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return names


def _alike(one: Any, other: Any) -> bool:
    """Are two attributes the same, as far as that can be told? Of functions by name, of objects by class."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, (bool, int, float, str, list, tuple, dict)):
        return repr(one) == repr(other)
    return getattr(one, "__qualname__", None) == getattr(other, "__qualname__", None)


def _not_anew(loader: object, because: str) -> ArgumentError:
    return argument_error(
        "loader", "of a class that can be built anew with another batch sampler", f"{type(loader).__name__}, {because}",
        "Curate a plain DataLoader over the same data set; persistent_workers=True keeps workers between epochs there.",
    )  # fmt: skip

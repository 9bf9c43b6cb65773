"""A frozen reference model over a data set, chunk by chunk, into a ReferenceStore."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import IterableDataset

from spectral_sampler.errors import argument_error
from spectral_sampler.extraction.forward import Encoder, FeatureFunction, LossFunction, cross_entropy, run_batch
from spectral_sampler.extraction.identity import RECORD, dataset_identity, function_hashes, model_hash
from spectral_sampler.extraction.job import Batches, Job
from spectral_sampler.modules import check_module, first_two, global_randomness_kept, home_device, plain
from spectral_sampler.store import checks

if TYPE_CHECKING:
    import os

    from spectral_sampler.store import ReferenceStore

__all__ = ["extract", "prepared"]


def extract(
    model: torch.nn.Module,
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    features: FeatureFunction | None = None,
    loss: Literal["cross_entropy"] | LossFunction | None = "cross_entropy",
    loss_model: torch.nn.Module | None = None,
    split: Callable[[Any], tuple[Any, Any]] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    zero_rows: Literal["refuse", "uniform"] = "refuse",
    num_workers: int = 0,
    version: str = "",
    overwrite: bool = False,
    progress: bool = True,
    num_replicas: int = 1,
    rank: int = 0,
    patience: float = 600.0,
) -> ReferenceStore:
    """Features (M, d), per-sample losses (M,) and labels (M,) of ``model`` over ``dataset``, as the store at ``path``.

    ``model`` runs in eval mode without gradients; its training flags, device and hooks are restored. If the call is
    interrupted, the same call goes on where it stopped and ends with the same bits, because the batches are the same.
    If the store is there already, made of the same, it is opened. Under ``torchrun`` pass the world size and rank: rank
    r computes chunks r, r + num_replicas, … of the same files, and all return the finished store.

    The same are: weights and settings of the model; 64 samples, and all labels where they lie at hand (in attributes
    such as ``targets``, in tensors, in columns); what ``features``, ``loss``, ``split`` and ``collate_fn`` do, by their
    bytecode, hence within one minor version of Python, and the variables they name.

    Args:
        model: any module. Features are the input of the last ``nn.Linear`` that runs (the penultimate layer), if that
            made the output; the output of an :class:`Encoder`; or what ``features`` says.
        dataset: map-style, **without random augmentation** (64 samples are read twice to see).
        path: directory of the store; an unfinished extraction is kept inside it.
        features: ``features(model, inputs) -> (B, d)`` or ``-> ((B, d), outputs)``, which saves a second pass.
        loss: ``"cross_entropy"``, ``loss(outputs, labels) -> (B,)``, or None for no losses.
        loss_model: takes the losses from this model instead, e.g. a small one trained on held-out rows.
        split: ``split(batch) -> (inputs, labels)``; by default the first two entries of a batch, or of a mapping what
            is called labels, label, targets or target, and the rest as keyword arguments of ``forward``.
        collate_fn, num_workers: as in DataLoader.
        batch_size: samples per pass, and per chunk of progress.
        device: where to run; None means where the model is.
        dtype: of stored features; rows that float16 would turn into Inf or zeros are refused by number.
        zero_rows: ``"uniform"`` stores rows of zeros as unit vectors of equal entries and logs which, as `from_arrays`.
        version: any text; change it when a change of model or data set cannot be seen: in the code of a model's class,
            in samples other than the 64, in objects whose content cannot be read (with a version they are accepted).
        overwrite: replace a finished store that was made of something else.
        progress: a tqdm bar on rank 0 if stderr is a terminal.
        num_replicas, rank: processes that share the work, and which of them this is.
        patience: seconds that a rank waits without any progress for ranks that have not started.

    Raises:
        ArgumentError: for an IterableDataset, random augmentation, rows that are zero or not finite (by number), …
        StoreError: if ``path`` holds another store, the disk is full, or the other ranks do not come.
    """
    with global_randomness_kept():
        job, fill = prepared(
            model, dataset, path, features=features, loss=loss, loss_model=loss_model, split=split,
            collate_fn=collate_fn, batch_size=batch_size, device=device, dtype=dtype, zero_rows=zero_rows,
            num_workers=num_workers, version=version, progress=progress, num_replicas=num_replicas, rank=rank,
        )  # fmt: skip
        return job.store(lambda: fill(job.todo()), overwrite=overwrite, patience=patience)


def prepared(
    model: torch.nn.Module, dataset: Any, path: str | os.PathLike[str], *, features: Any, loss: Any, loss_model: Any,
    split: Any, collate_fn: Any, batch_size: int, device: Any, dtype: Any, zero_rows: Any, num_workers: int,
    version: str, progress: bool, num_replicas: int, rank: int,
) -> tuple[Job, Callable[[list[int]], None]]:  # fmt: skip
    """The job of one rank, from the checked arguments of `extract`, and what computes chunks of it."""
    _check_arguments(model, dataset, loss, loss_model, version)
    for name, function in (("features", features), ("split", split), ("collate_fn", collate_fn)):
        if function is not None and not callable(function):
            raise argument_error(name, "a function or None", repr(function), "Pass a function that does it.")
    batch_size, num_workers = _count("batch_size", batch_size, 1), _count("num_workers", num_workers, 0)
    num_replicas, rank = _count("num_replicas", num_replicas, 1), _count("rank", rank, 0)
    if rank >= num_replicas:
        raise argument_error("rank", f"below num_replicas ({num_replicas})", rank, "Ranks count from 0.")
    dtype_name = checks.feature_dtype(dtype).name
    checks.checked_zero_rows(zero_rows)
    loss_function = cross_entropy if loss == "cross_entropy" else loss
    opaque = bool(version)
    functions = {"features": features, "loss": None if isinstance(loss, str) else loss}
    identity = {
        "record": RECORD,
        "model": model_hash(model, opaque=opaque),
        "model_class": type(plain(model)).__qualname__,
        **dataset_identity(dataset, opaque=opaque),
        **function_hashes({**functions, "split": split, "collate_fn": collate_fn}),
        **({"loss": loss} if isinstance(loss, str) else {}),
        "loss_model": None if loss_model is None or loss is None else model_hash(loss_model, opaque=opaque),
        "version": version,
        "dtype": dtype_name,
        "zero_rows": None if zero_rows == "refuse" else zero_rows,  # None: as stores from before there was a choice
        "batch_size": batch_size,
        "device": torch.device(device or home_device(model)).type,  # its number differs from rank to rank
    }
    run = functools.partial(
        run_batch, features=features, loss=loss_function, loss_model=loss_model, split=split or first_two
    )
    batches = Batches(dataset, batch_size, collate_fn, num_workers)
    job = Job(Path(path), identity, batches, run, progress and rank == 0, num_replicas, rank)
    models = [model] if loss_model is None else [model, loss_model]
    return job, functools.partial(job.fill, models, device)


def _count(name: str, value: Any, least: int) -> int:
    """``value`` as an int, NumPy's and torch's too."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or operator.index(value) < least:
        raise argument_error(name, f"an int of at least {least}", repr(value), "Pass such a number.")
    return operator.index(value)


def _check_arguments(model: Any, dataset: Any, loss: Any, loss_model: Any, version: Any) -> None:
    check_module("model", model)
    if loss_model is not None:
        check_module("loss_model", loss_model)
    map_style = isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")
    if isinstance(dataset, IterableDataset) or not map_style:
        raise argument_error(
            "dataset",
            "map-style, with __len__ and __getitem__",
            type(dataset).__name__,
            "A stream has no sample numbers to store features under; materialise it, e.g. with list(dataset).",
        )
    if not len(dataset):
        raise argument_error("dataset", "non-empty", "length 0", "Pass at least one sample.")
    if loss is not None and loss != "cross_entropy" and not callable(loss):
        raise argument_error("loss", "'cross_entropy', a function(outputs, labels) or None", repr(loss), "Pass one.")
    if isinstance(plain(model), Encoder) and loss is not None and loss_model is None:
        raise argument_error(
            "loss",
            "None for a model without a classifier",
            repr(loss),
            "Pass loss=None, or loss_model= a classifier trained on held-out rows.",
        )
    if not isinstance(version, str):  # it is compared with what JSON gives back
        raise argument_error("version", "a text", repr(version), "Pass str(version).")

"""What an extraction was made from, as hashes: so that it is resumed and reused for that, and for nothing else."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.extraction.content import Content, Unreadable, class_name, plain_settings
from spectral_sampler.modules import plain
from spectral_sampler.store.labels import label_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

__all__ = ["RECORD", "dataset_identity", "difference", "function_hashes", "labels_hash", "model_hash", "probe_hash"]

RECORD = 2  # of what is recorded and how it is hashed; 1 had neither split, collate_fn nor all labels
_PROBES = 64
_NOT_CONTENT = {"batch_size", "device"}  # they move last bits, so a resumed run keeps them; a finished store is as good
_FUNCTIONS = {"features", "loss", "split", "collate_fn"}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def model_hash(model: torch.nn.Module, *, opaque: bool = False) -> str:
    """SHA-256 over the printed layers, the ``state_dict``, buffers outside it and public plain attributes.

    The same in train and eval mode, compiled or shared out or not, on any device, and in any process. The code of its
    classes is not in it.

    Raises:
        ArgumentError: weights that are not there (on the meta device), unless ``opaque``: they count by their shape.
    """
    model = plain(model)
    settings = Content(opaque=True, code=True).hexdigest(plain_settings(model))
    beside = dict(model.named_buffers())
    try:
        parts = [_ADDRESS.sub("", repr(model)), model.state_dict(), beside, settings]
        return Content(opaque=opaque).hexdigest(parts)
    except Unreadable as error:
        raise argument_error(
            "model", "made of weights that can be read", f"{error} without content",
            "Load it onto a device, or pass version= a text that you change with the weights.",
        ) from error  # fmt: skip


def function_hashes(functions: Mapping[str, Callable[..., Any] | None]) -> dict[str, str | None]:
    """SHA-256 of what each function does, by its code and all it refers to; of an object, its class and settings.

    With them comes the minor version of Python where bytecode was read, because another one compiles otherwise.
    """
    hashes: dict[str, str | None] = {}
    read = False
    for name, function in functions.items():
        content = Content(opaque=True, code=True)
        try:
            hashes[name] = None if function is None else content.hexdigest(function)
        except Unreadable as error:
            raise argument_error(
                name, "a function of variables that can be read", f"a {error}", "Let it name less of the program."
            ) from error
        read = read or content.bytecode
    return {**hashes, "python": f"{sys.version_info.major}.{sys.version_info.minor}" if read else None}


def _layers(dataset: Any) -> list[str]:
    """Class and transform of the data set and of what it wraps (Subset and the like call it ``dataset``)."""
    layers: list[str] = []
    while dataset is not None and len(layers) < 8:
        transform = _ADDRESS.sub("", repr(getattr(dataset, "transform", None)))
        layers.append(f"{class_name(dataset)} {transform}")
        dataset = getattr(dataset, "dataset", None)
    return layers


def probe_hash(dataset: Any, *, opaque: bool) -> tuple[str, int | None]:
    """One hash of 64 samples spread over the data set, and the first of them that another reading finds changed.

    Raises:
        ArgumentError: a sample that holds something without visible content, unless ``opaque``: it counts by its class.
    """
    size = len(dataset)
    probes = np.unique(np.linspace(0, size - 1, min(_PROBES, size)).round().astype(int)).tolist()

    def read(index: int) -> str:
        try:
            return Content(opaque=opaque).hexdigest(dataset[index])
        except Unreadable as error:
            raise argument_error(
                "dataset", "made of samples whose content can be read", f"a {error} in sample {index}",
                "Give that class attributes or __getstate__, or pass version= a text that you change with the data; "
                "such objects count by their class then.",
            ) from error  # fmt: skip

    hashes = [read(index) for index in probes]
    changed = next((index for index, first in zip(probes, hashes, strict=True) if read(index) != first), None)
    return Content().hexdigest(hashes), changed


def dataset_identity(dataset: Any, *, opaque: bool = False) -> dict[str, Any]:
    """Length, classes, transforms, one hash of 64 samples, and one of all labels that are at hand without reading any.

    Each sample is read twice. Reference features and losses belong to a sample, not to one of its augmentations, so a
    data set whose samples change from one reading to the next is refused.
    """
    probes, changed = probe_hash(dataset, opaque=opaque)
    if changed is not None:
        raise argument_error(
            "dataset",
            "free of random augmentation",
            f"a sample {changed} that differs between two readings",
            "Pass the same samples with the transform you evaluate with.",
        )
    return {"length": len(dataset), "layers": _layers(dataset), "probes": probes, "labels": labels_hash(dataset)}


def labels_hash(dataset: Any) -> str | None:
    """SHA-256 of all labels, None where they are not at hand."""
    columns = label_columns(dataset)
    return Content().hexdigest(columns) if columns else None


def difference(source: Mapping[str, Any] | None, identity: Mapping[str, Any]) -> str | None:
    """Why a finished store with this ``source`` is not the one to be made, and what to do; None where it is."""
    source = source or {}
    if "model" in source and source.get("record") != RECORD:
        return (
            "holds a store of another version of this package, whose record says too little to tell what it was made "
            "of. Use it with ReferenceStore.open(path), or pass another path, or overwrite=True."
        )
    differing = [name for name in identity if source.get(name) != identity[name] and name != "python"]
    if not set(differing) - _NOT_CONTENT:
        return None
    pythons = {source.get("python"), identity.get("python")} - {None}
    if len(pythons) == 2 and set(differing) & _FUNCTIONS:
        differing.append("the versions of Python that compiled them")
    found = f"holds a store made of something else ({', '.join(differing)} differ). Pass another path, or "
    if differing == ["labels"]:
        return (
            f"{found}overwrite=True to extract again; for features with the labels of today, "
            f"ReferenceStore.from_arrays(ReferenceStore.open(path).features, labels=...)."
        )
    named = " A function counts with all that it names, hence with a cache that has filled since."
    return f"{found}overwrite=True.{named if set(differing) <= _FUNCTIONS else ''}"

"""Does a store belong to this data set? Its length, its labels, and the samples where they do not change."""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset

from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.modules import global_randomness_kept
from spectral_sampler.store.labels import bare, delivered_as_kept, label_columns, label_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from spectral_sampler.store import ReferenceStore

__all__ = ["check_labels", "check_length", "verify"]

_log = logging.getLogger("spectral_sampler")
_FEW, _MANY = 8, 64  # samples read where labels are not at hand: by a constructor, and where somebody asks
_PATIENCE = 0.25  # seconds after which a constructor reads no further sample


def check_length(dataset: Any, rows: int) -> None:
    """The data set is indexable and has the store's length."""
    if isinstance(dataset, IterableDataset):
        raise argument_error(
            "dataset", "map-style (indexable, with a length)", type(dataset).__name__,
            "Selection decides by index before data is read, which an IterableDataset cannot offer; wrap it in a "
            "map-style Dataset.",
        )  # fmt: skip
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        remedy = "Give the data set a __len__ and a __getitem__; of a loader, pass loader.dataset."
        raise argument_error("dataset", "map-style with a length", type(dataset).__name__, remedy)
    if len(dataset) != rows:
        raise argument_error(
            "dataset", f"as long as the reference store ({rows} rows)", f"{len(dataset)} samples",
            "Row i of the store must belong to sample i; extract the features of this data set.",
        )  # fmt: skip


def check_labels(store: ReferenceStore, dataset: Any, *, thorough: bool = False) -> int:
    """How many labels of ``dataset``, of the store's length, were compared with the store's.

    All, where they are at hand. Else a few samples are read: 8, or those that 0.25 s are enough for, and 64 if
    ``thorough``; by a copy of the data set, because one that opens its files at the first reading must not have them
    open when workers are forked. Where a label went through ``split`` or ``collate_fn`` it may be numbered otherwise.

    Raises:
        ArgumentError: labels that differ.
    """
    kept = store.labels
    if kept is None:
        return 0
    renumbered = _renumbered(store.source)
    dataset = bare(dataset)
    columns = label_columns(dataset) if delivered_as_kept(dataset) else []
    if any(_agree(column, kept, renumbered=renumbered) for column in columns):
        return len(kept)
    if columns and _recorded(store.source, dataset):
        return len(kept)
    columns = [column for column in columns if not np.array_equal(column, np.arange(len(column)))]  # an index is none
    most = _MANY if thorough or renumbered else _FEW  # which class became which is seen where classes come again
    rows, delivered = _read(dataset, most, float("inf") if thorough else _PATIENCE)
    known = [column for column in columns if np.array_equal(column[rows], delivered)]  # what the data set delivers
    compared = [(column, kept) for column in known or (() if len(rows) else columns)] or [(delivered, kept[rows])]
    agree = _agree(*compared[0], renumbered=renumbered)
    if agree is None:
        _log.info("labels are not compared: the store's went through a function, and too few classes come again")
        return 0
    if not agree:
        raise _other(*compared[0])
    return len(rows)


def verify(store: ReferenceStore, dataset: Any) -> None:
    """All that can be compared; see `ReferenceStore.verify`."""
    check_length(dataset, len(store))
    compared = check_labels(store, dataset, thorough=True)
    source = store.source or {}
    if _comparable(source):
        from spectral_sampler.extraction.identity import probe_hash

        with global_randomness_kept():
            probes, changed = probe_hash(_copied(bare(dataset)), opaque=bool(source.get("version")))
        if changed is None and probes != source["probes"]:
            raise argument_error(
                "dataset", "the one that the store was made of", "samples that differ from those read then",
                "Is it another split, order or transform? Pass the data set that was extracted, or extract this one.",
            )  # fmt: skip
        if changed is None:
            return
        _log.info("sample %d is another at every reading: only length and %d labels were compared", changed, compared)
    if not compared:
        _log.warning("only the length of the data set could be compared with %r", store)


def _comparable(source: Mapping[str, Any]) -> bool:
    from spectral_sampler.extraction.identity import RECORD

    return "probes" in source and source.get("record") == RECORD


def _recorded(source: Mapping[str, Any] | None, dataset: Any) -> bool:
    """Are all labels at hand those that were at hand when the store was made?"""
    if not source or not _comparable(source):
        return False
    from spectral_sampler.extraction.identity import labels_hash

    return source.get("labels") == labels_hash(dataset)


def _renumbered(source: Mapping[str, Any] | None) -> bool:
    """May a function have made the store's labels of those of the data set?"""
    return source is not None and any(source.get(name, name) is not None for name in ("split", "collate_fn"))


def _agree(found: NDArray[np.int64], kept: NDArray[np.int64], *, renumbered: bool) -> bool | None:
    """Are they equal or, if they may be ``renumbered``, is the label kept a function of the one found?

    None where that cannot be told: of what is other for almost every sample, anything is a function.
    """
    if np.array_equal(found, kept):
        return True
    if not renumbered:
        return False
    classes, number = np.unique(found, return_inverse=True)
    name = np.zeros(len(classes), np.int64)
    name[number] = kept
    return np.array_equal(name[number], kept) and (True if 2 * len(classes) <= len(found) else None)


def _other(found: NDArray[np.int64], kept: NDArray[np.int64]) -> ArgumentError:
    return argument_error(
        "dataset", "the one that the store was made of",
        f"labels that differ from the store's in {int((found != kept).sum())} of {len(found)} samples compared",
        "Is it another split or order? Extract the features of this one; if the labels are meant to differ, pass "
        "ReferenceStore.from_arrays(store.features, store.losses, labels) with those that you train on; if the second "
        "entry of a sample is no label, set dataset.targets = labels.",
    )  # fmt: skip


def _read(dataset: Any, most: int, patience: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows spread over the data set and the labels delivered for them; none where they cannot be had."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(np.int64))
    labels: list[int] = []
    until = time.monotonic() + patience
    try:
        with global_randomness_kept():
            copied = _copied(dataset)
            for row in rows.tolist():
                label = label_of(copied[row])
                if label is None:
                    _log.info("labels are not compared: sample %d has none that is known as such", row)
                    return rows[:0], rows[:0]
                labels.append(label)
                if time.monotonic() > until:
                    break
    except Exception as error:  # noqa: BLE001 - training will meet it where it can be seen
        _log.info("labels are not compared: a sample could not be read (%s: %s)", type(error).__name__, error)
        return rows[:0], rows[:0]
    if len(labels) > 1 and labels == rows.tolist()[: len(labels)]:
        _log.info("labels are not compared: the samples have their index in the place of a label")
        return rows[:0], rows[:0]
    return rows[: len(labels)], np.asarray(labels, np.int64)


def _copied(dataset: Any) -> Any:
    """A data set with attributes of its own, so that what reading it sets is not set on the other."""
    copied = copy.copy(dataset)
    own = getattr(copied, "__dict__", {})
    for name in own.keys() & {"dataset", "datasets"}:
        inner = own[name]
        own[name] = [_copied(part) for part in inner] if isinstance(inner, list) else _copied(inner)
    return copied

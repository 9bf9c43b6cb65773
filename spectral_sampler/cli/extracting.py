"""``extract``: what a reference says of a data set's training rows, as a store; by several processes under torchrun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.cli import options
from spectral_sampler.cli.answer import Answer
from spectral_sampler.errors import StoreError, argument_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["add"]


def add(commands: Any) -> None:
    """The command and its options."""
    extract = commands.add_parser("extract", help="reference features, losses and labels of a data set's training "
                                  "rows; under torchrun its processes share the work")  # fmt: skip
    options.add_data(extract, None)
    extract.add_argument("--out", type=Path, required=True, metavar="PATH", help="the store to write")
    extract.add_argument("--overwrite", action="store_true", help="replace a store of something else found there")
    extract.add_argument("--seed", type=int, default=0, help="of the model that gives the losses")
    extract.set_defaults(run=_extract, interrupted="the same command goes on with the features that are cached")


def _extract(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    import numpy as np

    from spectral_sampler.experiment.cell import load
    from spectral_sampler.experiment.corruption import Corruption, corrupt
    from spectral_sampler.experiment.reference import gives_features, prepare_features, reference_for
    from spectral_sampler.experiment.report import check_writable
    from spectral_sampler.store import ReferenceStore

    settings, places, out = options.settings(arguments), options.places(arguments), arguments.out
    if not out.name:
        raise argument_error("out", "the name of a folder for the store alone", out, "Name a new one.")
    if not out.exists():
        check_writable(out.parent)
    replicas, rank = _ranks()
    task = load(settings, places)
    if rank == 0:
        say(f"{options.title(settings.data)}: {len(task.train)} training rows, {len(task.classes)} classes")
        if replicas > 1 and not gives_features(settings):
            say(f"Reference {settings.reference!r} is trained here, which ranks do not share: rank 0 does it alone.")
    prepare_features(settings, task, places.cache, ranks=(replicas, rank))
    if rank > 0:
        return Answer("", {"rank": rank})
    rows = corrupt(task.train.labels, Corruption(), len(task.classes), arguments.seed)
    found = reference_for(settings, task, rows, arguments.seed, places.cache)
    source = {"command": arguments.words, "data": settings.data, "version": task.version, "reference": found.record,
              "seed": arguments.seed, "length": len(found.store)}  # fmt: skip
    store = ReferenceStore(found.store.features, found.store.losses, found.store.labels, source=source)
    if not arguments.overwrite and (there := _content(out)) not in (None, store.fingerprint):
        raise StoreError(f"{out} holds another store ({there[:12]}). Pass another --out, or --overwrite to replace it.")
    store.save(out)
    text = f"{len(store)} rows of {store.width} features with losses and labels: {out}"
    facts = {"path": str(out), "rows": len(store), "width": store.width, "fingerprint": store.fingerprint}
    if task.rows is not None and len(task.rows) < task.total:
        facts["rows_of_the_data"] = kept = str(out.with_name(f"{out.name}-rows.npy"))
        np.save(kept, task.rows)
        text += (f"\nThey are {len(store)} of {task.total} training rows; the others trained the reference, or are the "
                 f"test part. Train on Subset(dataset, rows) with rows = numpy.load({kept!r}).tolist()")  # fmt: skip
    return Answer(text, facts)


def _ranks() -> tuple[int, int]:
    """How many processes torchrun has started, and which of them this is; (1, 0) without it."""
    given = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK")]
    if "" in given:
        return 1, 0
    if not all(text.isdecimal() for text in given) or int(given[1]) >= int(given[0]):
        rule, got = "numbers with RANK below WORLD_SIZE", f"WORLD_SIZE={given[0]!r}, RANK={given[1]!r}"
        raise argument_error("the environment", rule, got, "Start it under torchrun, or remove both variables.")
    return int(given[0]), int(given[1])


def _content(path: Path) -> str | None:
    """Fingerprint of the store that is there; None where there is none, and `save` says what else is in the way."""
    from spectral_sampler.store import ReferenceStore

    try:
        return ReferenceStore.open(path, verify=False).fingerprint
    except StoreError:
        return None

"""``inspect`` and ``verify``: what a store holds, and whether it is whole and belongs to a data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.cli import options
from spectral_sampler.cli.answer import Answer
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from spectral_sampler.store import ReferenceStore

__all__ = ["add"]


def add(commands: Any) -> None:
    """The two commands and their options."""
    inspect = commands.add_parser("inspect", help="what a store holds and was made of")
    inspect.add_argument("store", type=Path, metavar="STORE")
    inspect.add_argument("--cache", type=Path, metavar="DIR", help="where copies of remote parts are kept")
    inspect.add_argument("--suspects", type=int, default=0, metavar="K", help="estimate which labels are wrong, and "
                         "list the K most doubtful")  # fmt: skip
    inspect.set_defaults(run=_inspect, interrupted="nothing was changed")
    verify = commands.add_parser("verify", help="read all of a store, and compare it with a data set")
    verify.add_argument("store", type=Path, metavar="STORE")
    options.add_data(verify, None)
    verify.set_defaults(run=_verify, interrupted="nothing was changed")


def _facts(store: ReferenceStore) -> dict[str, Any]:
    import numpy as np

    facts: dict[str, Any] = {
        "path": str(store.path), "rows": len(store), "width": store.width, "dtype": store.stored,
        "bytes": sum(array.nbytes for array in (store.features, store.losses, store.labels) if array is not None),
        "parts": [dataclasses.asdict(part) for part in getattr(store, "shards", ())],
        "fingerprint": store.fingerprint, "losses": None, "labels": None, "source": store.source,
    }  # fmt: skip
    if store.losses is not None:
        low, middle, high = np.quantile(store.losses, (0.01, 0.5, 0.99)).tolist()
        facts["losses"] = {"quantile_01": low, "median": middle, "quantile_99": high}
    if store.labels is not None:
        classes, counts = np.unique(store.labels[store.labels >= 0], return_counts=True)
        facts["labels"] = {
            "classes": len(classes), "fewest": min(counts.tolist(), default=0), "most": max(counts.tolist(), default=0),
            "unlabelled": int((store.labels < 0).sum()),
        }  # fmt: skip
    return facts


def _inspect(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    from spectral_sampler.store import ReferenceStore

    store = ReferenceStore.open(arguments.store, verify=False, cache=arguments.cache)
    if arguments.suspects < 0:
        raise argument_error("suspects", "at least 0", arguments.suspects, "It is how many to list.")
    facts = _facts(store)
    shape = f"{facts['rows']:,} rows of {facts['width']} {facts['dtype']} features"
    lines = [f"{facts['path']}: {shape}, {facts['bytes'] / 1e6:,.1f} MB", f"fingerprint {facts['fingerprint']}"]
    lines += [f"part {number}: {part['rows']:,} rows of {part['dtype']}, {part['place']}"
              for number, part in enumerate(facts["parts"])]  # fmt: skip
    if losses := facts["losses"]:
        lines.append("losses: 1 % below {quantile_01:.4g}, half below {median:.4g}, 1 % above {quantile_99:.4g}"
                     .format(**losses))  # fmt: skip
    if labels := facts["labels"]:
        lines.append("labels: {classes} classes of {fewest} to {most} rows, {unlabelled} rows without one"
                     .format(**labels))  # fmt: skip
    lines += [f"made of {_shown(name)}: {_shown(value)}" for name, value in (store.source or {}).items()]
    if arguments.suspects and not labels:
        raise argument_error("suspects", "left out for a store without labels", arguments.suspects, "It has none.")
    if arguments.suspects:
        say("Estimating which labels are wrong …")
        facts["suspects"] = found = _suspects(store, arguments.suspects)
        rows = ", ".join(map(str, found["rows"])) or "none"
        lines.append(f"{found['count']} labels are not believed (wrong: about {100 * found['share']:.1f} %); "
                     f"most doubtful: {rows}")  # fmt: skip
    return Answer("\n".join(lines), facts)


def _shown(value: Any) -> str:
    """What somebody else's store says, without the escapes that a terminal would obey."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))


def _suspects(store: ReferenceStore, most: int) -> dict[str, Any]:
    import numpy as np

    from spectral_sampler import label_noise, suspects

    noise, doubted = label_noise(store), suspects(store)
    rows = np.flatnonzero(doubted)
    worst = rows[np.argsort(-noise.doubts[rows], kind="stable")][:most]
    return {"count": int(doubted.sum()), "share": float(noise.share), "rows": worst.tolist()}


def _verify(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    from spectral_sampler.store import ReferenceStore

    store = ReferenceStore.open(arguments.store, verify=True, cache=arguments.cache)
    say(f"{arguments.store}: all {len(store):,} rows are as they were written.")
    if arguments.data is None and arguments.preset is None:
        return Answer("Not compared with a data set: name it with --data.", {**_facts(store), "compared": None})
    from spectral_sampler.experiment.cell import load
    from spectral_sampler.experiment.ready import ready_reference

    settings = options.settings(arguments)
    ready_reference(str(arguments.store.resolve()), load(settings, options.places(arguments)))
    compared, found = ("length", "length is that") if store.labels is None else ("labels", "labels are those")
    text = f"Its {found} of the training rows of {options.title(settings.data)}."
    return Answer(text, {**_facts(store), "compared": compared})

"""The command ``spectral-sampler``: compare, demo, extract, explain."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import ArgumentError, BackendUnavailable, StoreError, argument_error

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_DEMO = {"seeds": 5, "epochs": 30}
_QUICK = {"seeds": 2, "epochs": 12}


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data-root", type=Path, metavar="DIR", help="folder with the data set's files")
    group.add_argument("--download", action="store_true", help="let torchvision download what is missing")
    group.add_argument("--cache", type=Path, metavar="DIR", help="for unpacked files and reference features "
                       "(default ~/.cache/spectral-sampler)")  # fmt: skip
    group.add_argument("--train-size", type=int, metavar="ROWS")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="side of photographs (default 64)")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    faults = parser.add_argument_group("faults put into the training rows")
    faults.add_argument("--label-noise", type=float, metavar="SHARE", help="share of labels changed to another class")
    faults.add_argument("--imbalance", type=float, metavar="RATIO", help="most frequent class to rarest, such as 10")
    faults.add_argument("--duplicate", type=float, metavar="SHARE", help="share of rows that copy another row")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int)
    training.add_argument("--candidate-batch-size", type=int, metavar="N")
    training.add_argument("--learning-rate", type=float)
    training.add_argument("--reference", metavar="NAME", help="held-out, twin, untrained, lite0, resnet50 or minilm")
    training.add_argument("--reference-epochs", type=int, metavar="EPOCHS")
    training.add_argument("--pretrained", action="store_true", default=None, help="ImageNet weights for the ResNet-18")
    training.add_argument("--device", help="where the learner trains (default cpu)")
    training.add_argument("--backend", help="of the solver, see `spectral-sampler explain` (default auto)")
    ratio = parser.add_argument_group("keep ratio")
    ratio.add_argument(
        "--schedule",
        metavar="NAME",
        help="sigmoid (default), constant, linear, gamma, sinc, sinusoid, mellow-aimd, aggressive-aimd, plateau",
    )
    ratio.add_argument("--keep-ratio", type=float, metavar="MEAN", help="mean over the training (default 0.30)")
    ratio.add_argument("--keep-min", type=float, metavar="RATIO", help="default 0.18")
    ratio.add_argument("--keep-max", type=float, metavar="RATIO", help="default 0.88")
    ratio.add_argument("--fixed-batches", dest="reshuffle", action="store_false", default=None,
                       help="the same candidate batches in every epoch")  # fmt: skip
    run = parser.add_argument_group("run")
    run.add_argument("--jobs", type=int, metavar="J", help="processes (default: one a core)")
    run.add_argument("--resume", action="store_true", help="keep finished trainings found in --out")
    run.add_argument("--no-curves", dest="curves", action="store_false", help="test at the end only, draw nothing")
    run.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="imported for the policies it registers"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spectral-sampler", description="Selects the samples worth training on.")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    compare = commands.add_parser("compare", help="compare policies by training")
    compare.add_argument("--data", default="digits", metavar="NAME", help="digits, fashion-mnist, wordnet, "
                         "wordnet-verbs, cifar10, oxford-pet or flowers102")  # fmt: skip
    compare.add_argument("--policies", metavar="A,B,…", help="full, full-equal-compute, uniform, loss-weighted "
                         "are always included (default: these, saln, gstds and our own)")  # fmt: skip
    compare.add_argument("--seeds", type=int, default=5, metavar="K")
    compare.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    compare.add_argument("--out", type=Path, metavar="DIR", help="default results/NAME")
    _add_compare(compare)
    demo = commands.add_parser("demo", help="the comparison on handwritten digits, about half a minute")
    demo.add_argument("--quick", action="store_true", help="fewer epochs and seeds, about 20 seconds")
    demo.add_argument("--out", type=Path, default=Path("demo-results"), metavar="DIR")
    demo.add_argument("--cache", type=Path, metavar="DIR", help="default: inside --out")
    demo.add_argument("--jobs", type=int, metavar="J")
    extract = commands.add_parser("extract", help="reference features, losses and labels of a data set's training rows")
    extract.add_argument("--data", required=True, metavar="NAME")
    extract.add_argument("--reference", metavar="NAME", help="as in compare")
    extract.add_argument("--out", type=Path, required=True, metavar="PATH", help="the store to write")
    extract.add_argument("--seed", type=int, default=0, help="of the model that gives the losses")
    _add_data(extract)
    commands.add_parser("explain", help="which solver backends are usable here, and why not")
    return parser


_CHANGES = ("train_size", "label_noise", "imbalance", "duplicate", "reference", "reference_epochs", "epochs",
            "candidate_batch_size", "schedule", "keep_ratio", "keep_min", "keep_max", "reshuffle", "learning_rate",
            "image_size", "backend", "device", "pretrained")  # fmt: skip


def _settings(arguments: argparse.Namespace) -> Any:
    from spectral_sampler.experiment import Settings

    changes = {name: getattr(arguments, name) for name in _CHANGES if hasattr(arguments, name)}
    return Settings.of(arguments.data, **changes)


def _places(arguments: argparse.Namespace) -> Any:
    from spectral_sampler.experiment import Places

    root, cache = (path and path.resolve() for path in (arguments.data_root, arguments.cache))
    return Places(root, cache, arguments.download, tuple(getattr(arguments, "plugin", ())))


def _compare(arguments: argparse.Namespace, command: str) -> None:
    from spectral_sampler.experiment import DEFAULT, Comparison

    if arguments.seeds < 1:
        raise argument_error("seeds", "at least 1", arguments.seeds, "Intervals need two or more.")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise argument_error("jobs", "at least 1", arguments.jobs, "Leave it out for one process a core.")
    for module in arguments.plugin:
        __import__(module)
    names = [name.strip() for name in arguments.policies.split(",") if name.strip()] if arguments.policies else DEFAULT
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    out = arguments.out or Path("results") / arguments.data
    _finish(Comparison(_settings(arguments), names, seeds, out, _places(arguments), arguments.jobs, arguments.resume,
                       command, arguments.curves))  # fmt: skip


def _demo(arguments: argparse.Namespace, command: str) -> None:
    from spectral_sampler.experiment import DEFAULT, Comparison, Places, Settings

    size = _QUICK if arguments.quick else _DEMO
    settings = Settings.of("digits", epochs=size["epochs"])
    cache = (arguments.cache or arguments.out / "cache").resolve()
    _finish(Comparison(settings, DEFAULT, range(size["seeds"]), arguments.out, Places(cache=cache), arguments.jobs,
                       command=command))  # fmt: skip


def _finish(comparison: Any) -> None:
    from spectral_sampler.experiment import compare, rows, table, verdict
    from spectral_sampler.experiment.figures import save_figures

    started = time.monotonic()
    results = compare(comparison, print)
    lines = rows(results["cells"], results["policies"])
    pictures = save_figures(results, comparison.out) if comparison.curves else []
    print(table(lines), verdict(lines), sep="\n\n")
    print(f"\nNumbers: {comparison.out / 'results.json'}\nPictures: {', '.join(map(str, pictures)) or 'none'}")
    print(f"{len(results['cells'])} trainings, {time.monotonic() - started:.0f} s.")


def _extract(arguments: argparse.Namespace) -> None:
    from spectral_sampler.experiment.cell import load
    from spectral_sampler.experiment.corruption import Corruption, corrupt
    from spectral_sampler.experiment.reference import prepare_features, reference_for

    settings, places = _settings(arguments), _places(arguments)
    task = load(settings, places)
    prepare_features(settings, task, places.cache)
    rows = corrupt(task.train.labels, Corruption(), len(task.classes), arguments.seed)
    store = reference_for(settings, task, rows, arguments.seed, places.cache).store.save(arguments.out)
    print(f"{len(store)} rows of {store.width} features with losses and labels: {arguments.out}")


def _run(arguments: argparse.Namespace, command: str) -> None:
    if arguments.command == "compare":
        _compare(arguments, command)
    elif arguments.command == "demo":
        _demo(arguments, command)
    elif arguments.command == "extract":
        _extract(arguments)
    else:
        from spectral_sampler import explain

        print(explain())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (``sys.argv[1:]`` by default) and returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.version:
        from spectral_sampler import __version__

        print(f"spectral-sampler {__version__}")
        return 0
    if arguments.command is None:
        parser.print_help()
        return 2
    try:
        _run(arguments, shlex.join(["spectral-sampler", *words]))
    except (ArgumentError, StoreError, BackendUnavailable, ImportError, RuntimeError) as error:
        print(f"spectral-sampler: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("spectral-sampler: interrupted; finished trainings are kept, go on with --resume", file=sys.stderr)
        return 130
    return 0

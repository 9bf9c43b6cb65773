"""``compare`` and ``demo``: policies compared by training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.cli import options
from spectral_sampler.cli.answer import Answer
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["add"]


def add(commands: Any) -> None:
    """The two commands and their options."""
    compare = commands.add_parser("compare", help="compare policies by training")
    options.add_data(compare, "digits")
    compare.add_argument("--policies", metavar="A,B,…", help="beside everything, and equally many samples by the "
                         "simplest means, which are always compared (default saln, gstds and our own)")  # fmt: skip
    compare.add_argument("--seeds", type=int, default=5, metavar="K")
    compare.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    compare.add_argument("--out", type=Path, metavar="DIR", help="default results/NAME")
    options.add_training(compare)
    options.add_ratio(compare)
    options.add_equal(compare)
    compare.add_argument("--fixed-batches", dest="reshuffle", action="store_false", default=None,
                         help="the same candidate batches in every epoch")  # fmt: skip
    run = compare.add_argument_group("run")
    run.add_argument("--jobs", type=int, metavar="J", help="processes (default: one a core)")
    found = run.add_mutually_exclusive_group()
    found.add_argument("--resume", action="store_true", help="keep finished trainings found in --out")
    found.add_argument("--overwrite", action="store_true", help="replace another comparison found in --out")
    run.add_argument("--no-curves", dest="curves", action="store_false", help="test at the end only, draw nothing")
    run.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="imported for the policies it registers"
    )
    compare.set_defaults(run=_compare, interrupted="finished trainings are kept, go on with --resume")
    demo = commands.add_parser("demo", help="handwritten digits with right and with wrong labels, about a minute")
    demo.add_argument("--quick", action="store_true", help="fewer epochs and policies, about half a minute")
    demo.add_argument("--out", type=Path, default=Path("demo-results"), metavar="DIR")
    demo.add_argument("--cache", type=Path, metavar="DIR", help="default: inside --out")
    demo.add_argument("--jobs", type=int, metavar="J")
    demo.set_defaults(run=_demo, interrupted="nothing is left to go on with; the next demo starts anew")


def _compare(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    from spectral_sampler.experiment import DEFAULT, Comparison, own

    if arguments.seeds < 1:
        raise argument_error("seeds", "at least 1", arguments.seeds, "Intervals need two or more.")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise argument_error("jobs", "at least 1", arguments.jobs, "Leave it out for one process a core.")
    own.look_here()
    for module in arguments.plugin:
        __import__(module)
    names = [name.strip() for name in arguments.policies.split(",") if name.strip()] if arguments.policies else DEFAULT
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    settings = options.settings(arguments)
    out = arguments.out or Path("results") / options.title(settings.data)
    comparison = Comparison(settings, names, seeds, out, options.places(arguments), arguments.jobs, arguments.resume,
                            arguments.words, arguments.curves, arguments.overwrite)  # fmt: skip
    return _finished(comparison, say)


def _demo(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    from spectral_sampler.experiment.demo import demo

    page, found = demo(arguments.out, quick=arguments.quick, cache=arguments.cache, jobs=arguments.jobs,
                       command=arguments.words, say=say)  # fmt: skip
    return Answer(f"Page: {page}", found)


def _finished(comparison: Any, say: Callable[[str], None]) -> Answer:
    from spectral_sampler.experiment import compare, rows, table, verdict
    from spectral_sampler.experiment.figures import save_figures
    from spectral_sampler.experiment.outcomes import decisions
    from spectral_sampler.experiment.page import write_page
    from spectral_sampler.experiment.report import costs, not_compared

    started = time.monotonic()
    results = compare(comparison, say)
    lines = rows(results["cells"], results["policies"])
    pictures = save_figures(results, comparison.out) if comparison.curves else []
    page = write_page(comparison.out / "index.html", results, comparison.places) if comparison.curves else "none"
    text = [
        f"{table(lines)}\n\n{costs(lines)}\n\n{verdict(lines)}",
        "\n".join([*decisions(results["cells"]), *not_compared(results["cells"]), ""]),
        f"Numbers: {comparison.out / 'results.json'}\nPictures: {', '.join(map(str, pictures)) or 'none'}",
        f"{len(results['cells'])} trainings, {time.monotonic() - started:.0f} s.\nPage: {page}",
    ]
    return Answer("\n".join(text), results)

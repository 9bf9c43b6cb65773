"""``pilot``: does selection pay on these data? Answered within a stated time."""

from __future__ import annotations

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
    """The command and its options."""
    pilot = commands.add_parser("pilot", help="does selection pay on your data? An answer within two minutes")
    options.add_data(pilot, "digits")
    pilot.add_argument("--budget", type=float, default=120.0, metavar="SECONDS", help="default 120")
    pilot.add_argument("--out", type=Path, default=Path("pilot-results"), metavar="DIR", help="for the page and the "
                       "numbers (default pilot-results)")  # fmt: skip
    options.add_training(pilot)
    options.add_ratio(pilot)
    pilot.add_argument("--jobs", type=int, metavar="J", help="threads (default: torch's number)")
    pilot.set_defaults(run=_pilot, interrupted="a pilot starts anew")


def _pilot(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    from spectral_sampler.experiment.page import write_page
    from spectral_sampler.experiment.piloting import pilot, summary
    from spectral_sampler.experiment.report import check_writable, write_json

    if arguments.jobs is not None and arguments.jobs < 1:
        raise argument_error("jobs", "at least 1", arguments.jobs, "Leave it out for torch's own number of threads.")
    settings, places, out = options.settings(arguments), options.places(arguments), arguments.out
    check_writable(out, ours="pilot.json")
    found = pilot(settings, places, budget=arguments.budget, jobs=arguments.jobs, say=say, command=arguments.words)
    write_json(out / "pilot.json", found)
    page = write_page(out / "index.html", found, places)
    return Answer(f"{summary(found)}\n\nPage: {page}\nNumbers: {out / 'pilot.json'}", found)

"""The command line: its parser, its output, and how it ends."""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING

from spectral_sampler.cli import comparing, doctor, extracting, piloting, simulating, stores
from spectral_sampler.errors import ArgumentError, BackendUnavailable, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Every command with its options; ``arguments.run(arguments, say)`` carries it out."""
    whole = argparse.ArgumentParser(prog="spectral-sampler", description="Selects the samples worth training on.")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND")
    for part in (piloting, comparing, extracting, stores, simulating, doctor):
        part.add(commands)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print the answer as JSON; all else goes to stderr")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (``sys.argv[1:]`` by default) and returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    whole = parser()
    arguments = whole.parse_args(words)
    if arguments.version:
        from spectral_sampler import __version__

        print(f"spectral-sampler {__version__}")
        return 0
    if arguments.command is None:
        whole.print_help()
        return 2
    arguments.words = shlex.join(["spectral-sampler", *words])
    say = functools.partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="spectral-sampler: %(message)s", level=logging.WARNING)  # to stderr
    logging.getLogger("spectral_sampler.experiment").setLevel(logging.INFO)  # how data were read and cut
    try:
        answer = arguments.run(arguments, say)
        if answer.text:
            print(json.dumps(answer.data, allow_nan=False) if arguments.json else answer.text, flush=True)
    except BrokenPipeError:  # whoever read it has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter says so once more
        return 1
    except (ArgumentError, StoreError, BackendUnavailable, ImportError, RuntimeError) as error:
        print(f"spectral-sampler: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk, a folder, a pipe: what the operating system says, and of which file
        print(f"spectral-sampler: {error.strerror or error}: {error.filename or 'no file named'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"spectral-sampler: interrupted; {arguments.interrupted}", file=sys.stderr)
        return 130
    return int(answer.status)

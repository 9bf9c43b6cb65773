"""The study: every policy on every data set under every fault, and the papers' ablations, at equal samples.

    python -m benchmarks.study                          # run what is missing, then write the tables
    python -m benchmarks.study wordnet-40-noise20       # one comparison
    python -m benchmarks.study --list                   # their names and commands
    python -m benchmarks.study --jobs 1 --work DIR      # as python -m benchmarks.study, elsewhere

A comparison is one call of ``spectral-sampler compare``; what it writes stays in a working folder, so that an
interrupted study goes on where it stopped. What the documents need of it is committed as
``benchmarks/results/study/NAME.json``.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from spectral_sampler.experiment.report import read_json, write_json

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "benchmarks" / "results" / "study"
SEEDS = 5

SYSTEMS = (
    "saln", "gstds", "rho-loss", "jest", "jest-joint", "infobatch", "gradient-norm", "sensitivity", "bayesian",
)  # fmt: skip
"""Beside the four controls, which every comparison has."""

DATA = {
    "fashion-mnist": "--data fashion-mnist",
    "digits": "--data digits",
    "wordnet-40": "--data wordnet --train-size 4080",
    "wordnet-10": "--data wordnet --train-size 1020",
}
FAULTS = {
    "clean": "",
    "noise20": "--label-noise 0.2",
    "noise50": "--label-noise 0.5",
    "imbalance10": "--imbalance 10",
    "imbalance100": "--imbalance 100",
    "duplicate50": "--duplicate 0.5",
}


def _grid() -> dict[str, str]:
    policies = f"--policies {','.join(SYSTEMS)}"
    return {
        f"{data}-{fault}": " ".join(filter(None, ["compare", options, extra, f"--seeds {SEEDS}", policies]))
        for data, options in DATA.items()
        for fault, extra in FAULTS.items()
    }


RUNS = _grid()
"""Name and command of every comparison."""

_KEPT = ("policy", "seed", "key", "selection", "commit", "steps", "samples", "distinct_samples", "learner_flops",
         "seconds", "test_accuracy", "wrong_label_share", "reference", "total_seconds")  # fmt: skip


def condensed(result: dict[str, Any], name: str) -> dict[str, Any]:
    """What the documents need: no curves, no counts per class, no pictures."""
    cells = [{field: cell[field] for field in _KEPT} for cell in result["cells"]]
    kept = {field: result[field] for field in ("settings", "policies", "seeds", "rows")}
    circumstances = {**result["circumstances"], "command": f"spectral-sampler {RUNS[name]}"}
    return {**kept, "circumstances": circumstances, "cells": cells}


def run(name: str, work: Path, jobs: int | None) -> None:
    """One comparison; finished trainings found in the working folder are kept."""
    out = work / name
    options = ["--out", str(out), "--resume", *(["--jobs", str(jobs)] if jobs else [])]
    subprocess.run([sys.executable, "-m", "spectral_sampler", *shlex.split(RUNS[name]), *options], check=True)
    write_json(STUDY / f"{name}.json", condensed(read_json(out / "results.json"), name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default all, see --list")
    parser.add_argument("--list", action="store_true", help="names and commands, run nothing")
    parser.add_argument("--jobs", type=int, metavar="J", help="processes (default: one a core)")
    parser.add_argument("--work", type=Path, default=ROOT / "study-results", metavar="DIR")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name}: spectral-sampler {command}" for name, command in RUNS.items()))
        return
    for name in arguments.names or RUNS:
        run(name, arguments.work, arguments.jobs)


if __name__ == "__main__":
    main()

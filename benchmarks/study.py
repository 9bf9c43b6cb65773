"""The study: the papers' schedule on five data sets under six faults, and the papers' ablations, at equal samples.

    python -m benchmarks.study                          # run what is missing
    python -m benchmarks.study wordnet-40-noise20       # one comparison
    python -m benchmarks.study wordnet-40-noise20 --redo jest 3     # one training anew, beside the committed one
    python -m benchmarks.study --list                   # names and commands
    python -m benchmarks.study --jobs 1 --work DIR      # as python -m benchmarks.study, elsewhere

A comparison is one call of ``spectral-sampler compare``; what it writes stays in a working folder, so that an
interrupted study goes on where it stopped. What the documents need of it is committed as
``benchmarks/results/study/NAME.json``. Selections are judged in `benchmarks.arena`, which has the stronger controls;
the pilot (`benchmarks.pilot_record`) and the guard (`benchmarks.guard`) are measured on the trainings made here.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from spectral_sampler.cli import options, program
from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment.cell import Cell, Places, run_cell
from spectral_sampler.experiment.policies import policy_named
from spectral_sampler.experiment.report import read_json, write_json

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "benchmarks" / "results" / "study"
SEEDS = 5

SYSTEMS = (
    "saln", "gstds", "rho-loss", "jest", "jest-joint", "infobatch", "gradient-norm", "sensitivity",
    "sensitivity-learner", "bayesian", "plausible-even", "plausible-learnable", "plausible-learnable-fresh",
)  # fmt: skip
"""Beside the four controls, which every comparison has."""

DATA = {
    "fashion-mnist": "--data fashion-mnist",
    "digits": "--data digits",
    "wordnet-40": "--data wordnet --train-size 4080",
    "wordnet-10": "--data wordnet --train-size 1020",
    "wordnet-verbs": "--data wordnet-verbs",
}
"""The last one was added, and first looked at, when every selection of the first version was final."""

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


class Ablation(NamedTuple):
    """Comparisons that differ in one setting; the controls are always there."""

    common: str
    policies: tuple[str, ...]
    variants: dict[str, str]


FASHION = "--data fashion-mnist --train-size 6000"
_OURS = ("plausible-even", "plausible-learnable")
ABLATIONS = {
    "schedule": Ablation(
        "--data digits",
        ("gstds", *_OURS),
        {name: f"--schedule {name}" for name in ("sigmoid", "linear", "gamma", "sinc", "sinusoid", "constant",
                                                 "mellow-aimd", "aggressive-aimd", "plateau")},
    ),
    "reference": Ablation(
        FASHION,
        ("saln", "gstds", "jest", *_OURS),
        {"imagenet": "", "trained": "--reference held-out",
         "twin": "--reference twin", "one-epoch": "--reference held-out --reference-epochs 1",
         "untrained": "--reference untrained"},
    ),
    "keep-ratio": Ablation(
        f"{FASHION} --schedule constant",
        ("gstds", "jest", *_OURS),
        {ratio: f"--keep-ratio .{ratio}" for ratio in ("10", "30", "50", "70")},
    ),
    "batches": Ablation(FASHION, ("saln", "gstds", "jest", *_OURS), {"reshuffled": "", "fixed": "--fixed-batches"}),
    "graph": Ablation(
        "",
        ("saln", "saln-negated", "saln-clamped", "saln-rbf", "gstds", "gstds-negated", "gstds-boundary",
         "gstds-abs-fiedler", "gstds-high-loss", "gstds-clamped", "gstds-rbf", "spectral-strata"),
        {"fashion-mnist": FASHION, "wordnet": "--data wordnet --train-size 4080"},
    ),
    "parts": Ablation(
        FASHION,
        ("spectral-strata", "jest", *_OURS, "plausible-even-unbalanced", "plausible-even-uncut"),
        {fault: FAULTS[fault] for fault in ("clean", "noise20", "imbalance10", "duplicate50")},
    ),
}  # fmt: skip
"""The papers' ablations: schedule (GSTDS Table 1), quality of the reference, ratio, fixed or reshuffled batches, sign,
weights and similarity; and the parts of our own selection."""


def _ablations() -> dict[str, str]:
    return {
        f"{name}-{variant}": " ".join(filter(None, ["compare", ablation.common, extra, f"--seeds {SEEDS}",
                                                   f"--policies {','.join(ablation.policies)}"]))
        for name, ablation in ABLATIONS.items()
        for variant, extra in ablation.variants.items()
    }  # fmt: skip


RUNS = {**_grid(), **_ablations()}
"""Name and command of every comparison."""

_KEPT = ("policy", "seed", "key", "commit", "steps", "samples", "distinct_samples", "learner_flops",
         "seconds", "test_accuracy", "wrong_label_share", "reference", "total_seconds")  # fmt: skip
_KEPT_WHERE_THERE = ("selection", "test_balanced_accuracy", "looking_flops", "reference_flops", "probe_flops",
                     "left_out", "chosen", "pilot_flops")  # fmt: skip


def condensed(result: dict[str, Any], command: str) -> dict[str, Any]:
    """What the documents need: no curves, no counts per class, no pictures."""
    cells = [
        {field: cell[field] for field in (*_KEPT, *(name for name in _KEPT_WHERE_THERE if name in cell))}
        for cell in result["cells"]
    ]
    kept = {field: result[field] for field in ("settings", "policies", "seeds", "rows")}
    circumstances = {**result["circumstances"], "command": f"spectral-sampler {command}"}
    return {**kept, "circumstances": circumstances, "cells": cells}


def folder(runs: dict[str, str], name: str) -> str:
    """Comparisons that differ in their policies alone share their trainings: the first one's name."""
    setting = runs[name].partition(" --policies")[0]
    return next(other for other, command in runs.items() if command.partition(" --policies")[0] == setting)


def compared(command: str, out: Path, jobs: int | None) -> dict[str, Any]:
    """One comparison, condensed; finished trainings found in the working folder ``out`` are kept."""
    options = ["--out", str(out), "--resume", "--no-curves", *(["--jobs", str(jobs)] if jobs else [])]
    subprocess.run([sys.executable, "-m", "spectral_sampler", *shlex.split(command), *options], check=True)
    return condensed(read_json(out / "results.json"), command)


def redo(command: str, committed: Path, policy: str, seed: int, cache: Path | None = None) -> str:
    """Trains once more, and says what came of it now and then; with the references that comparisons left in the
    ``cache``."""
    settings = options.settings(program.parser().parse_args(shlex.split(command)))
    now = run_cell(Cell(settings, policy, seed, curve=False), Places(cache=cache))["test_accuracy"]
    cells = read_json(committed)["cells"] if committed.exists() else []
    then = [cell for cell in cells if (cell["policy"], cell["seed"]) == (policy, seed)]
    was = f"{100 * then[0]['test_accuracy']:.2f} % at {then[0]['commit']}" if then else "not trained before"
    return f"{committed.stem}, {policy}, seed {seed}: {100 * now:.2f} %, {was}"


def main(runs: dict[str, str], results: Path, work: Path, description: str) -> None:
    """The command of a family of comparisons: ``runs`` by name, what is kept of them in ``results``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default all, see --list")
    parser.add_argument("--list", action="store_true", help="names and commands, run nothing")
    parser.add_argument("--redo", nargs=2, metavar=("POLICY", "SEED"), help="one training of one NAME anew")
    parser.add_argument("--jobs", type=int, metavar="J", help="processes (default: one a core)")
    parser.add_argument("--work", type=Path, default=work, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name}: spectral-sampler {command}" for name, command in runs.items()))
        return
    unknown = [name for name in arguments.names if name not in runs]
    if unknown or (arguments.redo and len(arguments.names) != 1):
        parser.error(f"NAME must be one of those that --list shows, got {unknown[0] if unknown else 'not one'}")
    if arguments.redo:
        name, (policy, seed) = arguments.names[0], arguments.redo
        if not seed.isdecimal():
            parser.error(f"SEED must be a whole number from 0 on, got {seed}")
        try:
            policy_named(policy)
            print(redo(runs[name], results / f"{name}.json", policy, int(seed)))
        except ArgumentError as error:
            parser.error(str(error))
        return
    for name in arguments.names or runs:
        write_json(results / f"{name}.json", compared(runs[name], arguments.work / folder(runs, name), arguments.jobs))


if __name__ == "__main__":
    main(RUNS, STUDY, ROOT / "study-results", __doc__.splitlines()[0])

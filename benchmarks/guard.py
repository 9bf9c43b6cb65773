"""What a guard saves where a selection loses, and what it costs where it wins.

    python -m benchmarks.guard                  # what is missing, and benchmarks/results/guard.json
    python -m benchmarks.guard digits-clean     # one comparison
    python -m benchmarks.guard --null           # how often a guard gives up a selection that is uniform itself
    python -m benchmarks.guard --table          # only print the table of the committed record

Every selection is trained with a guard and without one, and so is uniform, as in `benchmarks.study` at the same seeds
and at one commit. The guard is told that test classes count alike (``balance=1``).
"""

import argparse
import shlex
from typing import Any

import numpy as np
import torch

from benchmarks.study import ROOT, RUNS, SEEDS
from spectral_sampler import Guarded, ReferenceStore, SpectralBatchSampler, Uniform
from spectral_sampler.cli import options, program
from spectral_sampler.experiment.cell import Cell, Places, load, run_cell
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.policies import POLICIES, register
from spectral_sampler.experiment.reference import reference_for
from spectral_sampler.experiment.report import estimate, read_json, write_json
from spectral_sampler.experiment.runner import circumstances

RESULT = ROOT / "benchmarks" / "results" / "guard.json"
SELECTIONS = ("saln", "sensitivity", "gstds", "plausible-learnable", "jest")
COMPARISONS = [f"{data}-{fault}" for data in ("digits", "wordnet-10") for fault in ("clean", "noise20", "imbalance10")]
NULLS = 24
"""Runs of a uniform selection under a guard."""

for _name in SELECTIONS:
    register(f"guarded-{_name}", lambda name=_name: Guarded(POLICIES[name](), balance=1.0))


def settings(name: str) -> Any:
    """Those of a comparison of the study."""
    return options.settings(program.parser().parse_args(shlex.split(RUNS[name])))


def trained(name: str, policy: str, seed: int) -> dict[str, Any]:
    """One row of the record."""
    found = run_cell(Cell(settings(name), policy, seed, curve=False), Places())
    row = {"comparison": name, "policy": policy, "seed": seed, "test_accuracy": found["test_accuracy"],
           "samples": found["samples"], "commit": circumstances("")["commit"]}  # fmt: skip
    if policy.startswith("guarded-"):  # means over passes: the share of the training that the floor decided
        row["floor_share"] = sum(found["statistics"][f"spectral/guard_{name}"] for name in ("fallen", "probation"))
    return row


def null(name: str, seed: int, store: ReferenceStore) -> dict[str, Any]:
    """A uniform selection under a guard, for the epochs of a comparison; nothing is trained."""
    guard, condition = Guarded(Uniform(), balance=1.0), settings(name)
    sampler = SpectralBatchSampler(
        store, condition.candidate_batch_size, epochs=condition.epochs, keep_ratio=condition.ratio(), selection=guard,
        seed=seed,
    )  # fmt: skip
    for _ in range(condition.epochs):
        for _ in sampler:
            pass
    return {"comparison": name, "seed": seed, "fallen": guard.since is not None, "comparisons": guard.comparisons,
            "lost": int(guard.lost), "evidence": guard.evidence}  # fmt: skip


def nulls() -> list[dict[str, Any]]:
    """`NULLS` of them, in turns over the clean data."""
    rows = []
    for name in (name for name in COMPARISONS if name.endswith("clean")):
        condition = settings(name)
        task = load(condition, Places())
        corrupted = corrupt(task.train.labels, condition.corruption, len(task.classes), 0)
        store = reference_for(condition, task, corrupted, 0, None).store
        rows += [null(name, seed, store) for seed in range(NULLS // 2 + 1)]
    return rows[:NULLS]


def points(record: dict[str, Any], name: str, policy: str) -> tuple[Any, Any, float]:
    """Without and with a guard minus uniform, in points, and the mean share of the training that the floor decided."""
    own = {(row["policy"], row["seed"]): row for row in record["rows"] if row["comparison"] == name}
    seeds = [seed for seed in range(SEEDS) if (f"guarded-{SELECTIONS[-1]}", seed) in own]
    plain, guarded = (
        estimate([100 * (own[arm, seed]["test_accuracy"] - own["uniform", seed]["test_accuracy"]) for seed in seeds])
        for arm in (policy, f"guarded-{policy}")
    )
    return plain, guarded, float(np.mean([own[f"guarded-{policy}", seed]["floor_share"] for seed in seeds]))


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: a row a comparison, in each cell without → with a guard, minus uniform."""
    lines = [["comparison", *SELECTIONS], ["---"] + ["--:"] * len(SELECTIONS)]
    for name in (name for name in COMPARISONS if any(row["comparison"] == name for row in record["rows"])):
        cells = []
        for policy in SELECTIONS:
            plain, guarded, floor = points(record, name, policy)
            cells.append(f"{plain.mean:+.1f} → {guarded.mean:+.1f} ± {guarded.half_width:.1f} ({100 * floor:.0f} %)")
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The worst cells with and without a guard, what is kept of gains that are clear of zero, and the false alarms."""
    names = sorted({row["comparison"] for row in record["rows"]})
    found = {(name, policy): points(record, name, policy) for name in names for policy in SELECTIONS}
    wins = [cell for cell, (plain, _, _) in found.items() if plain.mean > plain.half_width]
    worst = {of: min(found, key=lambda cell: found[cell][place].mean) for place, of in enumerate(("plain", "guarded"))}
    return {
        "worst": {of: [*cell, round(found[cell][of == "guarded"].mean, 2)] for of, cell in worst.items()},
        "below_-0.3": {of: sum(cell[place].mean < -0.3 for cell in found.values())
                       for place, of in enumerate(("plain", "guarded"))},
        "clearly_worse": {of: sum(cell[place].mean < -cell[place].half_width for cell in found.values())
                          for place, of in enumerate(("plain", "guarded"))},
        "mean": {of: round(float(np.mean([cell[place].mean for cell in found.values()])), 2)
                 for place, of in enumerate(("plain", "guarded"))},
        "cells": len(found), "wins": len(wins),
        "gain_of_wins": round(sum(found[cell][0].mean for cell in wins), 2),
        "gain_of_wins_guarded": round(sum(found[cell][1].mean for cell in wins), 2),
        "null_fallen": sum(row["fallen"] for row in record["nulls"]), "nulls": len(record["nulls"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join(COMPARISONS)}")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"at most {SEEDS}, the study's")
    parser.add_argument("--null", action="store_true", help="only the false alarms")
    parser.add_argument("--table", action="store_true", help="run and write nothing")
    arguments = parser.parse_args()
    record: dict[str, Any] = read_json(RESULT) if RESULT.exists() else {"rows": [], "nulls": []}
    if arguments.table:
        print(table(record), summary(record), sep="\n\n")
        return
    torch.set_num_threads(1)
    if arguments.null or not (arguments.names or record["nulls"]):
        record["nulls"] = nulls()
    done = {(row["comparison"], row["policy"], row["seed"]) for row in record["rows"]}
    for name in [] if arguments.null else arguments.names or COMPARISONS:
        for policy in ("uniform", *SELECTIONS, *(f"guarded-{policy}" for policy in SELECTIONS)):
            record["rows"] += [
                trained(name, policy, seed) for seed in range(arguments.seeds) if (name, policy, seed) not in done
            ]
        write_json(RESULT, {**record, "circumstances": circumstances("python -m benchmarks.guard")})
    write_json(RESULT, {**record, "circumstances": circumstances("python -m benchmarks.guard")})


if __name__ == "__main__":
    main()

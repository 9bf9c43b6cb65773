"""How well wrong labels are counted and found on the data sets of the study.

    python -m benchmarks.label_noise                # all, and benchmarks/results/label-noise.json
    python -m benchmarks.label_noise wordnet-verbs

For every data set, fault and seed: the estimated and the true share of wrong labels, and of those that
`spectral_sampler.estimates.label_noise` accuses how many are wrong (precision), of the wrong ones how many it accuses
(recall). The features are those that the study's selections see.
"""

import argparse
import shlex
from typing import Any

import numpy as np

from benchmarks.study import DATA, FAULTS, ROOT, RUNS, SEEDS
from spectral_sampler.cli import _parser, _settings
from spectral_sampler.estimates.label_noise import estimate
from spectral_sampler.experiment.cell import Places, load
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.reference import reference_for
from spectral_sampler.experiment.report import write_json
from spectral_sampler.experiment.runner import circumstances

RESULT = ROOT / "benchmarks" / "results" / "label-noise.json"


def measured(data: str, fault: str, seed: int) -> dict[str, Any]:
    """One row of the result."""
    condition = _settings(_parser().parse_args(shlex.split(RUNS[f"{data}-{fault}"])))
    task = load(condition, Places())
    corrupted = corrupt(task.train.labels, condition.corruption, len(task.classes), seed, task.known)
    store = reference_for(condition, task, corrupted, seed, None).store
    found = estimate(store.features, corrupted.labels)
    accused = found.suspects()
    hits = int(np.count_nonzero(accused & corrupted.wrong))
    return {
        "data": data, "fault": fault, "seed": seed, "rows": len(store), "estimated": found.share,
        "true": float(corrupted.wrong.mean()), "probe_accuracy": found.accuracy, "informative": found.informative,
        "accused": float(accused.mean()),
        "precision": hits / int(accused.sum()) if accused.any() else None,
        "recall": hits / int(corrupted.wrong.sum()) if corrupted.wrong.any() else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="DATA", help=f"default all: {', '.join(DATA)}")
    names = parser.parse_args().names
    rows = [measured(data, fault, seed) for data in names or DATA for fault in FAULTS for seed in range(SEEDS)]
    for row in rows:
        print(row)
    if not names:
        write_json(RESULT, {"circumstances": circumstances("python -m benchmarks.label_noise"), "rows": rows})


if __name__ == "__main__":
    main()

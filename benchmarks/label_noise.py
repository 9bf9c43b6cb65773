"""How well wrong labels are counted and found on the data sets of the study.

    python -m benchmarks.label_noise                # all, and benchmarks/results/label-noise.json
    python -m benchmarks.label_noise wordnet-verbs

For every data set, fault and seed: the estimated and the true share of wrong labels, and of those that
`spectral_sampler.estimates.label_noise` accuses how many are wrong (precision), of the wrong ones how many it accuses
(recall). Beside the study's faults there is noise between classes that look alike. The features are those
that the study's selections see.
"""

import argparse
import shlex
from typing import Any

import numpy as np

from benchmarks.study import DATA, FAULTS, ROOT, RUNS, SEEDS
from spectral_sampler.cli.options import settings
from spectral_sampler.cli.program import parser
from spectral_sampler.estimates.label_noise import estimate
from spectral_sampler.experiment.cell import Places, load
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.reference import reference_for
from spectral_sampler.experiment.report import write_json
from spectral_sampler.experiment.runner import circumstances

RESULT = ROOT / "benchmarks" / "results" / "label-noise.json"


CONFUSIONS = {"confusion10": 0.1, "confusion20": 0.2, "confusion40": 0.4}
"""Shares of labels that become the class whose mean is nearest in direction."""


def confused(features: Any, labels: Any, share: float, seed: int) -> Any:
    """Labels of which a share is the look-alike of the right class."""
    means = np.stack([features[labels == one].astype(np.float64).mean(axis=0) for one in np.unique(labels)])
    means -= means.mean(axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = means @ means.T
    np.fill_diagonal(cosines, -np.inf)
    names, classes = np.unique(labels, return_inverse=True)
    found = labels.copy()
    rows = np.random.default_rng([seed, 40]).choice(len(labels), round(share * len(labels)), replace=False)
    found[rows] = names[cosines.argmax(axis=1)[classes[rows]]]
    return found


def measured(data: str, fault: str, seed: int) -> dict[str, Any]:
    """One row of the result."""
    made, share = ("clean", CONFUSIONS[fault]) if fault in CONFUSIONS else (fault, 0.0)
    condition = settings(parser().parse_args(shlex.split(RUNS[f"{data}-{made}"])))
    task = load(condition, Places())
    corrupted = corrupt(task.train.labels, condition.corruption, len(task.classes), seed, task.known)
    store = reference_for(condition, task, corrupted, seed, None).store
    labels, wrong = corrupted.labels, corrupted.wrong
    if share:
        labels = confused(store.features, labels, share, seed)
        wrong = labels != corrupted.labels
    found = estimate(store.features, labels)
    accused = found.suspects()
    hits = int(np.count_nonzero(accused & wrong))
    return {
        "data": data, "fault": fault, "seed": seed, "rows": len(store), "estimated": found.share,
        "true": float(wrong.mean()), "probe_accuracy": found.accuracy, "informative": found.informative,
        "accused": float(accused.mean()),
        "precision": hits / int(accused.sum()) if accused.any() else None,
        "recall": hits / int(wrong.sum()) if wrong.any() else None,
    }  # fmt: skip


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("names", nargs="*", metavar="DATA", help=f"default all: {', '.join(DATA)}")
    names = asked.parse_args().names
    rows = [
        measured(data, fault, seed)
        for data in names or DATA
        for fault in (*FAULTS, *CONFUSIONS)
        for seed in range(SEEDS)
    ]
    for row in rows:
        print(row)
    if not names:
        write_json(RESULT, {"circumstances": circumstances("python -m benchmarks.label_noise"), "rows": rows})


if __name__ == "__main__":
    main()

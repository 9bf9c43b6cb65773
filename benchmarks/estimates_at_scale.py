"""What the estimates cost by rows, width, classes and threads, each in a process of its own.

    python -m benchmarks.estimates_at_scale    # writes benchmarks/results/estimates-at-scale.json
    python -m benchmarks.estimates_at_scale label-noise 1280000 2048 1000 2  # one more row of it

Synthetic features of an encoder, rectified clusters in float16 in a mapped file, a tenth of the labels wrong.
``classes`` is the number of clusters for the clustering. ``peak_mb`` is what the process held at most less what it held
before, pages of the mapped file not counted.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from itertools import product, repeat, takewhile
from pathlib import Path

import numpy as np
import torch

from benchmarks.study import ROOT
from spectral_sampler.estimates.clustering import cluster
from spectral_sampler.estimates.label_noise import estimate
from spectral_sampler.experiment.report import write_json
from spectral_sampler.experiment.runner import circumstances

RESULT = ROOT / "benchmarks" / "results" / "estimates-at-scale.json"
SPREAD = 0.08  # of a cluster, a dimension, over the square root of their number
SIZES = [(20_000, 512, 100), (80_000, 512, 100), (20_000, 2048, 1000), (80_000, 2048, 1000)]


def made(path, rows, width, classes):
    """Features (rows, width) in a mapped file, and labels."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((classes, width), dtype=np.float32)
    truth = generator.integers(0, classes, rows)
    features = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for start in range(0, rows, 4096):
        own = centres[truth[start : start + 4096]]
        noise = generator.standard_normal(own.shape, dtype=np.float32)
        features[start : start + len(own)] = np.maximum(own + SPREAD * width**0.5 * noise, 0)
    features.flush()
    wrong = generator.random(rows) < 0.1
    return np.load(path, mmap_mode="r"), (truth + wrong * generator.integers(1, classes, rows)) % classes, wrong


def held():
    """MB of this process that are not pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def measured(name, rows, width, classes, threads):
    """One row of the result."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        features, labels, wrong = made(Path(folder) / "features.npy", rows, width, classes)
        before, peaks, done = held(), [0.0], threading.Event()
        watch = threading.Thread(
            target=lambda: [peaks.append(held()) for _ in takewhile(lambda _: not done.wait(0.05), repeat(0))]
        )
        watch.start()
        start, spent = time.perf_counter(), time.process_time()
        found = estimate(features, labels) if name == "label-noise" else cluster(features, classes)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - spent
        done.set()
        watch.join()
    answers = {}
    if name == "label-noise":
        accused = found.suspects()
        answers = {"share": found.share, "precision": wrong[accused].mean(), "recall": accused[wrong].mean()}
    return {"estimate": name, "rows": rows, "width": width, "classes": classes, "threads": threads,
            "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), "peak_mb": round(max(peaks) - before),
            **{key: round(float(value), 4) for key, value in answers.items()}}  # fmt: skip


def main():
    if asked := sys.argv[1:]:
        rows = [measured(asked[0], *map(int, asked[1:]))]
    else:
        rows, command = [], [sys.executable, "-m", "benchmarks.estimates_at_scale"]
        for case in product(("label-noise", "clustering"), SIZES, (1, 2)):
            words = [case[0], *map(str, case[1]), str(case[2])]
            line = subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(line.splitlines()[-1]))
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if asked and RESULT.exists() else []
    found = circumstances("python -m benchmarks.estimates_at_scale")
    rows = [{**row, "commit": found["commit"]} for row in rows]
    of = {tuple(list(row.values())[:5]): row for row in kept + rows}
    write_json(RESULT, {**found, "rows": list(of.values())})
    print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()

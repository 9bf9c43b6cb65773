"""Single solves for a tool that watches kernels.

    python -m benchmarks.device_check.launches [--profile] BACKEND B:N:d:TYPE …

With --profile each is solved once before, and only the second time lies between cudaProfilerStart and -Stop. A graph of
33 rows gets a faulty row, which must mark its member alone.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.device_check import inputs, timing
from spectral_sampler.fiedler import Status, fiedler_rows

FAULTY = 33  # rows of the graph that has one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("backend")
    parser.add_argument("problems", nargs="+", metavar="B:N:d:TYPE")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for text in options.problems:
        members, size, width = (int(part) for part in text.split(":")[:3])
        features = inputs.store(width, members * size, device, getattr(torch, text.split(":")[3]), seed=size)
        indices = inputs.index_sets(features, members, size, 0)[0]
        if size == FAULTY:
            features[indices[0, 5]] = float("nan")
        if options.profile:
            fiedler_rows(features, indices, backend=options.backend)
            timing.wait()
            torch.cuda.profiler.start()
        status = fiedler_rows(features, indices, backend=options.backend).status.tolist()
        timing.wait()
        if options.profile:
            torch.cuda.profiler.stop()
        print(f"{options.backend} {text}: status {status}", flush=True)
        if [value == int(Status.INVALID) for value in status] != [size == FAULTY, *[False] * (members - 1)]:
            raise SystemExit("the faulty row did not mark its member, or another was marked")


if __name__ == "__main__":
    main()

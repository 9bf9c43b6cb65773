"""Redo the committed comparisons, and write their tables into the documents.

    python -m benchmarks.results                 # run what is missing (hours), then write the tables
    python -m benchmarks.results --tables        # only write tables and picture, from the committed files
    python -m benchmarks.results fashion-mnist-clean

These four have pictures; the study of every policy under every fault is `benchmarks.study`.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from benchmarks import standing_figure
from benchmarks.tables import rendered

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = tuple(ROOT / name for name in ("README.md", "docs/results.md", "docs/reliability.md", "docs/scale.md"))

RUNS = {
    "digits": "compare --data digits --seeds 5",
    "digits-noise20": "compare --data digits --seeds 5 --label-noise 0.2",
    "fashion-mnist-clean": "compare --data fashion-mnist --seeds 5",
    "fashion-mnist-noise20": "compare --data fashion-mnist --seeds 5 --label-noise 0.2",
}
"""The committed comparisons: folder under benchmarks/results, and the command that made it."""


def run(name: str) -> None:
    """One comparison; finished trainings found in its folder are kept."""
    out = ["--out", str((RESULTS / name).relative_to(ROOT))]  # as it stands in the file: a path of no machine
    resume = ["--resume"] if RUNS[name].startswith("compare") else []
    command = [sys.executable, "-m", "spectral_sampler", *shlex.split(RUNS[name]), *out, *resume]
    subprocess.run(command, check=True, cwd=ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join(RUNS)}")
    parser.add_argument("--tables", action="store_true", help="run nothing, write the tables and the picture")
    arguments = parser.parse_args()
    for name in [] if arguments.tables else arguments.names or RUNS:
        run(name)
    standing_figure.main()
    for document in DOCUMENTS:
        document.write_text(rendered(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Redo the committed comparisons, and write their tables into the documents.

    python -m benchmarks.results                 # run what is missing (hours), then write the tables
    python -m benchmarks.results --tables        # only write the tables from the committed files
    python -m benchmarks.results fashion-mnist-clean

A document holds a table between ``<!-- results: NAME -->`` and ``<!-- end -->``; a test compares it with the file.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from spectral_sampler.experiment.report import Row, read_json, rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")

_ALL = "--policies saln,gstds,rho-loss,jest,infobatch,gradient-norm,sensitivity,bayesian"
RUNS = {
    "digits": "demo",
    "fashion-mnist-clean": "compare --data fashion-mnist --seeds 5",
    "fashion-mnist-noise20": "compare --data fashion-mnist --seeds 5 --label-noise 0.2",
    "fashion-mnist-clean-all": f"compare --data fashion-mnist --seeds 5 {_ALL}",
    "fashion-mnist-noise20-all": f"compare --data fashion-mnist --seeds 5 --label-noise 0.2 {_ALL}",
}
"""The committed comparisons: folder under benchmarks/results, and the command that made it."""


def run(name: str) -> None:
    """One comparison; finished trainings found in its folder are kept."""
    out = ["--out", str(RESULTS / name)]
    resume = ["--resume"] if RUNS[name].startswith("compare") else []
    subprocess.run([sys.executable, "-m", "spectral_sampler", *shlex.split(RUNS[name]), *out, *resume], check=True)


def markdown(lines: list[Row]) -> str:
    """The table of one comparison; intervals are 95 % over seeds, differences paired by seed."""
    noisy = any(line.wrong_label_share > 0 for line in lines)
    titles = ["policy", "test accuracy, %", "minus uniform, points", "samples", "of full", "learner GFLOP"]
    table = [[*titles, *(["wrong labels seen"] if noisy else [])]]
    for line in lines:
        row = [
            line.policy,
            line.accuracy.percent(),
            line.difference.percent(signed=True) if line.difference else "",
            f"{line.samples:,.0f}",
            f"{100 * line.samples_ratio:.1f} %",
            f"{line.flops / 1e9:,.1f}",
        ]
        table.append([*row, *([f"{100 * line.wrong_label_share:.1f} %"] if noisy else [])])
    table.insert(1, ["---"] + ["--:"] * (len(table[0]) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def rendered(text: str) -> str:
    """``text`` with every table as its file has it."""

    def block(match: re.Match[str]) -> str:
        result = read_json(RESULTS / match[1] / "results.json")
        return f"<!-- results: {match[1]} -->\n{markdown(rows(result['cells'], result['policies']))}\n<!-- end -->"

    return re.sub(r"<!-- results: ([\w-]+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join(RUNS)}")
    parser.add_argument("--tables", action="store_true", help="run nothing, write the tables")
    arguments = parser.parse_args()
    for name in [] if arguments.tables else arguments.names or RUNS:
        run(name)
    for document in DOCUMENTS:
        document.write_text(rendered(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

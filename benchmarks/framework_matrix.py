"""Writes what documents do not say by hand: the code of examples/ and the matrix of what tests passed.

FRAMEWORK_RESULTS=benchmarks/results/frameworks/newest.json python -m pytest -m slow tests/frameworks
python -m benchmarks.framework_matrix
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT, START = ROOT / "docs" / "frameworks.md", ROOT / "docs" / "start.md"
RESULTS = [ROOT / "benchmarks" / "results" / "frameworks" / f"{name}.json" for name in ("newest", "older")]
TITLES = {
    "raw": "PyTorch loop", "ddp": "DistributedDataParallel", "torchdata": "torchdata", "accelerate": "Accelerate",
    "trainer": "Hugging Face Trainer", "lightning": "Lightning", "fabric": "Lightning Fabric", "timm": "timm",
    "ray": "Ray Train",
}  # fmt: skip
PROPERTIES = [
    *("every batch once", "persistent workers", "accumulation"),
    *("resume within an epoch", "losses heard", "resume with losses"),
]
GENERATED = re.compile(r"(<!-- \[(\w+): (.+?)\] -->\n).*?(<!-- \[end\] -->)", re.DOTALL)


def example(name: str) -> str:
    """The code of ``file.py#name``: between ``# [start: name]`` and ``# [end]``, with what the file imports of ours."""
    file, _, part = name.partition("#")
    source = (ROOT / "examples" / file).read_text(encoding="utf-8")
    found = re.search(rf"^# \[start: {re.escape(part)}\]\n(.*?)^# \[end\]", source, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"examples/{file} has no part [start: {part}]")
    code = re.sub(r" *# fmt: skip$", "", found[1], flags=re.MULTILINE)
    ours = "".join(re.findall(r"^from spectral_sampler.*\n", source, re.MULTILINE))
    return f"[{file}](../examples/{file})\n```python\n{ours}\n{textwrap.dedent(code).strip()}\n```\n"


def cell(passed: dict[str, list[str]], what: str) -> str:
    """On how many processes a property holds: "1, 2", and a dash where nothing was passed."""
    return ", ".join(ranks for ranks in sorted(passed) if what in passed[ranks]) or "–"


def matrix(_: str) -> str:
    """A row for every framework and version: the numbers of processes on which each property passed."""
    rows = [["framework", "version", "torch", *PROPERTIES]]
    rows.append(["---"] * len(rows[0]))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in RESULTS if file.exists()]
    for name, title in TITLES.items():
        for results in found:
            row = results["frameworks"].get(name)
            if row is not None:
                cells = [cell(row["passed"], what) for what in PROPERTIES]
                rows.append([title, row["version"], results["torch"], *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def generated(text: str) -> str:
    """``text`` with everything between markers written anew."""
    makers = {"example": example, "matrix": matrix}
    return GENERATED.sub(lambda found: f"{found[1]}{makers[found[2]](found[3])}{found[4]}", text)


if __name__ == "__main__":
    for document in (DOCUMENT, START):
        document.write_text(generated(document.read_text(encoding="utf-8")), encoding="utf-8")

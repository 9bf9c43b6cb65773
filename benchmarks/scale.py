"""What a row costs: bytes and seconds, each measured in a process of its own, and from them what 10⁹ rows would.

    python -m benchmarks.scale            # a few minutes; writes benchmarks/results/scale.json

Seconds are of the wall on whatever else the machine does; ``resident`` is the growth of the largest resident size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from benchmarks.measure import passport
from benchmarks.sparse_store import sharded
from spectral_sampler import SALN, PlausibleEven, ReferenceStore, SpectralBatchSampler, Uniform
from spectral_sampler.extraction import Encoder, extract

RESULT = Path(__file__).parent / "results" / "scale.json"
ESTIMATES = Path(__file__).parent / "results" / "estimates-at-scale.json"
WIDTH, CANDIDATES, RATIO = 64, 128, 0.3
ROWS, CHOSEN, PARTS, BATCHES = 2_000_000, 100_000, 64, 200
FUTURE = 10**9
__all__ = ["ESTIMATES", "arithmetic", "estimates", "measured"]


def _features(rows: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(100, WIDTH)).astype(np.float32)
    return centres[generator.integers(0, 100, rows)] + generator.standard_normal((rows, WIDTH), np.float32)


def _store(rows: int, dtype: str = "int8") -> ReferenceStore:
    generator = np.random.default_rng(1)
    losses, labels = generator.random(rows, np.float32), generator.integers(0, 100, rows)
    return ReferenceStore.from_arrays(_features(rows), losses, labels, dtype=dtype)


def quantise(_: Path) -> dict[str, Any]:
    """A store from an array in memory, each row checked."""
    features = _features(ROWS)
    start = time.perf_counter()
    ReferenceStore.from_arrays(features, dtype="int8")
    return {"seconds": time.perf_counter() - start, "rows": ROWS}


def save(folder: Path) -> dict[str, Any]:
    """Written, hashed and synchronised."""
    store = _store(ROWS)
    start = time.perf_counter()
    store.save(folder / "s")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": ROWS, "bytes": sum(file.stat().st_size for file in (folder / "s").iterdir())}


def verify(folder: Path) -> dict[str, Any]:
    """Opened with every byte compared."""
    _store(ROWS).save(folder / "s")
    start = time.perf_counter()
    ReferenceStore.open(folder / "s", verify=True)
    return {"seconds": time.perf_counter() - start, "rows": ROWS}


def opening(folder: Path) -> dict[str, Any]:
    """10⁸ rows in 64 parts."""
    sharded(folder / "s", 10**8, WIDTH, PARTS)
    start = time.perf_counter()
    ReferenceStore.open(folder / "s", verify=False)
    return {"seconds": time.perf_counter() - start, "rows": 10**8, "parts": PARTS}


def _choosing(store: ReferenceStore, selection: Any, rows: int) -> dict[str, Any]:
    before = _reset_peak()
    batches = iter(SpectralBatchSampler(store, CANDIDATES, selection=selection, keep_ratio=RATIO))
    next(batches)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": BATCHES * CANDIDATES, "resident": _bytes("VmHWM") - before, "of": rows}


def _bytes(name: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) << 10


def _reset_peak() -> int:
    """Bytes resident at the moment, from which the largest number counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _bytes("VmHWM")


def uniform(folder: Path) -> dict[str, Any]:
    """Candidates of 10⁸ rows in the order of an epoch, kept at random."""
    return _choosing(ReferenceStore.open(sharded(folder / "s", 10**8, WIDTH, 8)), Uniform(), 10**8)


def saln(folder: Path) -> dict[str, Any]:
    """Graph, Fiedler vector and ranking of each candidate batch, rows from two parts of int8."""
    parts = [_store(CHOSEN // 2), _store(CHOSEN // 2)]
    return _choosing(ReferenceStore.from_parts(folder / "s", parts), SALN(), CHOSEN)


def plausible(folder: Path) -> dict[str, Any]:
    """The default with labels, its estimate of label noise included."""
    store = ReferenceStore.from_parts(folder / "s", [_store(CHOSEN)])
    start = time.perf_counter()
    next(iter(SpectralBatchSampler(store, CANDIDATES, selection=PlausibleEven(), keep_ratio=RATIO)))
    return {"seconds": time.perf_counter() - start, "rows": CHOSEN, "classes": 100}


class _Nothing(Encoder):
    """A reference that costs nothing."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def extraction(folder: Path) -> dict[str, Any]:
    """What extracting costs beside the model and reading the samples: batches, checks, hashes, files."""
    data = TensorDataset(torch.from_numpy(_features(CHOSEN)), torch.arange(CHOSEN) % 100)
    start = time.perf_counter()
    extract(_Nothing(), data, folder / "s", loss=None)
    return {"seconds": time.perf_counter() - start, "rows": CHOSEN}


MEASURES = {
    function.__name__: function for function in (quantise, save, verify, opening, uniform, saln, plausible, extraction)
}


def _line(name: str, found: dict[str, Any]) -> list[str]:
    per_row = found["seconds"] / found["rows"]
    resident = f"{found['resident'] / 1e6:,.0f} MB" if "resident" in found else ""
    what = (MEASURES[name].__doc__ or "").strip()
    return [f"`{name}`", what, f"{found['rows']:,}", f"{found['seconds']:.3g} s", f"{per_row * 1e6:.3g} µs", resident]


def _table(titles: list[str], rows: list[list[str]], right: int) -> str:
    ruler = ["---"] * (len(titles) - right) + ["--:"] * right
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ruler, *rows))


def measured(result: dict[str, Any]) -> str:
    """The lines as they were measured."""
    where = f"{result['processor']}, {result['cores']} cores, load {result['load before']}"
    head = f"{result['date']}, {where}, torch {result['torch']}, commit {result['commit']}: `{result['command']}`\n\n"
    titles = ["", "what", "rows", "took", "a row", "memory grew by"]
    return head + _table(titles, [_line(name, found) for name, found in result["lines"].items()], 4)


def arithmetic(result: dict[str, Any]) -> str:
    """10⁹ rows from the costs of one: nobody has run this."""
    lines, rows = result["lines"], []
    for dtype, width, size in (("int8", 64, 1), ("int8", 384, 1), ("float16", 384, 2), ("float16", 2048, 2)):
        each = width * size + (4 if dtype == "int8" else 0) + 4 + 8
        rows.append([f"a store of {width} {dtype}, losses and labels", f"{each * FUTURE / 1e9:,.0f} GB", ""])
    names = {"extraction": "extracted, beside the model and reading the samples", "save": "written once, 64 int8",
             "verify": "compared once, 64 int8",
             "uniform": "an epoch offered, nothing read", "saln": "an epoch chosen by SALN, 64 int8"}  # fmt: skip
    for name, what in names.items():
        seconds = lines[name]["seconds"] / lines[name]["rows"] * FUTURE
        rows.append([what, "", f"{seconds:,.0f} s"])
    return _table(["10⁹ rows, one process", "bytes", "time"], rows, 2)


def estimates(result: dict[str, Any]) -> str:
    """What is computed once from a whole store."""
    machine = result["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, torch {result['versions']['torch']}"
    head = f"{result['date'][:10]}, {where}: `{result['command']}`\n\n"
    note = f"{result['note'].capitalize()}.\n\n" if result.get("note") else ""
    rows = []
    for line in sorted(result["rows"], key=lambda line: (line["estimate"], line["width"], line["rows"])):
        sizes = [f"{line[name]:,}" for name in ("rows", "width", "classes", "threads")]
        times = [f"{line[name]:,.0f} s" for name in ("seconds", "cpu_seconds")]
        rows.append([line["estimate"], *sizes, *times, f"{line['peak_mb']:,} MB", line["commit"][:7]])
    titles = ["estimate", "rows", "width", "classes", "threads", "took", "of a core", "memory grew by", "commit"]
    return head + note + _table(titles, rows, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=MEASURES, help="measure this alone, and print it")
    one = parser.parse_args().one
    if one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASURES[one](Path(folder))))
        return
    lines = {}
    for name in MEASURES:
        command = [sys.executable, "-m", "benchmarks.scale", "--one", name]
        lines[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(name, lines[name], flush=True)
    result = {**passport(), "command": "python -m benchmarks.scale", "lines": lines}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

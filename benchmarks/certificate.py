"""How often a kept set is certified, and whether it is then float64's: python -m benchmarks.certificate [--quick].

20,000 graphs of 64 to 16,384 rows of six kinds, SALN at three keep ratios. A kept set is right where no row that was
left has a higher score by float64 than one that was kept, but for ties. Writes benchmarks/results/certificate.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from benchmarks.measure import passport
from benchmarks.problems import rectified
from spectral_sampler import SALN, ReferenceStore, fiedler_vector
from spectral_sampler.selection import CandidateBatch

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT = Path(__file__).parent / "results" / "certificate.json"
GRAPHS = {64: 8000, 128: 7200, 256: 3600, 512: 1200, 1024: 240, 2048: 60, 4096: 24, 16384: 6}  # of N rows
KEEP = (0.1, 0.3, 0.5)
WIDTH = 384
_AT_ONCE = 1 << 21  # entries of S


def _texts(rows: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    decay = 1 / np.sqrt(1 + np.arange(WIDTH))
    return torch.from_numpy(rng.normal(size=(rows, WIDTH)) * decay + 0.4 * rng.normal(size=WIDTH) * decay)


def _digits(rows: int, seed: int) -> torch.Tensor:
    pixels = torch.from_numpy(load_digits().data)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    noise = torch.rand(rows, 64, generator=torch.Generator().manual_seed(seed))
    return pixels[order.repeat(1 + rows // len(pixels))[:rows]] + (noise if rows > len(pixels) else 0)


def _normal(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


KINDS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "clustered after a ReLU": lambda rows, seed: rectified(rows, WIDTH, seed),
    "independent after a ReLU": lambda rows, seed: _normal(rows, seed).clamp(min=0),
    "normal": _normal,
    "sentences": _texts,
    "digits' pixels": _digits,
    "nearly equal rows": lambda rows, seed: 1 + 0.1 * _normal(rows, seed),
}


def _right(kept: np.ndarray, exact: np.ndarray) -> bool:
    """No row that was left has a higher score than one that was kept, within what `ranking.top` calls equal."""
    left = np.delete(exact, kept)
    tie = 32 * float(np.finfo(np.float32).eps) * np.abs(exact).max()
    return not left.size or exact[kept].min() >= left.max() - 2 * tie


def judged(features: torch.Tensor, size: int) -> Counter[str]:
    """Counts over the kept sets of the graphs of ``features`` (B·size, d) float32."""
    indices = np.arange(len(features)).reshape(-1, size)
    scores = SALN().score(ReferenceStore.from_arrays(features), indices, backend="native")
    exact = fiedler_vector(features.double().reshape(len(indices), size, -1), backend="eager").vector.numpy()
    found: Counter[str] = Counter()
    for number, row in enumerate(indices):
        batch = CandidateBatch(row, scores=scores.values[number], error=float(scores.error[number]))
        truth = exact[number] * (1.0 if exact[number] @ scores.values[number] >= 0 else -1.0)
        for share in KEEP:
            choice = SALN().select(batch, int(share * size))
            right = _right(choice.positions, truth)
            found.update(sets=1, certified=int(choice.certified), right=int(right))
            found.update(false=int(choice.certified and not right))
    degenerate = int(np.count_nonzero(np.asarray(scores.status) & 2))
    found.update(graphs=len(indices), degenerate=degenerate)
    return found


def measured(size: int, graphs: int) -> list[dict[str, Any]]:
    """One row for each kind of features."""
    rows = []
    for kind, make in KINDS.items():
        found: Counter[str] = Counter()
        wanted, at_once = max(1, graphs // len(KINDS)), max(1, _AT_ONCE // size**2)
        for seed in range(0, wanted, at_once):
            members = [make(size, 1000 + seed + member) for member in range(min(at_once, wanted - seed))]
            found += judged(torch.cat(members).float(), size)
        rows.append({"N": size, "kind": kind, **{name: found[name] for name in (
            "graphs", "sets", "certified", "right", "false", "degenerate")}})  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the graphs, up to 1024 rows")
    parser.add_argument("--json", type=Path, default=None, help=f"where to write, by default {RESULT.name}")
    options = parser.parse_args()
    begun = time.time()
    sizes = {size: number // 50 for size, number in GRAPHS.items() if size <= 1024} if options.quick else GRAPHS
    rows = [row for size, number in sizes.items() for row in measured(size, number)]
    target = options.json or (None if options.quick else RESULT)
    if target is not None:
        record = {"passport": passport(), "command": "python -m benchmarks.certificate", "rows": rows}
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    graphs, false = (sum(row[name] for row in rows) for name in ("graphs", "false"))
    print(f"{graphs} graphs, {false} false certificates, {time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()

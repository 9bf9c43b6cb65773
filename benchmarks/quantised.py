"""What float16, bfloat16 and int8 cost: angles between rows and what is read of them, and kept sets beside float32's.

    python -m benchmarks.quantised > benchmarks/results/quantised.json

Ten overlapping classes, signed and rectified; 100 candidate batches of 128, 30 % kept. A scale a column beside ours.
"""

from __future__ import annotations

import json

import numpy as np

from spectral_sampler import GSTDS, SALN, ReferenceStore, SpectralBatchSampler

ROWS = 12_800


def angles(rows, read):
    """Mean and largest angle (degrees) between rows (M, d) and what is read of them."""
    rows, read = rows.astype(np.float64), np.asarray(read, np.float64)
    cosines = (rows * read).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(read, axis=1)
    found = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return round(float(found.mean()), 4), round(float(found.max()), 4)


def kept(store, selection):
    """The sets of 100 candidate batches."""
    return [set(batch) for batch in SpectralBatchSampler(store, 128, selection=selection(), keep_ratio=0.3, seed=1)]


def main():
    results, generator = [], np.random.default_rng(0)
    for width in (64, 384):
        classes, losses = generator.integers(0, 10, ROWS), generator.random(ROWS)
        signed = 0.7 * generator.normal(size=(10, width))[classes] + generator.normal(size=(ROWS, width))
        for kind, values in (("signed", signed), ("rectified", np.maximum(signed, 0))):
            rows = values.astype(np.float32)
            exact = ReferenceStore.from_arrays(rows, losses)
            for dtype in ("float16", "bfloat16", "int8"):
                store = ReferenceStore.from_arrays(rows, losses, dtype=dtype)
                mean, most = angles(rows, store.features)
                line = {"width": width, "kind": kind, "dtype": dtype, "mean_degrees": mean, "largest_degrees": most}
                for selection in (SALN, GSTDS):
                    pairs = zip(kept(store, selection), kept(exact, selection), strict=True)
                    line[f"{selection.name}_agree"] = round(float(np.mean([len(a & b) / len(b) for a, b in pairs])), 4)
                results.append(line)
            scales = np.abs(rows).max(axis=0) / 127
            mean, most = angles(rows, np.rint(rows / scales) * scales)
            results.append({"width": width, "kind": kind, "dtype": "int8, a scale a column",
                            "mean_degrees": mean, "largest_degrees": most})  # fmt: skip
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

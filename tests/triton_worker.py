"""Solves problems with the Triton kernels under the interpreter, in a process of its own: the mode is read at import.

    python triton_worker.py problems.npz results.npz

Each problem k is k/features (M, d), k/indices (B, N); each result k/0 … k/6. Inputs and outputs lie between guard
pages, and outputs are poisoned. The argument "overrun" plants a fault: indices one past the last row, which must end
the process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from guard_pages import guarded  # noqa: E402

from spectral_sampler.kernels import triton as backend  # noqa: E402

_outputs = backend._outputs


def poisoned(indices):
    """Outputs that end at a guard page and hold NaN, or −1, until they are written."""
    return tuple(guarded(field.fill_(float("nan") if field.is_floating_point() else -1)) for field in _outputs(indices))


def main(source: str, target: str, fault: str = "") -> None:
    assert backend.unusable_reason() is None
    backend._outputs = poisoned
    results = {}
    with np.load(source) as problems:
        for key in sorted({name.split("/")[0] for name in problems}, key=int):
            features, indices = (torch.from_numpy(problems[f"{key}/{part}"]) for part in ("features", "indices"))
            if fault == "overrun":
                indices = indices + features.shape[0]
            for number, field in enumerate(backend.solve(guarded(features), guarded(indices))):
                results[f"{key}/{number}"] = field.numpy()
    np.savez(target, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])

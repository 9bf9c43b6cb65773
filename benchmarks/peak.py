"""Peak memory of one large graph beyond its store: python -m benchmarks.peak ROWS WIDTH DTYPE, prints JSON."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

import torch

from spectral_sampler.kernels import native


def status(field: str) -> int:
    """Bytes that Linux gives for a field such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


def main() -> None:
    """Solve a small graph first, so that what is counted is the large one's alone."""
    rows, width, dtype = int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3])
    torch.set_num_threads(1)
    native.unusable_reason()
    generator = torch.Generator().manual_seed(0)
    store = torch.empty(rows, width, dtype=dtype)
    for part in store.split(4096):
        noise = torch.rand(part.shape, generator=generator)
        part.copy_(noise + 0.1 * torch.randn(part.shape[0], 1, generator=generator))
    indices = torch.arange(rows)[None]
    native.solve(store[:4096].clone(), indices[:, :4096])
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed above is used again, and nothing seems to be needed
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = status("VmRSS")
    start = time.perf_counter()
    result = native.solve(store, indices)
    elapsed = time.perf_counter() - start
    beyond = status("VmHWM") - before
    size = store.numel() * store.element_size()
    print(json.dumps({
        "shape": [1, rows, width], "store bytes": size, "share": beyond / size, "seconds": elapsed,
        "residual": float(result.residual), "matvecs": int(result.num_matvecs), "status": int(result.status),
    }))  # fmt: skip


if __name__ == "__main__":
    main()

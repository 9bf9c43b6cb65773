"""The backend "cupy": `array_solver` on CuPy arrays that share memory with torch's, for a torch with CUDA but no
kernels.

The residual is computed here; CuPy's own sparse eigensolver is not used (up to 14.2 it gives NaN on degenerate graphs
and does not report non-convergence). Work is queued on torch's current stream, so nothing has to be waited for in
between.
"""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from spectral_sampler.graph import canonical_sign, start_vectors
from spectral_sampler.kernels.array_solver import Solved, solve_features

__all__ = ["DEVICES", "finish", "solve", "unsupported", "unusable_reason"]

DEVICES = ("cuda",)
_OLDEST = (14, 1)  # the first with matrix_transpose
_LARGEST = 1024
_RESIDUAL_LIMIT = 16.0
_CONVERGED, _DEGENERATE, _INDEFINITE, _INVALID = 1, 2, 4, 8  # fiedler.Status
_CHUNK_BYTES = 1 << 28


def unusable_reason() -> str | None:
    """Why this backend cannot run here, or None."""
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed (pip install cupy-cuda13x, or cupy-cuda12x)"
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    try:
        version = str(importlib.import_module("cupy").__version__)  # not before here: the import takes a second
    except ImportError:
        return 'cupy is installed but cannot be imported (python -c "import cupy" says why)'
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return f"cupy must be {oldest} or newer, got {version} (pip install --upgrade cupy-cuda13x, or cupy-cuda12x)"
    return None


def unsupported(features: Tensor, indices: Tensor) -> str | None:  # noqa: ARG001
    """Why this problem cannot be taken, or None."""
    size = indices.shape[1]
    return f"a graph of {size} nodes is larger than {_LARGEST}" if size > _LARGEST else None


def finish(solved: Solved, vector: Tensor, numbers: tuple[Tensor, ...], indices: Tensor) -> tuple[Tensor, ...]:
    """The backend's six outputs from what was solved.

    Args:
        vector: (B, N). numbers: value, residual (B,), degrees (B, N), norm, valid (B,), all torch views of ``solved``.
    """
    value, residual, degrees, norm, valid = numbers
    size, device = indices.shape[1], vector.device
    ulp = torch.finfo(torch.float32).eps
    rounding = torch.from_numpy(solved.rounding.astype(np.float32)).to(device)
    gap = torch.from_numpy(solved.gap.astype(np.float32)).to(device)
    steps = torch.from_numpy(solved.steps).to(device)
    vector = vector * canonical_sign(vector, degrees, indices, norm)[:, None]
    status = _CONVERGED * (residual <= _RESIDUAL_LIMIT * size * ulp).long()
    status = status + _DEGENERATE * (gap == 0) + _INDEFINITE * (value < -_RESIDUAL_LIMIT * size * rounding)
    blank = torch.zeros_like(value)
    return (
        torch.where(valid[:, None], vector, torch.zeros_like(vector)),
        torch.where(valid, value * norm, blank),
        torch.where(valid, residual, blank),
        torch.where(valid, steps, torch.zeros_like(steps)),
        torch.where(valid, status, torch.full_like(status, _INVALID)),
        torch.where(valid, gap, blank),
    )


def _solve_part(cupy: object, features: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    rows = features.index_select(0, indices.flatten()).to(torch.float32).reshape(*indices.shape, -1)
    starts = (start_vectors(indices), start_vectors(indices, 0x5EED))
    arrays = [cupy.from_dlpack(part) for part in (rows, *starts)]  # type: ignore[attr-defined]
    solved = solve_features(cupy, arrays[0], (arrays[1], arrays[2]), cupy.asnumpy)  # type: ignore[attr-defined]
    device = (solved.value, solved.residual, solved.degrees, solved.norm, solved.valid.astype("int8"))
    value, residual, degrees, norm, valid = (from_dlpack(part) for part in device)
    return finish(solved, from_dlpack(solved.vector), (value, residual, degrees, norm, valid.bool()), indices)


def solve(features: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """Solve the candidate batches ``indices`` (B, N) int64 into the rows of ``features`` (M, d), N ≤ 1024.

    Returns:
        vector (B, N), value, residual, num_matvecs, status, gap (B,), as `fiedler.FiedlerResult`.
    """
    cupy = importlib.import_module("cupy")
    indices = indices.to(features.device)
    count, size = indices.shape
    step = max(1, _CHUNK_BYTES // (4 * size * (size + features.shape[1])))
    stream = torch.cuda.current_stream(features.device)
    with cupy.cuda.Device(features.device.index or 0), cupy.cuda.ExternalStream(stream.cuda_stream):
        parts = [_solve_part(cupy, features, indices[first : first + step]) for first in range(0, count, step)]
    return tuple(torch.cat(field) for field in zip(*parts, strict=True))

"""The backend "cupy": `array_solver` on CuPy arrays that share memory with torch's, for a torch with CUDA but no
kernels.

The residual is computed here; CuPy's own sparse eigensolver is not used (up to 14.2 it gives NaN on degenerate graphs
and does not report non-convergence). Work is queued on torch's current stream, so nothing has to be waited for in
between. One thread does it for all callers: CuPy has a cuBLAS handle for each, making one waits for all that the device
does, and look-ahead comes from a new thread each time.
"""

from __future__ import annotations

import importlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from spectral_sampler import limits
from spectral_sampler.graph import start_vectors
from spectral_sampler.kernels.array_solver import Graphs, solve_features
from spectral_sampler.result import FiedlerResult, entry_error, marked, reported

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from spectral_sampler.search import Found

__all__ = ["DEVICES", "finish", "solve", "unsupported", "unusable_reason"]

DEVICES = ("cuda",)
_OLDEST = (14, 1)  # the first with matrix_transpose
_LARGEST = 1024
_CHUNK_BYTES = 1 << 28
_THREAD = ThreadPoolExecutor(1, "spectral-cupy")  # starts at the first solve


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


def finish(graphs: Graphs, found: Found, indices: Tensor, to_torch: Callable[[Any], Tensor]) -> FiedlerResult:
    """The result of what was found; ``to_torch`` makes a tensor of an array without copying it."""
    vector, image = to_torch(found.vector), to_torch(graphs(found.vector))
    steps, gap = (torch.from_numpy(part).to(vector.device) for part in (found.steps, found.gap))
    norm = to_torch(graphs.norm)
    result = reported(
        vector, image, steps + 1, gap, degrees=to_torch(graphs.degrees), norm=norm, indices=indices,
        rounding=entry_error(norm),
    )  # fmt: skip
    return marked(result, to_torch(graphs.valid))


def _to_torch(array: Any) -> Tensor:
    boolean = array.dtype.kind == "b"  # which DLPack does not know everywhere
    tensor: Tensor = from_dlpack(array.view("uint8") if boolean else array)
    return tensor.bool() if boolean else tensor


def _solve_part(cupy: ModuleType, features: Tensor, indices: Tensor) -> FiedlerResult:
    rows = features.index_select(0, indices.flatten()).to(torch.float32).reshape(*indices.shape, -1)
    # CuPy's kernels take subnormal numbers for zeros (nvcc's -ftz), torch's do not.
    rows = torch.where(rows.abs().amax(dim=-1, keepdim=True) < 2.0**-60, rows * 2.0**64, rows)
    starts = (start_vectors(indices), start_vectors(indices, limits.PROBE_SALT))
    arrays = [cupy.from_dlpack(part) for part in (rows, *starts)]
    graphs, found = solve_features(arrays[0], (arrays[1], arrays[2]))
    return finish(graphs, found, indices, _to_torch)


def _solve_on(stream: torch.cuda.Stream, features: Tensor, indices: Tensor) -> FiedlerResult:
    cupy = importlib.import_module("cupy")
    count, size = indices.shape
    step = max(1, _CHUNK_BYTES // (4 * size * (size + features.shape[1])))
    # CuPy 14.2 deprecates the second way; versions before it do not know the first.
    known = hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__")
    same = cupy.cuda.Stream.from_external(stream) if known else cupy.cuda.ExternalStream(stream.cuda_stream)
    with torch.cuda.stream(stream), cupy.cuda.Device(features.device.index or 0), same:
        parts = [_solve_part(cupy, features, indices[first : first + step]) for first in range(0, count, step)]
        return FiedlerResult(*(torch.cat(field) for field in zip(*parts, strict=True)))


def solve(features: Tensor, indices: Tensor) -> FiedlerResult:
    """Solve the candidate batches ``indices`` (B, N) int64 into the rows of ``features`` (M, d), N ≤ 1024."""
    stream = torch.cuda.current_stream(features.device)
    return _THREAD.submit(_solve_on, stream, features, indices.to(features.device)).result()

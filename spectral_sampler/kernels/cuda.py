"""The backend "cuda": the compiled kernels of csrc/cuda behind torch.ops.spectral_sampler, for CUDA tensors.

One persistent launch solves: a block for each member, S in its shared memory where it fits (N ≤ 237 on sm_90 and
sm_100, 200 on sm_80), else in the device's, and the basis too where that leaves room. Triton's kernels make S before,
on tensor cores, where Triton can be used; else two launches of our own do, in fp32. Arithmetic of the solver is fp32.
"""

from __future__ import annotations

import ctypes
import os

import torch
from torch import Tensor

from spectral_sampler.errors import argument_error
from spectral_sampler.kernels import native, triton
from spectral_sampler.kernels.nvidia import device_missing, device_too_old

__all__ = ["DEVICES", "HALF_VARIABLE", "solve", "unsupported", "unusable_reason"]

DEVICES = ("cuda",)
HALF_VARIABLE = "SPECTRAL_SAMPLER_HALF_AFFINITIES"
LARGEST = 1024
_OPERATOR = "spectral_sampler::fiedler"
_STREAM = "aoti_torch_get_current_cuda_stream"


def compiled() -> bool:
    """Does the extension that is loaded hold CUDA kernels? Needs no device."""
    return native.unusable_reason() is None and bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(_OPERATOR, "CUDA")  # noqa: SLF001
    )


def _stream_missing() -> str | None:
    """Why the kernels could not ask torch for its stream, as csrc/cuda/ops_cuda.cpp does, or None."""
    try:
        library = ctypes.CDLL("libtorch_cuda.so", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:  # not loaded under this name
        library = ctypes.CDLL(None)
    return None if hasattr(library, _STREAM) else f"this torch does not export {_STREAM}"


def unusable_reason() -> str | None:
    """Why these kernels cannot run here, or None."""
    reason = native.unusable_reason()
    if reason is not None:
        return reason
    if not compiled():
        return "the extension was compiled without CUDA kernels; reinstall with nvcc on PATH or in CUDA_HOME"
    return device_missing() or _stream_missing()


def unsupported(features: Tensor, indices: Tensor) -> str | None:
    """Why this problem cannot be taken, or None."""
    size = indices.shape[1]
    return f"a graph of {size} nodes is larger than {LARGEST}" if size > LARGEST else device_too_old(features)


def _form(half_affinities: bool | None) -> int:
    """How the operator keeps S: 0 chooses, 3 is fp16."""
    if half_affinities is None:
        text = os.environ.get(HALF_VARIABLE) or "0"
        if text not in ("0", "1"):
            raise argument_error(HALF_VARIABLE, "0 or 1", repr(text), "1 keeps affinities as fp16.")
        half_affinities = text == "1"
    return 3 if half_affinities else 0


def solve(features: Tensor, indices: Tensor, *, half_affinities: bool | None = None) -> tuple[Tensor, ...]:
    """Solve the candidate batches ``indices`` (B, N) int64 into the rows of ``features`` (M, d), N ≤ 1024.

    Args:
        features: fp16 and fp32 are read in place; another type is converted to fp32 first, which copies all of it.
        half_affinities: keep S as fp16, which fits N ≤ 334 (282 on sm_80) in shared memory. Each cosine is then good to
            2⁻¹¹ only, and so is the graph: not the definition's result, though close in rank. None reads
            SPECTRAL_SAMPLER_HALF_AFFINITIES, 0 or 1.

    Returns:
        vector (B, N), value, residual, num_matvecs, status, gap, error (B,), as `fiedler.FiedlerResult`.
    """
    form, places = _form(half_affinities), indices.to(features.device)
    operators = torch.ops.spectral_sampler
    if places.numel() and triton.unusable_reason() is None:
        parts = [operators.fiedler_of_graph(*made, form) for made in triton.graphs(features, places)]
        return tuple(torch.cat(fields) for fields in zip(*parts, strict=True))
    rows = features if features.dtype in (torch.float32, torch.float16) else features.to(torch.float32)
    result: tuple[Tensor, ...] = operators.fiedler(rows, places, form, 8)
    return result

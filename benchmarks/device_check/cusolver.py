"""cuSOLVER's batched eigensolver, cusolverDnXsyevBatched, which neither torch (above N = 32) nor CuPy calls."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_VECTORS, _LOWER, _FLOAT32 = 1, 0, 0  # CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, CUDA_R_32F


def _check(call: str, status: int) -> None:
    if status != 0:
        raise RuntimeError(f"cuSOLVER's {call} returned status {status}")


@functools.cache
def _opened() -> tuple[Any, ctypes.c_void_p, ctypes.c_void_p]:
    """The library, a handle and default parameters."""
    wheels = [str(path) for base in sys.path for path in Path(base).glob("nvidia/*/lib/libcusolver.so.*")]
    for name in (*wheels, "libcusolver.so.12", "libcusolver.so.11", "libcusolver.so"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if hasattr(library, "cusolverDnXsyevBatched"):
            handle, parameters = ctypes.c_void_p(), ctypes.c_void_p()
            _check("cusolverDnCreate", library.cusolverDnCreate(ctypes.byref(handle)))
            _check("cusolverDnCreateParams", library.cusolverDnCreateParams(ctypes.byref(parameters)))
            return library, handle, parameters
    raise RuntimeError("no libcusolver.so has cusolverDnXsyevBatched (CUDA 12.6 or later)")


@functools.cache
def _space(members: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Eigenvalues, info and work space on the device and on the host for one shape."""
    library, handle, parameters = _opened()
    values = torch.empty(members, size, device=device)
    on_device, on_host = ctypes.c_size_t(), ctypes.c_size_t()
    status = library.cusolverDnXsyevBatched_bufferSize(
        handle, parameters, _VECTORS, _LOWER, ctypes.c_int64(size), _FLOAT32, ctypes.c_void_p(values.data_ptr()),
        ctypes.c_int64(size), _FLOAT32, ctypes.c_void_p(values.data_ptr()), _FLOAT32, ctypes.byref(on_device),
        ctypes.byref(on_host), ctypes.c_int64(members))  # fmt: skip
    _check("cusolverDnXsyevBatched_bufferSize", status)
    space = torch.empty(max(1, on_device.value), dtype=torch.uint8, device=device)
    info = torch.empty(members, dtype=torch.int32, device=device)
    return values, info, space, ctypes.create_string_buffer(max(1, on_host.value))


def eigenvectors(matrices: Tensor) -> Tensor:
    """All eigenvectors of symmetric matrices (B, N, N), float32, as columns in ascending order of their values.

    Overwrites the matrices. Works on torch's current stream.
    """
    members, size, _ = matrices.shape
    library, handle, parameters = _opened()
    values, info, space, host = _space(members, size, matrices.device)
    stream = torch.cuda.current_stream(matrices.device).cuda_stream
    _check("cusolverDnSetStream", library.cusolverDnSetStream(handle, ctypes.c_void_p(stream)))
    status = library.cusolverDnXsyevBatched(
        handle, parameters, _VECTORS, _LOWER, ctypes.c_int64(size), _FLOAT32, ctypes.c_void_p(matrices.data_ptr()),
        ctypes.c_int64(size), _FLOAT32, ctypes.c_void_p(values.data_ptr()), _FLOAT32,
        ctypes.c_void_p(space.data_ptr()), ctypes.c_size_t(space.numel()), host, ctypes.c_size_t(len(host)),
        ctypes.c_void_p(info.data_ptr()), ctypes.c_int64(members))  # fmt: skip
    _check("cusolverDnXsyevBatched", status)
    return matrices.mT  # it stores by columns

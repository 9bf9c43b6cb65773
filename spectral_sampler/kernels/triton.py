"""The backend "triton": which kernel takes which size, and the outputs of a solve.

    N ≤ 128   one fused launch                    (triton_small)
    N ≤ 1024  three launches, S in device memory  (triton_large)
    beyond    the one-pass matrix-free step       (triton_matrixfree, one_pass)

Arithmetic is fp32 with fp32 sums. ``precision`` chooses how the tensor cores see fp32 features: "tf32x3" (default;
three tf32 products, close to fp32), "ieee" (no tensor cores), "tf32", "bf16". fp16 features are multiplied as they
are, exactly, whatever it says. Under ``TRITON_INTERPRET=1`` the same kernels run on the CPU, slowly, and take CPU
tensors; precision is then ignored.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spectral_sampler import limits
from spectral_sampler.errors import argument_error
from spectral_sampler.kernels.nvidia import device_missing, device_of, device_too_old

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DEVICES",
    "PRECISIONS",
    "PRECISION_VARIABLE",
    "graphs",
    "interpreted",
    "solve",
    "unsupported",
    "unusable_reason",
]

PRECISIONS = ("tf32x3", "ieee", "tf32", "bf16")
PRECISION_VARIABLE = "SPECTRAL_SAMPLER_PRECISION"
LONGEST = 1_000_000  # nodes of one graph: a launch has at most 65,535 programs along its second axis, 16 rows each
_SMALL, _LARGE = 128, 1024


def interpreted() -> bool:
    """Are kernels run by Triton's interpreter (read by Triton when they are first imported)?"""
    return os.environ.get("TRITON_INTERPRET") == "1"


DEVICES = ("cpu",) if interpreted() else ("cuda",)


def unusable_reason() -> str | None:
    """Why these kernels cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if interpreted():
        return None
    return device_missing()


def unsupported(features: Tensor, indices: Tensor) -> str | None:
    """Why this problem cannot be taken, or None."""
    if indices.shape[1] > LONGEST:
        return f"a graph of {indices.shape[1]} nodes is larger than {LONGEST}"
    if indices.shape[1] > _LARGE and features.shape[1] > 8192:
        return f"{features.shape[1]} columns do not fit in registers"
    return device_too_old(features)


def _precision(precision: str | None) -> str:
    name = precision or os.environ.get(PRECISION_VARIABLE) or PRECISIONS[0]
    if name not in PRECISIONS:
        argument = "precision" if precision else PRECISION_VARIABLE
        raise argument_error(argument, f"one of {', '.join(PRECISIONS)}", repr(name), 'The default is "tf32x3".')
    return name


def _outputs(indices: Tensor) -> tuple[Tensor, ...]:
    count, size = indices.shape
    vector = torch.empty((count, size), dtype=torch.float32, device=indices.device)
    value, residual, gap, error = (vector.new_empty(count) for _ in range(4))
    matvecs, status = (torch.empty(count, dtype=torch.int64, device=indices.device) for _ in range(2))
    return vector, value, residual, matvecs, status, gap, error


def solve(features: Tensor, indices: Tensor, *, precision: str | None = None) -> tuple[Tensor, ...]:
    """Solve the candidate batches ``indices`` (B, N) int64 into the rows of ``features`` (M, d).

    Args:
        features: fp16 and fp32 are read in place; another type is converted to fp32 first, which copies all of it.
        precision: see above; None reads SPECTRAL_SAMPLER_PRECISION.

    Returns:
        vector (B, N), value, residual, num_matvecs, status, gap, error (B,), as `fiedler.FiedlerResult`.
    """
    rows, name = _prepared(features, precision)
    with device_of(rows):
        return _launched(rows, indices.to(rows.device).contiguous(), name)


def graphs(
    features: Tensor, indices: Tensor, *, precision: str | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(S (b, P, P), 1 / |x| (b, P), indices (b, N)) of parts of the candidate batches (B, N), S made on tensor cores
    and padded as `triton_large.launch_gram` says. Arguments as of `solve`, N ≤ 1024.
    """
    from spectral_sampler.kernels.triton_large import CHUNK_BYTES, launch_gram, padded_size

    rows, name = _prepared(features, precision)
    places = indices.to(rows.device).contiguous()
    padded = padded_size(places.shape[1])
    step = max(1, CHUNK_BYTES // (4 * padded * padded))
    with device_of(rows):
        for first in range(0, places.shape[0], step):
            part = places[first : first + step]
            yield *launch_gram(rows, part, padded, name), part


def _prepared(features: Tensor, precision: str | None) -> tuple[Tensor, str]:
    """Rows as the kernels read them, and the name of their precision."""
    name = _precision(precision)
    if features.dtype not in (torch.float16, torch.float32):
        features = features.to(torch.float32)
    if features.stride(1) != 1:
        features = features.contiguous()
    if features.dtype == torch.float16:
        name = "ieee" if name != "ieee" and interpreted() else name
    return features, name


def _launched(features: Tensor, indices: Tensor, precision: str) -> tuple[Tensor, ...]:
    size = indices.shape[1]
    if size > _LARGE:
        from spectral_sampler.kernels.one_pass import solve_rows
        from spectral_sampler.kernels.triton_matrixfree import OnePassGraph

        return solve_rows(features, indices, OnePassGraph)
    outputs = _outputs(indices)
    if size <= _SMALL:
        from spectral_sampler.kernels.triton_small import launch_small as launch
    else:
        from spectral_sampler.kernels.triton_large import launch_large as launch
    launch(features, indices, outputs, precision, limits.MOST_STEPS)
    return outputs

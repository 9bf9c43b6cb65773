"""What every kernel for NVIDIA's devices asks of the machine."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

__all__ = ["device_missing", "device_of", "device_too_old"]

_CAPABILITY = (8, 0)


def device_missing() -> str | None:
    """Why no kernel of ours can run on this machine, or None. Does not initialise CUDA: a sampler asks when it is made,
    and the workers of a DataLoader may be forked after that."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def device_too_old(features: Tensor) -> str | None:
    """Why no kernel of ours can run on the device that holds ``features``, or None."""
    if features.is_cuda and torch.cuda.get_device_capability(features.device) < _CAPABILITY:
        return "the device is older than compute capability 8.0"
    return None


def device_of(features: Tensor) -> AbstractContextManager[object]:
    """Makes the device of ``features`` the current one: kernels are launched on that, whatever tensors they get."""
    return torch.cuda.device(features.device) if features.is_cuda else contextlib.nullcontext()

"""What every kernel for NVIDIA's devices asks of the machine."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Gpu", "device_missing", "device_of", "device_too_old", "gpu_of"]

_CAPABILITY = (8, 0)


class Gpu(NamedTuple):
    """What decides about solving on a device."""

    device: torch.device
    """With its index."""
    name: str
    multiprocessors: int


def gpu_of(device: torch.device) -> Gpu:
    """The facts of a CUDA device, by default the calling thread's current one. Initialises CUDA."""
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = torch.cuda.get_device_properties(index)
    return Gpu(torch.device("cuda", index), properties.name, properties.multi_processor_count)


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

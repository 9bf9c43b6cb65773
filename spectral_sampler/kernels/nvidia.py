"""What every kernel for NVIDIA's devices asks of the machine."""

from __future__ import annotations

import torch

__all__ = ["device_missing"]

_CAPABILITY = (8, 0)


def device_missing() -> str | None:
    """Why no kernel of ours can run on this machine's device, or None."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.cuda.get_device_capability() < _CAPABILITY:
        return "the device is older than compute capability 8.0"
    return None

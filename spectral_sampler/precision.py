"""Products in full precision, whatever the training loop allows its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["unloosened"]


def unloosened(operand: Tensor) -> Tensor:
    """``operand`` for matrix products that no setting may round to TF32 or bfloat16: itself where none does, else
    float64, which `torch.set_float32_matmul_precision` and autocast leave alone.

    Switching the setting off for a moment would be wrong: it belongs to the process, and training multiplies meanwhile.
    """
    device = torch.backends.cuda if operand.is_cuda else torch.backends.mkldnn
    loosened = device.matmul.fp32_precision in ("tf32", "bf16")
    return operand.double() if loosened and operand.dtype == torch.float32 else operand

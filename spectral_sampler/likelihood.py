"""What logits say of labels: cross-entropies and the gradients of these, on the device that the logits are on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

__all__ = ["as_tensor", "block_length", "class_numbers", "cross_entropy", "gradient_norms", "output_gradients"]

_BLOCK_OF_CPU, _BLOCK = 1 << 17, 1 << 26  # numbers worked on at a time: what a cache holds, and what fills a GPU


def as_tensor(rows: Any) -> Tensor:
    """``rows``, a tensor or an array, as a tensor without gradient, in the precision given but at least float32."""
    found = torch.as_tensor(rows).detach()
    return found if found.dtype == torch.float64 else found.float()


def block_length(device: torch.device, width: int) -> int:
    """How many rows of ``width`` numbers to work on at a time."""
    return max(1, (_BLOCK_OF_CPU if device.type == "cpu" else _BLOCK) // max(1, width))


def class_numbers(labels: Any, logits: Tensor) -> Tensor:
    """``labels`` (N,) as int64 beside ``logits`` (N, C), refused where they are not from 0 to C − 1."""
    found = torch.as_tensor(labels).to(logits.device, torch.int64)
    least, most = (int(end) for end in torch.aminmax(found))
    if least < 0 or most >= logits.shape[1]:
        rule = f"from 0 to {logits.shape[1] - 1}, the classes of the logits"
        remedy = "Renumber them, and offer no samples without a label."
        raise argument_error("labels", rule, least if least < 0 else most, remedy)
    return found


def _by_blocks(logits: Any, labels: Any, reduced: Callable[[Tensor, Tensor], Tensor]) -> Array:
    """``reduced`` of ``max f_c − f_y`` (n,) float64 and ``e^(f_c − max f_c)`` (n, C), with 0 for the class y, by blocks
    of rows. Sums without the label's own class lose no digits where that has nearly all of the probability."""
    whole = torch.as_tensor(logits).detach()
    numbers, found = class_numbers(labels, whole)[:, None], []
    step = block_length(whole.device, whole.shape[1])
    for rows, own in zip(whole.split(step), numbers.split(step), strict=True):  # type: ignore[no-untyped-call]
        rows = as_tensor(rows)
        largest = rows.amax(1, keepdim=True)
        others = (rows - largest).exp_().scatter_(1, own, 0.0)
        found.append(reduced((largest.double() - rows.gather(1, own)).squeeze(1), others))
    return np.asarray(torch.cat(found).cpu().numpy())


def cross_entropy(logits: Any, labels: Any) -> Array:
    """``ln Σ_c exp(f_ic) − f_iy`` (N,) of ``logits`` (N, C) and ``labels`` (N,) in 0 … C − 1."""

    def reduced(margin: Tensor, others: Tensor) -> Tensor:
        return torch.nn.functional.softplus(others.sum(1).double().log_() + margin, threshold=700.0)

    return _by_blocks(logits, labels, reduced)


def gradient_norms(logits: Any, labels: Any) -> Array:
    """``g_i = ‖softmax(f_i) − onehot(y_i)‖₂`` (N,), the norm of `output_gradients`."""

    def reduced(margin: Tensor, others: Tensor) -> Tensor:
        total, norm = others.sum(1).double(), torch.linalg.vector_norm(others, dim=1).double()
        return torch.hypot(total, norm) / (total + margin.neg_().exp_())

    return _by_blocks(logits, labels, reduced)


def output_gradients(logits: Any, labels: Any) -> Tensor:
    """``softmax(f) − onehot(y)`` (N, C) float64: the gradient of the cross-entropy with respect to the logits."""
    rows = as_tensor(logits).double()
    own = class_numbers(labels, rows)[:, None]
    return rows.softmax(1).scatter_add_(1, own, rows.new_full(own.shape, -1.0))

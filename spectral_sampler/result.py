"""What a solve returns: the vector, and the evidence of how far it can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectral_sampler import limits
from spectral_sampler.graph import canonical_sign
from spectral_sampler.limits import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FiedlerResult", "completed", "divisor", "entry_error", "marked", "refined_error", "reported"]


class FiedlerResult(NamedTuple):
    """One solve, or B of them: every field has the batch shape of the features, `vector` one more axis of N.

    vector: unit, orthogonal to the constant vector, sign as in `canonical_sign` (of the normalised Laplacian: y, see
    `spectral_sampler.fiedler.fiedler_of_affinity`). value: Rayleigh quotient vᵀLv.
    residual: ‖Lv − θv‖₂ / ‖L‖_∞, at least e (`entry_error`). num_matvecs: products with L, int64. status: int64
    bits of `Status`. gap: (λ3 − λ2) / ‖L‖_∞, estimated from below (where λ4 is close, in one graph of a thousand up
    to a tenth from above, in one of twenty thousand up to half; of exactly double λ2, one in a hundred below
    `limits.REFINED` rows, and beyond them one in fifteen on a GPU, is taken for simple); 0 where degenerate, 2 for
    N = 2, which has no λ3 (0 where its one weight may be rounding). error: bound on the error of the difference of two
    entries, but for the rounding of the entries themselves: 2 · residual / gap by Davis and Kahan (1970), much less
    where the vector was refined (`search`), and √8, true of any two unit vectors, where degenerate.
    """

    vector: Tensor
    value: Tensor
    residual: Tensor
    num_matvecs: Tensor
    status: Tensor
    gap: Tensor
    error: Tensor


def completed(outputs: Sequence[Tensor]) -> FiedlerResult:
    """A backend's outputs as a result. One that knows no better bound leaves ``error`` out."""
    if len(outputs) == len(FiedlerResult._fields):
        return FiedlerResult(*outputs)
    vector, value, residual, num_matvecs, status, gap = outputs
    error = torch.where(status == int(Status.INVALID), torch.zeros_like(gap), _bound(residual, gap))
    return FiedlerResult(vector, value, residual, num_matvecs, status, gap, error)


def _bound(residual: Tensor, gap: Tensor) -> Tensor:
    return (2.0 * residual / gap).clamp(max=limits.WORST)


def divisor(norm: Tensor) -> Tensor:
    """‖L‖_∞ (B,) to divide by: 1 for a graph without edges."""
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def entry_error(norm: Tensor) -> Tensor:
    """e: the rounding of one cosine in units of ‖L‖_∞ (B,). A norm below 1 does not refine a cosine."""
    return torch.finfo(norm.dtype).eps / divisor(norm).clamp(max=1.0)


def reported(
    vector: Tensor,
    image: Tensor,
    steps: Tensor,
    gap: Tensor,
    *,
    degrees: Tensor,
    norm: Tensor,
    indices: Tensor,
    rounding: Tensor,
) -> FiedlerResult:
    """The result for unit vectors (B, N) with images L v / ‖L‖_∞ (B, N), after ``steps`` products (B,).

    Args:
        gap: (B,) (λ3 − λ2) / ‖L‖_∞ as estimated.
        degrees, norm: (B, N) and ‖L‖_∞ (B,). indices: (B, N), for the sign. rounding: e (B,).
    """
    value = (vector * image).sum(dim=-1)
    residual = torch.linalg.vector_norm(image - value[:, None] * vector, dim=-1)
    residual = torch.maximum(residual, rounding)
    gap = gap.to(degrees)
    gap = torch.where(gap <= limits.GAP * rounding, torch.zeros_like(gap), gap)
    bits = {
        Status.CONVERGED: residual <= limits.RESIDUAL * rounding,
        Status.DEGENERATE: gap == 0,
        Status.INDEFINITE: value < -limits.RESIDUAL * rounding,
    }
    status = torch.stack([holds * int(bit) for bit, holds in bits.items()]).sum(dim=0)
    vector = vector * canonical_sign(vector, degrees, indices, norm)[:, None]
    return FiedlerResult(vector, value * divisor(norm), residual, steps.to(status), status, gap, _bound(residual, gap))


def refined_error(result: FiedlerResult, remainder: Tensor) -> Tensor:
    """`FiedlerResult.error` (B,) of vectors whose residual in float64 is ``remainder`` (B,): differences of two entries
    err by √2 · ‖v − exact‖₂ ≤ 2 · remainder / gap.
    """
    return torch.minimum(result.error, _bound(remainder.to(result.gap), result.gap))


def marked(result: FiedlerResult, valid: Tensor) -> FiedlerResult:
    """The result with zeros and `Status.INVALID` for every member that is not ``valid`` (B,) bool."""
    blank = FiedlerResult(*(torch.zeros_like(field) for field in result))
    blank.status.fill_(int(Status.INVALID))
    keep = (valid[:, None], *[valid] * (len(result) - 1))
    return FiedlerResult(*(torch.where(*each) for each in zip(keep, result, blank, strict=True)))

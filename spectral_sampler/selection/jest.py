"""JEST: joint example selection by learnability (Evans et al. 2024, arXiv 2406.17711)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.selection.importance import draw_by_logits
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.rho_loss import learnability
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

__all__ = ["JEST", "joint_draw", "pair_losses", "unit_rows"]


def joint_draw(
    diagonal: Tensor, pull: Callable[[Tensor], Tensor], count: int, chunks: int, uniforms: Callable[[int], Array]
) -> NDArray[np.int64]:
    """Draws ``count`` of N in ``chunks`` rounds; each round's logits add the chosen ones' pair scores.

    ``logits_i = s_ii + Σ_k q_k s_ki + Σ_k q_k s_ik`` with q the 0/1 mask of the chosen (JEST, Algorithm 1). The last
    round takes the remainder. A running sum makes the whole O(N·count), of pairs too.

    Args:
        diagonal: (N,) ``s_ii``; the rounds are drawn where it is.
        pull: ``pull(k)``, of positions k, is ``Σ_k (s_ki + s_ik)`` (N,).
        uniforms: ``uniforms(round)`` gives (N,) fresh draws in (0, 1).
    """
    chunks, logits, chosen = min(chunks, count), diagonal.clone(), []
    # Gumbel-top-k, as `draw_by_logits`
    gumbel = torch.from_numpy(-np.log(-np.log([uniforms(number) for number in range(chunks)]))).to(diagonal)
    for number in range(chunks):
        size = count // chunks if number < chunks - 1 else count - (chunks - 1) * (count // chunks)
        chosen.append((logits + gumbel[number]).argsort(descending=True, stable=True)[:size])
        if number < chunks - 1:
            logits += pull(chosen[-1])
            logits[chosen[-1]] = -torch.inf
    return np.asarray(torch.cat(chosen).cpu().numpy())


def unit_rows(rows: Any, device: torch.device) -> Tensor:
    """``rows / ‖rows‖`` (N, h), in float64, which no setting of the training loop loosens; a zero row stays zero."""
    found: Tensor = torch.as_tensor(rows).detach().to(device, torch.float64)
    norms = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    return found.div(norms.masked_fill_(norms == 0.0, 1.0))


def pair_losses(units: Tensor, labels: Tensor, some: Tensor, scale: float, margin: float) -> Tensor:
    """``softplus(m_ki · scale · (cos(h_k, h_i) − margin))``, m = +1 for different labels and −1 for equal ones, (n, N)
    for the n positions ``some``. The supervised sigmoid contrastive loss; ``units`` (N, h), ``labels`` (N,)."""
    signed = (units[some] @ units.T).sub_(margin).mul_(scale)
    torch.where(labels[some, None] == labels, -signed, signed, out=signed)
    return torch.nn.functional.softplus(signed, threshold=40.0)


class JEST(Selection):
    """``n`` candidates drawn by learnability: learner loss minus reference loss, of samples or of pairs.

    JEST scores pairs of images and texts. For one modality GSTDS says only "guided by a reference image classifier";
    we offer two forms:

    - ``joint=False``: n without replacement ∝ ``exp((l_i − r_i) / T)``.
    - ``joint=True``: `joint_draw` on ``s_ii = (l_i − r_i) / T`` and, off the diagonal, ``s_ij = gain · (p_ij of the
      learner's embeddings − p_ij of the reference features)`` with p of `pair_losses`.

    Args:
        joint: see above.
        chunks: rounds of the joint draw; the paper's 16.
        temperature: T.
        scale, margin: of `pair_losses`.
        gain: of the pairs against the losses; None is 1/N, which makes a candidate's pairs a mean over the candidates.
    """

    name = "jest"

    def __init__(
        self,
        *,
        joint: bool = False,
        chunks: int = 16,
        temperature: float = 1.0,
        scale: float = 10.0,
        margin: float = 0.5,
        gain: float | None = None,
    ) -> None:
        self.joint, self.chunks = bool(joint), whole_number("chunks", chunks, 1, "The paper uses 16.")
        self.temperature = within("temperature", temperature, "(0, inf)", "It divides the learnability.")
        self.scale = within("scale", scale, "(0, inf)", "It multiplies the cosines; the default is 10.")
        self.margin = within("margin", margin, "(-inf, inf)", "It is a cosine; the default is 0.5.")
        self.gain = None if gain is None else within("gain", gain, "[0, inf)", "None is 1/N.")
        self.needs = frozenset({"losses", "learner_losses"})
        if self.joint:
            self.needs |= {"labels", "embeddings", "features"}

    def _pairs(self, batch: CandidateBatch) -> Callable[[Tensor], Tensor]:
        """A function from n positions k to ``s_ki`` (n, N), which is also ``s_ik``, for i ≠ k."""
        device = torch.as_tensor(required(batch, "embeddings")).device
        labels = torch.as_tensor(required(batch, "labels")).to(device)
        learner, reference = (unit_rows(required(batch, name), device) for name in ("embeddings", "features"))
        gain = 1.0 / len(labels) if self.gain is None else self.gain

        def scores(some: Tensor) -> Tensor:
            found = pair_losses(learner, labels, some, self.scale, self.margin)
            return found.sub_(pair_losses(reference, labels, some, self.scale, self.margin)).mul_(gain)

        return scores

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """In the order drawn."""
        logits = learnability(batch) / self.temperature
        if self.joint:
            pairs = self._pairs(batch)
            diagonal = torch.from_numpy(logits).to(torch.as_tensor(batch.embeddings).device)
            positions = joint_draw(diagonal, lambda some: 2.0 * pairs(some).sum(0), budget, self.chunks, batch.uniforms)
        else:
            positions = draw_by_logits(logits, budget, batch.uniforms())
        return Choice(positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

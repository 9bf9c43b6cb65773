"""JEST: joint example selection by learnability (Evans et al. 2024, arXiv 2406.17711)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.selection.importance import draw_by_logits
from spectral_sampler.selection.needs import required, whole, within
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.rho_loss import learnability

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

__all__ = ["JEST", "joint_draw", "pair_losses"]


def joint_draw(scores: Any, count: int, chunks: int, uniforms: Callable[[int], Array]) -> NDArray[np.int64]:
    """Draws ``count`` of N in ``chunks`` rounds; each round's logits add the chosen ones' pair scores.

    ``logits_i = s_ii + Σ_k q_k s_ki + Σ_k q_k s_ik`` with q the 0/1 mask of the chosen (JEST, Algorithm 1). The last
    round takes the remainder. A running sum makes the whole O(N·count).

    Args:
        scores: (N, N), a tensor or an array; the rounds are drawn where it is.
        uniforms: ``uniforms(round)`` gives (N,) fresh draws in (0, 1).
    """
    scores, chunks = torch.as_tensor(scores), min(chunks, count)
    # Gumbel-top-k, as `draw_by_logits`
    gumbel = torch.from_numpy(-np.log(-np.log([uniforms(number) for number in range(chunks)]))).to(scores)
    logits, taken, chosen = scores.diagonal().clone(), scores.new_zeros(len(scores), dtype=torch.bool), []
    for number in range(chunks):
        size = count // chunks if number < chunks - 1 else count - (chunks - 1) * (count // chunks)
        keys = (logits + gumbel[number]).masked_fill_(taken, -torch.inf)
        drawn = keys.argsort(descending=True, stable=True)[:size]
        taken[drawn] = True
        logits += scores[drawn].sum(0) + scores[:, drawn].sum(1)
        chosen.append(drawn)
    return np.asarray(torch.cat(chosen).cpu().numpy())


def pair_losses(embeddings: Any, labels: Tensor, scale: float, margin: float) -> Tensor:
    """``softplus(m_ij · scale · (cos(h_i, h_j) − margin))``, m = +1 for different labels and −1 for equal ones, (N, N).

    The supervised sigmoid contrastive loss; ``embeddings`` (N, h), ``labels`` (N,), which say on what device. In
    float64, which no setting of the training loop loosens. A zero row has cosine 0.
    """
    rows, tiny = torch.as_tensor(embeddings).detach().to(labels.device, torch.float64), torch.finfo(torch.float64).tiny
    rows = rows / rows.abs().amax(1, keepdim=True).clamp_(min=tiny)
    rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=tiny)
    signed = (rows @ rows.T).sub_(margin).mul_(scale)
    torch.where(labels[:, None] == labels, -signed, signed, out=signed)
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
        self.joint, self.chunks = bool(joint), whole("chunks", chunks, 1, "The paper uses 16.")
        self.temperature = within("temperature", temperature, "(0, inf)", "It divides the learnability.")
        self.scale = within("scale", scale, "(0, inf)", "It multiplies the cosines; the default is 10.")
        self.margin = within("margin", margin, "(-inf, inf)", "It is a cosine; the default is 0.5.")
        self.gain = None if gain is None else within("gain", gain, "[0, inf)", "None is 1/N.")
        self.needs = frozenset({"losses", "learner_losses"})
        if self.joint:
            self.needs |= {"labels", "embeddings", "features"}

    def pair_scores(self, batch: CandidateBatch) -> Tensor:
        """The matrix s, (N, N) float64, of the joint form, on the device of the embeddings."""
        embeddings = torch.as_tensor(required(batch, "embeddings"))
        labels = torch.as_tensor(required(batch, "labels")).to(embeddings.device)
        scores = pair_losses(embeddings, labels, self.scale, self.margin)
        scores -= pair_losses(required(batch, "features"), labels, self.scale, self.margin)
        scores *= 1.0 / len(labels) if self.gain is None else self.gain
        scores.diagonal().copy_(torch.from_numpy(learnability(batch) / self.temperature))
        return scores

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """In the order drawn."""
        if self.joint:
            positions = joint_draw(self.pair_scores(batch), budget, self.chunks, batch.uniforms)
        else:
            positions = draw_by_logits(learnability(batch) / self.temperature, budget, batch.uniforms())
        return Choice(positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

    def __repr__(self) -> str:
        return (
            f"JEST(joint={self.joint}, chunks={self.chunks}, temperature={self.temperature}, scale={self.scale}, "
            f"margin={self.margin}, gain={self.gain})"
        )

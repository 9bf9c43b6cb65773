"""BayesianSelection: what a sample would change in the predictive distribution (Deng et al. 2023, arXiv 2308.10544)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.likelihood import (
    as_tensor,
    block_length,
    class_numbers,
    cross_entropy,
    output_gradients,
)
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import top
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

__all__ = ["BayesianSelection", "LastLayerLaplace"]


class LastLayerLaplace:
    """Gaussian posterior of the logits: a Kronecker-factored Laplace approximation of the last linear layer.

    With h (d,) the layer's input and g = softmax(f) − onehot(y) (C,), running means ``A ← m·A + (1 − m)·mean(h hᵀ)``,
    ``G ← m·G + (1 − m)·mean(g gᵀ)`` over the samples trained on (the first update copies), and

        V = √n_e·A + √τ0·I,   U = √n_e·G + √τ0·I,   f | x ~ Normal(f̂, (hᵀ V⁻¹ h) · U⁻¹).

    Before the first update A and G are zero: the prior.

    Args:
        effective_size: n_e.
        prior_precision: τ0.
        momentum: m.
    """

    def __init__(self, effective_size: float = 200.0, prior_precision: float = 10.0, momentum: float = 0.99) -> None:
        self.effective_size = within("effective_size", effective_size, "(0, inf)", "The paper's for CIFAR-10 is 200.")
        self.prior_precision = within("prior_precision", prior_precision, "(0, inf)", "The paper's is 10.")
        self.momentum = within("momentum", momentum, "[0, 1)", "The paper's is 0.99.")
        self.load({})

    def load(self, factors: Mapping[str, Tensor]) -> None:
        """A as "input" (d, d) and G as "output" (C, C), float64; no factors for the prior."""
        self.factors = dict(factors)
        self._roots: dict[str, Tensor] = {}

    def update(self, embeddings: Any, gradients: Any) -> None:
        """Moves A (d, d) and G (C, C) on by the samples trained on: ``embeddings`` (n, d), ``gradients`` (n, C)."""
        moved = {}
        for name, given in (("input", embeddings), ("output", gradients)):
            rows = torch.as_tensor(given).double()
            past, m = self.factors.get(name), 0.0 if name not in self.factors else self.momentum
            past = rows.new_zeros(2 * rows.shape[1:]) if past is None else past.to(rows.device)
            moved[name] = torch.addmm(past, rows.T / len(rows), rows, beta=m, alpha=1.0 - m)
        self.load(moved)

    def _root(self, name: str, like: Tensor) -> Tensor:
        """Lower Cholesky factor of ``√n_e·factor + √τ0·I``, (k, k) for ``like`` (…, k); computed once an update."""
        if name not in self._roots or self._roots[name].device != like.device:
            factor, size = self.factors.get(name), like.shape[-1]
            scaled = like.new_zeros(size, size) if factor is None else factor.to(like) * math.sqrt(self.effective_size)
            scaled.diagonal().add_(math.sqrt(self.prior_precision))
            self._roots[name] = torch.linalg.cholesky(scaled)
        return self._roots[name]

    def deviations(self, embeddings: Any) -> Tensor:
        """``σ_i = √(h_iᵀ V⁻¹ h_i)`` (N,) float64."""
        rows = torch.as_tensor(embeddings).detach().double()
        whitened: Tensor = torch.linalg.solve_triangular(self._root("input", rows), rows.T, upper=False)
        return torch.linalg.vector_norm(whitened, dim=0)  # type: ignore[no-any-return]

    def draws(self, standard_normal: Any) -> Tensor:
        """``E L⁻¹`` (S, C) for E (S, C) standard normal and U = L Lᵀ: rows of covariance ``L⁻ᵀ L⁻¹ = U⁻¹``.

        (``E L⁻ᵀ`` would have covariance (Lᵀ L)⁻¹, which is not U⁻¹.)
        """
        rows = torch.as_tensor(standard_normal).double()
        found: Tensor = torch.linalg.solve_triangular(self._root("output", rows), rows, upper=False, left=False)
        return found.contiguous()


class BayesianSelection(Selection):
    """The ``n`` highest of

        α·E_q[log p(y|x, W)] + (1 − α)·log p̃(y|x) − log E_q[p(y|x, W)],

    the expectations over S draws from `LastLayerLaplace`, p̃ the zero-shot predictor. The covariance differs between
    candidates only by the factor σ_i², so one (S, C) draw serves all N: ``f̂_i + σ_i·W_s``.

    Args:
        zero_shot: (M, C) logits of any predictor that was not trained on the labels (CLIP in the paper).
        alpha, temperature: α and the factor τ on the zero-shot logits; .2 and 4 for CIFAR-10, .3 and 12 for CIFAR-100.
        samples: S.
        effective_size, prior_precision, momentum: of `LastLayerLaplace`; n_e is 200 for CIFAR-10, 1000 for CIFAR-100.
    """

    name = "bayesian"
    needs = frozenset({"logits", "labels", "embeddings"})

    def __init__(
        self,
        zero_shot: Any,
        *,
        alpha: float = 0.2,
        temperature: float = 4.0,
        samples: int = 256,
        effective_size: float = 200.0,
        prior_precision: float = 10.0,
        momentum: float = 0.99,
    ) -> None:
        logits = np.asarray(zero_shot.detach().cpu() if isinstance(zero_shot, torch.Tensor) else zero_shot)
        if logits.ndim != 2 or logits.shape[1] < 2 or not np.isfinite(logits).all():
            raise argument_error(
                "zero_shot", "finite logits of shape (M, C)", f"shape {logits.shape}", "One row for every sample."
            )
        self.zero_shot, self.samples = logits, whole_number("samples", samples, 1, "The paper draws 256.")
        self.alpha = within("alpha", alpha, "[0, 1]", "The paper's is .2 for CIFAR-10 and .3 for CIFAR-100.")
        self.temperature = within("temperature", temperature, "(0, inf)", "It multiplies the zero-shot logits.")
        self.posterior = LastLayerLaplace(effective_size, prior_precision, momentum)

    def _standard_normal(self, batch: CandidateBatch, classes: int) -> Tensor:
        cells = np.arange(self.samples * classes, dtype=np.int64)
        uniform = torch.from_numpy(draws.uniforms(batch.seed, batch.epoch, batch.batch, cells))
        return torch.special.ndtri(uniform).reshape(self.samples, classes)  # type: ignore[no-any-return]

    def objective(self, batch: CandidateBatch) -> Array:
        """The score of every candidate, (N,)."""
        logits = as_tensor(required(batch, "logits"))
        labels, (count, classes) = class_numbers(required(batch, "labels"), logits), logits.shape
        if classes != self.zero_shot.shape[1]:
            rule = f"logits for the learner's {classes} classes"
            raise argument_error("zero_shot", rule, self.zero_shot.shape[1], "Same order.")
        scale = self.posterior.deviations(torch.as_tensor(required(batch, "embeddings")).to(logits.device)).to(logits)
        noise = self.posterior.draws(self._standard_normal(batch, classes).to(logits.device)).to(logits)
        rows, step = torch.arange(count, device=logits.device), block_length(logits.device, count * classes)
        sampled = torch.cat([  # log p(y_i | x_i, W_s), (S, N)
            torch.addcmul(logits, scale[:, None], some[:, None]).log_softmax(-1)[:, rows, labels]
            for some in noise.split(step)  # type: ignore[no-untyped-call]
        ]).double()  # fmt: skip
        learner = self.alpha * sampled.mean(0) - sampled.logsumexp(0) + math.log(self.samples)
        zero_shot = cross_entropy(self.temperature * self.zero_shot[batch.indices], labels.cpu())
        return np.asarray(learner.cpu().numpy() - (1.0 - self.alpha) * zero_shot)

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The highest scores."""
        ranked = top(self.objective(batch), budget, batch.ties())
        return Choice(ranked.positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8), ranked.certified)

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:
        """Moves the posterior on by the selected samples."""
        logits, embeddings = (torch.as_tensor(required(batch, name)).detach() for name in ("logits", "embeddings"))
        kept = torch.from_numpy(choice.positions).to(logits.device)
        labels = torch.as_tensor(required(batch, "labels"))[choice.positions]
        self.posterior.update(embeddings.to(logits.device)[kept], output_gradients(logits[kept], labels))

    def state_dict(self) -> dict[str, Any]:
        """The factors of the posterior on the host, none before the first update."""
        return {name: factor.cpu() for name, factor in self.posterior.factors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.posterior.load(state)

    def __repr__(self) -> str:
        rows, classes = self.zero_shot.shape
        return (
            f"BayesianSelection(<{rows} x {classes} logits>, alpha={self.alpha}, temperature={self.temperature}, "
            f"samples={self.samples})"
        )

"""BayesianSelection: what a sample would change in the predictive distribution (Deng et al. 2023, arXiv 2308.10544)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.selection.gradient_norm import output_gradients
from spectral_sampler.selection.needs import required, whole, within
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import top

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["BayesianSelection", "LastLayerLaplace"]

_CHUNK = 1 << 18  # numbers of one block of sampled logits: 2 MiB, which stay in the cache


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


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
        self.input_factor: Array | None = None
        self.output_factor: Array | None = None

    def update(self, embeddings: Array, gradients: Array) -> None:
        """Moves A (d, d) and G (C, C) on by the samples trained on: ``embeddings`` (n, d), ``gradients`` (n, C)."""
        if not len(embeddings):
            return
        factors = [rows.T @ rows / len(rows) for rows in (embeddings, gradients)]
        if self.input_factor is not None and self.output_factor is not None:
            old, m = (self.input_factor, self.output_factor), self.momentum
            factors = [m * past + (1.0 - m) * new for past, new in zip(old, factors, strict=True)]
        self.input_factor, self.output_factor = factors

    def _root(self, factor: Array | None, size: int) -> torch.Tensor:
        """Lower Cholesky factor of ``√n_e·factor + √τ0·I``."""
        precision = np.sqrt(self.prior_precision) * np.eye(size)
        if factor is not None:
            precision += np.sqrt(self.effective_size) * factor
        root: torch.Tensor = torch.linalg.cholesky(torch.from_numpy(precision))
        return root

    def deviations(self, embeddings: Array) -> Array:
        """``σ_i = √(h_iᵀ V⁻¹ h_i)`` (N,)."""
        root = self._root(self.input_factor, embeddings.shape[1])
        whitened = torch.linalg.solve_triangular(root, torch.from_numpy(embeddings).T, upper=False)
        return np.asarray(torch.linalg.vector_norm(whitened, dim=0).numpy())

    def draws(self, standard_normal: Array) -> Array:
        """``E L⁻¹`` (S, C) for E (S, C) standard normal and U = L Lᵀ: rows of covariance ``L⁻ᵀ L⁻¹ = U⁻¹``.

        (``E L⁻ᵀ`` would have covariance (Lᵀ L)⁻¹, which is not U⁻¹.)
        """
        root = self._root(self.output_factor, standard_normal.shape[1])
        rows = torch.linalg.solve_triangular(root, torch.from_numpy(standard_normal), upper=False, left=False)
        return np.asarray(rows.numpy())


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
        self.zero_shot, self.samples = logits, whole("samples", samples, 1, "The paper draws 256.")
        self.alpha = within("alpha", alpha, "[0, 1]", "The paper's is .2 for CIFAR-10 and .3 for CIFAR-100.")
        self.temperature = within("temperature", temperature, "(0, inf)", "It multiplies the zero-shot logits.")
        self.posterior = LastLayerLaplace(effective_size, prior_precision, momentum)

    def _standard_normal(self, batch: CandidateBatch, classes: int) -> Array:
        cells = np.arange(self.samples * classes, dtype=np.int64)
        uniform = draws.uniforms(batch.seed, batch.epoch, batch.batch, cells)
        return np.asarray(torch.special.ndtri(torch.from_numpy(uniform)).numpy().reshape(self.samples, classes))

    def objective(self, batch: CandidateBatch) -> Array:
        """The score of every candidate, (N,)."""
        logits, labels = required(batch, "logits"), required(batch, "labels").astype(np.int64)
        if logits.shape[1] != self.zero_shot.shape[1]:
            raise argument_error(
                "zero_shot",
                f"logits for the learner's {logits.shape[1]} classes",
                self.zero_shot.shape[1],
                "Same order.",
            )
        rows, (count, classes) = np.arange(len(labels)), logits.shape
        deviations = self.posterior.deviations(required(batch, "embeddings"))
        noise = self.posterior.draws(self._standard_normal(batch, classes))
        sampled = np.empty((self.samples, count))  # log p(y_i | x_i, W_s)
        step = max(1, _CHUNK // (count * classes))
        for start in range(0, self.samples, step):
            block = deviations[None, :, None] * noise[start : start + step, None, :]
            block += logits
            chosen, largest = block[:, rows, labels], block.max(axis=-1)
            block -= largest[..., None]
            np.exp(block, out=block)
            sampled[start : start + step] = chosen - largest - np.log(block.sum(axis=-1))
        zero_shot = _log_softmax(self.temperature * self.zero_shot[batch.indices].astype(np.float64))[rows, labels]
        predictive = np.logaddexp.reduce(sampled, axis=0) - np.log(self.samples)
        return np.asarray(self.alpha * sampled.mean(axis=0) + (1.0 - self.alpha) * zero_shot - predictive)

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The highest scores."""
        ranked = top(self.objective(batch), budget, batch.ties())
        return Choice(ranked.positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8), ranked.certified)

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:
        """Moves the posterior on by the selected samples."""
        kept = choice.positions
        labels = required(batch, "labels").astype(np.int64)[kept]
        gradients = output_gradients(required(batch, "logits")[kept], labels)
        self.posterior.update(required(batch, "embeddings")[kept], gradients)

    def state_dict(self) -> dict[str, Any]:
        """A (d, d) and G (C, C) as tensors, or None before the first update."""
        factors = {"input_factor": self.posterior.input_factor, "output_factor": self.posterior.output_factor}
        return {name: None if factor is None else torch.from_numpy(factor.copy()) for name, factor in factors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name in ("input_factor", "output_factor"):
            factor = state[name]
            setattr(self.posterior, name, None if factor is None else factor.numpy().astype(np.float64))

    def __repr__(self) -> str:
        rows, classes = self.zero_shot.shape
        return (
            f"BayesianSelection(<{rows} x {classes} logits>, alpha={self.alpha}, temperature={self.temperature}, "
            f"samples={self.samples})"
        )

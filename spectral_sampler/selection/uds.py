"""UDS: utility and diversity from the logits alone (Zou et al. 2025, arXiv 2510.16882)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler import draws
from spectral_sampler.errors import argument_error
from spectral_sampler.selection.needs import required
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Choice, Selection
from spectral_sampler.selection.ranking import top
from spectral_sampler.validation import whole_number, within

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["UDS", "projected"]

_STREAM = 0x554453


def projected(rows: Tensor, width: int, seed: int) -> Tensor:
    """``rows`` (N, C) times a (C, width) matrix of ``±1/√width``, a function of the seed; as they are where C ≤ width.

    Distances stay within a factor ``1 ± O(√(ln N / width))`` (Johnson and Lindenstrauss; Achlioptas 2003).
    """
    return rows if rows.shape[1] <= width else rows @ _signs(rows.shape[1], width, seed).to(rows)


@lru_cache(maxsize=2)
def _signs(classes: int, width: int, seed: int) -> Tensor:
    cells = np.arange(classes * width, dtype=np.int64)
    signs = np.where(draws.uniforms(seed, 0, 0, cells, _STREAM) < 0.5, -1.0, 1.0).reshape(classes, width)
    return torch.from_numpy(signs / np.sqrt(width))


class UDS(Selection):
    """The ``n`` largest ``‖f_i‖_* + α · mean_j ‖z_i − b_j‖₂``: utility of a candidate, and its distance from what was
    trained on lately.

    ‖·‖_* is the nuclear norm of a sample's logits, the sum of their singular values. The paper's are a matrix, a row
    for each token; of a sample with one row of logits, as a classifier's, one singular value is left, the row's
    Euclidean length, and of the diversity within a sample nothing. z_i are the logits in ``width`` dimensions
    (`projected`; the paper projects both sides of its matrix), b_j the z of the last ``memory`` samples trained on,
    first in first out; before the first the distance is zero. −∞, which masks a class, counts as 0.

    Args:
        diversity: α. The released code takes 0.0025 for matrices of tokens by vocabulary, whose norm and distances
            are far apart in size; of one row both are lengths of one size, hence our 1.
        memory: rows of the buffer; the released code's 1024.
        width: dimensions of a row of the buffer; the released code's are 8 · 128 for a matrix, ours 128 for one row.

    It learns from a rank's own batches.
    """

    name = "uds"
    needs = frozenset({"logits"})

    def __init__(self, diversity: float = 1.0, *, memory: int = 1024, width: int = 128) -> None:
        self.diversity = within(
            "diversity", diversity, "[0, inf)", "It multiplies the mean distance; the default is 1."
        )
        self.memory = whole_number("memory", memory, 1, "It is how many samples are remembered; the default is 1024.")
        self.width = whole_number("width", width, 1, "It is how many numbers are kept of a sample; the default is 128.")
        self._buffer: Tensor | None = None

    def _logits(self, batch: CandidateBatch) -> Tensor:
        rows = torch.as_tensor(required(batch, "logits")).detach().double()
        return rows.masked_fill(rows == -torch.inf, 0.0)

    def scores(self, batch: CandidateBatch) -> NDArray[np.float64]:
        """(N,)."""
        logits = self._logits(batch)
        found = torch.linalg.vector_norm(logits, dim=1)
        if self._buffer is not None:
            rows = projected(logits, self.width, batch.seed)
            if rows.shape[1] != self._buffer.shape[1]:
                rule = f"as wide as those remembered, {self._buffer.shape[1]} after projection"
                remedy = "A memory, or a state, is for a learner with as many classes."
                raise argument_error("logits", rule, rows.shape[1], remedy)
            # By a product: a copy's distance is then the root of a rounding, far below what `top` takes for a tie.
            distances = torch.cdist(rows, self._buffer.to(rows), compute_mode="use_mm_for_euclid_dist")
            found = found + self.diversity * distances.mean(1)
        return np.asarray(found.cpu().numpy())

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        """The highest scores."""
        ranked = top(self.scores(batch), budget, batch.ties())
        return Choice(ranked.positions, np.full(budget, KINDS.index("weighted"), dtype=np.int8))

    def trained(self, batch: CandidateBatch, choice: Choice) -> None:
        """Remembers the selected, and forgets the oldest beyond ``memory``."""
        logits = self._logits(batch)
        rows = projected(logits[torch.from_numpy(choice.positions).to(logits.device)], self.width, batch.seed)
        held = rows if self._buffer is None else torch.cat([self._buffer.to(rows), rows])
        self._buffer = held[-self.memory :].clone()

    def state_dict(self) -> dict[str, Any]:
        """The buffer on the host, oldest first; nothing before the first batch."""
        return {} if self._buffer is None else {"buffer": self._buffer.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._buffer = state.get("buffer")

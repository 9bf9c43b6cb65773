"""What the training loop tells the sampler and asks of it, beside the index lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from spectral_sampler.sampler.arguments import Settings
    from spectral_sampler.sampler.learner import Learner
    from spectral_sampler.sampler.observed import ObservedLosses
    from spectral_sampler.sampler.plan import Plan
    from spectral_sampler.sampler.proposals import Weights
    from spectral_sampler.sampler.statistics import Statistics
    from spectral_sampler.selection import Selection

__all__ = ["TrainingLoop"]


class TrainingLoop:
    """The part of `SpectralBatchSampler` that a training loop talks to."""

    selection: Selection
    settings: Settings
    _plan: Plan
    _observed: ObservedLosses
    _weights: Weights
    _statistics: Statistics
    _learner: Learner | None

    @property
    def listens(self) -> bool:
        """Does anything follow from `observe`?"""
        return "learner_losses" in self.selection.needs or self._plan.adaptive is not None

    def observe(self, indices: Any, losses: Any) -> None:
        """The learner's losses (n,) of the samples ``indices`` (n,), for selections that need them and for a keep ratio
        that follows them."""
        self._observed.observe(indices, losses)
        if self._plan.adaptive is not None:
            values = losses.detach().float().cpu() if isinstance(losses, torch.Tensor) else losses
            self._plan.adaptive.observe(float(np.mean(np.asarray(values, dtype=np.float64))))

    def weights_for(self, indices: Any) -> torch.Tensor:
        """(n,) float32 factors for the losses of the samples ``indices`` (n,), as of the last batch that held them.

        ``(losses * sampler.weights_for(indices)).mean()`` is what a selection that weighs (`InfoBatch`,
        `SensitivitySampling`, `GradientNorm`, and with zeros `PlausibleEven`) stands for; all ones with the others.
        """
        return self._weights.of(indices)

    def lr_scale(self, size: int | None = None) -> float:
        """Size of a batch over ``candidate_batch_size`` (1 with ``emit="constant"``), for those who scale the learning
        rate linearly with the batch. ``size`` is that of the batch in training; default the last one delivered, which
        a DataLoader with workers has not trained on yet. Nothing here touches a learning rate."""
        if self._plan.batch_size is not None:
            return 1.0
        kept = self._statistics.kept if size is None else size
        return kept / self.settings.candidate_batch_size if kept else 1.0

    def statistics(self) -> dict[str, float]:
        """What happened since the latest pass began, as floats under ``spectral/``.

        ``keep_ratio`` and ``kept`` are those of the last batch; the shares are over the batches scored; ``matvecs`` is
        a mean per batch; ``seconds_waiting`` is what training waited for scores, ``seconds_selecting`` for choices.
        With ``learner=`` also how many candidates it forwarded, and for how long.
        """
        cost = {} if self._learner is None else self._learner.as_floats()
        return {**self._statistics.as_floats(), **self._observed.as_floats(), **cost}

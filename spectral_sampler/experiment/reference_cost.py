"""What a frozen reference costs in floating point operations, by what a policy asks of it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from spectral_sampler.experiment.learner import flops_per_sample
from spectral_sampler.experiment.ready import is_ready, ready_store
from spectral_sampler.experiment.reference import fit_plan, gives_features, one_batch, uses_head
from spectral_sampler.experiment.samples import Samples, TensorSamples, TextSamples
from spectral_sampler.experiment.zero_shot import PLACEHOLDER
from spectral_sampler.extraction import Encoder, SmallMLP
from spectral_sampler.extraction.forward import run_batch
from spectral_sampler.modules import called, first_two, frozen
from spectral_sampler.selection import BayesianSelection

if TYPE_CHECKING:
    from spectral_sampler.experiment.policy import Policy
    from spectral_sampler.experiment.samples import Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["ReferenceCost", "reference_cost"]


class ReferenceCost(NamedTuple):
    """FLOPs of the reference of M rows, by what is asked of it."""

    features: float
    losses: float
    both: float
    """Less than the sum where one pass, or one model, gives both."""
    predictions: float
    """Logits that come from no label of these rows, for the Bayesian selection."""

    def charged(self, policy: Policy) -> float:
        """What ``policy`` has to pay: nothing where it reads nothing of a reference."""
        selection = policy.selection() if policy.selection else None
        if isinstance(selection, BayesianSelection) and selection.zero_shot is PLACEHOLDER:
            return self.predictions
        reads = policy.reads
        if reads is None:
            reads = frozenset({"features"} if policy.left_out or policy.finished else ())
        asked = (reads | (selection.needs if selection else frozenset())) & {"features", "losses"}
        return self.both if len(asked) == 2 else float(sum(getattr(self, need) for need in asked))


class _Encoded(NamedTuple):
    """A known model, as counted on one batch."""

    flops: float
    """Of one row, forward."""
    width: int
    """d, of its features."""
    outputs: int | None
    """Classes that it predicts; None for an encoder."""


def reference_cost(settings: Settings, task: Task, rows: int, learner: tuple[float, float]) -> ReferenceCost:
    """What `reference_for` would compute for ``rows`` rows if nothing were cached: forward passes over them and over
    the held-out rows, and the training on the latter, as ``torch.utils.flop_counter`` counts them.

    What is not counted: how an encoder, a store or features that came with the data were made, which nobody here knows;
    and a selection's own arithmetic on features, which is no pass of a network. One forward pass gives features and
    losses where a model has both.

    Args:
        rows: M, that the learner is offered.
        learner: forward, and forward with backward, of one sample; a reference trained here is of its architecture.
    """
    forward, training = learner
    held_out = len(task.held_out)
    if not gives_features(settings):
        scored = forward * rows
        features = scored + (0.0 if settings.reference == "untrained" else training * _seen(settings, held_out))
        if settings.reference != "twin":
            return ReferenceCost(features, features, features, features)
        scores = scored + training * (_seen(settings, rows // 2) + _seen(settings, rows - rows // 2))
        return ReferenceCost(features, scores, features + scores, features)
    if is_ready(settings.reference):
        store = ready_store(settings.reference)
        features, losses = (store.features, store.losses) if store is not None else (*(task.given or ()),)
        if losses is not None:
            return ReferenceCost(0.0, 0.0, 0.0, 0.0)
        encoded = _Encoded(0.0, features.shape[1], None)
    else:
        encoded = _encoded(settings.reference, task.train)
    features = encoded.flops * rows
    if encoded.outputs == len(task.classes):
        return ReferenceCost(features, features, features, features)
    if uses_head(settings, task):
        blank = TensorSamples(torch.zeros(8, encoded.width), np.zeros(8, dtype=np.int64))
        forward, training = flops_per_sample(SmallMLP(len(task.classes), width=encoded.width, hidden=256), blank)
    scores = forward * rows + training * _seen(settings, held_out)
    both = scores + features
    if uses_head(settings, task):
        scores = both = both + encoded.flops * held_out  # it reads features, of the held-out rows too
    named = settings.reference == "minilm"  # predicts by the names of the classes
    return ReferenceCost(features, scores, both, features + encoded.flops * len(task.classes) if named else scores)


def _seen(settings: Settings, rows: int) -> int:
    """Samples that a model trained on ``rows`` rows is trained on."""
    epochs, batch = fit_plan(settings, rows)
    return epochs * (rows // batch * batch if rows >= batch else rows)


@functools.lru_cache(maxsize=4)
def _encoded(reference: str, samples: Samples) -> _Encoded:
    """Counted on rows spread over ``samples``: of texts on a batch as large as extraction's, for it pads them to the
    longest; of anything else every row costs the same."""
    count = min(64 if isinstance(samples, TextSamples) else 8, len(samples))
    places = np.linspace(0, len(samples) - 1, count).astype(int).tolist()
    module, batch = one_batch(reference, samples, places)
    with frozen(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = called(module, batch[0])
    flops = float(counter.get_total_flops()) / count
    if isinstance(module, Encoder):
        return _Encoded(flops, outputs.shape[1], None)
    seen = run_batch(
        module, batch, torch.device("cpu"), split=first_two, features=None, loss=None, loss_model=None
    ).features
    logits = getattr(outputs, "logits", outputs)
    predicts = isinstance(logits, torch.Tensor) and logits.ndim == 2
    return _Encoded(flops, seen.shape[1], logits.shape[1] if predicts else None)

"""Predictors that never saw the learner's labels, for the Bayesian selection."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.experiment.samples import TextSamples
from spectral_sampler.selection import BayesianSelection, Guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral_sampler.experiment.samples import Samples
    from spectral_sampler.selection import Selection

__all__ = ["PLACEHOLDER", "class_name_logits", "with_zero_shot"]

PLACEHOLDER = np.zeros((1, 2))
"""Stands for logits that are known only once the data are."""

_SCALE = 20.0  # of cosines between sentence embeddings, as their authors train them


def class_name_logits(
    features: NDArray[Any], classes: tuple[str, ...], encode: Callable[[Samples], NDArray[Any]]
) -> NDArray[np.float32]:
    """``20 · cos(text, class name)`` (M, C): an encoder's zero-shot logits for texts with ``features`` (M, d)."""
    # Not tokens, which no encoder of texts looks at, but what tells two lists of names apart in the features' cache.
    marks = torch.tensor([list(hashlib.sha256(name.encode()).digest()) for name in classes])
    named = encode(TextSamples(marks, np.arange(len(classes)), list(classes)))
    rows, names = (np.asarray(part, dtype=np.float32) for part in (features, named))
    rows, names = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, names))
    return np.asarray(_SCALE * rows @ names.T, dtype=np.float32)


def with_zero_shot(selection: Selection, logits: NDArray[np.float32]) -> Selection:
    """A Bayesian selection with its predictor in place; any other as it is."""
    if isinstance(selection, BayesianSelection) and selection.zero_shot is PLACEHOLDER:
        return BayesianSelection(logits)
    if isinstance(selection, Guarded):
        inner = with_zero_shot(selection.selection, logits)
        return Guarded(inner, selection.floor, level=selection.level, balance=selection.balance)
    return selection

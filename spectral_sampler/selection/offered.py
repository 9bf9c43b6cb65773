"""Glue until the merge."""

from spectral_sampler.selection.online import candidate_batch
from spectral_sampler.selection.protocol import CandidateBatch
import numpy as np


def offered(selection, store, indices, given, score=None, **place):
    if given.keys() - {"learner_losses"}:
        b = candidate_batch(selection, store, indices, given, **place)
    else:
        needs = selection.needs
        b = CandidateBatch(
            indices,
            losses=store.losses[indices].astype(np.float64) if "losses" in needs and store.losses is not None else None,
            labels=store.labels[indices] if "labels" in needs and store.labels is not None else None,
            learner_losses=given.get("learner_losses"),
            **place,
        )
    return b if score is None else b._replace(scores=score.values, error=score.error)

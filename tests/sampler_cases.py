"""What the sampler's tests share: a small store, and a selection whose scores are known without a solver."""

import threading

import numpy as np

from spectral_sampler import ReferenceStore
from spectral_sampler.fiedler import Status
from spectral_sampler.selection import CandidateBatch, Choice, Scores, Selection
from spectral_sampler.selection.ranking import top


def make_store(samples=480, width=8, seed=0, *, losses=True):
    generator = np.random.default_rng(seed)
    features = generator.random((samples, width), dtype=np.float32) + 0.01
    return ReferenceStore.from_arrays(features, losses=generator.gamma(0.3, size=samples) if losses else None)


class FirstFeature(Selection):
    """Scores by the first feature; half by rank, half drawn. Records who called, for what."""

    name = "first-feature"
    needs = frozenset({"features"})

    def __init__(self, error_at=None):
        self.calls = []
        self.threads = []
        self.error_at = error_at

    def score(self, store, indices, *, backend):
        self.calls.append(indices.shape)
        self.threads.append(threading.current_thread().name)
        if self.error_at is not None and len(self.calls) > self.error_at:
            raise ArithmeticError("planted in the scores")
        members = len(indices)
        return Scores(
            store.features[indices, 0].astype(np.float64),
            np.zeros(members),
            np.full(members, int(Status.CONVERGED)),
            np.full(members, 7),
        )

    def select(self, batch: CandidateBatch, budget: int) -> Choice:
        best = top(batch.scores, budget // 2, batch.indices).positions
        rest = np.setdiff1d(np.arange(len(batch.indices)), best)
        drawn = rest[np.argsort(batch.uniforms()[rest])][: budget - len(best)]
        kinds = np.repeat(np.array([0, 2], dtype=np.int8), [len(best), len(drawn)])
        return Choice(np.concatenate([best, drawn]), kinds)

    def __getstate__(self):
        return {**self.__dict__, "calls": [], "threads": []}


class HighestLearnerLoss(Selection):
    """The largest learner losses first; never observed ones before all others, in an order drawn."""

    name = "highest-learner-loss"
    needs = frozenset({"learner_losses"})

    def score(self, store, indices, *, backend):
        return None

    def select(self, batch, budget):
        keys = np.where(np.isnan(batch.learner_losses), 1e9 + batch.uniforms(), batch.learner_losses)
        return Choice(np.argsort(-keys, kind="stable")[:budget], np.full(budget, 2, dtype=np.int8))


def lookahead_threads():
    return [thread for thread in threading.enumerate() if thread.name == "spectral-lookahead"]


def epochs_of(sampler, count):
    """The lists of the next ``count`` passes."""
    return [[list(batch) for batch in sampler] for _ in range(count)]

"""The batch sampler: what a training loop waits for at every step, and for the first batch of a data set."""

from __future__ import annotations

import itertools
import time
from functools import cache

import numpy as np
import pytest
import torch

from benchmarks import measure, problems
from benchmarks.planted import CHOSEN_BY_LOSS, Planted, plant
from spectral_sampler import ReferenceStore, SigmoidSchedule, SpectralBatchSampler, draws
from spectral_sampler.experiment.policies import FRESH, POLICIES
from spectral_sampler.sampler.arguments import Settings
from spectral_sampler.sampler.counter import EpochCounter
from spectral_sampler.sampler.order import CandidateOrder
from spectral_sampler.sampler.plan import Plan
from spectral_sampler.selection import KINDS
from spectral_sampler.selection.needs import forwards_candidates

CANDIDATES, RATIO, KEPT, CLASSES = 128, 0.3, 38, 10
STEP = 5e-3  # seconds of a training step that leaves the CPU to the look-ahead thread
SELECTIONS = (
    *("uniform", "loss-weighted", "saln", "saln-clamped", "saln-rbf", "gstds", "spectral-strata", "rho-loss"),
    *("jest", "jest-joint", "bayesian", "sensitivity", "sensitivity-learner", "infobatch", "gradient-norm"),
    *("divbs", "seta", "uds", "el2n", "forgetting", "k-centre", "herding", "leverage"),
    *("plausible-even", "plausible-learnable", "plausible-learnable-fresh"),
    *("mix-plausible-even-rho-loss", "chain-saln-uniform"),
)
"""Names in `POLICIES`: one of every class, and the forms that cost something else."""


@pytest.fixture(scope="module")
def planted(rows) -> Planted:
    return plant(rows.numpy(), CLASSES)


def _sampler(planted: Planted, name: str, lookahead: int) -> SpectralBatchSampler:
    def learner(indices: list[int]):
        return planted.logits[indices], planted.embeddings[indices]

    policy = planted.policy(name)
    asks = forwards_candidates(policy) or name in FRESH
    sampler = SpectralBatchSampler(
        planted.store, CANDIDATES, keep_ratio=RATIO, selection=policy, lookahead=lookahead,
        learner=learner if asks else None,
    )  # fmt: skip
    if sampler.listens:
        sampler.observe(np.arange(len(planted.store)), planted.learner_losses())
    return sampler


def _follow_the_fiedler_vector(store: ReferenceStore, candidates, kept) -> bool:
    """One end or the other of float64's."""
    vector = measure.exact(store.features_tensor, torch.from_numpy(candidates)[None])[1][0]
    ends = [set(candidates[np.argsort(sign * vector)[: len(kept)]]) for sign in (1, -1)]
    return set(kept) in ends


@pytest.mark.parametrize("lookahead", [0, 16])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_next(benchmark, planted, own, selection, lookahead):
    """One `next`, each after a step in which the thread could work."""
    sampler = _sampler(planted, selection, lookahead)
    benchmark.group = f"next batch of {CANDIDATES} candidates, look-ahead {lookahead}"
    sizes, iterator = sampler.batch_sizes(), iter(sampler)
    kept = [next(iterator)]  # the first one is the subject of test_first
    rounds = min(len(sampler) - 2, 28)
    benchmark.pedantic(lambda: kept.append(next(iterator)), setup=lambda: time.sleep(STEP), rounds=rounds)
    candidates, choice, _ = sampler.selection_at(0, len(kept))
    kept.append(next(iterator))
    iterator.close()
    assert kept[-1] == candidates[choice.positions].tolist()
    assert all(len(set(batch)) == len(batch) and len(batch) in sizes for batch in kept)
    if selection in CHOSEN_BY_LOSS:
        assert set(candidates[planted.marks[candidates]]) <= set(kept[-1])
    if selection in {"saln", "gstds"} and (own is None or choice.certified):
        ranked = candidates[choice.positions[choice.kinds == KINDS.index("spectral")]]
        assert _follow_the_fiedler_vector(planted.store, candidates, ranked)


@cache
def _whole(samples: int) -> torch.Tensor:
    return problems.rectified(samples, 64)


@pytest.mark.parametrize("selection", ["uniform", "gstds", "plausible-even"])
def test_first(benchmark, own, samples, selection):
    """From construction to the first batch, of a store that no selection has seen."""
    features = _whole(samples) if own is None else own.features_tensor
    generator = np.random.default_rng(0)
    losses, labels = generator.random(samples, dtype=np.float32), generator.integers(CLASSES, size=samples)
    benchmark.group = f"first batch of {samples:,} samples, d={features.shape[1]}"

    def store():
        return (ReferenceStore(features.numpy(), losses, labels),), {}

    def first(store: ReferenceStore):
        sampler = SpectralBatchSampler(store, CANDIDATES, keep_ratio=RATIO, selection=POLICIES[selection]())
        iterator = iter(sampler)
        return sampler, iterator, next(iterator)

    sampler, iterator, batch = benchmark.pedantic(first, setup=store, rounds=1 if selection == "plausible-even" else 3)
    iterator.close()
    candidates, choice, _ = sampler.selection_at(0, 0)
    assert batch == candidates[choice.positions].tolist()
    assert len(set(batch)) == KEPT
    assert len(np.unique(candidates)) == CANDIDATES


def _placed(length: int, keep_ratio) -> tuple[CandidateOrder, Plan]:
    """The candidate order and the plan of 30 epochs over so many samples, of which only the number matters."""
    settings = Settings(
        CANDIDATES, 30, shuffle=True, reshuffle=True, drop_last=True, seed=0, num_replicas=1, rank=0, multiple_of=1,
        min_keep=2, lookahead=None,
    )  # fmt: skip
    plan = Plan(length, settings, None)
    plan.follow(keep_ratio, 30)
    return CandidateOrder(EpochCounter(), length, 0, shuffle=True, fixed=False), plan


@pytest.mark.parametrize("length", [10**7, 10**8])
@pytest.mark.parametrize("case", ["constant", "sigmoid", "torch.randperm"])
def test_order(benchmark, length, case):
    """From nothing to the first candidates; the peer puts all samples into an order first."""

    def first():
        if case == "torch.randperm":
            return torch.randperm(length)[:CANDIDATES].numpy()
        order, plan = _placed(length, RATIO if case == "constant" else SigmoidSchedule())
        return order.offered(0, [plan.at_step(0, 0)])[0][0]

    benchmark.group = f"first candidates of {length:,} samples"
    found = benchmark.pedantic(first, setup=draws._permutation_tables.cache_clear, rounds=3)
    assert len(np.unique(found)) == CANDIDATES
    assert 0 <= found.min() <= found.max() < length


@pytest.mark.parametrize("length", [10**7, 10**8])
def test_slot(benchmark, length):
    """Place, size and candidates of one batch of a running epoch."""
    order, plan = _placed(length, RATIO)
    benchmark.group = f"the next {CANDIDATES} candidates of {length:,} samples"
    steps, found = itertools.count(), []
    benchmark(lambda: found.append(order.offered(0, [plan.at_step(0, next(steps))])[0][0]))
    assert len(np.unique(found)) == len(found) * CANDIDATES

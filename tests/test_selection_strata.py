"""SpectralStrata: everybody alike, neighbours apart."""

import numpy as np
import pytest

from spectral_sampler import ReferenceStore, SpectralBatchSampler
from spectral_sampler.selection import CandidateBatch, SpectralStrata, Uniform

SCORES = np.random.default_rng(0).permutation(30) / 30.0


def chosen(seed, budget, order=slice(None), policy=None):
    indices = np.arange(100, 130)[order]
    batch = CandidateBatch(indices, SCORES[order], seed=seed)
    return indices[(policy or SpectralStrata()).select(batch, budget).positions]


@pytest.mark.parametrize("budget", [1, 7, 10, 20, 29, 30])
def test_inclusion_is_equal_and_ranks_are_evenly_apart(budget):
    counts = np.zeros(30)
    for seed in range(3000):
        kept = chosen(seed, budget) - 100
        assert len(set(kept.tolist())) == budget
        counts[kept] += 1
        ranks = np.sort(SCORES[kept] * 30).round()
        assert set(np.diff(ranks)) <= {30 // budget, -(-30 // budget)}  # N/n apart, rounded either way
        assert ranks[0] < 30 / budget
    expected = 3000 * budget / 30
    assert np.abs(counts - expected).max() <= 5 * np.sqrt(expected * (1 - budget / 30)) + 1e-9


def test_uniform_draws_do_not_hit_every_stratum():
    hits = [len(set((SCORES[chosen(seed, 10, policy=Uniform()) - 100] * 30).round() // 3)) for seed in range(20)]
    assert max(hits) < 10


def test_the_order_of_the_candidates_does_not_matter():
    order = np.random.default_rng(1).permutation(30)
    for seed in range(10):
        assert set(chosen(seed, 11)) == set(chosen(seed, 11, order))


def test_two_clusters_are_shown_in_their_proportion():
    rng = np.random.default_rng(2)
    centres = np.array([[1.0, 0.1], [0.1, 1.0]])
    cluster = (np.arange(240) % 4 == 0).astype(int)
    store = ReferenceStore.from_arrays(centres[cluster] + 0.05 * rng.random((240, 2)))
    sampler = SpectralBatchSampler(store, candidate_batch_size=24, keep_ratio=0.5, selection=SpectralStrata())
    for kept in sampler:
        assert len(kept) == 12
        assert 0 < cluster[kept].sum() < 8

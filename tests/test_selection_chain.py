"""Chain: a filter, then a selection among those it keeps. What it shares with Mix is tested there."""

import numpy as np
import pytest

from spectral_sampler import (
    SALN,
    Chain,
    MellowAIMD,
    Mix,
    PlausibleEven,
    ReferenceStore,
    RHOLoss,
    SpectralBatchSampler,
    Uniform,
)
from spectral_sampler.selection import CandidateBatch, Choice, LossWeighted, Selection

M, N = 240, 24
generator = np.random.default_rng(8)
STORE = ReferenceStore.from_arrays(
    generator.normal(size=(M, 6)), losses=generator.exponential(size=M), labels=generator.integers(3, size=M)
)


def decisions(selection, **options):
    sampler = SpectralBatchSampler(STORE, N, selection=selection, **{"keep_ratio": 0.5, "seed": 2, **options})
    return [sampler.selection_at(epoch, batch) for epoch in range(3) for batch in range(len(sampler))]


class ByIndex(Selection):
    """The highest index first, or the lowest."""

    name = "by-index"

    def __init__(self, sign=1, weights=None, forced=0):
        self.sign, self.weights, self.forced, self.sizes = sign, weights, forced, []

    def select(self, batch, budget):
        self.sizes.append((len(batch.indices), budget))
        positions = np.argsort(-self.sign * batch.indices)[:budget]
        weights = None if self.weights is None else self.weights[batch.indices[positions]]
        return Choice(positions, np.zeros(budget, np.int8), zero_weight_draws=self.forced, weights=weights)


def test_uniform_among_the_highest_fiedler_scores():
    """Against SALN alone, asked for as many as the filter keeps."""
    size = 17  # 0.7 · 24 = 16.8
    kept = decisions(SALN(), keep_ratio=size / N)
    both = decisions(Chain(SALN(), Uniform(), share=0.7), keep_ratio=0.25)
    others = 0
    for (indices, wide, _), (same, choice, _) in zip(kept, both, strict=True):
        assert indices.tolist() == same.tolist()
        assert len(wide.positions) == size
        assert len(choice.positions) == 6
        assert set(choice.positions) <= set(wide.positions)
        assert set(choice.kinds.tolist()) == {2}, "the kind says why it was selected in the end"
        others += set(choice.positions) != set(wide.positions[:6])
    assert others, "drawn, not ranked"


@pytest.mark.parametrize("make", [SALN, LossWeighted, PlausibleEven, Uniform])
def test_a_filter_that_keeps_all_is_none(make):
    for (_, mine, _), (_, alone, _) in zip(
        decisions(Chain(ByIndex(), make(), share=1.0)), decisions(make()), strict=True
    ):
        assert mine.positions.tolist() == alone.positions.tolist()
        assert mine.kinds.tolist() == alone.kinds.tolist()
        assert mine.certified == alone.certified


@pytest.mark.parametrize(
    ("share", "size", "budget", "kept"),
    [(0.7, 24, 6, 17), (0.5, 25, 3, 13), (0.1, 24, 6, 6), (0.7, 24, 20, 20), (1e-9, 24, 1, 1), (0.7, 10, 1, 7)],
)
def test_the_filter_keeps_its_share_and_the_budget_at_least(share, size, budget, kept):
    first, second = ByIndex(), ByIndex(-1)
    choice = Chain(first, second, share=share).select(CandidateBatch(np.arange(size)[::-1].copy()), budget)
    assert first.sizes == [(size, kept)]
    assert second.sizes == [(kept, budget)]
    assert sorted(choice.positions.tolist()) == list(range(kept - budget, kept))  # the lowest of the highest


def test_weights_multiply():
    one, two = np.linspace(0.5, 2.0, N), np.linspace(3.0, 0.0, N)
    batch = CandidateBatch(np.random.default_rng(0).permutation(N))
    for first, second, expected in (
        (ByIndex(1, one), ByIndex(-1), one),
        (ByIndex(1), ByIndex(-1, two), two),
        (ByIndex(1, one), ByIndex(-1, two), one * two),
    ):
        choice = Chain(first, second, share=0.5).select(batch, 5)
        indices = batch.indices[choice.positions]
        assert indices.tolist() == list(range(12, 17))
        assert choice.weights == pytest.approx(expected[indices])
    assert Chain(ByIndex(), ByIndex()).select(batch, 5).weights is None


def test_what_weighs_nothing_is_counted():
    one = np.where(np.arange(N) % 2, 1.0, 0.0)
    batch = CandidateBatch(np.arange(N))
    assert Chain(ByIndex(1, one), ByIndex()).select(batch, 6).zero_weight_draws == 3
    assert Chain(ByIndex(), ByIndex(1, forced=2)).select(batch, 6).zero_weight_draws == 2


def test_chains_of_chains():
    chain = Chain(Chain(ByIndex(), ByIndex(-1), share=0.75), Mix(ByIndex(), RHOLoss(), share=1.0), share=0.5)
    choice = chain.select(CandidateBatch(np.arange(24)), 4)
    # the 18 highest, of these the 12 lowest, of these the 4 highest
    assert choice.positions.tolist() == [17, 16, 15, 14]


def test_the_description_says_where_the_filter_decides_alone():
    def described(**options):
        return SpectralBatchSampler(STORE, N, selection=Chain(SALN(), Uniform(), share=0.7), **options).describe()

    assert "note        keeps up to 0.800: from 0.7 on saln decides alone" in described(keep_ratio=0.8)
    assert "keeps up to 0.900: from 0.7 on saln" in described(keep_ratio=MellowAIMD(0.2, 0.9), epochs=2)
    assert "decides alone" not in described(keep_ratio=0.7)
    assert "decides alone" not in described(keep_ratio=MellowAIMD(0.2, 0.6), epochs=2)

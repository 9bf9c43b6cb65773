"""Counter-based randomness: uniform, independent of where else it was used, and the same for ever."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from spectral_sampler import draws

INDICES = np.arange(20_000)


@pytest.mark.parametrize(
    "key", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (2**63, 7, 11, 3), (-1, 0, 0, 0)]
)
def test_uniform_over_indices(key):
    seed, epoch, batch, stream = key
    values = draws.uniforms(seed, epoch, batch, INDICES, stream)
    assert values.min() > 0.0
    assert values.max() < 1.0
    assert stats.kstest(values, "uniform").pvalue > 1e-4


def test_uniform_over_every_part_of_the_key():
    one = np.array([17])
    for part in range(4):
        values = []
        for counter in range(3000):
            key = [5, 5, 5, 5]
            key[part] = counter
            values.append(draws.uniforms(key[0], key[1], key[2], one, key[3])[0])
        assert stats.kstest(values, "uniform").pvalue > 1e-4, part


def test_neighbouring_keys_are_uncorrelated():
    base = draws.uniforms(3, 4, 5, INDICES, 6)
    others = [
        draws.uniforms(4, 4, 5, INDICES, 6),
        draws.uniforms(3, 5, 5, INDICES, 6),
        draws.uniforms(3, 4, 6, INDICES, 6),
        draws.uniforms(3, 4, 5, INDICES, 7),
        draws.uniforms(4, 3, 5, INDICES, 6),  # the parts of a key do not commute
        draws.uniforms(3, 4, 5, INDICES + 1, 6),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 4.5 / np.sqrt(len(INDICES))


def test_a_draw_depends_on_the_index_and_not_on_its_place():
    shuffled = np.random.default_rng(0).permutation(500)
    np.testing.assert_array_equal(draws.uniforms(1, 2, 3, np.arange(500))[shuffled], draws.uniforms(1, 2, 3, shuffled))


def test_the_numbers_are_pinned():
    """A checkpoint resumed under a later version must see the same draws."""
    np.testing.assert_allclose(draws.uniforms(0, 0, 0, np.arange(3)), PINNED, rtol=0, atol=1e-15)
    assert draws.permutation(0, 0, 8).tolist() == PINNED_ORDER


PINNED = [0.19732362850880192, 0.5467664221135414, 0.010451353937761643]
PINNED_ORDER = [6, 1, 3, 2, 0, 4, 5, 7]
LARGE = 20_001  # the smallest kind that is not sorted; odd, and no square


def test_orders_are_pinned():
    assert draws.permutation(3, 2, 11).tolist() == PINNED_SMALL
    assert draws.permuted(0, 0, LARGE, np.arange(8)).tolist() == PINNED_LARGE
    assert draws.permuted(-7, 12, 10**7, np.array([0, 1, 4_999_999, 9_999_999])).tolist() == PINNED_TEN_MILLION
    assert draws.permuted(1, 1 << 32, 10**11, np.array([0, 99_999_999_999])).tolist() == PINNED_HUGE


PINNED_SMALL = [6, 1, 8, 9, 2, 10, 0, 3, 5, 4, 7]
PINNED_LARGE = [5620, 11344, 13078, 16785, 7137, 10233, 7054, 2340]
PINNED_TEN_MILLION = [6811769, 5946229, 1484762, 7451146]
PINNED_HUGE = [57923575802, 40252053450]


def test_every_size_is_a_bijection():
    for size in [*range(201), 16_383, 16_384, 16_385, LARGE, 65_536, 123_457, 1_000_003]:
        order = draws.permutation(size, 3, size)
        assert order.dtype == np.int64
        assert len(order) == size
        assert (np.bincount(order, minlength=size) == 1).all(), size


@pytest.mark.parametrize("size", [50, 16_384, LARGE, 300_000])
def test_a_position_is_its_place_in_the_whole_order(size):
    positions = np.random.default_rng(0).integers(0, size, (7, 30))
    np.testing.assert_array_equal(draws.permuted(4, 9, size, positions), draws.permutation(4, 9, size)[positions])
    assert draws.permuted(4, 9, size, np.empty(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("part", ["seed", "epoch"])
def test_neighbours_lie_anywhere_and_independently_over_seeds_and_epochs(part):
    keys = [(k, 5) if part == "seed" else (5, k) for k in range(3000)]
    places = np.array([draws.permuted(*key, LARGE, np.array([0, 1, 141, LARGE - 1])) for key in keys])
    for column in places.T:
        assert stats.kstest(column / LARGE, "uniform").pvalue > 1e-4
    for other in (1, 2, 3):
        assert stats.kstest((places[:, other] - places[:, 0]) % LARGE / LARGE, "uniform").pvalue > 1e-4
        table = np.histogram2d(places[:, 0], places[:, other], bins=8)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-4
    assert stats.kstest((places[1:, 0] - places[:-1, 0]) % LARGE / LARGE, "uniform").pvalue > 1e-4


def test_distances_of_neighbours_are_those_of_a_random_order():
    order = draws.permutation(2, 1, 1_000_003)
    for step in (1, 2, 1001, 1002):
        apart = (order[step:] - order[:-step]) % len(order)
        assert stats.kstest(apart / len(order), "uniform").pvalue > 1e-4
        assert np.bincount(apart).max() < 14  # Poisson(1): a distance that recurs would be a pattern


def test_fixed_points_and_inversions_are_those_of_a_random_order():
    orders = [draws.permutation(1, epoch, LARGE) for epoch in range(400)]
    fixed = np.bincount([min(4, np.count_nonzero(order == np.arange(LARGE))) for order in orders], minlength=5)
    expected = stats.poisson(1).pmf(np.arange(5))
    expected[4] = 1 - expected[:4].sum()
    assert stats.chisquare(fixed, 400 * expected).pvalue > 1e-4
    deviation = (2 * (2 * LARGE + 5) / (9 * LARGE * (LARGE - 1))) ** 0.5  # of Kendall's tau: inversions, scaled
    taus = [stats.kendalltau(order, np.arange(LARGE)).statistic for order in orders[:200]]
    assert stats.kstest(np.array(taus) / deviation, "norm").pvalue > 1e-4


def test_batches_of_one_place_are_independent_between_epochs():
    batches = [draws.permuted(8, epoch, LARGE, np.arange(512, 640)) for epoch in range(1500)]
    shared = np.bincount([min(4, len(np.intersect1d(a, b))) for a, b in itertools.pairwise(batches)], minlength=5)
    expected = stats.hypergeom(LARGE, 128, 128).pmf(np.arange(5))
    expected[4] = 1 - expected[:4].sum()
    assert stats.chisquare(shared, shared.sum() * expected).pvalue > 1e-4
    lower = [np.count_nonzero(batch < LARGE // 2) for batch in batches]
    spread = stats.hypergeom(LARGE, LARGE // 2, 128)
    assert abs(np.mean(lower) - spread.mean()) < 4.5 * spread.std() / len(lower) ** 0.5
    assert 0.9 < np.var(lower) / spread.var() < 1.1


@pytest.mark.parametrize("size", [1000, LARGE, 100_003])
def test_epochs_and_seeds_are_no_shifts_of_each_other(size):
    keys = [(0, 0), (0, 1), (1, 0), (0, 2), (0, 1 << 32), (1 << 40, 0)]
    orders = [draws.permutation(*key, size) for key in keys]
    for a in range(len(keys)):
        for b in range(a):
            first, second = orders[a], orders[b]
            assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / size**0.5
            # How often each shift of the values, and of the positions, takes one to the other: Poisson(1).
            assert np.bincount((first - second) % size).max() < 13
            assert np.bincount((np.argsort(first) - np.argsort(second)) % size).max() < 13


@pytest.mark.parametrize(("size", "epochs"), [(2, 400), (3, 1200), (4, 2400), (5, 6000), (6, 14_400)])
def test_every_order_of_a_few_items_is_as_likely(size, epochs):
    codes = np.array([draws.permutation(9, epoch, size) for epoch in range(epochs)]) @ size ** np.arange(size)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == math.factorial(size)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("size", [7, 8, 10])
def test_orders_of_several_items_repeat_no_more_than_by_chance(size):
    epochs, orders = 4000, math.factorial(size)
    codes = np.array([draws.permutation(9, epoch, size) for epoch in range(epochs)]) @ size ** np.arange(size)
    expected = orders * -math.expm1(epochs * math.log1p(-1 / orders))
    assert abs(len(np.unique(codes)) - expected) < 4.5 * (epochs - expected + 1) ** 0.5


def test_global_generators_are_untouched():
    np.random.seed(0)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    draws.uniforms(0, 0, 0, INDICES)
    draws.permutation(0, 0, 100)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after

"""Counter-based randomness: uniform, independent of where else it was used, and the same for ever."""

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


def test_permutation_is_one_and_changes_with_seed_and_epoch():
    orders = [draws.permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(1000))
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_permutation_places_every_item_everywhere():
    places = np.array([np.argsort(draws.permutation(9, epoch, 6)) for epoch in range(6000)])
    table = np.array([np.bincount(places[:, item], minlength=6) for item in range(6)])
    assert stats.chisquare(table.ravel(), np.full(36, 1000.0)).pvalue > 1e-4


def test_global_generators_are_untouched():
    np.random.seed(0)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    draws.uniforms(0, 0, 0, INDICES)
    draws.permutation(0, 0, 100)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after

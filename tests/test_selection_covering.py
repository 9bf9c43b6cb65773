"""k-centre greedy and herding against loops written out, and against the best subsets of few rows."""

import itertools

import numpy as np
import pytest

from spectral_sampler import ReferenceStore, SpectralBatchSampler
from spectral_sampler.selection import CandidateBatch, Herding, KCentre
from spectral_sampler.selection.herding import herd
from spectral_sampler.selection.k_centre import k_centre_greedy

N, D = 40, 5


def features(seed=0, size=N, kind=np.float32):
    return np.random.default_rng(seed).normal(size=(size, D)).astype(kind)


def keys(size=N):
    return np.random.default_rng(3).random(size)


def radius(rows, chosen):
    return max(min(np.linalg.norm(row - rows[one]) for one in chosen) for row in rows)


def plain_k_centre(rows, count):
    chosen = [int(np.argmin([np.linalg.norm(row - rows.mean(0)) for row in rows]))]
    while len(chosen) < count:
        nearest = [min(np.linalg.norm(row - rows[one]) for one in chosen) for row in rows]
        chosen.append(int(np.argmax(nearest)))
    return chosen


def gap(units, chosen):
    return np.linalg.norm(units.mean(0) - units[chosen].mean(0))


def plain_herding(rows, count):
    """Chen, Welling and Smola: the next is the one with which the mean of those taken is nearest to that of all."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = []
    for _ in range(count):
        others = [row for row in range(len(rows)) if row not in chosen]
        chosen.append(min(others, key=lambda row: gap(units, [*chosen, row])))
    return chosen


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_against_the_loops(seed, kind):
    rows = features(seed, kind=kind)
    exact = rows.astype(np.float64)
    assert k_centre_greedy(rows, 17, keys()).tolist() == plain_k_centre(exact, 17)
    assert herd(rows, 17, keys()).tolist() == plain_herding(exact, 17)
    batch = CandidateBatch(np.arange(N), features=rows)
    assert KCentre().select(batch, 17).positions.tolist() == plain_k_centre(exact, 17)
    assert Herding().select(batch, 17).positions.tolist() == plain_herding(exact, 17)


def test_the_radius_is_at_most_twice_the_least():
    for seed in range(5):
        rows = features(seed, 11).astype(np.float64)
        least = min(radius(rows, some) for some in itertools.combinations(range(11), 3))
        assert radius(rows, k_centre_greedy(rows, 3, keys(11))) <= 2 * least


def test_each_is_good_at_its_own_and_not_at_the_others():
    """Two clusters and one outlier: k-centre takes the outlier early, herding the clusters in proportion."""
    generator = np.random.default_rng(1)
    centres = np.repeat(np.eye(D)[:2] * 4, [30, 9], axis=0)
    rows = np.vstack([centres + 0.1 * generator.normal(size=(39, D)), -9 * np.ones((1, D))])
    assert 39 in k_centre_greedy(rows, 3, keys())
    herded = herd(rows, 13, keys())
    assert 39 not in herded[:8]
    assert np.count_nonzero(herded < 30) in {9, 10}
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    random = np.mean([gap(units, np.random.default_rng(seed).permutation(N)[:13]) for seed in range(50)])
    assert gap(units, herded) < 0.5 * random


def test_copies_come_last_for_k_centre_and_in_turn():
    rows = np.tile(features(2, 10), (2, 1))
    taken = set()
    for epoch in range(30):
        chosen = KCentre().select(CandidateBatch(np.arange(20), features=rows, epoch=epoch), 10).positions
        assert sorted(chosen % 10) == list(range(10))
        taken |= set(chosen.tolist())
    assert taken == set(range(20))


def test_ties_of_a_grid_are_no_matter_of_rounding():
    """The corners of a square about its mean: any may be first, the opposite one follows."""
    square = np.array([[1.0, 1], [1, -1], [-1, -1], [-1, 1]]) + np.array([0.1, 0.2]) / 3
    firsts = set()
    for epoch in range(40):
        chosen = KCentre().select(CandidateBatch(np.arange(4), features=square, epoch=epoch), 2).positions
        assert abs(chosen[0] - chosen[1]) == 2
        firsts.add(int(chosen[0]))
    assert firsts == {0, 1, 2, 3}


@pytest.mark.parametrize("selection", [KCentre(), Herding()])
def test_what_rounding_alone_tells_apart_takes_turns(selection):
    """The corners of a regular polygon, turned at random in five dimensions: each may be first."""
    angles = 2 * np.pi * np.arange(12) / 12
    turned = np.linalg.qr(np.random.default_rng(4).normal(size=(D, D)))[0]
    corners = np.stack([np.cos(angles), np.sin(angles), 0 * angles + 2], axis=1) @ turned[:3]
    lengths = np.linalg.norm(corners - corners.mean(0), axis=1)
    assert 0 < np.ptp(lengths) < 1e-14
    firsts = set()
    for epoch in range(120):
        chosen = selection.select(CandidateBatch(np.arange(12), features=corners, epoch=epoch), 2).positions
        firsts.add(int(chosen[0]))
        assert selection.name == "herding" or abs(chosen[0] - chosen[1]) == 6, "the opposite corner"
    assert firsts == set(range(12))


@pytest.mark.parametrize("selection", [KCentre(), Herding()])
def test_in_a_sampler(selection):
    rows = features(5, 200)
    store = ReferenceStore.from_arrays(rows)
    plain = {"k-centre": plain_k_centre, "herding": plain_herding}[selection.name]
    sampler = SpectralBatchSampler(store, 40, keep_ratio=0.25, selection=selection)
    for number in range(5):
        candidates, choice, _ = sampler.selection_at(0, number)
        assert choice.positions.tolist() == plain(rows[candidates].astype(np.float64), 10)
    assert sorted(map(len, sampler)) == [10] * 5

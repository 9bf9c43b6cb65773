"""Ranking with ties and certificates; weighted draws without replacement against exact probabilities."""

import itertools

import numpy as np
import pytest
from scipy import stats

from spectral_sampler import draws
from spectral_sampler.selection.ranking import draw_without_replacement, top


def test_top_equals_sorting():
    generator = np.random.default_rng(0)
    for size in (1, 2, 7, 64):
        scores = generator.normal(size=size)
        for count in range(size + 1):
            expected = sorted(range(size), key=lambda i: -scores[i])[:count]
            assert top(scores, count, np.arange(size)).positions.tolist() == expected


def test_scores_within_rounding_of_the_cut_go_by_dataset_index():
    noise = np.random.default_rng(1).normal(size=6) * 1e-8
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1]) + noise
    indices = np.array([40, 33, 11, 22, 5, 1])
    assert indices[top(scores, 3, indices).positions].tolist() == [40, 5, 11]
    shuffled = np.random.default_rng(2).permutation(6)
    again = top(scores[shuffled], 3, indices[shuffled]).positions
    assert indices[shuffled][again].tolist() == [40, 5, 11]


def test_equal_scores_everywhere_rank_by_dataset_index():
    indices = np.array([9, 3, 7, 1])
    assert indices[top(np.zeros(4), 2, indices, np.inf).positions].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("scores", "count", "error", "certified"),
    [
        ([4.0, 3.0, 2.0, 1.0], 2, 0.5, True),
        ([4.0, 3.0, 2.9, 1.0], 2, 0.5, False),
        ([4.0, 3.9, 2.0, 1.0], 2, 0.5, True),  # the order inside the set does not matter
        ([4.0, 2.0, 2.0, 1.0], 2, 0.5, True),  # exact equals at the cut: the tie rule decides, and it is exact
        ([2.2, 2.0, 2.0, 1.0], 2, 0.5, False),  # but the first could trade places with them
        ([4.0, 2.0, 2.0, 1.9], 3, 0.5, False),
        ([1.0, 1.0, 1.0, 1.0], 2, np.inf, False),
        ([0.9, 0.500001, 0.5, -0.3], 2, 1e-4, False),  # called equal, which they are not, and the error is larger
        ([0.9, 0.500001, 0.5, -0.3], 2, 1e-6, True),  # equal under any such error
        ([0.9, 0.500001, 0.5, 0.499998], 2, 1e-6, False),  # the last one may become equal
        ([0.9, 0.500001, 0.5, -0.3], 3, 1e-4, True),  # both are in
        ([4.0, 3.0, 2.0, 1.0], 4, np.inf, True),
    ],
)
def test_certificate(scores, count, error, certified):
    assert top(np.array(scores), count, np.arange(4), error).certified is certified


def test_certified_sets_survive_any_error_within_the_bound():
    generator = np.random.default_rng(3)
    certified = 0
    for _ in range(500):
        scores = generator.normal(size=20)
        error = 0.05
        ranked = top(scores, 8, np.arange(20), 2 * error)  # both neighbours of the cut may move
        if ranked.certified:
            certified += 1
            moved = scores + generator.uniform(-error, error, size=20)
            assert set(top(moved, 8, np.arange(20)).positions) == set(ranked.positions)
    assert 50 < certified < 450


def exact_probabilities(weights, count):
    """Of every ordered draw, by multiplying the shares among those left."""
    result = {}
    for order in itertools.permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for item in order:
            probability *= weights[item] / left
            left -= weights[item]
        result[order] = probability
    return result


def observed(weights, count, trials, power=1.0):
    table = {}
    for trial in range(trials):
        uniforms = draws.uniforms(11, 0, trial, np.arange(len(weights)))
        order = tuple(draw_without_replacement(weights**power, count, uniforms).positions.tolist())
        table[order] = table.get(order, 0) + 1
    return table


@pytest.mark.parametrize("count", [1, 2, 3])
def test_draw_frequencies(count):
    weights = np.array([1.0, 2.0, 4.0, 8.0])
    expected = exact_probabilities(weights, count)
    trials = 12_000

    def pvalue(table):
        return stats.chisquare([table.get(o, 0) for o in expected], [p * trials for p in expected.values()]).pvalue

    assert pvalue(observed(weights, count, trials)) > 1e-4
    assert pvalue(observed(weights, count, trials, power=1.1)) < 1e-6, "the test cannot tell a wrong exponent"


def test_draw_respects_eligibility_and_counts():
    uniforms = draws.uniforms(0, 0, 0, np.arange(10))
    eligible = np.arange(10) % 2 == 0
    draw = draw_without_replacement(np.ones(10), 4, uniforms, eligible)
    assert len(set(draw.positions.tolist())) == 4
    assert set(draw.positions.tolist()) <= {0, 2, 4, 6, 8}
    assert draw_without_replacement(np.ones(10), 0, uniforms).positions.size == 0


def test_weight_zero_comes_last_and_is_counted():
    weights = np.array([0.0, 5.0, 0.0, 1.0, 0.0])
    for batch in range(200):
        uniforms = draws.uniforms(1, 0, batch, np.arange(5))
        two = draw_without_replacement(weights, 2, uniforms)
        assert set(two.positions.tolist()) == {1, 3}
        assert two.zero_weight == 0
        four = draw_without_replacement(weights, 4, uniforms)
        assert set(four.positions[:2].tolist()) == {1, 3}
        assert four.zero_weight == 2


def test_weights_of_any_magnitude():
    for scale in (1e-300, 1e-8, 1.0, 1e8, 1e300):
        uniforms = draws.uniforms(2, 0, 0, np.arange(6))
        weights = scale * np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        reference = draw_without_replacement(weights / scale, 4, uniforms)
        assert draw_without_replacement(weights, 4, uniforms).positions.tolist() == reference.positions.tolist()

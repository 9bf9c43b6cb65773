"""BanditSchedule: the mean, the state, what it learns and what it is not misled by."""

import copy
import io
import math

import numpy as np
import pytest
import torch

from spectral_sampler import ArgumentError, BanditSchedule, OnlineSelection, SpectralBatchSampler, Uniform
from spectral_sampler.experiment import Settings
from spectral_sampler.schedule.bandit import _interquartile_mean, _tilted

STEPS = 640


def trained(schedule, gain=lambda ratio: 0.004 * ratio, level=0.0, noise=0.0, steps=STEPS, seed=0):
    """The ratios of a training whose loss falls by ``gain`` a step, and looks ``level · ratio`` higher than it is."""
    generator, loss, ratios = np.random.default_rng(seed), 3.0, []
    for step in range(steps):
        peeked = schedule.peek(step)
        ratios.append(schedule.ratio(step))
        assert ratios[-1] == peeked
        schedule.observe(loss + level * ratios[-1] + noise * generator.normal())
        loss -= gain(ratios[-1])
    return np.array(ratios)


def begun(*arguments, steps=STEPS, **options):
    schedule = BanditSchedule(*arguments, **options)
    schedule.begin(steps)
    return schedule


@pytest.mark.parametrize("steps", [2, 7, 63, 65, 640, 1001])
@pytest.mark.parametrize(("low", "high", "mean"), [(0.18, 0.88, 0.30), (0.1, 1.0, 0.95), (0.2, 0.5, 0.21)])
def test_the_mean_is_exact_whatever_is_heard(low, high, mean, steps):
    for seed in range(3):
        schedule = begun(low, high, mean=mean, steps=steps, seed=seed)
        ratios = trained(schedule, noise=0.5, steps=steps, seed=seed)
        assert ratios.mean() == pytest.approx(mean, abs=1e-12)
        assert low <= ratios.min() <= ratios.max() <= high
        assert schedule.ratio(steps + 100) == ratios[-1], "stays after the horizon"


def test_without_a_mean_the_ratios_are_arms():
    ratios = trained(begun(0.1, 0.8, mean=None, arms=4, steps=STEPS), noise=0.1)
    assert np.unique(ratios) == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert len(np.flatnonzero(np.diff(ratios))) < 64, "held over periods"
    assert BanditSchedule(0.1, 0.8, mean=None, arms=4).mean == pytest.approx(0.375)


PROGRESS = {
    "less and less": (lambda _: 0.002, 0.18),
    "more and more": (lambda ratio: 0.01 * ratio**2, 0.88),
    "in between": (lambda ratio: 0.01 * ratio * math.exp(-(((ratio - 0.4) / 0.1) ** 2)), 0.398),
}


@pytest.mark.parametrize("level", [0.0, 2.0, -2.0])
@pytest.mark.parametrize("name", PROGRESS)
def test_it_finds_the_arm_of_most_progress_for_its_cost(name, level):
    """However much higher or lower the losses of selected samples look at larger ratios."""
    gain, best = PROGRESS[name]
    late = [trained(begun(mean=None, seed=seed), gain, level, 0.001)[STEPS // 2 :] for seed in range(6)]
    found, times = np.unique(np.round(late, 3), return_counts=True)
    assert found[np.argmax(times)] == pytest.approx(best, abs=1e-3)
    assert times.max() / times.sum() > 0.5


def test_levels_change_nothing():
    gain = PROGRESS["in between"][0]
    for mean in (None, 0.3):
        plain = trained(begun(mean=mean, seed=3), gain, 0.0, 0.01)
        for level in (1.0, -1.0):
            assert (trained(begun(mean=mean, seed=3), gain, level, 0.01) == plain).mean() > 0.95


def test_a_price_of_looking_moves_it_to_larger_ratios():
    """Progress ∝ r^0.5: of r + s, it is best for its cost at r = s."""
    means = [
        np.mean([
            trained(begun(mean=None, seed=seed, selection_cost=cost), lambda r: 0.01 * r**0.5, 0.0, 1e-4)[STEPS // 2 :]
            for seed in range(5)
        ])
        for cost in (0.0, 1.0)
    ]  # fmt: skip
    assert means[0] + 0.2 < means[1]


def test_within_its_mean_it_spends_where_it_does_most():
    gain = PROGRESS["in between"][0]
    shares = {}
    for name, learns in (("learns", gain), ("nothing to learn", lambda _: 0.0)):
        runs = [trained(begun(mean=0.3, seed=seed), learns, 1.0, 1e-4)[STEPS // 2 :] for seed in range(6)]
        shares[name] = float((np.round(runs, 3) == 0.398).mean())
    assert shares["learns"] > 1.5 * shares["nothing to learn"]


def test_a_function_of_the_seed_and_what_was_heard():
    runs = [trained(begun(seed=seed), noise=0.3).tolist() for seed in (4, 4, 5)]
    assert runs[0] == runs[1] != runs[2]
    state = np.random.get_state()[1].copy()
    trained(begun(), noise=0.3)
    assert (np.random.get_state()[1] == state).all()


def test_one_bad_batch_moves_it_little():
    assert _interquartile_mean([1.0, 2.0, 3.0, 1e9]) == 2.5
    assert _interquartile_mean([5.0]) == 5.0
    gain = PROGRESS["more and more"][0]

    def late(spoil):
        schedule, loss, ratios = begun(mean=None, seed=1), 3.0, []
        for step in range(STEPS):
            ratios.append(schedule.ratio(step))
            schedule.observe(spoil(step, loss))
            loss -= gain(ratios[-1])
        return np.mean(ratios[STEPS // 2 :])

    assert late(lambda step, loss: loss if step % 10 else 1e4) > 0.6
    assert late(lambda step, loss: loss if step % 10 else math.nan) > 0.6
    assert late(lambda step, loss: loss if step % 10 else math.inf) > 0.6


@pytest.mark.parametrize("stop", [0, 3, 10, 333])
def test_state(stop):
    whole = begun(seed=2)
    expected = trained(copy.deepcopy(whole), noise=0.1)
    generator, loss, ratios = np.random.default_rng(0), 3.0, []
    schedule = whole
    for step in range(STEPS):
        if step == stop:
            buffer = io.BytesIO()
            torch.save(schedule.state_dict(), buffer)
            buffer.seek(0)
            schedule = begun(seed=2)
            trained(schedule, noise=1.0, steps=50, seed=9)  # what it did before is overwritten
            schedule.load_state_dict(torch.load(buffer, weights_only=True))
        ratios.append(schedule.ratio(step))
        schedule.observe(loss + 0.1 * generator.normal())
        loss -= 0.004 * ratios[-1]
    assert ratios == expected.tolist()
    kept = schedule.state_dict()
    schedule.observe(1.0)
    assert schedule.state_dict() != kept, "a state is not changed by what comes later"


def test_periods_in_which_nothing_is_heard():
    schedule = begun(seed=1)
    deaf = [schedule.ratio(step) for step in range(STEPS)]
    assert np.mean(deaf) == pytest.approx(0.3)
    schedule = begun(seed=1)
    for step in range(STEPS):
        schedule.ratio(step)
        if step % 40 < 10:
            schedule.observe(1.0)
    assert len(schedule.state_dict()["_levels"]) == 63


def test_the_estimate_is_ridge_regression_written_out():
    schedule = begun(mean=None, arms=3, discount=0.9, selection_cost=0.2, exploration=0.0, steps=120, periods=12)
    trained(schedule, lambda ratio: 0.01 * ratio**2, 1.0, 0.05, steps=120)
    arms, levels = schedule.state_dict()["_arms"], schedule.state_dict()["_levels"]
    arms, costs, left, right = arms[: len(levels)], np.geomspace(0.18, 0.88, 3) + 0.2, [], []
    for j in range(1, len(levels)):
        root = 0.9 ** ((len(levels) - 1 - j) / 2)
        row = np.zeros(7)  # levels of the arms, deviations of their progress, common progress
        row[arms[j - 1]] += 1.0
        row[arms[j]] -= 1.0
        for arm in (arms[j - 1], arms[j]):
            row[3 + arm] += costs[arm] / 2
            row[6] += costs[arm] / 2
        left.append(root * row)
        right.append(root * (levels[j - 1] - levels[j]))
    prior = np.diag([1e-3] * 3 + list(costs) + [1e-3])
    system, given = np.vstack([*left, prior]), np.append(right, np.zeros(7))
    found = np.linalg.lstsq(system, given, rcond=None)[0]
    covariance = np.linalg.pinv(system.T @ system, rcond=1e-15)
    weights = 0.9 ** np.arange(len(right))
    free = weights.sum() - np.trace(covariance @ np.transpose(left) @ np.array(left))
    residuals = np.array(right) - np.array(left) @ found
    errors = np.sqrt(residuals @ residuals / free * np.diag(covariance))[3:6]
    bounds = found[3:6] + errors
    expected = (bounds - bounds.mean()) / np.sqrt((errors**2).mean())
    assert schedule._logits() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_tilting_meets_the_mean_and_is_the_nearest():
    ratios, chances = np.geomspace(0.1, 0.9, 5), np.array([0.1, 0.4, 0.1, 0.3, 0.1])
    for mean in (0.12, 0.3, 0.7, 0.88):
        found = _tilted(chances, ratios, mean)
        assert found.sum() == pytest.approx(1.0)
        assert found @ ratios == pytest.approx(mean, abs=1e-9)
        slopes = np.diff(np.log(found / chances)) / np.diff(ratios)
        assert slopes == pytest.approx(np.full(4, slopes[0])), "exponential in the ratio"
    assert _tilted(chances, ratios, 0.05) == pytest.approx([1, 0, 0, 0, 0], abs=1e-9)
    assert _tilted(chances, ratios, 0.95) == pytest.approx([0, 0, 0, 0, 1], abs=1e-9)


def test_in_a_sampler_and_in_the_loop():
    schedule = BanditSchedule(0.2, 0.8, mean=0.4, periods=16)
    sampler = SpectralBatchSampler(np.ones((640, 2)), 32, epochs=8, keep_ratio=schedule, selection=Uniform())
    assert sampler.listens
    assert "0.200 to 0.800, follows the loss; about 0.400" in sampler.describe()
    kept = 0
    for _ in range(8):
        for batch in sampler:
            kept += len(batch)
            sampler.observe_next(np.full(len(batch), 1.0 / kept))
    assert kept / (8 * 640) == pytest.approx(0.4, abs=0.01)
    online = OnlineSelection(Uniform(), BanditSchedule(0.2, 0.8, mean=0.4, periods=4), steps=40)
    sizes = [len(online(indices=np.arange(100), losses=np.ones(100))) for _ in range(40)]
    assert len(set(sizes)) > 1
    assert np.mean(sizes) == pytest.approx(40, abs=1)
    assert isinstance(Settings.of("digits", schedule="bandit").ratio(), BanditSchedule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BanditSchedule(0.5, 0.4), r"^max must be above min \(0\.5\), got 0\.4"),
        (lambda: BanditSchedule(mean=0.18), r"^mean must be between min \(0\.18\) and max \(0\.88\), or None, got 0"),
        (lambda: BanditSchedule(arms=1), r"^arms must be a whole number of at least 2, got 1"),
        (lambda: BanditSchedule(periods=1), r"^periods must be a whole number of at least 2, got 1"),
        (lambda: BanditSchedule(exploration=1.5), r"^exploration must be a number in \[0, 1\], got 1\.5"),
        (lambda: BanditSchedule(discount=0.0), r"^discount must be a number in \(0, 1\], got 0\.0"),
        (lambda: BanditSchedule(selection_cost=-1), r"^selection_cost must be a number in \[0, inf\), got -1"),
        (lambda: BanditSchedule(seed=0.5), r"^seed must be a whole number, got 0\.5"),
        (lambda: BanditSchedule().begin(None), r"^epochs must be the number of training epochs with a BanditSchedule"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()

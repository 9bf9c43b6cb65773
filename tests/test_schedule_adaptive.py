"""Schedules that listen: AIMD against its rule, and ours, whose mean is exact whatever it hears."""

import json

import numpy as np
import pytest

from spectral_sampler import SpectralBatchSampler, Uniform
from spectral_sampler.errors import ArgumentError
from spectral_sampler.schedule import AggressiveAIMD, BanditSchedule, MellowAIMD, PlateauSchedule


def published_aimd(losses, low, high, start, decrease, increase, patience):
    ratio, worse, path, last = start, 0, [], None
    for loss in losses:
        if last is not None:
            if loss <= last:
                ratio, worse = ratio - decrease, 0
            else:
                worse += 1
                ratio = ratio * increase
                if worse == patience:
                    ratio, worse = start, 0
        last = loss
        ratio = min(high, max(low, ratio))
        path.append(ratio)
    return path


def heard(schedule, losses):
    path = []
    for loss in losses:
        schedule.observe(loss)
        path.append(schedule.ratio(0))
    return path


@pytest.mark.parametrize("seed", range(5))
def test_aimd_against_the_rule(seed):
    losses = np.cumsum(np.random.default_rng(seed).normal(size=200))
    assert heard(MellowAIMD(), losses) == pytest.approx(published_aimd(losses, 0.18, 0.88, 0.30, 0.01, 1.1, 5))
    assert heard(AggressiveAIMD(), losses) == pytest.approx(published_aimd(losses, 0.18, 0.88, 0.30, 0.05, 2.0, None))


def test_improving_lowers_additively_and_worsening_raises_multiplicatively():
    schedule = MellowAIMD(0.1, 0.9, mean=0.5, decrease=0.02, increase=1.2, patience=3)
    assert heard(schedule, [3, 2, 1]) == pytest.approx([0.5, 0.48, 0.46])
    assert heard(schedule, [2, 3]) == pytest.approx([0.46 * 1.2, 0.46 * 1.44])
    assert heard(schedule, [4]) == [0.5], "third worse one in a row: the average"
    assert heard(schedule, [5]) == pytest.approx([0.6]), "counting begins anew"
    assert heard(schedule, [4] * 60)[-1] == 0.1
    assert heard(AggressiveAIMD(0.1, 0.9), range(10))[-1] == 0.9


def test_aggressive_oscillates_more():
    losses = np.random.default_rng(0).normal(size=500)
    mellow, aggressive = heard(MellowAIMD(), losses), heard(AggressiveAIMD(), losses)
    assert np.abs(np.diff(aggressive)).mean() > 3 * np.abs(np.diff(mellow)).mean()


def test_a_window_is_one_observation_of_its_mean():
    losses = np.random.default_rng(1).normal(size=120)
    windowed = heard(MellowAIMD(window=6), losses)[5::6]
    assert windowed == pytest.approx(heard(MellowAIMD(), losses.reshape(20, 6).mean(1)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_a_worse_one(bad):
    schedule = MellowAIMD()
    assert heard(schedule, [1.0, bad, 0.5, 0.6]) == pytest.approx([0.3, 0.33, 0.32, 0.352])


def run(schedule, steps, loss_at, delay=0):
    schedule.begin(steps)
    path = []
    for step in range(steps):
        path.append(schedule.ratio(step))
        if step >= delay:
            schedule.observe(loss_at(step - delay, path))
    return np.array(path)


SHAPES = {
    "exponential": lambda t, path: np.exp(-t / 60),
    "linear": lambda t, path: 5 - 0.01 * t,
    "stalls early": lambda t, path: max(1.0, 2 - t / 40),
    "stalls late": lambda t, path: max(0.0, 2 - t / 130),
    "diverges": lambda t, path: 1 + t / 10,
    "constant": lambda t, path: 1.0,
    "noise": lambda t, path: float(np.sin(12345.678 * t)),
    "broken": lambda t, path: float("nan"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("steps", "periods"), [(320, 32), (301, 50), (7, 32), (320, 2)])
@pytest.mark.parametrize("mean", [0.2, 0.3, 0.8])
def test_plateau_meets_its_mean_exactly_and_stays_within_its_bounds(shape, steps, periods, mean):
    path = run(PlateauSchedule(0.18, 0.88, mean=mean, periods=periods), steps, SHAPES[shape])
    assert path.mean() == pytest.approx(mean, abs=1e-12)
    assert path.min() >= 0.18 - 1e-12
    assert path.max() <= 0.88 + 1e-12


def test_plateau_feeds_the_part_of_training_that_is_slow():
    early = run(PlateauSchedule(), 320, SHAPES["stalls early"])
    late = run(PlateauSchedule(), 320, SHAPES["stalls late"])
    steady = run(PlateauSchedule(), 320, SHAPES["linear"])
    assert steady == pytest.approx(0.3 + 0.24 * ((np.arange(320) // 10 * 10 + 5) / 320 - 0.5)), "the line"
    assert early[60:100].mean() > steady[60:100].mean() + 0.15
    assert late[60:100] == pytest.approx(steady[60:100])
    assert late[270:290].mean() > steady[270:290].mean() + 0.15
    slow = run(PlateauSchedule(), 320, SHAPES["exponential"], delay=8)
    assert np.abs(slow - steady).max() > 0.05, "late news still count"


def test_plateau_decides_a_period_once():
    schedule = PlateauSchedule(periods=8)
    schedule.begin(80)
    asked = [schedule.ratio(step) for step in range(50)]
    schedule.observe(1.0)
    assert [schedule.ratio(step) for step in range(50)] == asked
    assert schedule.ratio(10_000) == schedule.ratio(79), "beyond the horizon the last ratio stays"


@pytest.mark.parametrize(
    "make",
    [MellowAIMD, AggressiveAIMD, lambda: MellowAIMD(window=7), PlateauSchedule, lambda: PlateauSchedule(periods=9)],
)
@pytest.mark.parametrize("stop", [0, 1, 53, 200, 299])
def test_state_round_trip(make, stop):
    """One harness for every adaptive schedule: saved as JSON at any step, it goes on as if nothing had happened."""
    losses = np.random.default_rng(stop).normal(size=300)
    schedule = make()
    schedule.begin(300)
    for step in range(stop):
        schedule.ratio(step)
        schedule.observe(losses[step])
    text = json.dumps(schedule.state_dict())
    assert len(text) < 1500
    resumed = make()
    resumed.begin(300)
    if stop > 60:
        resumed.observe(5.0)  # what it heard before is overwritten
    resumed.load_state_dict(json.loads(text))
    for step in range(stop, 300):
        assert resumed.ratio(step) == schedule.ratio(step)
        resumed.observe(losses[step])
        schedule.observe(losses[step])
    assert json.dumps(resumed.state_dict()) == json.dumps(schedule.state_dict())


def test_how_often_it_was_worse_survives_a_checkpoint():
    schedule, resumed = MellowAIMD(), MellowAIMD()
    assert heard(schedule, range(5))[-1] > schedule.mean
    resumed.load_state_dict(schedule.state_dict())
    assert heard(resumed, [5.0]) == heard(schedule, [5.0]) == [schedule.mean], "the fifth time in a row"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MellowAIMD(0.5, 0.4), r"^max must be above min \(0\.5\), got 0\.4"),
        (lambda: MellowAIMD(mean=0.9), r"^mean must be from min \(0\.18\) to max \(0\.88\), got 0\.9"),
        (lambda: MellowAIMD(decrease=0), r"^decrease must be in \(0, 1\), got 0"),
        (lambda: AggressiveAIMD(increase=1.0), r"^increase must be above 1, got 1\.0"),
        (lambda: MellowAIMD(patience=0), r"^patience must be a positive integer or None, got 0"),
        (lambda: MellowAIMD(window=0), r"^window must be a positive integer, got 0"),
        (lambda: PlateauSchedule(mean=0.18), r"^mean must be between"),
        (lambda: PlateauSchedule(periods=1), r"^periods must be an integer of at least 2, got 1"),
        (lambda: PlateauSchedule().begin(None), r"^epochs must be the number of training epochs"),
        (lambda: AggressiveAIMD(0.0), r"^min must be in \(0, 1\]"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("make", [MellowAIMD, AggressiveAIMD, PlateauSchedule, BanditSchedule])
def test_one_schedule_for_run_after_run(make):
    """A loop over seeds that makes its schedule outside: the second run hears its own losses and keeps its own mean."""
    losses = np.random.default_rng(3).normal(size=500)

    def run(schedule, steps):
        schedule.begin(steps)
        ratios = []
        for step in range(steps):
            ratios.append(schedule.ratio(step))
            schedule.observe(losses[step] + step % steps)
        return ratios

    schedule = make()
    run(schedule, 500)
    for steps in (300, 75):
        again = run(schedule, steps)
        assert again == run(make(), steps)
        if make in {PlateauSchedule, BanditSchedule}:
            assert np.mean(again) == pytest.approx(0.3)


def test_a_second_sampler_starts_its_schedule_anew():
    def sizes(schedule):
        sampler = SpectralBatchSampler(np.eye(64, 5) + 1, 16, selection=Uniform(), keep_ratio=schedule, epochs=20)
        found = []
        for _ in range(20):
            for batch in sampler:
                found.append(len(batch))
                sampler.observe(batch, np.full(len(batch), 1.0 + len(found)))
        return found

    schedule = MellowAIMD()
    first = sizes(schedule)
    assert len(set(first)) > 1, "the schedule was heard"
    assert sizes(schedule) == first

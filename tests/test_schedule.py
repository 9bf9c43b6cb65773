"""Schedules: min, max and mean exactly on the steps of the run, and the published coefficients."""

import logging
import math

import numpy as np
import pytest

from spectral_sampler.errors import ArgumentError
from spectral_sampler.schedule import (
    RATIO_GROUPS,
    ConstantSchedule,
    GammaSchedule,
    LinearSchedule,
    SigmoidSchedule,
    SincSchedule,
    SinusoidSchedule,
    plan_ratios,
)

FITTED = [
    SigmoidSchedule(0.18, 0.88, mean=0.30),
    SigmoidSchedule(0.1, 0.5, mean=0.3, steepness=25),
    LinearSchedule(0.18, 0.88, mean=0.30),
    LinearSchedule(0.18, 0.88, mean=0.70),
    LinearSchedule(0.2, 0.4),
    GammaSchedule(0.18, 0.88, mean=0.30),
    GammaSchedule(0.18, 0.88, mean=0.60),
    SincSchedule(0.18, 0.88, mean=0.30),
    SinusoidSchedule(0.18, 0.88, mean=0.30),
]


@pytest.mark.parametrize("schedule", FITTED, ids=repr)
@pytest.mark.parametrize(("epochs", "batches"), [(25, 21), (12, 93), (40, 5), (1, 400), (6, 30)])
def test_minimum_maximum_and_mean_are_exact(schedule, epochs, batches):
    plan = plan_ratios(schedule, epochs, batches)
    flat = plan.flat()
    assert flat.shape == (epochs * batches,)
    assert flat.min() == plan.min == pytest.approx(schedule.min, abs=1e-15)
    assert flat.max() == plan.max == pytest.approx(schedule.max, abs=1e-15)
    assert flat.mean() == pytest.approx(schedule.mean, abs=1e-12)
    assert plan.mean == pytest.approx(schedule.mean, abs=1e-12)
    places = [(0, 0), (0, batches - 1), (epochs // 2, batches // 3), (epochs - 1, batches - 1)]
    assert [plan.at(*place) for place in places] == [flat[epoch * batches + number] for epoch, number in places]
    assert plan.at(epochs, 0) == plan.at(epochs + 9, batches - 1) == plan.last == flat[-1]


@pytest.mark.parametrize("schedule", FITTED, ids=repr)
def test_a_long_horizon_is_met_exactly_without_many_looks_at_all_of_it(schedule, monkeypatch):
    looks, shape = [], type(schedule).shape

    def counted(self, progress, parameter):
        looks.append(len(progress))
        return shape(self, progress, parameter)

    monkeypatch.setattr(type(schedule), "shape", counted)
    plan = plan_ratios(schedule, 30, 20_000)
    assert plan.values.shape == (30, 2500)
    assert looks.count(75_000) <= 20
    assert (plan.min, plan.max) == pytest.approx((schedule.min, schedule.max), abs=1e-12)
    assert plan.mean == pytest.approx(schedule.mean, abs=1e-12)


@pytest.mark.parametrize(
    ("steepness", "a", "b", "x0"),
    [
        (10, 0.179895, 1.182715, 0.916156),
        (15, 0.179998, 0.956429, 0.852352),
        (20, 0.180000, 0.906740, 0.836753),
        (30, 0.180000, 0.884243, 0.829806),
    ],
)
def test_sigmoid_coefficients_on_the_continuous_horizon(steepness, a, b, x0):
    schedule = SigmoidSchedule(0.18, 0.88, mean=0.30, steepness=steepness)
    assert schedule.coefficients() == pytest.approx((a, b, x0), abs=2e-6)
    # The mean in closed form: the integral of a logistic is a softplus.
    integral = (np.logaddexp(0, steepness * (1 - x0)) - np.logaddexp(0, -steepness * x0)) / steepness
    lower, upper, _ = schedule.coefficients()
    assert lower + (upper - lower) * integral == pytest.approx(0.30, abs=2e-6)
    half = lower + (upper - lower) / (1 + math.exp(-steepness * (0.5 - x0)))
    assert schedule(0.5) == pytest.approx(half, abs=1e-5)
    assert (schedule(0.0), schedule(1.0)) == pytest.approx((0.18, 0.88))


def test_sigmoid_rises_and_starts_and_ends_at_its_bounds():
    plan = plan_ratios(SigmoidSchedule(), 25, 21).flat()
    assert (np.diff(plan) >= 0).all()
    assert plan[0] == pytest.approx(0.18)
    assert plan[-1] == pytest.approx(0.88)


def test_sinc_peaks_in_the_middle_and_sinusoid_oscillates():
    sinc = plan_ratios(SincSchedule(0.18, 0.88, mean=0.30), 25, 24).flat()
    assert abs(np.argmax(sinc) / len(sinc) - 0.5) < 0.05
    wave = plan_ratios(SinusoidSchedule(0.18, 0.88, mean=0.30, cycles=3), 25, 24).flat()
    above = wave > 0.5
    assert np.count_nonzero(above[1:] & ~above[:-1]) == 3


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_ratio_is_held_for_all_ranks_of_a_step(ranks):
    plan = plan_ratios(SigmoidSchedule(), 10, 43)
    for epoch in plan.flat().reshape(10, 43):
        for start in range(0, 43 - ranks + 1, ranks):
            assert len(set(epoch[start : start + ranks])) == 1


def test_a_short_run_holds_the_ratio_for_fewer_batches():
    plan = plan_ratios(SigmoidSchedule(), 3, 15)  # groups of eight would leave six values, too few for a mean of .30
    assert plan.group == RATIO_GROUPS[1]
    assert plan.values.shape == (3, 4)
    assert plan.mean == pytest.approx(0.30)


@pytest.mark.parametrize(("epochs", "batches"), [(1, 6), (1, 3), (1, 1), (2, 2)])
def test_a_run_too_short_for_the_schedule_keeps_its_mean_and_says_so_once(epochs, batches, caplog):
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        plan = plan_ratios(SigmoidSchedule(), epochs, batches)
    assert plan.flat().tolist() == [0.3] * (epochs * batches)
    [record] = caplog.records
    assert record.getMessage().startswith(
        f"SigmoidSchedule(0.18, 0.88, mean=0.3, steepness=10.0) does not fit a run of {epochs * batches} candidate "
        "batches, which keeps its mean of 0.3 throughout"
    )


def test_a_horizon_that_no_parameter_fits_is_one_sentence():
    with pytest.raises(
        ArgumentError, match=r"^keep_ratio must be a schedule whose .* got SigmoidSchedule.*\. Train for"
    ):
        SigmoidSchedule().fit(np.linspace(0, 1, 3), np.ones(3))


def test_floats_and_callables():
    assert plan_ratios(0.3, None, 5).flat().tolist() == [0.3] * 5
    assert plan_ratios(ConstantSchedule(0.3), 2, 3).flat().tolist() == [0.3] * 6
    assert plan_ratios(0.3, 30, 10**9).values.size == 1
    seen = []

    def half_then_all(progress: float) -> float:
        seen.append(progress)
        return 0.5 if progress < 0.5 else 1.0

    plan = plan_ratios(half_then_all, 4, 16)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert len(seen) == 8
    assert plan.flat().tolist() == [0.5] * 32 + [1.0] * 32


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan"), True, "half", None])
def test_bad_ratios(ratio):
    with pytest.raises(ArgumentError, match=r"^keep_ratio must be .*got"):
        plan_ratios(ratio, 3, 10)


def test_bad_values_of_a_callable_name_the_progress():
    with pytest.raises(ArgumentError, match=r"^keep_ratio at progress 0 must be in \(0, 1\], got 2\.0"):
        plan_ratios(lambda progress: 2.0, 3, 10)


def test_a_schedule_needs_epochs():
    with pytest.raises(ArgumentError, match=r"^epochs must be the number of training epochs"):
        plan_ratios(SigmoidSchedule(), None, 10)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"min": 0.0, "max": 0.5, "mean": 0.3}, "min"),
        ({"min": 0.5, "max": 0.5, "mean": 0.5}, "max"),
        ({"min": 0.2, "max": 0.5, "mean": 0.1}, "mean"),
        ({"min": 0.2, "max": 1.1, "mean": 0.3}, "max"),
    ],
)
def test_bad_bounds(arguments, name):
    with pytest.raises(ArgumentError, match=rf"^{name} must be"):
        SigmoidSchedule(**arguments)


@pytest.mark.parametrize("steepness", [0, -1, float("inf"), float("nan")])
def test_bad_steepness(steepness):
    with pytest.raises(ArgumentError, match=r"^steepness must be"):
        SigmoidSchedule(steepness=steepness)

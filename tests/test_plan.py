"""The plan of a run: sizes, their mean, who shares them, and rows that an epoch leaves out."""

import logging
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_sampler.sampler.arguments import Settings
from spectral_sampler.sampler.plan import Plan
from spectral_sampler.schedule import LinearSchedule, MellowAIMD, SigmoidSchedule


def make(samples=50_000, candidates=128, ratio=0.3, epochs=None, batch_size=None, rotates=False, **options):
    defaults = {
        "shuffle": True, "reshuffle": True, "drop_last": True, "seed": 0, "num_replicas": 1, "rank": 0,
        "multiple_of": 1, "min_keep": 2, "lookahead": None,
    }  # fmt: skip
    given = Settings(candidate_batch_size=candidates, epochs=epochs, **{**defaults, **options})
    plan = Plan(samples, given, batch_size, rotates=rotates)
    plan.follow(ratio, epochs)
    return plan


def refitted(plan, epoch, number, *, size=None, ratio=None):
    slot = plan.slot(epoch, number)
    return plan.refitted(epoch, slot, slot.size if size is None else size, ratio)


def slots(plan, epochs):
    return [plan.at_step(epoch, step) for epoch in epochs for step in range(plan.steps)]


def share(plan, epochs):
    """Of the candidates that are kept."""
    found = slots(plan, range(epochs))
    return sum(slot.budget for slot in found) / sum(slot.size for slot in found)


# the mean


@pytest.mark.parametrize("ratio", [0.3, 0.123, SigmoidSchedule(), LinearSchedule(0.1, 0.5), lambda t: 0.3 + 0.2 * t])
@pytest.mark.parametrize(
    ("samples", "candidates", "multiple"),
    [(50_000, 128, 1), (50_000, 128, 16), (50_000, 32, 1), (9000, 32, 4), (1797, 64, 1), (11_520, 256, 32)],
)
def test_the_mean_keep_ratio_is_met(samples, candidates, multiple, ratio):
    plan = make(samples, candidates, ratio, 12, multiple_of=multiple, min_keep=1)
    targets = np.maximum(plan.ratios.flat(), multiple / candidates)  # no budget is below one multiple
    assert share(plan, 12) == pytest.approx(targets.mean(), rel=0.005)


@pytest.mark.parametrize(("candidates", "multiple"), [(32, 1), (128, 16), (100, 8)])
def test_a_constant_needs_no_horizon_to_meet_its_mean_over_any_stretch(candidates, multiple):
    plan = make(20_000, candidates, 0.29, multiple_of=multiple)
    kept = np.array([slot.budget for slot in slots(plan, range(60))])
    assert (np.abs(kept - 0.29 * candidates) < multiple).all()
    for stretch in (slice(0, 2000), slice(2000, 4000), slice(0, len(kept))):
        assert kept[stretch].mean() == pytest.approx(0.29 * candidates, rel=0.005)


@pytest.mark.parametrize(("batches", "sizes"), [(1, [10]), (8, [10] * 8), (13, [10] * 8 + [9] * 5)])
def test_a_single_short_epoch_comes_as_near_as_its_groups_allow(batches, sizes):
    assert [slot.budget for slot in slots(make(32 * batches, 32, 0.3, 1), [0])] == sizes


def test_a_mean_that_cannot_be_met_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        for options in (
            {"candidates": 4},
            {"candidates": 128, "ratio": 0.05, "multiple_of": 16, "min_keep": 1},
            {"candidates": 30, "ratio": 1.0, "multiple_of": 8},
            {"samples": 32, "candidates": 32, "epochs": 1},
        ):
            make(**options)
    assert [record.getMessage() for record in caplog.records] == [
        "the sampler keeps 0.5 of the candidates, not 0.3, because min_keep=2, of 4 candidates at a time",
        "the sampler keeps 0.125 of the candidates, not 0.05, because multiple_of=16, of 128 candidates at a time",
        "the sampler keeps 0.8 of the candidates, not 1, because multiple_of=8, of 30 candidates at a time",
        "the sampler keeps 0.312 of the candidates, not 0.3, because the run is short, of 32 candidates at a time",
    ]
    assert share(make(candidates=4), 2) == 0.5


def test_a_mean_that_is_met_is_not_spoken_of(caplog):
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        make(ratio=SigmoidSchedule(), epochs=25)
        make(candidates=32)
        make(ratio=1.0)
        make(samples=60, candidates=32)  # a single batch, but who knows for how many epochs
        make(ratio=SigmoidSchedule(), epochs=1, samples=500_000, candidates=512, multiple_of=16)
        make(600, 4, batch_size=100)
    assert caplog.records == []


# who shares a budget


@pytest.mark.parametrize("ratio", [0.3, SigmoidSchedule()])
@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_ranks_together_have_the_slots_of_one_process(replicas, ratio):
    options = {"samples": 48 * 32 + 5, "candidates": 32, "ratio": ratio, "epochs": 10}
    one = slots(make(**options), range(12))
    ranks = [slots(make(**options, num_replicas=replicas, rank=rank), range(12)) for rank in range(replicas)]
    together = [slot for step in zip(*ranks, strict=True) for slot in step]
    assert [slot[:6] for slot in together] == [slot[:6] for slot in one]
    assert [slot.first for slot in together] == [number - number % replicas for number in range(48)] * 12
    assert len({slot.budget for slot in one}) > 1


@pytest.mark.parametrize("replicas", [2, 3, 5, 16])
def test_ranks_of_a_step_keep_equally_many(replicas):
    options = {"samples": 1699, "candidates": 32, "ratio": LinearSchedule(0.2, 0.6), "epochs": 6, "drop_last": False}
    ranks = [slots(make(**options, num_replicas=replicas, rank=rank), range(8)) for rank in range(replicas)]
    assert all(len({slot.budget for slot in step}) == 1 for step in zip(*ranks, strict=True))


def test_a_group_shares_its_budget_and_its_ratio():
    plan = make(ratio=SigmoidSchedule(), epochs=5)
    for epoch in range(7):
        found = slots(plan, [epoch])
        for start in range(0, plan.steps, 8):
            assert len({slot[4:6] for slot in found[start : start + 8]}) == 1


# the tail


def test_a_tail_is_budgeted_in_proportion():
    plan = make(32 * 7 + 11, 32, 0.3, drop_last=False)
    tails = [plan.slot(epoch, 7) for epoch in range(60)]
    assert {(slot.start, slot.size) for slot in tails} == {(224, 11)}
    assert {slot.budget for slot in tails} == {3, 4}
    assert np.mean([slot.budget for slot in tails]) == pytest.approx(3.3, abs=0.05)


@pytest.mark.parametrize(("tail", "options", "size"), [(1, {}, 2), (3, {"min_keep": 5}, 5), (7, {"multiple_of": 8}, 8)])
def test_a_tail_below_min_keep_takes_candidates_from_the_start(tail, options, size):
    plan = make(64 + tail, 32, 0.5, drop_last=False, **options)
    assert plan.slot(0, 2)[2:6] == (64, size, 0.5, size)
    assert min(plan.batch_sizes()) == size


# sizes

RATIOS = st.one_of(
    st.integers(1, 20).map(lambda k: k / 20),
    st.sampled_from([SigmoidSchedule(0.2, 0.85, mean=0.4), LinearSchedule(0.25, 0.5), lambda t: 1 - t / 2]),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    samples=st.integers(40, 400), candidates=st.integers(4, 40), ratio=RATIOS, epochs=st.integers(1, 5),
    multiple_of=st.sampled_from([1, 1, 2, 4]), min_keep=st.integers(1, 4), drop_last=st.booleans(),
    num_replicas=st.sampled_from([1, 1, 2, 3]),
)  # fmt: skip
def test_batch_sizes_are_those_that_occur(samples, candidates, epochs, num_replicas, **options):
    if samples // candidates < num_replicas:
        num_replicas = 1
    plan = make(samples, candidates, epochs=epochs, num_replicas=num_replicas, **options)
    expected, found = plan.batch_sizes(), set()
    for epoch in range(3000):
        found |= {slot.budget for slot in slots(plan, [epoch])}
        if epoch >= epochs and found == expected:
            break
    assert found == expected


def test_sizes_of_an_order_with_repetitions_are_all_that_may_be_left():
    assert make(ratio=0.25, candidates=32).batch_sizes(repeats=True) == set(range(1, 9))
    assert make(ratio=0.75, candidates=32, multiple_of=8).batch_sizes(repeats=True) == {*range(1, 8), 8, 16, 24}


def test_sizes_that_are_decided_later_have_bounds():
    assert make(ratio=MellowAIMD(0.2, 0.75, mean=0.5), candidates=24).batch_sizes() == set(range(4, 19))
    assert make(ratio=0.3, candidates=32).batch_sizes(proposed=True) == set(range(2, 11))
    assert make(ratio=0.3, candidates=128, multiple_of=16).batch_sizes(proposed=True) == {16, 32, 48}
    assert make(batch_size=64).batch_sizes(proposed=False) == {64}


# ratios decided when a batch is due


def test_an_adaptive_ratio_meets_its_mean_whatever_it_is():
    plan = make(20_000, 32, MellowAIMD(0.1, 0.9, mean=0.5))
    ratios = np.random.default_rng(0).uniform(0.1, 0.9, (40, plan.batches))
    found = [refitted(plan, e, b, ratio=ratios[e, b]) for e in range(40) for b in range(plan.batches)]
    assert all(abs(slot.budget - 32 * slot.ratio) < 1 for slot in found)
    assert sum(slot.budget for slot in found) == pytest.approx(32 * ratios.sum(), rel=0.002)
    steady = [refitted(plan, 0, b, ratio=0.3).budget for b in range(plan.batches)]
    assert np.mean(steady) == pytest.approx(9.6, rel=0.005)
    assert {slot.budget for slot in found} <= plan.batch_sizes()
    assert plan.slot(3, 1).ratio == 0.1, "until it is due"
    assert plan.slot(3, 1).budget in {3, 4}


def test_ranks_agree_on_an_adaptive_ratio():
    ranks = [make(ratio=MellowAIMD(), num_replicas=3, rank=rank) for rank in range(3)]
    for step in range(40):
        assert len({refitted(plan, 1, 3 * step + plan.rank, ratio=0.437).budget for plan in ranks}) == 1


def test_fewer_candidates_than_planned_are_kept_in_proportion():
    plan = make(ratio=0.3)
    kept = [refitted(plan, epoch, number, size=20).budget for epoch in range(4) for number in range(plan.batches)]
    assert np.mean(kept) == pytest.approx(6.0, rel=0.005)
    assert refitted(plan, 0, 0, size=1)[3:6] == (1, 0.3, 1), "fewer than min_keep: all"


# rows that an epoch leaves out


def offered(plan, epoch):
    """The positions of an epoch, one row for each candidate batch, over all ranks."""
    steps = range(plan.steps * plan.num_replicas)
    found = [plan.slot(epoch, number) for number in steps]
    return [np.arange(slot.start, slot.start + slot.size) % plan.samples for slot in found]


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("samples", [96, 97, 111, 127, 143])
def test_a_constant_order_offers_every_row_in_one_of_two_epochs(samples, replicas):
    plan = make(samples, 16, rotates=True, num_replicas=replicas)
    even, odd = (offered(plan, epoch) for epoch in (0, 1))
    for batches in (even, odd):
        assert len(np.unique(np.concatenate(batches))) == 16 * len(batches)
    assert np.union1d(np.concatenate(even), np.concatenate(odd)).tolist() == list(range(samples))
    spare = samples - 16 * len(even)
    moved = sum(a.tolist() != b.tolist() for a, b in zip(even, odd, strict=True))
    assert moved == -(-spare // 16), "other batches keep their scores"
    assert [plan.slot(2, b)[:4] for b in range(len(even))] == [plan.slot(0, b)[:4] for b in range(len(even))]


@pytest.mark.parametrize("options", [{"drop_last": False}, {"rotates": False}])
def test_nothing_moves_where_nothing_is_left_out_for_ever(options):
    plan = make(127, 16, **{"rotates": True, **options})
    assert [s[:4] for s in slots(plan, [0])] == [s[:4] for s in slots(plan, [1])]


@pytest.mark.parametrize("ratio", [0.5, 0.3, 0.1, lambda t: 0.2 + 0.5 * t])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("samples", [103, 240, 257])
def test_batches_of_constant_size_reach_every_row_of_a_constant_order(samples, replicas, ratio):
    plan = make(samples, 16, ratio, 4, batch_size=8, rotates=True, num_replicas=replicas)
    counts, keys, length = np.zeros(samples), set(), []
    for epoch in range(40):
        for positions in offered(plan, epoch):
            assert len(np.unique(positions)) == len(positions)
            counts[positions] += 1
            length.append(len(positions))
        keys |= {plan.slot(epoch, b)[2:4] for b in range(plan.steps * replicas)}
    assert offered(plan, 0)[0][0] == 0
    assert counts.min() > 0.5 * sum(length) / samples - 2
    assert plan.recurs == (not callable(ratio))
    if plan.recurs:
        assert len(keys) <= samples // length[0] + 1, "scores are kept for as many"


def test_a_changing_ratio_goes_on_where_the_last_epoch_stopped():
    plan, position = make(257, 16, lambda t: 0.2 + 0.5 * t, 3, batch_size=8, rotates=True), 0
    for slot in slots(plan, range(6)):
        assert slot.size == math.ceil(8 / slot.ratio - 1e-9)
        assert slot.start == position % 257
        position += slot.size


@pytest.mark.parametrize("ratio", [0.5, 0.07, LinearSchedule(0.05, 0.6)])
def test_passes_of_a_shuffled_order_begin_where_a_batch_does_not_fit(ratio):
    plan = make(257, 16, ratio, 4, batch_size=8)
    for epoch in range(6):
        order_pass = start = 0
        for slot in slots(plan, [epoch]):
            if start + slot.size > 257:
                order_pass, start = order_pass + 1, 0
            assert slot[1:4] == (order_pass, start, min(257, math.ceil(8 / slot.ratio - 1e-9)))
            start += slot.size
        assert order_pass > 0 or ratio != 0.07


def test_a_constant_ratio_costs_nothing_however_long_the_run():
    plan = make(10**12, 128, 0.3, 1000)
    assert len(pickle.dumps(plan)) < 1000
    assert plan.slot(999, 10**9).start == 128 * 10**9
    assert make(10**12, 128, 0.3, 1000, batch_size=64).slot(999, 5 * 10**9).order_pass == 1
    assert plan.batch_sizes() == {38, 39}


def test_a_pickled_plan_is_the_same_plan():
    plan = make(257, 16, lambda t: 0.2 + 0.5 * t, 3, batch_size=8)
    found = slots(plan, range(4))
    assert slots(pickle.loads(pickle.dumps(plan)), range(4)) == found

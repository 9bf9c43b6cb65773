"""What comes out of the sampler: types, sizes, lengths, coverage, statistics."""

import logging
import math

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, HighestLearnerLoss, epochs_of, make_store
from torch.utils.data import BatchSampler

from spectral_sampler import GSTDS, SALN, LinearSchedule, ReferenceStore, SigmoidSchedule, SpectralBatchSampler, Uniform
from spectral_sampler.selection import Choice

STORE = make_store()


def make(store=STORE, **options):
    return SpectralBatchSampler(
        store, **{"candidate_batch_size": 32, "keep_ratio": 0.3, "selection": FirstFeature(), **options}
    )


def test_contract_of_a_batch_sampler():
    sampler = make()
    assert isinstance(sampler, BatchSampler)
    assert not hasattr(sampler, "batch_size")
    assert sampler.drop_last is True
    assert make(emit="constant", batch_size=16).batch_size == 16
    batches = list(sampler)
    assert all(type(batch) is list and type(index) is int for batch in batches for index in batch)
    assert all(len(set(batch)) == len(batch) >= 2 for batch in batches)
    assert max(index for batch in batches for index in batch) < len(STORE)


@pytest.mark.parametrize(
    ("ratio", "size", "multiple", "least", "kept"),
    [
        (0.29, 100, 1, 2, {29}),  # 0.29 · 100 is below 29 in floating point
        (0.3, 128, 1, 2, {38, 39}),
        (0.3, 128, 16, 2, {32, 48}),
        (0.01, 128, 1, 2, {2}),
        (0.01, 128, 8, 2, {8}),
        (0.01, 128, 1, 5, {5}),
        (1.0, 30, 8, 2, {24}),
        (1.0, 32, 1, 2, {32}),
    ],
)
def test_budget(ratio, size, multiple, least, kept):
    sampler = make(candidate_batch_size=size, keep_ratio=ratio, multiple_of=multiple, min_keep=least)
    assert {len(batch) for batches in epochs_of(sampler, 8) for batch in batches} == kept == sampler.batch_sizes()


def test_tail_is_budgeted_by_its_own_size_and_filled_up_when_tiny():
    store = make_store(100)
    sizes = [len(batch) for batch in make(store, candidate_batch_size=30, keep_ratio=0.5, drop_last=False)]
    assert sizes == [15, 15, 15, 5]
    assert [len(batch) for batch in make(make_store(91), candidate_batch_size=30, drop_last=False)][-1] == 2
    assert [len(b) for b in make(make_store(93), candidate_batch_size=30, drop_last=False, min_keep=4)][-1] == 4


@pytest.mark.parametrize("samples", [64, 95, 96, 97, 127, 200])
@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_length_is_exact_and_ranks_are_disjoint_and_cover(samples, replicas, drop_last):
    store = make_store(samples)
    samplers = [
        make(store, candidate_batch_size=16, keep_ratio=1.0, num_replicas=replicas, rank=rank, drop_last=drop_last)
        for rank in range(replicas)
    ]
    whole, step = samples // 16, replicas * 16
    expected = whole // replicas if drop_last else math.ceil(math.ceil(samples / 16) / replicas)
    per_rank = [list(sampler) for sampler in samplers]
    assert [len(s) for s in samplers] == [len(batches) for batches in per_rank] == [expected] * replicas
    for parts in zip(*per_rank, strict=True):  # all ranks of a step keep equally many
        assert len({len(part) for part in parts}) == 1
    seen = [index for batches in per_rank for batch in batches for index in batch]
    if drop_last:
        assert len(seen) == len(set(seen)) == expected * step
    else:
        assert set(seen) == set(range(samples))
        assert len(seen) == (
            samples + (samples == 97) if replicas == 1 else expected * step
        )  # a tail of one takes another


def test_wrapped_batches_repeat_the_first_ones():
    store = make_store(96)  # 6 candidate batches over 4 ranks: 8 places
    one = list(make(store, candidate_batch_size=16, drop_last=False))
    ranks = [list(make(store, candidate_batch_size=16, drop_last=False, num_replicas=4, rank=r)) for r in range(4)]
    assert [ranks[b % 4][b // 4] for b in range(8)] == [*one, *one[:2]]


@pytest.mark.parametrize(
    "schedule", [SigmoidSchedule(0.18, 0.88, mean=0.30), LinearSchedule(0.2, 0.6), lambda t: 1 - t / 2]
)
def test_batch_sizes_are_those_that_occur_and_length_is_constant(schedule):
    sampler = make(keep_ratio=schedule, epochs=4, candidate_batch_size=20, drop_last=False, multiple_of=2)
    passes = epochs_of(sampler, 6)  # two beyond the horizon
    assert {len(batches) for batches in passes} == {len(sampler)}
    assert {len(batch) for batches in passes for batch in batches} == sampler.batch_sizes()


def test_ratios_meet_minimum_maximum_and_mean_and_stay_after_the_horizon():
    sampler = make(keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.30), epochs=8, candidate_batch_size=16)
    ratios = sampler.keep_ratios()
    assert ratios.shape == (8 * 30,)
    assert (ratios.min(), ratios.max()) == (0.18, 0.88)
    assert ratios.mean() == pytest.approx(0.30, abs=1e-12)
    sizes = [len(batch) for batches in epochs_of(sampler, 8) for batch in batches]
    assert all(math.floor(r * 16 + 1e-9) <= n <= math.ceil(r * 16 - 1e-9) for n, r in zip(sizes, ratios, strict=True))
    assert np.mean(sizes) == pytest.approx(0.30 * 16, rel=0.005)
    assert {len(batch) for batch in sampler} == {14, 15} == {math.floor(0.88 * 16), math.ceil(0.88 * 16)}


def test_constant_size_takes_as_many_candidates_as_the_ratio_asks_for():
    sampler = make(keep_ratio=0.25, emit="constant", batch_size=16, reshuffle=True)
    assert len(sampler) == 480 // 32 == len(list(sampler))
    sampler.set_epoch(0)
    assert {len(batch) for batch in sampler} == {16} == sampler.batch_sizes()
    offered = [sampler.selection_at(0, batch)[0] for batch in range(15)]
    assert {len(candidates) for candidates in offered} == {64}
    assert all(len(set(candidates.tolist())) == 64 for candidates in offered)
    # 480 = 7 · 64 + 32: seven batches a pass, which share no sample, and then the next permutation begins
    first, second = (np.concatenate(offered[start : start + 7]) for start in (0, 7))
    assert len(set(first.tolist())) == len(set(second.tolist())) == 448
    assert not np.array_equal(first, second)


def test_constant_size_follows_a_schedule_and_never_exceeds_the_data():
    sampler = make(keep_ratio=lambda t: 0.05 + 0.9 * t, epochs=3, emit="constant", batch_size=40)
    for epoch, batches in enumerate(epochs_of(sampler, 3)):
        assert {len(batch) for batch in batches} == {40}
        for number in range(len(batches)):
            candidates, choice, ratio = sampler.selection_at(epoch, number)
            assert len(candidates) == min(480, math.ceil(40 / ratio - 1e-9))
            assert candidates[choice.positions].tolist() == batches[number]


def test_selection_at_agrees_with_iteration_and_moves_nothing():
    sampler = make(num_replicas=2, rank=1, keep_ratio=LinearSchedule(0.2, 0.6), epochs=3)
    passes = epochs_of(sampler, 3)
    before = sampler.state_dict()
    for epoch, batches in enumerate(passes):
        for step, batch in enumerate(batches):
            candidates, choice, ratio = sampler.selection_at(epoch, 2 * step + 1)
            assert candidates[choice.positions].tolist() == batch
            assert 0.2 <= ratio <= 0.6
    assert sampler.state_dict() == before


def test_epochs_differ_and_are_determined_by_seed_and_epoch():
    first, second = epochs_of(make(), 2)
    assert first != second
    assert epochs_of(make(seed=1), 1)[0] != first
    again = make()
    again.set_epoch(1)
    assert list(again) == second
    assert sorted(index for batch in first for index in batch) != sorted(index for batch in second for index in batch)


def test_without_shuffle_candidates_come_in_ascending_order():
    sampler = make(shuffle=False, keep_ratio=1.0)
    assert [index for batch in sampler for index in batch] == list(range(480))


def test_fixed_partition_is_scored_once_while_draws_vary():
    selection = FirstFeature()
    sampler = make(selection=selection, reshuffle=False, lookahead=4, keep_ratio=0.5)  # the same budget every time
    passes = epochs_of(sampler, 4)
    assert sum(members for members, _ in selection.calls) == len(sampler)
    offered = [{frozenset(sampler.selection_at(e, b)[0].tolist()) for b in range(15)} for e in range(4)]
    assert offered[0] == offered[1] == offered[3]
    assert passes[0] != passes[1] != passes[2]


def test_a_scoring_call_takes_as_many_batches_as_lookahead_says():
    for lookahead, shapes in ((0, [(1, 32)] * 15), (4, [(4, 32)] * 3 + [(3, 32)]), (16, [(15, 32)])):
        selection = FirstFeature()
        list(make(selection=selection, lookahead=lookahead))
        assert selection.calls == shapes
    ragged = FirstFeature()
    list(make(make_store(100), selection=ragged, candidate_batch_size=30, drop_last=False, keep_ratio=0.5))
    assert ragged.calls == [(3, 30), (1, 10)]


def test_nothing_is_scored_where_everything_is_kept():
    selection = FirstFeature()
    list(make(selection=selection, keep_ratio=1.0))
    assert selection.calls == []


def test_features_alone_are_enough_for_a_selection_that_needs_no_more():
    for features in (torch.from_numpy(STORE.features), np.asarray(STORE.features)):
        sampler = SpectralBatchSampler(features, candidate_batch_size=32, keep_ratio=0.3, selection=SALN())
        assert len(next(iter(sampler))) in {9, 10}


def test_the_published_method_takes_two_arguments():
    sampler = SpectralBatchSampler(
        STORE, 32, epochs=10, selection=GSTDS(), keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.30)
    )
    assert isinstance(sampler.selection, GSTDS)
    assert sampler.keep_ratios().mean() == pytest.approx(0.30)
    _, choice, _ = sampler.selection_at(9, 14)
    assert np.bincount(choice.kinds, minlength=3).tolist() == [14, 14, 0]  # .88 · 32 = 28.16


def test_statistics_are_flat_floats_of_the_latest_pass():
    sampler = SpectralBatchSampler(STORE, candidate_batch_size=32, keep_ratio=0.5, selection=GSTDS())
    list(sampler)
    iterator = iter(sampler)
    next(iterator)
    statistics = sampler.statistics()
    assert all(type(value) is float and name.startswith("spectral/") for name, value in statistics.items())
    assert statistics["spectral/epoch"] == 1.0
    assert statistics["spectral/batches"] == 1.0
    assert (statistics["spectral/keep_ratio"], statistics["spectral/kept"]) == (0.5, 16.0)
    assert statistics["spectral/matvecs"] > 2
    assert 0 <= statistics["spectral/certified_share"] <= 1
    assert statistics["spectral/seconds_waiting"] > 0 < statistics["spectral/seconds_selecting"]
    assert statistics["spectral/unconverged_share"] == statistics["spectral/indefinite_share"] == 0.0


def test_signed_and_degenerate_features_show_in_the_statistics():
    generator = np.random.default_rng(0)
    signed = SpectralBatchSampler(
        generator.standard_normal((128, 16)), candidate_batch_size=32, keep_ratio=0.5, selection=SALN()
    )
    list(signed)
    assert signed.statistics()["spectral/indefinite_share"] == 1.0
    equal = SpectralBatchSampler(np.ones((128, 4)), candidate_batch_size=32, keep_ratio=0.5, selection=SALN())
    list(equal)
    assert equal.statistics()["spectral/degenerate_share"] == 1.0


class Doubtful(FirstFeature):
    """Certain of every third candidate batch alone."""

    def select(self, batch, budget):
        return super().select(batch, budget)._replace(certified=batch.batch % 3 == 0)


def test_certified_share_is_that_of_the_choices():
    sampler = make(selection=Doubtful())
    list(sampler)
    assert sampler.statistics()["spectral/certified_share"] == 5 / 15


class ZeroWeights(Uniform):
    def select(self, batch, budget):
        choice = super().select(batch, budget)
        return choice._replace(zero_weight_draws=3)


def test_zero_weight_draws_are_counted_and_warned_of_once(caplog):
    sampler = make(selection=ZeroWeights())
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        epochs_of(sampler, 2)
    assert sampler.statistics()["spectral/zero_weight_draws"] == 3 * len(sampler)
    [record] = caplog.records
    assert record.getMessage().startswith("epoch 0, candidate batch 0: 3 of 10 selected samples have weight zero, ")


def test_heavy_tailed_losses_that_run_out_of_weight_are_reported(caplog):
    losses = np.full(64, 3e38, dtype=np.float32)  # 1 / loss is not zero in float64: nothing to warn of
    store = ReferenceStore.from_arrays(STORE.features[:64], losses=losses)
    sampler = SpectralBatchSampler(store, candidate_batch_size=32, keep_ratio=0.9)
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        list(sampler)
    assert sampler.statistics()["spectral/zero_weight_draws"] == 0
    zero = ReferenceStore.from_arrays(STORE.features[:64], losses=np.zeros(64))
    by_loss = SpectralBatchSampler(zero, candidate_batch_size=32, keep_ratio=0.9, selection=GSTDS(weights="loss"))
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        list(by_loss)
    assert by_loss.statistics()["spectral/zero_weight_draws"] == 2 * 15
    assert len(caplog.records) == 1


class Told(Uniform):
    """Remembers where it was told to be."""

    def __init__(self):
        self.places = []

    def select(self, batch, budget):
        self.places.append((batch.seed, batch.epoch, batch.batch, batch.progress))
        return super().select(batch, budget)


def test_a_selection_is_told_its_place():
    for rank in range(2):
        selection = Told()
        schedule = LinearSchedule(0.2, 0.6)
        sampler = make(selection=selection, num_replicas=2, rank=rank, seed=9, epochs=2, keep_ratio=schedule)
        epochs_of(sampler, 2)
        numbers = range(rank, 14, 2)  # 15 candidate batches; the last one fills no step
        expected = [(9, epoch, b, pytest.approx((15 * epoch + b) / 29)) for epoch in range(2) for b in numbers]
        assert selection.places == expected


class Greedy(Uniform):
    def select(self, batch, budget):
        return Choice(np.zeros(budget, dtype=np.int64), np.zeros(budget, dtype=np.int8))


def test_a_selection_that_breaks_its_contract_is_caught():
    with pytest.raises(RuntimeError, match="was to select 10 distinct candidates"):
        list(make(selection=Greedy()))


def test_a_store_that_changed_after_its_check_is_an_error():
    store = make_store(64)
    store.features[5] = np.nan
    with pytest.raises(RuntimeError, match="zero or not finite"):
        list(SpectralBatchSampler(store, candidate_batch_size=32, keep_ratio=0.5, selection=SALN()))


def test_observed_losses_reach_the_choice_when_it_is_due():
    sampler = make(selection=HighestLearnerLoss(), lookahead=16, keep_ratio=0.25)
    iterator = iter(sampler)
    next(iterator)
    candidates = sampler.selection_at(0, 1)[0]
    losses = np.zeros(480)
    losses[candidates[-8:]] = 5.0
    sampler.observe(torch.arange(480), torch.from_numpy(losses))
    assert sorted(next(iterator)) == sorted(candidates[-8:].tolist())
    assert sampler.statistics()["spectral/observed_share"] == 1.0


def test_observations_are_checked_counted_and_digested(caplog):
    sampler = make()
    empty = sampler.state_dict()["observed"]
    sampler.observe([3, 1, 3], [9.0, 1.0, 2.0])
    digest = sampler.state_dict()["observed"]
    assert digest != empty
    other = make()
    other.observe(np.array([3]), torch.tensor([7.0]))
    other.observe(torch.tensor([1, 3]), torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    assert other.state_dict()["observed"] == digest  # a function of the table, not of how it came about
    assert other.statistics()["spectral/observed_age"] == 0.0
    list(other)
    other.observe([5], [1.0])
    assert other.statistics()["spectral/observed_age"] == pytest.approx(2 / 3), "in epochs"
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        sampler.observe([0, 1], [float("inf"), float("nan")])
        sampler.observe([0], [float("inf")])
    assert len(caplog.records) == 1
    assert sampler.state_dict()["observed"] == digest
    assert sampler.statistics()["spectral/observed_refused"] == 3.0
    assert sampler.statistics()["spectral/observed_share"] == 2 / 480


@pytest.mark.parametrize(
    ("indices", "losses", "named"),
    [([0, 1], [1.0], "losses"), ([480], [1.0], "indices"), ([-1], [1.0], "indices"), ([0.5], [1.0], "indices")],
)
def test_observe_refuses_what_does_not_fit(indices, losses, named):
    with pytest.raises(ValueError, match=rf"^{named} must be "):
        make().observe(indices, losses)


def test_learning_rate_scale_is_the_share_of_candidates():
    sampler = make(keep_ratio=0.25)
    assert sampler.lr_scale() == 1.0
    next(iter(sampler))
    assert sampler.lr_scale() == 0.25
    assert sampler.lr_scale(16) == 0.5
    constant = make(emit="constant", batch_size=16)
    next(iter(constant))
    assert constant.lr_scale() == 1.0

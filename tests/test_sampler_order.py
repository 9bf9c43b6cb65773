"""Epochs, and candidate orders given by the caller."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, epochs_of, make_store
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from spectral_sampler import SpectralBatchSampler

STORE = make_store(256)


def make(sampler=None, **options):
    defaults = {"candidate_batch_size": 32, "keep_ratio": 0.5, "selection": FirstFeature()}
    return SpectralBatchSampler(STORE, sampler=sampler, **{**defaults, **options})


REFERENCE = epochs_of(make(), 4)


def test_iterators_are_lazy():
    sampler = make()
    iterators = [iter(sampler) for _ in range(5)]
    assert sampler.state_dict()["epoch"] == 0
    del iterators
    assert sampler.epoch == 0
    assert list(sampler) == REFERENCE[0]


def test_an_iterator_takes_the_epoch_at_its_first_batch():
    sampler = make()
    iterator = iter(sampler)
    sampler.set_epoch(2)
    assert list(iterator) == REFERENCE[2]


def test_a_pass_left_early_is_an_epoch_and_a_look_at_its_first_batch_is_not():
    sampler = make()
    for _ in range(3):
        assert next(iter(sampler)) == REFERENCE[0][0]
    for number, _ in enumerate(sampler):
        if number == 1:
            break
    assert list(sampler) == REFERENCE[1]
    heard = make()
    for batch in heard:
        heard.observe(batch, [1.0] * len(batch))
        break
    assert list(heard) == REFERENCE[1], "a batch whose losses are reported was trained on"
    list(heard)
    assert next(iter(heard)) == REFERENCE[3][0]
    assert list(heard) == REFERENCE[3], "what was reported in an earlier pass says nothing of a look"
    resumed = make()
    resumed.load_state_dict(state_at(1, 5))
    assert next(iter(resumed)) == REFERENCE[1][5]
    assert list(resumed) == REFERENCE[1][5:], "a look moves no loaded position"


def state_at(epoch, step):
    return make().state_dict(batches_consumed=step, epoch=epoch)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_look_through_workers_that_read_ahead_is_one_too(workers):
    sampler = make()
    loader = DataLoader(range(256), batch_sampler=sampler, num_workers=workers, prefetch_factor=2)
    for _ in range(2):
        assert next(iter(loader)).tolist() == REFERENCE[0][0]
    assert [batch.tolist() for batch in loader] == REFERENCE[0]
    assert [batch.tolist() for batch in loader] == REFERENCE[1]


def position(sampler):
    state = sampler.state_dict()
    return state["epoch"], state["next_batch"]


def test_one_iterator_does_not_move_another_one_that_runs():
    sampler = make()
    first, second = iter(sampler), iter(sampler)
    next(first)
    [next(second) for _ in range(3)]
    first.close()
    assert position(sampler) == (0, 3)
    assert list(second) == REFERENCE[0][3:]
    assert sampler.epoch == 1
    running, looked = iter(sampler), iter(sampler)
    [next(running) for _ in range(2)]
    [next(looked) for _ in range(4)]
    looked.close()
    assert position(sampler) == (1, 2)
    assert sampler.epoch == 1, "that of the pass that runs"
    assert list(running) == REFERENCE[1][2:]
    held = iter(sampler)
    next(held)
    assert list(sampler) == REFERENCE[2], "one that is held on to does not hold the epoch"
    assert list(sampler) == REFERENCE[3]


def test_set_epoch_is_absolute_idempotent_and_leaves_a_running_pass_alone():
    sampler = make()
    for epoch in (2, 0, 3, 3):
        sampler.set_epoch(epoch)
        sampler.set_epoch(epoch)
        batches = []
        for batch in sampler:
            batches.append(batch)
            sampler.set_epoch(epoch)  # as a framework may, at any time
        assert batches == REFERENCE[epoch]
    iterator = iter(sampler)
    sampler.set_epoch(0)
    next(iterator)
    sampler.set_epoch(3)
    assert list(iterator) == REFERENCE[0][1:]
    assert list(sampler) == REFERENCE[3]


def test_an_exhausted_iterator_stays_exhausted():
    sampler = make()
    iterator = iter(sampler)
    list(iterator)
    assert next(iterator, None) is None
    assert sampler.epoch == 1
    iterator.close()
    assert sampler.epoch == 1


def test_the_inner_sampler_forwards_the_epoch_and_yields_the_candidates():
    sampler = make()
    sampler.sampler.set_epoch(2)
    assert sampler.epoch == 2
    candidates = [sampler.selection_at(2, batch)[0] for batch in range(8)]
    assert list(sampler.sampler) == np.concatenate(candidates).tolist()
    assert sorted(sampler.sampler) == list(range(256))
    assert len(sampler.sampler) == 256


def test_copies_are_independent():
    sampler = make()
    running = iter(sampler)
    next(running)
    left = copy.copy(sampler)
    left.set_epoch(1)
    left.set_epoch(0)
    for _ in zip(left, range(2), strict=False):
        pass
    assert list(left) == REFERENCE[1], "a pass of the original is none of the copy's"
    running.close()
    twin = copy.deepcopy(sampler)
    twin.sampler.set_epoch(3)
    assert (sampler.epoch, twin.epoch) == (0, 3)
    assert list(sampler) == REFERENCE[0]


def test_a_shallow_copy_shares_the_data_and_nothing_that_moves():
    generator = torch.Generator().manual_seed(3)
    sampler = make(RandomSampler(range(256), generator=generator))
    twin = copy.copy(sampler)
    assert twin.store is sampler.store
    twin.set_epoch(2)
    list(twin)
    twin.observe([1], [2.0])
    assert (sampler.epoch, twin.epoch) == (0, 3)
    assert sampler.statistics()["spectral/observed_share"] == 0.0
    del twin
    sampler.sampler.set_epoch(5)
    assert sampler.epoch == 5


def candidates_of(sampler, epoch):
    return np.concatenate([sampler.selection_at(epoch, batch)[0] for batch in range(len(sampler))])


@pytest.mark.parametrize("replicas", [1, 2])
def test_distributed_sampler_decides_the_order_and_gets_the_epoch(replicas):
    theirs = DistributedSampler(range(256), replicas, rank=0, seed=7)
    sampler = make(theirs, candidate_batch_size=16)
    assert len(sampler) == 16 // replicas
    passes = epochs_of(sampler, 3)
    for epoch in range(3):
        expected = DistributedSampler(range(256), replicas, rank=0, seed=7)
        expected.set_epoch(epoch)
        assert candidates_of(sampler, epoch).tolist() == list(expected)
    assert theirs.epoch == 3
    assert passes[0] != passes[1]


def test_an_epoch_set_on_the_distributed_sampler_itself_is_noticed():
    theirs = DistributedSampler(range(256), 1, rank=0)
    sampler = make(theirs)
    reference = epochs_of(make(DistributedSampler(range(256), 1, rank=0)), 5)
    for epoch in (4, 2, 2, 3):
        theirs.set_epoch(epoch)
        assert list(sampler) == reference[epoch]


def test_repeated_samples_are_offered_once():
    weights = torch.ones(256)
    weights[:8] = 200.0
    sampler = make(WeightedRandomSampler(weights, 256), min_keep=2)
    offered = sizes = 0
    for epoch, batches in enumerate(epochs_of(sampler, 3)):
        assert all(len(set(batch)) == len(batch) >= 2 for batch in batches)
        for number, batch in enumerate(batches):
            candidates = sampler.selection_at(epoch, number)[0]
            assert len(candidates) == len(set(candidates.tolist()))
            assert len(batch) == min(16, len(candidates))
            offered, sizes = offered + len(candidates), sizes + 32
    assert offered < 0.75 * sizes  # most places went to eight samples
    rounded = make(WeightedRandomSampler(weights, 256), multiple_of=8)
    assert {len(batch) for batches in epochs_of(rounded, 3) for batch in batches} == {8}


def test_weighted_order_has_the_weights():
    weights = torch.zeros(256)
    weights[100:200] = 1.0
    sampler = make(WeightedRandomSampler(weights, 128, replacement=True))
    assert len(sampler) == 4
    seen = {index for batches in epochs_of(sampler, 3) for batch in batches for index in batch}
    assert seen <= set(range(100, 200))
    assert len(seen) > 60


SOURCES = {
    "weighted": lambda: WeightedRandomSampler(torch.ones(256), 256),
    "weighted-seeded": lambda: WeightedRandomSampler(torch.ones(256), 256, generator=torch.Generator().manual_seed(3)),
    "random": lambda: RandomSampler(range(256)),
    "subset": lambda: SubsetRandomSampler(range(0, 256, 2)),
    "distributed": lambda: DistributedSampler(range(256), 2, rank=1),
    "sequential": lambda: SequentialSampler(range(256)),
    "list": lambda: list(range(255, 100, -1)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_order_is_a_function_of_its_epoch(name):
    reference = epochs_of(make(SOURCES[name]()), 3)
    torch.manual_seed(99)  # must not matter
    sampler = make(SOURCES[name]())
    for epoch in (2, 0, 1):
        sampler.set_epoch(epoch)
        assert list(sampler) == reference[epoch]
    if name not in {"sequential", "list"}:
        assert reference[0] != reference[1]


def test_the_callers_generator_is_left_alone():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    sampler = make(WeightedRandomSampler(torch.ones(256), 256, generator=generator))
    epochs_of(sampler, 2)
    assert torch.equal(generator.get_state(), before)
    other = make(WeightedRandomSampler(torch.ones(256), 256, generator=torch.Generator().manual_seed(4)))
    sampler.set_epoch(0)
    assert list(other) != list(sampler)


class Counting(Sampler):
    """Neither epoch nor generator: a sampler that must be iterated itself, once a pass."""

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return 64

    def __iter__(self):
        self.passes += 1
        return iter(range(self.passes, self.passes + 64))


def test_a_sampler_with_neither_epoch_nor_generator_is_iterated_once_an_epoch():
    theirs = Counting()
    sampler = make(theirs, keep_ratio=1.0)
    epochs_of(sampler, 3)
    assert theirs.passes == 3


def test_a_fixed_partition_asks_the_callers_sampler_once():
    theirs = Counting()
    sampler = make(theirs, reshuffle=False)
    first, second = epochs_of(sampler, 2)
    assert theirs.passes == 1
    assert first != second  # draws differ, candidates do not


@pytest.mark.parametrize("padding", [False, True])
def test_further_passes_of_a_callers_order_are_permuted(padding):
    order = SubsetRandomSampler(range(0, 256, 2)) if padding else DistributedSampler(range(256), 2, rank=0)
    sampler = make(order, emit="constant", batch_size=16, keep_ratio=0.25)
    assert {len(batch) for batch in sampler} == {16}
    offered = [sampler.selection_at(0, batch)[0] for batch in range(4)]  # 128 candidates: two batches a pass
    assert set(np.concatenate(offered[:2])) == set(np.concatenate(offered[2:]))
    assert set(offered[0]) != set(offered[2])


def test_too_many_repetitions_for_a_constant_size_are_an_error():
    sampler = make([5] * 256, emit="constant", batch_size=16)
    with pytest.raises(
        ValueError, match=r"^sampler must be one that offers at least 16 distinct samples among 32, got 1"
    ):
        list(sampler)


def test_another_sampler_over_the_same_order_begins_at_its_own_epoch():
    theirs = DistributedSampler(range(256), 1, rank=0)
    epochs_of(make(theirs), 3)
    again = make(theirs)
    assert again.epoch == 0
    assert list(again) == list(make(DistributedSampler(range(256), 1, rank=0)))
    theirs.set_epoch(5)
    third = make(theirs)
    list(third)
    assert third.epoch == 6, "what the caller sets is still heard"


@pytest.mark.parametrize("how", ["copy", "another"])
def test_samplers_over_the_same_order_follow_the_caller_and_not_each_other(how):
    def iterate(sampler):
        return list(sampler), sampler.epoch

    order = DistributedSampler(range(120), 1, rank=0)
    first = make(sampler=order)
    second = copy.copy(first) if how == "copy" else make(sampler=order)
    alone = make(sampler=DistributedSampler(range(120), 1, rank=0))
    due = [iterate(alone) for _ in range(7)]
    assert [iterate(first), iterate(first), iterate(second), iterate(first), iterate(second)] == [
        due[epoch] for epoch in (0, 1, 0, 2, 1)
    ]
    order.set_epoch(6)
    assert list(zip(first, second, strict=True)) == [(batch, batch) for batch in due[6][0]]


def test_a_copy_of_a_copy_does_not_take_our_epochs_for_the_callers():
    first = make(sampler=DistributedSampler(range(120), 1, rank=0))
    due = list(copy.deepcopy(first))
    running = iter(first)
    next(running)
    next(running)
    second = copy.copy(first)
    running.close()  # its epoch is used up, and their common order told of the next one
    for third in (copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
        assert list(third) == due


def test_a_caller_that_goes_back_to_an_epoch_of_ours_is_followed():
    order = DistributedSampler(range(120), 1, rank=0)
    sampler = make(sampler=order)
    due = [list(sampler) for _ in range(3)]
    order.set_epoch(7)
    next(iter(sampler))
    order.set_epoch(2)
    assert list(sampler) == due[2]


@pytest.mark.parametrize("item", [[1, 2], (0, 1), 0.0, "3"])
def test_a_sampler_of_anything_but_indices_is_refused(item):
    class Whole(Sampler):
        def __len__(self):
            return 256

        def __iter__(self):
            return iter([item] * 256)

    with pytest.raises(ValueError, match="sampler must be one that yields indices"):
        list(make(Whole()))

"""The order of candidates: the same whether asked for by slot or as a whole, of any length, in any thread."""

import copy
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from spectral_sampler import draws
from spectral_sampler.sampler.order import CandidateOrder, _earlier
from spectral_sampler.sampler.plan import Slot

ROWS = 20_000


class Counter:
    def __init__(self):
        self.epoch = 0

    def set(self, epoch):
        if epoch < 0:
            raise ValueError(epoch)
        self.epoch = epoch


class Counting(Sampler):
    """Neither epoch nor generator: it can be iterated once an epoch only. Remembers the threads that did."""

    def __init__(self):
        self.threads = []

    def __len__(self):
        return 64

    def __iter__(self):
        self.threads.append(threading.current_thread())
        return iter(range(len(self.threads), len(self.threads) + 64))


def make(rows=ROWS, shuffle=True, *, fixed=False, source=None, seed=5):
    return CandidateOrder(Counter(), rows, seed, shuffle, fixed=fixed, source=source)


def slot(start, size=100, order_pass=0):
    return Slot(start // size, order_pass, start, size, 0.5, size // 2)


def taken(order, epoch, of):
    (rows,), _ = order.offered(epoch, [of])
    return rows


ORDERS = {
    "shuffled": make,
    "small": lambda: make(300),
    "fixed": lambda: make(fixed=True),
    "sequential": lambda: make(shuffle=False),
    "weighted": lambda: make(source=WeightedRandomSampler(torch.ones(ROWS), 500)),
    "distributed": lambda: make(source=DistributedSampler(range(ROWS), 2, rank=1)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_slots_are_cut_from_the_whole_order_and_wrap_around(name):
    order = ORDERS[name]()
    for epoch in (0, 3):
        whole = order.whole(epoch)
        assert len(whole) == len(order)
        for start in (0, 17, len(order) - 100, len(order) - 30):
            expected = np.take(whole, range(start, start + 100), mode="wrap")
            assert taken(order, epoch, slot(start)).tolist() == list(dict.fromkeys(expected.tolist()))
    assert (order.whole(0).tolist() == order.whole(3).tolist()) == order.constant
    order._counter.epoch = 3
    assert list(order) == order.whole(3).tolist()


@pytest.mark.parametrize("name", ["shuffled", "small", "distributed"])
def test_further_passes_go_over_the_same_candidates_in_another_order(name):
    order = ORDERS[name]()
    passes = [taken(order, 2, slot(0, len(order), order_pass)) for order_pass in range(3)]
    assert {tuple(sorted(found.tolist())) for found in passes} == {tuple(sorted(order.whole(2).tolist()))}
    assert len({tuple(found.tolist()) for found in passes}) == 3
    assert taken(order, 2, slot(40, order_pass=1)).tolist() == passes[1][40:140].tolist()


@pytest.mark.parametrize("name", ["fixed", "sequential"])
def test_an_order_that_rotates_is_a_ring(name):
    order = ORDERS[name]()
    assert taken(order, 4, slot(40, order_pass=7)).tolist() == taken(order, 0, slot(40)).tolist()


def test_a_slot_of_a_huge_order_takes_no_table_of_it(monkeypatch):
    monkeypatch.setattr(draws, "permutation", None)
    tracemalloc.start()
    found = taken(make(10**8), 1, slot(10**8 - 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(found)) == 100
    assert found.max() < 10**8
    assert peak < 5e6


def test_keys_of_kept_scores():
    cut, further = slot(40), slot(40, order_pass=1)
    assert make().slot_key(0, cut) is None
    assert make(source=range(300)).slot_key(0, cut) is None
    for order in (make(fixed=True), make(shuffle=False), make(source=range(300), fixed=True)):
        assert order.slot_key(0, cut) == order.slot_key(9, cut) != order.slot_key(0, slot(41))
        assert order.slot_key(0, cut) != order.slot_key(0, slot(40, 99))
        same = np.array_equal(taken(order, 0, cut), taken(order, 0, further))
        assert (order.slot_key(0, cut) == order.slot_key(0, further)) == same == order.rotates


def test_epochs_go_to_the_counter_and_to_the_source():
    source = DistributedSampler(range(ROWS), 2, rank=1)
    order = make(source=source)
    order.set_epoch(4)
    assert (order._counter.epoch, source.epoch, order.epoch_set_by_caller()) == (4, 4, None)
    source.set_epoch(2)
    assert order.epoch_set_by_caller() == 2
    with pytest.raises(ValueError, match="-1"):
        order.set_epoch(-1)
    assert source.epoch == 2


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda order: pickle.loads(pickle.dumps(order))])
def test_a_copy_and_its_original_both_go_on(duplicate):
    order = make(source=DistributedSampler(range(ROWS), 2, rank=1))
    expected = [order.whole(epoch).tolist() for epoch in range(2)]
    twin = duplicate(order)
    del twin._counter
    order.set_epoch(1)
    assert order._counter.epoch == 1
    assert list(order) == twin.whole(1).tolist() == expected[1]
    assert len(pickle.dumps(make(source=range(ROWS)))) < 1000


# a caller's order


@pytest.mark.parametrize("order_pass", [0, 1])
def test_a_sample_that_comes_again_counts_how_often_it_has(order_pass):
    order = make(source=WeightedRandomSampler(torch.arange(50.0), 700))
    batches, again = order.offered(3, [slot(start, 70, order_pass) for start in range(0, 700, 70)])
    seen = [pair for rows, counts in zip(batches, again, strict=True) for pair in zip(rows, counts, strict=True)]
    assert len(set(seen)) == len(seen) < 700, "twice in one batch it is offered once"
    times = np.bincount(order.whole(3), minlength=50)
    assert {(int(row), int(count)) for row, count in seen} <= {(r, k) for r in range(50) for k in range(times[r])}
    for rows in batches:
        assert len(np.unique(rows)) == len(rows)
    assert order.distinct(3).tolist() == list(dict.fromkeys(order.whole(3).tolist()))


def test_earlier_places_of_the_same_sample_are_counted():
    assert _earlier(np.array([4, 7, 4, 4, 2, 7])).tolist() == [0, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("name", ["shuffled", "distributed"])
def test_an_order_without_repetitions_counts_nothing(name):
    order = ORDERS[name]()
    assert order.offered(0, [slot(0), slot(100)])[1] == [None, None]
    assert order.distinct(2).tolist() == order.whole(2).tolist()


def test_at_most_two_orders_are_kept_and_the_running_one_is_among_them():
    source = Counting()
    order = make(source=source)
    order.whole(9)
    order.prepare(0)
    first = taken(order, 0, slot(0, 64)).tolist()
    for epoch in (1, 2, 3):
        assert taken(order, epoch, slot(0, 64)).tolist() != first
        assert taken(order, 0, slot(0, 64)).tolist() == first
        assert len(order._drawn) == 2
    assert len(source.threads) == 5
    order.prepare(3)
    assert len(source.threads) == 5, "it has been looked at"
    order.whole(7)
    assert list(order._drawn) == [3, 7]


def test_a_prepared_epoch_is_read_in_any_thread_without_the_source():
    source, found = Counting(), []
    order = make(source=source)
    order.prepare(0)
    order.whole(1)
    thread = threading.Thread(target=lambda: found.append(taken(order, 0, slot(0, 64)).tolist()))
    thread.start()
    thread.join()
    assert found == [order.whole(0).tolist()]
    assert source.threads == [threading.current_thread()] * 2


@pytest.mark.parametrize(
    ("source", "repeats"),
    [
        (None, False),
        (SequentialSampler(range(ROWS)), False),
        (DistributedSampler(range(ROWS), 3, rank=1), False),
        (RandomSampler(range(ROWS)), False),
        (RandomSampler(range(ROWS), replacement=True), True),
        (RandomSampler(range(100), num_samples=300), True),
        (WeightedRandomSampler(torch.ones(ROWS), 50), True),
        (WeightedRandomSampler(torch.ones(ROWS), 50, replacement=False), False),
        (SubsetRandomSampler(range(0, 500, 2)), False),
        (SubsetRandomSampler(torch.arange(90) % 80), True),
        ([3, 1, 2], False),
        (np.array([3, 1, 3]), True),
        (Counting(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_orders_that_may_repeat_a_sample(source, repeats):
    assert make(source=source).repeats == repeats

"""The look-ahead thread: there when it should be, and never left behind."""

import gc
import os
import threading
import traceback
import weakref
from pathlib import Path

import numpy as np
import pytest
from sampler_cases import FirstFeature, epochs_of, lookahead_threads, make_store

from spectral_sampler import LossWeighted, SpectralBatchSampler
from spectral_sampler.lookahead import LookAhead

STORE = make_store(960)


def make(store=STORE, **options):
    defaults = {"candidate_batch_size": 16, "keep_ratio": 0.5, "selection": FirstFeature(), "lookahead": 4}
    return SpectralBatchSampler(store, **{**defaults, **options})


@pytest.fixture(autouse=True)
def no_thread_survives():
    before = set(threading.enumerate())
    yield
    assert not lookahead_threads()
    # Which threads, not how many: one of another library's that ends meanwhile must neither fail this nor hide a leak.
    assert not set(threading.enumerate()) - before


class Gate(FirstFeature):
    """Scores in another thread wait until the gate opens."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def score(self, store, indices, *, backend):
        if threading.current_thread() is not threading.main_thread():
            assert self.gate.wait(20)
        return super().score(store, indices, backend=backend)


def test_no_thread_before_the_first_batch_and_one_chunk_ahead_after_it():
    selection = Gate()
    sampler = make(selection=selection)
    iterators = [iter(sampler), iter(sampler)]
    assert not lookahead_threads()
    next(iterators[0])
    assert [thread.daemon for thread in lookahead_threads()] == [False], "not killed inside native code at exit"
    assert selection.threads == ["MainThread"]
    selection.gate.set()
    list(iterators[0])
    assert not lookahead_threads()
    assert set(selection.threads) == {"MainThread", "spectral-lookahead"}
    assert len(selection.calls) == 15


def test_training_does_not_wait_for_a_chunk_it_does_not_need_yet():
    selection = Gate()
    iterator = iter(make(selection=selection))
    for _ in range(4):  # the first chunk; the second one is stuck
        next(iterator)
    selection.gate.set()
    next(iterator)
    iterator.close()


@pytest.mark.parametrize("lookahead", [0, 1, 16])
def test_lookahead_zero_has_no_thread(lookahead):
    selection = FirstFeature()
    list(make(selection=selection, lookahead=lookahead))
    assert ("spectral-lookahead" in selection.threads) is (lookahead > 0)


def test_no_thread_where_nothing_is_scored():
    started = []
    original = threading.Thread.start
    threading.Thread.start = lambda self: (started.append(self.name), original(self))
    try:
        list(make(selection=LossWeighted()))
        sampler = make(reshuffle=False)
        list(sampler)
        count = len(started)
        assert count > 0
        epochs_of(sampler, 3)  # all scores are known now
    finally:
        threading.Thread.start = original
    assert len(started) == count


def test_scores_that_do_not_come_again_are_not_kept_and_keep_their_thread():
    selection = FirstFeature()
    options = {"emit": "constant", "batch_size": 30, "keep_ratio": lambda t: 0.1 + 0.5 * t, "epochs": 3}
    sampler = make(selection=selection, reshuffle=False, lookahead=2, **options)
    epochs_of(sampler, 6)
    selection.threads.clear()
    list(sampler)
    assert "spectral-lookahead" in selection.threads


def train_and_fail(sampler):
    for number, _ in enumerate(sampler):
        if number:
            raise KeyError("the training step failed")


@pytest.mark.parametrize("leave", ["break", "close", "delete", "raise"])
def test_leaving_early_joins_the_thread(leave):
    sampler = make()
    if leave == "break":
        for _ in zip(sampler, range(2), strict=False):
            pass
    elif leave == "raise":
        with pytest.raises(KeyError):
            train_and_fail(sampler)
    else:
        iterator = iter(sampler)
        next(iterator)
        next(iterator)
        if leave == "close":
            iterator.close()
            iterator.close()
            assert next(iterator, None) is None
        else:
            del iterator
    assert not lookahead_threads()
    assert sampler.epoch == 1


def test_an_error_in_the_thread_is_raised_here_with_its_traceback():
    sampler = make(selection=FirstFeature(error_at=1))
    iterator = iter(sampler)
    for _ in range(4):
        next(iterator)
    with pytest.raises(ArithmeticError, match="planted") as caught:
        next(iterator)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "run" in frames
    assert frames[-1] == "score"
    assert not lookahead_threads()
    assert next(iterator, None) is None


def test_an_error_in_the_first_chunk_is_raised_at_once():
    for lookahead in (0, 4):
        with pytest.raises(ArithmeticError):
            next(iter(make(selection=FirstFeature(error_at=0), lookahead=lookahead)))


def test_the_thread_does_not_keep_the_iterator_alive():
    selection = Gate()
    iterator = iter(make(selection=selection))
    next(iterator)
    gone = weakref.ref(iterator)
    threading.Timer(0.1, selection.gate.set).start()
    del iterator
    assert gone() is None
    assert not lookahead_threads()


def test_an_iterator_that_is_found_as_garbage_waits_for_nobody():
    """A collection may begin where a thread begins, which holds a lock that every thread needs in order to end."""
    selection = Gate()
    cycle = [iter(make(selection=selection))]
    next(cycle[0])
    cycle.append(cycle)
    (thread,) = lookahead_threads()
    late = threading.Timer(5, selection.gate.set)
    late.start()
    del cycle
    gc.collect()
    assert not selection.gate.is_set(), "the collection waited for the thread"
    late.cancel()
    selection.gate.set()
    thread.join()
    late.join()


def test_batches_and_abandoned_iterators_leak_nothing():
    """tests/reliability has it for 10,000 batches, with memory."""
    sampler = make(make_store(64, 2), candidate_batch_size=4, lookahead=2)
    epochs_of(sampler, 5)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    gc.collect()
    objects = len(gc.get_objects())
    for _ in range(100):
        next(iter(sampler))
    for _ in range(1000 // len(sampler)):
        assert len(list(sampler)) == 16
    gc.collect()
    assert len(gc.get_objects()) - objects < 100
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert not lookahead_threads()


def test_a_fork_in_the_middle_of_a_chunk_goes_on_in_the_child():
    expected = list(make())
    selection = Gate()
    iterator = iter(make(selection=selection))
    got = [next(iterator)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # no thread came along; its chunk is computed again, here
        try:
            selection.gate.set()
            rest = list(iterator)
            os.write(writer, b"same" if got + rest == expected else b"other")
        finally:
            os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 16) == b"same"
    finally:
        os.close(reader)
        os.waitpid(child, 0)
        selection.gate.set()
    assert got + list(iterator) == expected


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
@pytest.mark.parametrize(("start", "stop"), [(0, 10), (7, 10), (10, 10)])
def test_lookahead_yields_each_result_once_in_order(depth, start, stop):
    ahead = LookAhead(lambda first, last: [number**2 for number in range(first, last)], start, stop, depth)
    assert [ahead.take() for _ in range(start, stop)] == [number**2 for number in range(start, stop)]
    with pytest.raises(IndexError):
        ahead.take()


def test_a_chunk_that_collects_its_own_consumer_does_not_deadlock():
    class Consumer:
        def __init__(self):
            self.me = self  # a cycle: only the collector ends it
            self.ahead = None

        def __del__(self):
            self.ahead.close()

    collected = threading.Event()

    def compute(first, last):
        if threading.current_thread() is not threading.main_thread():
            started.wait(20)
            gc.collect()
            collected.set()
        return list(range(first, last))

    started = threading.Event()
    consumer = Consumer()
    consumer.ahead = LookAhead(compute, 0, 10, 2)
    assert consumer.ahead.take() == 0
    gc.disable()
    try:
        del consumer
        started.set()
        assert collected.wait(20)
    finally:
        gc.enable()


def test_scores_of_a_chunk_are_those_of_single_batches():
    rng = np.random.default_rng(0)
    for lookahead in rng.integers(1, 40, size=6):
        assert list(make(lookahead=int(lookahead))) == list(make(lookahead=0))

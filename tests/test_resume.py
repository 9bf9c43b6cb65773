"""Resuming at every batch of an epoch gives the lists of the run that was not interrupted."""

import io
import json
import logging

import pytest
import torch
from sampler_cases import FirstFeature, HighestLearnerLoss, epochs_of, make_store
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, WeightedRandomSampler

from spectral_sampler import GSTDS, ArgumentError, SigmoidSchedule, SpectralBatchSampler

STORE = make_store(240)
DATA = TensorDataset(torch.arange(240))
EPOCHS = 3


def make(store=STORE, **options):
    defaults = {"candidate_batch_size": 30, "epochs": EPOCHS, "keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.4)}
    return SpectralBatchSampler(store, **{**defaults, "selection": FirstFeature(), "lookahead": 4, **options})


REFERENCE = epochs_of(make(), EPOCHS)
LENGTH = len(REFERENCE[0])
EVERY = range(LENGTH + 1)
SOME = (0, 1, LENGTH - 1, LENGTH)  # where workers start for each; tests/reliability has every one of them
CASES = {
    "default": dict,
    "rank": lambda: {"num_replicas": 2, "rank": 1},
    "fixed": lambda: {"reshuffle": False},
    "constant": lambda: {"emit": "constant", "batch_size": 12},
    "tail": lambda: {"drop_last": False, "candidate_batch_size": 23},
    "distributed": lambda: {"sampler": DistributedSampler(range(240), 1, rank=0)},
    "weighted": lambda: {"sampler": WeightedRandomSampler(torch.ones(240), 240)},
}


# torchdata 0.11 calls a function that torch 2.14 has deprecated
stateful_loader = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def through_disk(state):
    """As a checkpoint would: torch.save, weights only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def values_of(state):
    for value in state.values():
        yield from values_of(value) if isinstance(value, dict) else [value]


@pytest.mark.parametrize("name", CASES)
def test_sampler_and_iterator_resume_at_every_batch(name):
    reference = epochs_of(make(**CASES[name]()), EPOCHS)
    sampler = make(**CASES[name]())
    for epoch in range(EPOCHS - 1):
        iterator = iter(sampler)
        for step in range(len(sampler) + 1):
            for state in (sampler.state_dict(), iterator.state_dict()):
                again = make(**CASES[name]())
                again.load_state_dict(through_disk(state))
                assert list(again) == reference[epoch][step:], f"at batch {step} of epoch {epoch}"
                assert list(again) == reference[epoch + 1]
            by_iterator = make(**CASES[name]())
            other = iter(by_iterator)
            other.load_state_dict(through_disk(iterator.state_dict()))
            assert list(other) == reference[epoch][step:]
            assert list(by_iterator) == reference[epoch + 1]
            if step < len(sampler):
                assert next(iterator) == reference[epoch][step]
        assert next(iterator, None) is None


def test_the_published_selection_resumes_alike():
    store = make_store(240, 32)
    reference = epochs_of(make(store, selection=GSTDS()), 1)[0]
    for step in (1, 4, 7):
        source = make(store, selection=GSTDS(), lookahead=16)
        iterator = iter(source)
        assert [next(iterator) for _ in range(step)] == reference[:step]
        again = make(store, selection=GSTDS(), lookahead=3)
        again.load_state_dict(source.state_dict())
        assert list(again) == reference[step:]


def test_state_is_small_and_plain():
    sampler = make()
    next(iter(sampler))
    state = sampler.state_dict()
    assert all(type(value) in {int, str, bool, type(None)} for value in values_of(state))
    assert len(json.dumps(state)) < 2000
    assert json.loads(json.dumps(state)) == state


def test_the_position_counts_a_batch_before_it_is_trained_on():
    sampler = make()
    for step, _ in enumerate(sampler, 1):
        state = sampler.state_dict()
        assert (state["epoch"], state["next_batch"]) == (0, step)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["next_batch"]) == (1, 0)


def test_a_running_iterator_can_be_rewound():
    sampler = make()
    iterator = iter(sampler)
    next(iterator)
    state = iterator.state_dict()
    list(iterator)
    iterator.load_state_dict(state)
    assert list(iterator) == REFERENCE[0][1:]


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_loader_resumes_by_the_batches_consumed(workers):
    for stop in SOME if workers else EVERY:
        sampler = make()
        loader = iter(
            DataLoader(DATA, batch_sampler=sampler, num_workers=workers, prefetch_factor=4 if workers else None)
        )
        done = [next(loader)[0].tolist() for _ in range(stop)]
        state = through_disk(sampler.state_dict(batches_consumed=stop, epoch=0))
        if stop:
            assert sampler.state_dict(batches_consumed=stop) == state  # the epoch is known once a batch was
        del loader
        again = make()
        again.load_state_dict(state)
        rest = [batch[0].tolist() for batch in DataLoader(DATA, batch_sampler=again, num_workers=0)]
        assert done + rest == REFERENCE[0]
        assert list(again) == REFERENCE[1]


@pytest.mark.parametrize("consumed", [-1, LENGTH + 1, 1.5, True])
def test_batches_consumed_is_checked(consumed):
    with pytest.raises(ArgumentError, match=r"^batches_consumed must be "):
        make().state_dict(batches_consumed=consumed)


def stateful(sampler, workers=0, **options):
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    return module.StatefulDataLoader(DATA, batch_sampler=sampler, num_workers=workers, **options)


def lists(loader):
    return [batch[0].tolist() for batch in loader]


@stateful_loader
@pytest.mark.parametrize(
    ("workers", "options", "stops"),
    [
        (0, {}, EVERY),
        (2, {}, SOME),
        (2, {"prefetch_factor": 4}, SOME),
        (2, {"persistent_workers": True}, SOME),
        (1, {"snapshot_every_n_steps": 3}, SOME),
    ],
)
def test_stateful_loader_resumes_bit_exactly(workers, options, stops):
    for stop in stops:
        sampler = make()
        sampler.set_epoch(1)
        loader = stateful(sampler, workers, **options)
        iterator = iter(loader)
        done = [next(iterator)[0].tolist() for _ in range(stop)]
        state = through_disk(loader.state_dict())
        del iterator
        again = stateful(make(), workers, **options)
        again.load_state_dict(state)
        assert done + lists(again) == REFERENCE[1], f"stopped after {stop} batches"
        if stop in SOME:
            assert lists(again) == REFERENCE[2]


@stateful_loader
@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_loader_saved_after_an_epoch_goes_on_with_the_next(workers):
    loader = stateful(make(), workers)
    assert lists(loader) == REFERENCE[0]
    state = through_disk(loader.state_dict())
    again = stateful(make(), workers)
    again.load_state_dict(state)
    assert lists(again) == REFERENCE[1]
    assert lists(again) == REFERENCE[2]


@stateful_loader
@pytest.mark.parametrize("workers", [0, 2])
def test_within_an_epoch_the_state_wins_and_at_its_end_a_later_epoch_does(workers):
    loader = stateful(make(), workers)
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    middle = through_disk(loader.state_dict())
    list(iterator)
    end = through_disk(loader.state_dict())
    sampler = make()
    again = stateful(sampler, workers)
    again.load_state_dict(middle)
    sampler.set_epoch(2)  # the loop's own count, before torchdata applies the state
    assert lists(again) == REFERENCE[0][4:]
    sampler = make()
    again = stateful(sampler, workers)
    again.load_state_dict(end)
    sampler.set_epoch(2)
    assert lists(again) == REFERENCE[2]


def test_a_later_epoch_wins_over_a_state_at_the_end_of_one():
    source = make()
    iterator = iter(source)
    for _ in range(LENGTH):
        next(iterator)
    state = source.state_dict()
    assert state["next_batch"] == LENGTH
    sampler = make()
    sampler.set_epoch(1)
    sampler.load_state_dict(state)
    assert list(sampler) == REFERENCE[1]
    other = make()
    other.load_state_dict(state)
    other.set_epoch(2)
    assert list(other) == REFERENCE[2]


def test_set_epoch_after_loading_keeps_the_position_of_its_own_epoch_only():
    source = make()
    iterator = iter(source)
    for _ in range(3):
        next(iterator)
    state = source.state_dict()
    for epoch, expected in ((0, REFERENCE[0][3:]), (1, REFERENCE[1])):
        sampler = make()
        sampler.load_state_dict(state)
        sampler.set_epoch(epoch)
        assert list(sampler) == expected


def test_an_iterator_dropped_after_loading_does_not_undo_it():
    sampler = make()
    iterator = iter(sampler)
    for _ in range(3):
        next(iterator)
    state = sampler.state_dict()
    sampler.load_state_dict(state)
    del iterator  # its pass was epoch 0, too
    assert list(sampler) == REFERENCE[0][3:]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"candidate_batch_size": 20}, "candidate_batch_size"),
        ({"num_replicas": 2}, "num_replicas"),
        ({"drop_last": False}, "drop_last"),
        ({"shuffle": False}, "shuffle"),
        ({"reshuffle": False}, "reshuffle"),
        ({"multiple_of": 4}, "multiple_of"),
        ({"min_keep": 3}, "min_keep"),
        ({"selection": HighestLearnerLoss()}, "selection"),
        ({"store": make_store(240, seed=5)}, "store"),
        ({"store": make_store(241)}, "samples"),
        ({"emit": "constant", "batch_size": 8}, "batch_size"),
    ],
)
def test_a_state_of_another_sampler_is_refused(options, named):
    with pytest.raises(ArgumentError, match=rf"^state must be of a sampler with {named}="):
        make(**options).load_state_dict(make().state_dict())


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"next_batch": LENGTH + 1}, {"next_batch": -1}, {"epoch": -1}, {"settings": None}]
)
def test_a_damaged_state_is_refused(change):
    state = {**make().state_dict(), **change}
    if change.get("settings", 0) is None:
        del state["settings"]
    with pytest.raises(ArgumentError, match=r"^state must be "):
        make().load_state_dict(state)


def test_a_state_may_come_from_any_rank_and_any_lookahead():
    source = make(num_replicas=2, rank=0, lookahead=0)
    list(source)
    iterator = iter(source)
    next(iterator)
    target = make(num_replicas=2, rank=1, lookahead=16)
    target.load_state_dict(source.state_dict())
    assert list(target) == epochs_of(make(num_replicas=2, rank=1), 2)[1][1:]


def test_missing_observations_are_pointed_out(caplog):
    source = make(selection=HighestLearnerLoss())
    source.observe([1, 2], [0.5, 0.1])
    target = make(selection=HighestLearnerLoss())
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        target.load_state_dict(source.state_dict())
        assert len(caplog.records) == 1
        target.observe([2, 1], [0.1, 0.5])
        target.load_state_dict(source.state_dict())
        assert len(caplog.records) == 1

"""An error while a batch is chosen says which batch that was, and costs nothing: the pass resumes where it stopped."""

import logging
import threading

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, lookahead_threads, make_store
from torch import nn

from spectral_sampler import InfoBatch, ReferenceStore, SpectralBatchSampler, Uniform
from spectral_sampler.errors import ArgumentError, add_note
from spectral_sampler.selection import JEST

PLAIN = make_store(120)
STORE = ReferenceStore.from_arrays(PLAIN.features, losses=PLAIN.losses, labels=np.arange(120) % 3)


class Broken:
    """Raises ``error`` once, when it has been asked ``after`` times."""

    def __init__(self, after=3, error=ArithmeticError):
        self.left, self.error = after, error

    def __call__(self):
        self.left -= 1
        if self.left == -1:
            raise self.error("planted")


class Selects(Uniform):
    name = "selects"

    def __init__(self, broken):
        self.broken = broken

    def select(self, batch, budget):
        self.broken()
        return super().select(batch, budget)


class Scores(FirstFeature):
    name = "scores"

    def __init__(self, broken):
        super().__init__()
        self.broken = broken

    def score(self, store, indices, *, backend):
        self.broken()
        return super().score(store, indices, backend=backend)


class Learns(Uniform):
    name = "learns"

    def __init__(self, broken):
        self.broken = broken

    def trained(self, batch, choice):
        self.broken()


class Proposes(InfoBatch):
    name = "proposes"

    def __init__(self, broken):
        super().__init__()
        self.broken = broken

    def propose(self, request):
        self.broken()
        return super().propose(request)


def learner(broken):
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(120, 3)).astype(np.float32))

    def forward(indices):
        broken()
        return logits[indices]

    return forward


class Data:
    """A data set that a module reads candidates from."""

    def __init__(self, broken):
        self.broken = broken

    def __len__(self):
        return 120

    def __getitem__(self, index):
        return torch.from_numpy(STORE.features[index].copy()), index % 3

    def __getitems__(self, indices):
        self.broken()
        return [self[index] for index in indices]


class Order:
    """A caller's order, which has an epoch."""

    def __init__(self, broken):
        self.broken = broken

    def set_epoch(self, epoch):
        pass

    def __len__(self):
        return 120

    def __iter__(self):
        self.broken()
        return iter(range(120))


MODULE = nn.Linear(8, 3)
PLACES = {
    "score": lambda broken: {"selection": Scores(broken)},
    "select": lambda broken: {"selection": Selects(broken)},
    "trained": lambda broken: {"selection": Learns(broken)},
    "learner": lambda broken: {"selection": JEST(), "learner": learner(broken)},
    "data set": lambda broken: {"selection": JEST(), "learner": MODULE, "dataset": Data(broken)},
}


def make(**options):
    return SpectralBatchSampler(STORE, 20, **{"keep_ratio": 0.5, "lookahead": 0, **options})


@pytest.mark.parametrize("name", PLACES)
def test_an_error_names_its_batch_and_the_pass_goes_on_with_it(name):
    due = list(make(**PLACES[name](lambda: None)))
    sampler = make(**PLACES[name](Broken()))
    iterator = iter(sampler)
    got = [next(iterator) for _ in range(3)]
    candidates = make(selection=Uniform()).selection_at(0, 3)[0]
    with pytest.raises(ArithmeticError) as caught:
        next(iterator)
    assert str(caught.value) == "planted"
    named = ", ".join(map(str, candidates[:8].tolist()))
    assert caught.value.__notes__ == [f"in epoch 0, candidate batch 3, candidates {named}, … (20 in all)"]
    assert next(iterator, None) is None
    iterator.load_state_dict(iterator.state_dict())
    assert got + list(iterator) == due
    again = make(**PLACES[name](lambda: None))
    again.load_state_dict(sampler.state_dict(batches_consumed=3, epoch=0))
    assert list(again) == due[3:]


def test_an_error_of_a_chunk_names_the_batches_of_the_chunk():
    iterator = iter(make(selection=Scores(Broken(after=1)), lookahead=2))
    assert [len(next(iterator)) for _ in range(2)] == [10, 10]
    with pytest.raises(ArithmeticError) as caught:
        next(iterator)
    assert caught.value.__notes__[0].startswith("in epoch 0, candidate batches 2 to 3, candidates ")
    assert len(caught.value.__notes__) == 1


def test_looking_names_the_batch_too():
    with pytest.raises(ArithmeticError) as caught:
        make(selection=Selects(Broken(after=0)), num_replicas=2, rank=1).selection_at(7, 4)
    assert caught.value.__notes__[0].startswith("in epoch 7, candidate batch 4, candidates ")


@pytest.mark.parametrize("part", ["propose", "order"])
def test_an_epoch_that_cannot_begin_begins_where_it_would_have(part):
    broken = Broken(after=1)
    options = {"selection": Proposes(broken)} if part == "propose" else {"sampler": Order(broken)}
    sampler = make(**options)
    first = list(sampler)
    sampler.load_state_dict({**sampler.state_dict(), "epoch": 1, "next_batch": 2})
    with pytest.raises(ArithmeticError) as caught:
        next(iter(sampler))
    assert caught.value.__notes__ == ["in epoch 1"]
    state = sampler.state_dict()
    assert (state["epoch"], state["next_batch"]) == (1, 2)
    iterator = iter(sampler)
    next(iterator)
    assert sampler.state_dict()["next_batch"] == 3
    assert len([*iterator]) == len(first) - 3
    assert sampler.epoch == 2
    # No pass that never ran is still counted as running: what a later one delivers is the oldest unreported batch.
    batch = next(iter(sampler))
    sampler.observe_next(np.ones(len(batch)))
    assert sampler.statistics()["spectral/observed_share"] == len(batch) / 120


def test_what_a_selection_could_not_learn_from_has_not_gone_out():
    sampler = make(selection=Learns(Broken(after=1)))
    iterator = iter(sampler)
    batch = next(iterator)
    with pytest.raises(ArithmeticError):
        next(iterator)
    assert sampler.statistics()["spectral/batches"] == 1
    sampler.observe_next(np.ones(len(batch)))
    with pytest.raises(ArgumentError, match="no batch that is left"):
        sampler.observe_next(np.ones(len(batch)))


@pytest.mark.parametrize("name", PLACES)
def test_an_epoch_does_not_end_by_somebody_elses_stop_iteration(name):
    iterator = iter(make(**{**PLACES[name](Broken(error=StopIteration)), "lookahead": 1}))
    with pytest.raises(RuntimeError, match="StopIteration was raised") as caught:
        list(iterator)
    assert caught.value.__cause__.__notes__[0].startswith("in epoch 0, candidate batch")


def test_a_refusal_keeps_its_sentence():
    with pytest.raises(ArgumentError, match=r"^learner must be one that puts out logits") as caught:
        next(iter(make(selection=JEST(), learner=lambda indices: torch.ones(3, 3))))
    assert caught.value.__notes__[0].startswith("in epoch 0, candidate batch 0, ")


def test_where_tracebacks_have_no_notes_they_are_logged(caplog):
    class Old(Exception):
        @property
        def add_note(self):
            raise AttributeError

    error = Old("planted")
    with caplog.at_level(logging.ERROR, logger="spectral_sampler"):
        add_note(error, "in epoch 3")
        add_note(error, "in spring")
    assert error.__notes__ == ["in epoch 3", "in spring"]
    assert [record.getMessage() for record in caplog.records] == ["Old: in epoch 3", "Old: in spring"]


def test_an_interrupted_wait_for_scores_leaves_no_thread():
    gate = threading.Event()

    class Slow(FirstFeature):
        def score(self, store, indices, *, backend):
            if threading.current_thread() is not threading.main_thread():
                assert gate.wait(20)
            return super().score(store, indices, backend=backend)

    class Interrupted:
        """Joins as Ctrl-C would have it: the first time not at all."""

        def __init__(self, thread):
            self.join, thread.join = thread.join, self
            self.times = 0

        def __call__(self, *args):
            self.times += 1
            if self.times == 1:
                raise KeyboardInterrupt
            gate.set()
            self.join(*args)

    sampler = make(selection=Slow(), lookahead=1)
    iterator = iter(sampler)
    first = next(iterator)
    Interrupted(iterator._ahead._chunk)
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    assert not lookahead_threads()
    iterator.load_state_dict(iterator.state_dict())
    assert [first, *iterator] == list(make(selection=FirstFeature()))

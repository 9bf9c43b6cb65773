"""Any configuration, and any sequence of what a training loop may do to its sampler, against the model."""

import collections
import copy
import io
import json
import logging
import pickle
import random
from typing import ClassVar

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sampler_cases import lookahead_threads
from sampler_model import LISTENING, PURE, LeastShown, Model, configurations

from spectral_sampler import ArgumentError, draws
from spectral_sampler.sampler.counter import EpochCounter
from spectral_sampler.sampler.deliveries import Deliveries
from spectral_sampler.sampler.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WHICH = st.integers(0, 5)


def random_states():
    kind, words, *rest = np.random.get_state()
    return random.getstate(), (kind, words.tobytes(), *rest), torch.random.get_rng_state().numpy().tobytes()


def through_disk(state, *, full):
    """As checkpoints do it: JSON will do for the small state."""
    if not full:
        return json.loads(json.dumps(state))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Reader:
    """One iterator, and its pass as the model has it."""

    def __init__(self, sampler):
        self.iterator, self.which, self.resume, self.closed = iter(sampler), None, None, False


class Sequence(RuleBasedStateMachine):
    """What is expected is told to ``model`` in the same order; `count` counts what was compared."""

    count: ClassVar = collections.Counter()
    drawn_from: ClassVar = configurations()

    @initialize(data=st.data())
    def start(self, data):
        Sequence.count["sequences"] += 1
        configuration = data.draw(Sequence.drawn_from)
        self.of, self.model = configuration, Model(configuration)
        self.sampler, self.readers, self.states, self.last = configuration.make(), [], [], None
        self.sizes = self.sampler.batch_sizes()
        self.random = random_states()
        self.agree(len(self.sampler), configuration.steps)

    def agree(self, found, expected):
        """Anything else than a list."""
        Sequence.count["others"] += 1
        assert found == expected, f"{found} and not {expected}, of {self.of}"

    def reader(self, which):
        if not self.readers:
            self.readers.append(Reader(self.sampler))
        return self.readers[which % len(self.readers)]

    @rule()
    @precondition(lambda self: len(self.readers) < 3)
    def begin(self):
        self.iterate()

    def iterate(self):
        self.readers.append(Reader(self.sampler))

    @rule(which=WHICH, batches=st.integers(1, 3))
    def take(self, which, batches):
        reader = self.reader(which)
        for _ in range(batches):
            self.take_one(reader)

    @rule(batches=st.integers(2, 5))
    def begin_and_take(self, batches):
        if len(self.readers) == 3:
            self.abandon(0, "drop")
        self.iterate()
        for _ in range(batches):
            self.take_one(self.readers[-1])

    @rule(epochs=st.sampled_from([1, 1, 1, 5]), reported=st.booleans())
    def train(self, epochs, reported):
        for _ in range(epochs):
            self.iterate()
            reader = self.readers[-1]
            while not reader.closed:
                self.take_one(reader)
                if reported and self.model.unreported:
                    self.observe_next(reader.which.step)
            self.abandon(len(self.readers) - 1, "drop")

    def take_one(self, reader):
        if reader.closed:
            return self.agree(next(reader.iterator, None), None)
        if reader.which is None:
            reader.which, reader.resume = self.model.begin(reader.resume), None
        due, which = self.model.due(reader.which), reader.which
        found = next(reader.iterator, None)
        Sequence.count["lists" if due is not None else "ends"] += 1
        assert found == due, f"{found} and not {due}, of {self.of}"
        if found is None:
            reader.closed = True
            self.model.end(which, exhausted=True)
        else:
            self.look_over(which, found)
            self.model.deliver(which, found)
            self.last = found
        return None

    def look_over(self, which, batch):
        """What holds of every list, whatever the model says."""
        rows = np.array(batch)
        self.agree(all(type(row) is int for row in batch), True)
        self.agree((len(set(batch)), rows.min() >= 0, rows.max() < self.of.samples), (len(batch), True, True))
        if self.of["emit"] == "constant":
            self.agree(len(batch), self.of["batch_size"])
        else:
            self.agree(len(batch) in self.sizes, True)
        keyed = self.of.order == "own" and self.of["shuffle"] and self.of["reshuffle"]
        if keyed and self.of["emit"] != "constant" and self.of.selection != "infobatch":
            order = draws.permutation(self.of["seed"], which.epoch, self.of.samples)
            number = which.step * self.of["num_replicas"] + self.of["rank"]
            start = number % -(-self.of.samples // self.of["candidate_batch_size"]) * self.of["candidate_batch_size"]
            taken = np.arange(start, start + self.of["candidate_batch_size"]) % self.of.samples
            self.agree(set(batch) <= set(order[taken].tolist()), True)

    @rule(which=WHICH, how=st.sampled_from(["close", "drop"]))
    @precondition(lambda self: self.readers)
    def leave_one(self, which, how):
        self.abandon(which, how)

    def abandon(self, which, how):
        reader = self.readers[which % len(self.readers)]
        self.readers.remove(reader)
        if not reader.closed:
            if reader.which is None:
                self.model.look = 33
            else:
                self.model.end(reader.which, exhausted=False)
        if how == "close":
            reader.iterator.close()
        del reader.iterator

    @rule(epoch=st.integers(0, 4), inner=st.booleans())
    def set_epoch(self, epoch, inner):
        (self.sampler.sampler if inner else self.sampler).set_epoch(epoch)
        self.model.set_epoch(epoch)

    @rule(full=st.booleans(), consumed=st.one_of(st.none(), st.integers(0, 6)))
    def save(self, full, consumed):
        batches = None if consumed is None else min(consumed, len(self.sampler))
        position = self.model.position() if batches is None else self.model.consumed(batches)
        state = through_disk(self.sampler.state_dict(batches, full=full), full=full)
        self.agree((state["epoch"], state["next_batch"]), position)
        self.states.append((state, self.model.state(position), full))

    @rule(which=WHICH)
    @precondition(lambda self: self.readers)
    def save_by_the_iterator(self, which):
        reader = self.reader(which)
        position = (reader.which.epoch, reader.which.step) if reader.which else reader.resume or self.model.position()
        state = through_disk(reader.iterator.state_dict(), full=False)
        self.agree((state["epoch"], state["next_batch"]), position)
        self.states.append((state, self.model.state(position), False))

    @rule(which=WHICH, fresh=st.booleans())
    @precondition(lambda self: self.states)
    def load(self, which, fresh):
        state, expected, full = self.states[which % len(self.states)]
        if fresh:
            self.leave()
            self.sampler, self.model = self.of.make(), Model(self.of)
        self.sampler.load_state_dict(state)
        position = self.model.load(expected, full=full)
        if position is not None:
            self.model.go_on(position)

    @rule(which=WHICH, other=WHICH)
    @precondition(lambda self: self.states)
    def load_into_the_iterator(self, which, other):
        (state, expected, full), reader = self.states[which % len(self.states)], self.reader(other)
        reader.iterator.load_state_dict(state)
        position = self.model.load(expected, full=full)
        if reader.which is not None and not reader.closed:
            self.model.end(reader.which, exhausted=False)
        reader.which, reader.resume, reader.closed = None, position, False

    @rule(rows=st.lists(st.integers(0, 23), max_size=4), seed=st.integers(0, 9))
    def observe(self, rows, seed):
        rows = rows or self.last or [3, 1]
        given = np.random.default_rng(seed).random(len(rows)).tolist()
        self.sampler.observe(torch.tensor(rows), torch.tensor(given, dtype=torch.float64))
        self.model.observe(rows, given)

    @rule(seed=st.integers(0, 9))
    @precondition(lambda self: self.model.unreported)
    def report(self, seed):
        self.observe_next(seed)

    def observe_next(self, seed):
        rows = list(self.model.unreported[0])
        given = np.random.default_rng(seed).random(len(rows)).tolist()
        self.sampler.observe_next(np.array(given))
        self.model.observe(rows, given)

    @rule(epoch=st.integers(0, 4), batch=st.integers(0, 3))
    def look(self, epoch, batch):
        self.sampler.selection_at(epoch, batch % len(self.sampler))
        self.sampler.describe()
        self.agree(self.sampler.epoch, self.model.epoch)
        self.agree(self.sampler.statistics()["spectral/observed_share"], len(self.model.losses) / self.of.samples)
        if self.last is not None and self.model.unreported:
            self.agree(len(self.sampler.weights_for(list(self.model.unreported[0]))), len(self.model.unreported[0]))

    @rule(how=st.sampled_from([copy.copy, copy.deepcopy, "pickle"]))
    def go_on_with_a_copy(self, how):
        if how == "pickle" and (self.of.selection == "jest" or self.of.ratio == "rising"):
            return  # functions of their own do not pickle
        other = pickle.loads(pickle.dumps(self.sampler)) if how == "pickle" else how(self.sampler)
        self.leave()
        self.sampler, self.model.running, self.model.current = other, [], None

    def leave(self):
        for reader in self.readers:
            reader.iterator.close()
        self.readers.clear()

    @invariant()
    def no_global_generator_has_moved(self):
        if hasattr(self, "random"):
            self.agree(random_states() == self.random, True)

    def teardown(self):
        if hasattr(self, "of"):
            self.leave()
            self.agree(lookahead_threads(), [])


def play(examples, seed, phases=tuple(Phase)):
    """Runs sequences; what fails is printed with what reproduces it."""
    print(f"hypothesis.seed({seed})")  # noqa: T201 - pytest shows it where the test fails
    Sequence.count = collections.Counter()
    chosen = settings(
        max_examples=examples, stateful_step_count=20, deadline=None, database=None, derandomize=False, print_blob=True,
        suppress_health_check=list(HealthCheck), phases=phases,
    )  # fmt: skip
    run_state_machine_as_test(hypothesis.seed(seed)(Sequence), settings=chosen)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path):
    set_hypothesis_home_dir(tmp_path)
    logger = logging.getLogger("spectral_sampler")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # toy runs are warned of, a thousand times
    yield
    logger.setLevel(level)
    set_hypothesis_home_dir(None)


def test_any_sequence_gives_the_lists_that_are_due(line, number):
    sequences = number(1000, 10_000)
    compared = line("sampler", "sequences of a loop's calls in random configurations, by the thousand, list by list")
    others = line("sampler", "the same: ends, positions, sizes, rows of their batch, generators and threads left alone")
    try:
        # CI takes the same ones every time: what fails is the change's doing. A long run takes new ones.
        play(sequences, number(0, random.SystemRandom().getrandbits(32)))
    finally:
        compared.passed(Sequence.count["lists"])
        others.passed(Sequence.count["ends"] + Sequence.count["others"])
    assert Sequence.count["sequences"] >= sequences


def changed(owner, name, change):
    """``owner.name`` with what ``change`` does before it."""
    original = getattr(owner, name)

    def planted(self, *given, **named):
        return original(self, *change(self, *given), **named)

    return owner, name, planted


def and_then(owner, name, action):
    original = getattr(owner, name)

    def planted(self, *given, **named):
        found = original(self, *given, **named)
        action(self)
        return found

    return owner, name, planted


ANY, LOSSES, LEARNT = list({**PURE, **LISTENING}), ["learner-loss"], ["least-shown"]
FAULTS = {
    "a loaded position is one too far": (
        ANY,
        changed(EpochCounter, "load", lambda self, epoch, step: (epoch, step + 1)),
    ),
    "a saved position is one behind": (LOSSES, (EpochCounter, "position", lambda self: (self.epoch, self._resume))),
    "Python's generator is drawn from": (ANY, and_then(Run, "commit", lambda self: random.random())),
    "NumPy's generator is drawn from": (ANY, and_then(Run, "prepare", lambda self: np.random.random())),
    "torch's generator is drawn from": (ANY, and_then(Run, "load", lambda self: torch.rand(1))),
    "a pass left early starts over": (
        ANY,
        and_then(Run, "commit", lambda self: vars(self.counter._current).update(look=9)),
    ),
    "losses are never too old": (LOSSES, and_then(Run, "commit", lambda self: vars(self.observed).update(now=0))),
    "losses are lost by loading": (LOSSES, and_then(Run, "load", lambda self: vars(self.observed).update(_table=None))),
    "what waits for a report is kept": (LOSSES, (Deliveries, "clear", lambda self: None)),
    "what was learnt is not loaded": (LEARNT, (LeastShown, "load_state_dict", lambda self, state: None)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, monkeypatch):
    selections, planted = FAULTS[name]
    monkeypatch.setattr(*planted)
    monkeypatch.setattr(Sequence, "drawn_from", configurations(selections))
    with pytest.raises((AssertionError, ArgumentError, IndexError)):
        play(300, 1, phases=[Phase.generate])

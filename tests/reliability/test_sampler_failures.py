"""A worker killed, a data set, a learner, a selection or a solver that raises: told at once, and nothing is lost."""

import multiprocessing
import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature
from sampler_model import LeastShown, store
from torch import nn
from torch.utils.data import DataLoader, Dataset

from spectral_sampler import SALN, SpectralBatchSampler, Uniform
from spectral_sampler.selection import JEST, spectral

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.timeout(600),
]
SAMPLES, STEPS = 192, 24
HANGS = 60  # seconds, which nothing but a wait for ever takes, however busy the machine
SOLVER = spectral.fiedler_rows


class Rows(Dataset):
    """Says which row it was asked for, after a while; raises for ``bad``."""

    def __init__(self, bad=None, seconds=0.0):
        self.bad, self.seconds = bad, seconds

    def __len__(self):
        return SAMPLES

    def __getitem__(self, row):
        time.sleep(self.seconds)
        if row == self.bad:
            raise OSError(f"planted in row {row}")
        return torch.tensor(row)


def make(selection=None, **options):
    given = {"candidate_batch_size": SAMPLES // STEPS, "keep_ratio": 0.5, "epochs": 3, "lookahead": 3, **options}
    return SpectralBatchSampler(store(SAMPLES), selection=selection or FirstFeature(), **given)


def loader_of(kind, dataset, sampler, workers=2):
    if kind == "plain":
        return DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    return module.StatefulDataLoader(dataset, batch_sampler=sampler, num_workers=workers)


def train_and_kill(kind, seed, pipe):
    """An epoch, of whose two workers one is killed after some batches; tells what was trained on, the last state, what
    was raised and the seconds until then."""
    rng = np.random.default_rng(seed)
    sampler = make(start_epoch=1)
    loader = loader_of(kind, Rows(seconds=0.002), sampler)
    iterator, stop, victim, pause = iter(loader), rng.integers(1, 9), rng.integers(2), rng.choice([0, 0.003])
    held, raised, killed = ([], None), "", 0.0
    try:
        for batch in iterator:
            done = [*held[0], batch.tolist()]
            held = done, sampler.state_dict(batches_consumed=len(done)) if kind == "plain" else loader.state_dict()
            if len(done) == stop:
                time.sleep(pause)
                killed = time.perf_counter()
                os.kill(iterator._workers[victim].pid, signal.SIGKILL)
    except Exception as error:  # noqa: BLE001 - from torch's handler of a signal, or of a tensor that was on its way
        raised, seconds = repr(error), time.perf_counter() - killed
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of the other worker
    pipe.send((*held, raised, seconds if raised else 0.0))
    os._exit(0)


@pytest.mark.parametrize("kind", ["plain", "stateful"])
def test_a_killed_worker(line, number, kind):
    """In processes of their own: torch raises in whatever the main thread does when a worker's end is noticed."""
    name = {"plain": "DataLoader", "stateful": "StatefulDataLoader"}[kind]
    ended = line("sampler", f"a worker of a {name} killed: the loop ends with an error", HANGS, "s")
    resumed = line("sampler", f"a worker of a {name} killed: a new loader goes on with the lists that are due")
    due, context = list(make(start_epoch=1)), multiprocessing.get_context("fork")
    for trial in range(number(5, 60)):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=train_and_kill, args=(kind, trial, theirs))
        process.start()
        theirs.close()
        try:
            told = ours.recv() if ours.poll(2 * HANGS) else None
        except EOFError:
            told = None
        process.kill()
        process.join()
        if told is None:
            ended.failed(f"trial {trial}: no end within two minutes, or of the process itself")
            continue
        done, state, raised, seconds = told
        ended.check(
            bool(raised), f"trial {trial}: the epoch ended after {len(done)} batches as if nothing had happened"
        )
        ended.passed(worst=seconds)
        other = make()
        again = loader_of(kind, Rows(), other)
        (other if kind == "plain" else again).load_state_dict(state)
        rest = [batch.tolist() for batch in again]
        resumed.check(done + rest == due, f"trial {trial}, after {len(done)} batches: {done + rest}")


class Planted:
    """Raises when it is asked for the batch that holds row ``bad``."""

    bad = None

    def __call__(self, rows):
        if self.bad is not None and (np.asarray(rows) == self.bad).any():
            raise ArithmeticError("planted")


def of_scores(planted, patch):
    class Scores(FirstFeature):
        def score(self, store, indices, *, backend):
            planted(indices)
            return super().score(store, indices, backend=backend)

    return {"selection": Scores()}


def of_the_solver(planted, patch):
    def solve(features, indices, *given, **named):
        planted(indices)
        return solver(features, indices, *given, **named)

    solver = SOLVER
    patch.setattr(spectral, "fiedler_rows", solve)
    return {"selection": SALN()}


def of_a_choice(planted, patch):
    class Selects(Uniform):
        def select(self, batch, budget):
            planted(batch.indices)
            return super().select(batch, budget)

    return {"selection": Selects()}


def of_learning(planted, patch):
    class Learns(LeastShown):
        def trained(self, batch, choice):
            planted(batch.indices)
            super().trained(batch, choice)

    return {"selection": Learns()}


def of_a_learner(planted, patch):
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(SAMPLES, 3)).astype(np.float32))

    def learner(indices):
        planted(indices)
        return logits[indices]

    return {"selection": JEST(), "learner": learner}


def of_the_learners_data(planted, patch):
    class Data(Dataset):
        def __len__(self):
            return SAMPLES

        def __getitem__(self, row):
            return torch.from_numpy(store(SAMPLES).features[row].copy()), row % 3

        def __getitems__(self, rows):
            planted(rows)
            return [self[row] for row in rows]

    module = nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.arange(12.0).reshape(3, 4).sin())
    return {"selection": JEST(), "learner": module, "dataset": Data()}


PLACES = {
    "the scores": of_scores,
    "the solver": of_the_solver,
    "the choice": of_a_choice,
    "the learning": of_learning,
    "the learner": of_a_learner,
    "the learner's data set": of_the_learners_data,
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_names_its_batch_and_costs_none(line, number, monkeypatch, place):
    named = line("sampler", f"an error in {place} names its epoch and batch")
    resumed = line("sampler", f"an error in {place}: the same sampler goes on with the lists that are due")
    planted = Planted()

    def made(**options):
        return make(**PLACES[place](planted, monkeypatch), start_epoch=1, **options)

    due, look = list(made()), made()
    for trial in range(number(8, 60)):
        rng = np.random.default_rng(trial)
        failing, lookahead, workers = int(rng.integers(STEPS)), int(rng.choice([0, 1, 3])), 2 * (trial % 8 == 0)
        bad = look.selection_at(1, failing)[0][0]
        sampler, done, planted.bad = made(lookahead=lookahead), [], bad
        try:
            done.extend(batch.tolist() for batch in DataLoader(Rows(), batch_sampler=sampler, num_workers=workers))
            named.failed(f"trial {trial}: no error, {len(done)} batches")
        except ArithmeticError as error:
            named.check(names(error, failing, bad), f"trial {trial}, at batch {failing}: {error.__notes__}")
        planted.bad = None
        if place == "the learning" and workers:
            continue  # what was read ahead has been learnt
        sampler.load_state_dict(sampler.state_dict(batches_consumed=len(done), epoch=1, full=True))
        rest = [batch.tolist() for batch in DataLoader(Rows(), batch_sampler=sampler)]
        resumed.check(done + rest == due, f"trial {trial}: after {len(done)} batches {done + rest}")


def names(error, number, row):
    """Its one note has epoch and batch; scores are computed some batches at a time, and those are named then."""
    (note,) = error.__notes__
    found = re.match(r"in epoch 1, candidate batch(?:es)? (\d+)(?: to (\d+))?, candidates (\d+),", note)
    first, last = int(found[1]), int(found[2] or found[1])
    return first <= number <= last and last - first < 3 and (number > first or int(found[3]) == row)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_data_set(line, number, workers):
    resumed = line("sampler", f"an error in the data set, {workers} workers: the lists that are due follow")
    due = list(make(start_epoch=1))
    for trial in range(number(4, 40)):
        failing = int(np.random.default_rng(trial).integers(STEPS))
        sampler, done = make(start_epoch=1), []
        try:
            iterator = iter(DataLoader(Rows(bad=due[failing][-1]), batch_sampler=sampler, num_workers=workers))
            done.extend(batch.tolist() for batch in iterator)
            resumed.failed(f"trial {trial}: no error")
        except OSError as error:
            resumed.check(f"row {due[failing][-1]}" in str(error), f"trial {trial}: {error}")
        if workers:
            iterator._shutdown_workers()  # torch keeps it in a cycle: 5 s a worker, whenever it is collected
        resumed.check(len(done) == failing, f"trial {trial}: {len(done)} batches, not {failing}")
        sampler.load_state_dict(sampler.state_dict(batches_consumed=len(done), epoch=1))
        rest = [batch.tolist() for batch in DataLoader(Rows(), batch_sampler=sampler, num_workers=workers)]
        resumed.check(done + rest == due, f"trial {trial}: after {len(done)} batches {done + rest}")

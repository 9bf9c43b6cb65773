"""Resuming at every batch of an epoch, through a DataLoader with and without workers, bit-exact."""

import io

import numpy as np
import pytest
import torch
from sampler_model import Configuration
from torch.utils.data import DataLoader, TensorDataset

from spectral_sampler import MellowAIMD
from spectral_sampler.sampler.run import Run

# torchdata 0.11 calls a function that torch 2.14 has deprecated
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")]
DATA = TensorDataset(torch.arange(60))


def of(selection, *, ratio="0.5", order="own", **options):
    given = {"candidate_batch_size": 10, "epochs": 3, "drop_last": True, "lookahead": 3, **options}
    return Configuration(60, selection, order, ratio, tuple(given.items()))


QUICK = {
    "a schedule": of("first-feature", ratio="sigmoid"),
    "constant size, a rank": of("saln", emit="constant", batch_size=5, num_replicas=2, rank=1, candidate_batch_size=6),
    "a caller's order, a tail": of("plausible-even", order="weighted", drop_last=False, candidate_batch_size=11),
    "a learner": of("jest", reshuffle=False),
}
MORE = {
    "a DistributedSampler": of("first-feature", order="distributed", ratio="rising"),
    "a list": of("loss-weighted", order="list", lookahead=0),
    "constant size, a schedule": of("uniform", emit="constant", batch_size=4, ratio="rising"),
    "ranks with a tail": of("first-feature", num_replicas=3, rank=2, drop_last=False, candidate_batch_size=4),
    "fixed": of("saln", reshuffle=False, drop_last=False, candidate_batch_size=9),
    "in order": of("least-shown", shuffle=False),
}


def through_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def loader_of(kind, sampler, workers):
    if kind == "plain":
        return DataLoader(DATA, batch_sampler=sampler, num_workers=workers)
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    return module.StatefulDataLoader(DATA, batch_sampler=sampler, num_workers=workers)


def lists(loader):
    return [batch[0].tolist() for batch in loader]


def resumed(configuration, kind, workers, epoch, stop):
    """What an epoch gives that is left after ``stop`` batches and gone on with by another process."""
    sampler = configuration.make(start_epoch=epoch)
    loader = loader_of(kind, sampler, workers)
    iterator = iter(loader)
    done = [next(iterator)[0].tolist() for _ in range(stop)]
    state = sampler.state_dict(batches_consumed=stop, epoch=epoch) if kind == "plain" else loader.state_dict()
    del iterator, loader
    other = configuration.make()
    again = loader_of(kind, other, workers)
    (other if kind == "plain" else again).load_state_dict(through_disk(state))
    return done + lists(again), other


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["plain", "stateful"])
def test_at_every_batch(line, number, kind, workers):
    loader = {"plain": "DataLoader, batches_consumed=", "stateful": "StatefulDataLoader"}[kind]
    compared = line("sampler", f"resumed at every batch of an epoch, {loader}, {workers} workers")
    for name, configuration in number(QUICK, {**QUICK, **MORE}).items():
        due = [list(configuration.make(start_epoch=epoch)) for epoch in range(2)]
        for epoch in number([1], [0, 1]):
            for stop in range(configuration.steps + 1):
                if configuration.selection == "least-shown":
                    continue  # it learns; the next test
                found, _ = resumed(configuration, kind, workers, epoch, stop)
                compared.check(found == due[epoch], f"{name}, after {stop} batches of epoch {epoch}: {found}")


LISTENING = {
    "losses that the loop reports": (of("learner-loss"), 0.5),
    "what it learnt": (of("least-shown"), 0.5),
    "its proposal": (of("infobatch"), 0.9),
    "a ratio that follows the loss": (of("uniform"), None),
}


@pytest.mark.parametrize("workers", [0, 2])
def test_at_every_batch_with_what_was_heard_and_learnt(line, workers):
    """Read ahead, a choice depends on what was reported by then: with workers the proposal alone is exact."""
    compared = line("sampler", f"resumed at every batch of an epoch, state_dict(full=True), {workers} workers")

    def made(configuration, ratio):
        ratio = MellowAIMD(0.2, 0.8, mean=0.5, window=3) if ratio is None else ratio
        return configuration.make(keep_ratio=ratio, epochs=4)

    def trained(sampler, batches, epoch):
        """At most so many batches of an epoch; every one reports losses that depend on it and on the epoch."""
        found = []
        for (rows,) in DataLoader(DATA, batch_sampler=sampler, num_workers=workers):
            found.append(rows.tolist())
            sampler.observe_next(np.sin(rows.numpy() + epoch) + 1.5)
            if len(found) == batches:
                break
        return found

    for name, case in LISTENING.items():
        if workers and name != "its proposal":
            continue
        whole = made(*case)
        trained(whole, 99, 0)
        due = trained(whole, 99, 1)
        for stop in range(1, len(due) + 1):
            sampler = made(*case)
            trained(sampler, 99, 0)
            done = trained(sampler, stop, 1)
            other = made(*case)
            other.load_state_dict(through_disk(sampler.state_dict(batches_consumed=stop, epoch=1, full=True)))
            rest = trained(other, 99, 1) if stop < len(due) else []
            compared.check(done + rest == due, f"{name}, after {stop} batches: {done} and {rest} are not {due}")


@pytest.mark.parametrize("fault", ["one behind", "no schedule"])
def test_a_planted_fault_is_found(monkeypatch, fault):
    configuration = QUICK["a schedule"]
    due, load = list(configuration.make(start_epoch=1)), Run.load

    def planted(self, state):
        epoch, step = load(self, state)
        if fault == "no schedule":
            self.plan.follow(0.5, 3)
        return epoch, step - (fault == "one behind")

    monkeypatch.setattr(Run, "load", planted)
    for kind in ("plain", "stateful"):
        assert resumed(configuration, kind, 0, 1, 3)[0] != due

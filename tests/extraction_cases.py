"""A small model and data set whose extraction can be interrupted at a sample, and what was read of them."""

from __future__ import annotations

import threading
import time

import torch
from torch import nn
from torch.utils.data import Dataset

ROWS, BATCH = 57, 8
CHUNKS = 8


class Interrupted(Exception):
    pass


class Source(Dataset):
    """Sample i as a function of i; raises when ``stop`` is read for a batch, after the two readings of probes."""

    def __init__(self, stop=None, pause=0.0, rows=ROWS):
        self.stop, self.pause, self.rows, self.reads = stop, pause, rows, {}

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        self.reads[index] = self.reads.get(index, 0) + 1
        if self.reads[index] > 2:
            time.sleep(self.pause)
            if index == self.stop:
                raise Interrupted
        return torch.randn(6, generator=torch.Generator().manual_seed(index)), index % 3


def a_model(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


def partial_of(path):
    (found,) = path.glob(".partial-*")
    return found


def chunks_read(dataset):
    """The chunks that were read after the two readings of the probes."""
    return sorted({index // BATCH for index, count in dataset.reads.items() if count > 2})


def in_threads(calls):
    results, failures = {}, {}

    def work(name, call):
        try:
            results[name] = call()
        except Exception as error:  # noqa: BLE001
            failures[name] = error

    threads = [threading.Thread(target=work, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results, failures

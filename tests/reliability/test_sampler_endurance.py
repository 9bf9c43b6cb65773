"""Ten thousand batches leave threads, descriptors and memory as they were; two loops at once do not meet."""

import contextlib
import ctypes
import functools
import gc
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, HighestLearnerLoss
from torch.utils.data import DataLoader, TensorDataset

from spectral_sampler import GSTDS, ReferenceStore, SpectralBatchSampler
from spectral_sampler.sampler.run import Run
from spectral_sampler.selection import SALN, InfoBatch, LossWeighted, PlausibleEven, SpectralStrata

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.timeout(1200),
]


class Unrecorded(FirstFeature):
    """Keeps no record of its calls, which grows."""

    def score(self, *arguments, **named):
        self.__init__()
        return super().score(*arguments, **named)


def fresh_store(samples, seed=0):
    """One of its own: what is computed once from a store is not computed yet."""
    generator = np.random.default_rng(seed)
    features = generator.random((samples, 8), dtype=np.float32) + 0.01
    return ReferenceStore.from_arrays(features, generator.gamma(0.3, size=samples), generator.integers(3, size=samples))


def make(store, selection, **options):
    return SpectralBatchSampler(store, 16, **{"keep_ratio": 0.5, "selection": selection, "lookahead": 2, **options})


def plain(sampler):
    yield from sampler


def abandoned(sampler):
    """Passes that are left at their first batch or in the middle, by iterators that nobody closes."""
    for batches in (1, 5):
        iterator = iter(sampler)
        for _ in range(batches):
            yield next(iterator)
    yield from sampler


def reported(sampler):
    for batch in sampler:
        yield batch
        sampler.observe_next(np.ones(len(batch)))
        sampler.weights_for(batch)
        sampler.state_dict(full=True)


def loaded(sampler):
    data = TensorDataset(torch.arange(len(sampler.store)))
    for (batch,) in DataLoader(data, batch_sampler=sampler):
        yield batch


def stateful(sampler):
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    loader = module.StatefulDataLoader(TensorDataset(torch.arange(len(sampler.store))), batch_sampler=sampler)
    for (batch,) in loader:
        yield batch
        loader.state_dict()


LOOPS = {
    "look-ahead threads": (Unrecorded, plain),
    "abandoned iterators": (Unrecorded, abandoned),
    "losses reported, states saved": (HighestLearnerLoss, reported),
    "proposals": (InfoBatch, reported),
    "DataLoader": (LossWeighted, loaded),
    "StatefulDataLoader": (SALN, stateful),
}


def resident():
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def settled():
    """What nobody needs is given back, so that what is held can be told from what lay ready to be used again."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # no libc, or one without it
        ctypes.CDLL(None).malloc_trim(0)


def growth(loop, sampler, batches, warm):
    """(MB resident, descriptors, threads, objects) that ``batches`` more cost after ``warm`` of them."""
    count, held = 0, []
    for limit in (warm, warm + batches):
        while count < limit:
            for _ in loop(sampler):
                count += 1
        settled()
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        held.append((resident(), descriptors, threading.active_count(), len(gc.get_objects())))
    return tuple(after - before for before, after in zip(*held, strict=True))


@pytest.mark.parametrize("name", LOOPS)
def test_ten_thousand_batches_leave_nothing(line, number, name):
    batches = number(10_000, 100_000)
    memory = line("sampler", f"batches by the ten thousand, {name}: resident memory", 2, "MB")
    others = line("sampler", f"batches by the ten thousand, {name}: threads, descriptors and objects as before")
    selection, loop = LOOPS[name]
    found, *rest = growth(loop, make(fresh_store(256), selection()), batches, 1000)
    memory.passed(worst=found)
    for what, more, allowed in zip(("descriptors", "threads", "objects"), rest, (0, 0, 100), strict=True):
        others.check(more <= allowed, f"{more} {what} more")


FAULTS = {
    "a descriptor": (1, lambda kept: kept.append(os.open(os.devnull, os.O_RDONLY))),
    "a thread": (2, lambda kept: kept.append(threading.Thread(target=kept[0].wait, daemon=True)) or kept[-1].start()),
    "an object": (3, lambda kept: kept.append([[], [[]]])),
    "memory": (0, lambda kept: kept.append(b"x" * 2**16)),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_a_planted_fault_leaves_is_seen(monkeypatch, what):
    place, leak = FAULTS[what]
    prepare, kept = Run.prepare, [threading.Event()]
    monkeypatch.setattr(Run, "prepare", lambda self, begun: (prepare(self, begun), leak(kept))[0])
    try:
        found = growth(plain, make(fresh_store(256), FirstFeature()), 1600, 160)
    finally:
        kept[0].set()
        for one in kept[1:]:
            if what == "a descriptor":
                os.close(one)
            if what == "a thread":
                one.join()
    assert found[place] > 100 if what == "an object" else found[place] >= 4


SHARED = {
    "plausible-even": PlausibleEven,  # which labels are believed is computed once, by whoever comes first
    "strata": SpectralStrata,  # and so are its clusters
    "gstds": GSTDS,
    "saln": SALN,
}


def together(jobs):
    """What the jobs return when they run at once, each in a thread."""
    found, barrier = [None] * len(jobs), threading.Barrier(len(jobs))

    def work(place):
        barrier.wait()
        try:
            found[place] = jobs[place]()
        except BaseException as error:
            found[place] = error
            raise

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


def passes(store, name, seed, workers=0):
    sampler = make(store, SHARED[name](), seed=seed)
    loader = DataLoader(TensorDataset(torch.arange(len(store))), batch_sampler=sampler, num_workers=workers)
    return [[batch.tolist() for (batch,) in loader] for _ in range(2)]


@pytest.mark.parametrize("name", SHARED)
def test_two_loaders_at_once(line, number, name):
    compared = line("sampler", f"two loaders in two threads over one store, {name}: lists as alone")
    alone = {}
    before = sys.getswitchinterval()
    try:
        for trial in range(number(6, 100)):
            seed, workers = trial % 3, int(trial == 4)
            for which in (seed, seed + 1):
                alone.setdefault(which, passes(fresh_store(240), name, which))
            sys.setswitchinterval(1e-5)
            store = fresh_store(240)
            jobs = [functools.partial(passes, store, name, which, workers) for which in (seed, seed + 1)]
            found = together(jobs)
            sys.setswitchinterval(before)
            for which, lists in zip((seed, seed + 1), found, strict=True):
                compared.check(lists == alone[which], f"trial {trial}, seed {which}: {lists}")
    finally:
        sys.setswitchinterval(before)


def test_what_two_threads_do_to_one_another_is_seen(monkeypatch):
    """Planted: what is computed once from a store is that of whichever sampler came first."""
    select, first = PlausibleEven.select, []

    def planted(self, batch, budget):
        first.append(batch.seed)
        return select(self, batch._replace(seed=first[0]), budget)

    alone = [passes(fresh_store(240), "plausible-even", seed) for seed in range(2)]
    monkeypatch.setattr(PlausibleEven, "select", planted)
    store = fresh_store(240)
    found = together([functools.partial(passes, store, "plausible-even", seed) for seed in range(2)])
    assert [lists == due for lists, due in zip(found, alone, strict=True)].count(False) == 1

"""Same seed, same lists: whatever the number of workers, the look-ahead, the sharding, and the world around it."""

import multiprocessing
import pickle
import random

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, epochs_of, make_store
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from spectral_sampler import GSTDS, ReferenceStore, SigmoidSchedule, SpectralBatchSampler, use_backend
from spectral_sampler.selection import Uniform

STORE = make_store(512, 16)
DATA = TensorDataset(torch.arange(512))
EPOCHS = 4


def make(store=STORE, **options):
    defaults = {"candidate_batch_size": 32, "epochs": EPOCHS, "keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.4)}
    return SpectralBatchSampler(store, **{**defaults, **options})


REFERENCE = epochs_of(make(lookahead=0), EPOCHS)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("lookahead", [0, 1, 16])
def test_lists_do_not_depend_on_workers_or_lookahead(workers, lookahead):
    sampler = make(lookahead=lookahead)
    loader = DataLoader(DATA, batch_sampler=sampler, num_workers=workers)
    for epoch in range(2):
        assert [batch[0].tolist() for batch in loader] == REFERENCE[epoch]
    assert list(sampler) == REFERENCE[2]


def test_persistent_workers_change_nothing():
    loader = DataLoader(DATA, batch_sampler=make(), num_workers=2, persistent_workers=True, prefetch_factor=4)
    for epoch in range(3):
        assert [batch[0].tolist() for batch in loader] == REFERENCE[epoch]


@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_ranks_together_see_what_one_process_sees(replicas):
    ranks = [epochs_of(make(num_replicas=replicas, rank=rank), EPOCHS) for rank in range(replicas)]
    for epoch in range(EPOCHS):
        union = [batch for step in zip(*(batches[epoch] for batches in ranks), strict=True) for batch in step]
        assert union == REFERENCE[epoch]


def test_ranks_keep_equally_many_at_every_step_even_where_groups_do_not_fit():
    schedule = SigmoidSchedule(0.18, 0.88, mean=0.4)
    ranks = [
        epochs_of(make(num_replicas=3, rank=rank, keep_ratio=schedule, drop_last=False), EPOCHS) for rank in range(3)
    ]
    for epoch in range(EPOCHS):
        for step in zip(*(batches[epoch] for batches in ranks), strict=True):
            assert len({len(batch) for batch in step}) == 1


def test_constant_size_is_sharded_alike():
    options = {"emit": "constant", "batch_size": 16, "keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.4)}
    one = epochs_of(make(**options), 2)
    ranks = [epochs_of(make(**options, num_replicas=4, rank=rank), 2) for rank in range(4)]
    for epoch in range(2):
        union = [batch for step in zip(*(batches[epoch] for batches in ranks), strict=True) for batch in step]
        assert union == one[epoch]


def random_states():
    return (
        torch.random.get_rng_state().tolist(),
        repr(np.random.get_state()),
        random.getstate(),
    )


@pytest.mark.parametrize("lookahead", [0, 16])
def test_global_random_states_are_neither_read_nor_written(lookahead):
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = random_states()
    sampler = make(lookahead=lookahead)
    assert epochs_of(sampler, 2) == REFERENCE[:2]
    weighted = make(sampler=WeightedRandomSampler(torch.ones(512), 512), lookahead=lookahead)
    list(weighted)
    sampler.selection_at(0, 0)
    assert random_states() == before


def test_autocast_and_default_dtype_of_the_training_loop_change_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert list(make(lookahead=0)) == REFERENCE[0]
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        assert list(make()) == REFERENCE[0]


def test_use_backend_at_construction_reaches_the_thread():
    seen = []

    class Spy(FirstFeature):
        def score(self, store, indices, *, backend):
            from spectral_sampler import ops

            seen.append((backend, ops.requested()))
            return super().score(store, indices, backend=backend)

    with use_backend("eager"):
        sampler = make(selection=Spy(), lookahead=4)
    list(sampler)
    assert seen == [("eager", "eager")] * 4


def test_two_live_iterators_do_not_disturb_each_other():
    sampler = make(lookahead=4)
    first, second = iter(sampler), iter(sampler)
    mixed = [(next(first), next(second)) for _ in range(5)]
    assert [pair[0] for pair in mixed] == [pair[1] for pair in mixed] == REFERENCE[0][:5]
    assert [*first] == REFERENCE[0][5:] == [*second]
    assert list(sampler) == REFERENCE[1]


def test_half_precision_store_and_store_on_disk_agree(tmp_path):
    memory = ReferenceStore.from_arrays(STORE.features.astype(np.float16), losses=STORE.losses)
    disk = memory.save(tmp_path / "store")
    assert list(make(memory)) == list(make(disk))


def test_pickles_small_and_goes_on_alike(tmp_path):
    big = make_store(4096, 64).save(tmp_path / "store")
    options = {"candidate_batch_size": 16, "keep_ratio": lambda progress: 0.2 + 0.5 * progress, "epochs": 30}
    sampler = SpectralBatchSampler(big, selection=GSTDS(), reshuffle=False, **options)
    list(sampler)
    packed = pickle.dumps(sampler)
    assert len(packed) < 40_000  # the store alone holds half a megabyte
    again = pickle.loads(packed)
    assert (again.epoch, len(again)) == (1, 256)
    assert again.sampler is not sampler.sampler
    assert list(again) == list(sampler)
    again.sampler.set_epoch(0)
    assert (again.epoch, sampler.epoch) == (0, 2)
    constant = SpectralBatchSampler(big, keep_ratio=0.3, selection=Uniform())
    assert len(pickle.dumps(constant)) < 3_000


def lists_in_a_child(sampler, queue):
    queue.put([list(batch) for batch in sampler])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_child_process_sees_the_same_lists(method):
    sampler = make(selection=FirstFeature(), lookahead=4)
    expected = list(make(selection=FirstFeature()))
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=lists_in_a_child, args=(sampler, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == expected
    finally:
        child.join(60)
    assert child.exitcode == 0


def test_loader_with_spawned_workers():
    loader = DataLoader(DATA, batch_sampler=make(), num_workers=1, multiprocessing_context="spawn")
    assert [batch[0].tolist() for batch in loader] == REFERENCE[0]

"""curate(): the same loader, curated."""

import inspect
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, HighestLearnerLoss, make_store
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import spectral_sampler
from spectral_sampler import SALN, ArgumentError, ReferenceStore, SigmoidSchedule, SpectralBatchSampler, curate
from spectral_sampler import loader as module

STORE = make_store(200)
DATA = TensorDataset(torch.arange(200))
OPTIONS = {"selection": FirstFeature(), "keep_ratio": 0.5}


@pytest.fixture(autouse=True)
def _nobody_has_seeded():
    """Whatever tests before this one did."""
    torch.manual_seed(module._DRAWN)


def collate(samples):
    return [int(sample[0]) for sample in samples]


def initialise(worker):
    torch.manual_seed(worker)


class Reads(TensorDataset):
    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_the_curated_loader_reads_selected_samples_alone():
    data = Reads(torch.arange(200))
    loader = curate(DataLoader(data, batch_size=40, shuffle=True, drop_last=True), STORE, **OPTIONS)
    expected = list(SpectralBatchSampler(STORE, candidate_batch_size=40, seed=0, **OPTIONS))
    assert [batch[0].tolist() for batch in loader] == expected
    assert data.read == [index for batch in expected for index in batch]
    assert len(data.read) == 100


def test_arguments_and_defaults_are_the_samplers():
    sampler, ours = (inspect.signature(call).parameters for call in (SpectralBatchSampler, curate))
    assert ours.keys() - sampler.keys() == {"loader", "with_indices"}
    assert sampler.keys() - ours.keys() == {"dataset", "collate_fn"}  # the loader's
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(ours)[2:])
    read_off = {"candidate_batch_size", "sampler", "shuffle", "drop_last", "seed"}
    assert {name for name in ours if ours[name].default is None} >= read_off
    for name in ours.keys() & sampler.keys() - read_off:
        assert ours[name].default == sampler[name].default, name


def test_every_argument_reaches_the_sampler():
    given = {"epochs": 4, "start_epoch": 2, "keep_ratio": SigmoidSchedule(0.2, 0.9, mean=0.4), "reshuffle": False}
    given |= {
        "num_replicas": 2,
        "rank": 1,
        "multiple_of": 3,
        "min_keep": 4,
        "lookahead": 3,
        "backend": "eager",
        "seed": 9,
    }
    sampler = curate(DataLoader(DATA, batch_size=20), STORE, selection=SALN(), **given).batch_sampler
    direct = SpectralBatchSampler(STORE, 20, shuffle=False, drop_last=False, selection=SALN(), **given)
    assert sampler.epoch == 2
    assert sampler.settings == direct.settings
    assert sampler.backend == "eager"
    assert list(sampler) == list(direct)
    sampler = curate(DataLoader(DATA, batch_size=20), STORE, emit="constant", batch_size=6, device="cpu", **OPTIONS)
    assert {len(batch) for (batch,) in sampler} == {6}
    with pytest.raises(TypeError, match="epoch"):
        curate(DataLoader(DATA, batch_size=20), STORE, epoch=3)


def test_everything_else_is_kept_and_the_old_loader_is_untouched():
    generator = torch.Generator().manual_seed(3)
    old = DataLoader(
        DATA,
        batch_size=20,
        num_workers=2,
        collate_fn=collate,
        timeout=30,
        worker_init_fn=initialise,
        multiprocessing_context="fork",
        generator=generator,
        prefetch_factor=3,
        persistent_workers=True,
        in_order=False,
    )
    new = curate(old, STORE, **OPTIONS)
    for name in ("dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator"):
        assert getattr(new, name) is getattr(old, name) or getattr(new, name) == getattr(old, name)
    for name in ("prefetch_factor", "persistent_workers", "in_order", "pin_memory_device"):
        assert getattr(new, name) == getattr(old, name)
    assert new.multiprocessing_context.get_start_method() == "fork"
    assert new is not old
    assert old.batch_size == 20
    assert type(old.batch_sampler) is BatchSampler
    assert new.batch_size is None
    assert {len(batch) for batch in new} == {10}


def test_pinned_memory_is_kept():
    assert curate(DataLoader(DATA, batch_size=20, pin_memory=True), STORE, **OPTIONS).pin_memory is True


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_order_and_tail_are_read_off(shuffle, drop_last):
    loader = curate(
        DataLoader(DATA, batch_size=30, shuffle=shuffle, drop_last=drop_last), STORE, **{**OPTIONS, "keep_ratio": 1.0}
    )
    seen = [index for (batch,) in loader for index in batch.tolist()]
    assert len(loader) == (6 if drop_last else 7)
    assert len(seen) == (180 if drop_last else 200)
    assert (seen == sorted(seen)) is not shuffle


@pytest.mark.parametrize(
    "order",
    [
        lambda: WeightedRandomSampler(torch.ones(200), 100),
        lambda: DistributedSampler(range(200), 2, rank=1),
        lambda: RandomSampler(range(200), replacement=True),
        lambda: RandomSampler(range(200), num_samples=100),
        lambda: SequentialSampler(range(100)),
        lambda: list(range(199, 50, -1)),
    ],
    ids=["weighted", "distributed", "replacement", "part", "sequential part", "list"],
)
def test_other_orders_are_passed_on(order):
    sampler = curate(DataLoader(DATA, batch_size=20, sampler=order()), STORE, **OPTIONS).batch_sampler
    assert len(sampler.sampler) == len(order())
    direct = SpectralBatchSampler(STORE, 20, sampler=order(), drop_last=False, seed=0, **OPTIONS)
    assert list(sampler) == list(direct)


def test_an_epoch_set_on_the_loaders_distributed_sampler_arrives():
    order = DistributedSampler(range(200), 2, rank=0)
    loader = curate(DataLoader(DATA, batch_size=20, sampler=order), STORE, **OPTIONS)
    order.set_epoch(3)
    third = [batch[0].tolist() for batch in loader]
    assert third == list(curate(DataLoader(DATA, 20, sampler=_at(3)), STORE, **OPTIONS).batch_sampler)
    assert loader.batch_sampler.epoch == 4


def _at(epoch):
    order = DistributedSampler(range(200), 2, rank=0)
    order.set_epoch(epoch)
    return order


def test_options_win_over_what_is_read_off():
    loader = DataLoader(DATA, batch_size=20, shuffle=False)
    sampler = curate(
        loader, STORE, candidate_batch_size=50, shuffle=True, drop_last=True, seed=4, **OPTIONS
    ).batch_sampler
    direct = list(SpectralBatchSampler(STORE, 50, seed=4, **OPTIONS))
    assert list(sampler) == direct
    listed = DataLoader(DATA, batch_size=50, sampler=list(range(150)))
    assert list(curate(listed, STORE, shuffle=True, seed=4, **OPTIONS).batch_sampler) == direct
    assert len(curate(DataLoader(DATA, batch_size=50), STORE, sampler=list(range(150)), **OPTIONS)) == 3


def order_under(trained_with, *, generator=None, **options):
    torch.manual_seed(trained_with)
    loader = DataLoader(DATA, batch_size=20, shuffle=True, generator=generator)
    return list(curate(loader, STORE, **OPTIONS, **options).batch_sampler)


def test_the_seed_is_the_one_that_training_was_given():
    with torch.random.fork_rng():
        assert order_under(1) == order_under(1) != order_under(2)
        assert order_under(1, seed=7) == order_under(2, seed=7)
        assert order_under(1) == order_under(5, seed=1)
        first, second = (torch.Generator().manual_seed(seed) for seed in (3, 2**64 - 1))
        assert order_under(1, generator=first) == order_under(2, generator=first) == order_under(1, seed=3)
        assert order_under(1, generator=second) == order_under(1, seed=2**64 - 1) != order_under(1, generator=first)
        before = torch.random.get_rng_state()
        list(curate(DataLoader(DATA, batch_size=20, shuffle=True), STORE, **OPTIONS).batch_sampler)
        assert torch.equal(before, torch.random.get_rng_state())


def test_without_a_seed_every_process_has_one_order():
    """Torch draws a seed of its own on import, another one in every process: a resumed run would be refused."""
    script = (
        "import sys; sys.path.insert(0, 'tests'); from torch.utils.data import DataLoader; import spectral_sampler\n"
        "from sampler_cases import make_store\n"
        "loader = DataLoader(range(200), batch_size=20, shuffle=True)\n"
        "loader = spectral_sampler.curate(loader, make_store(200), selection=spectral_sampler.Uniform())\n"
        "sampler = loader.batch_sampler\n"
        "print(sampler.state_dict()['settings']['seed'], list(sampler))"
    )
    paths = os.pathsep.join([str(Path(spectral_sampler.__file__).parents[1]), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    run = [sys.executable, "-c", script]
    said = subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout
    due = list(SpectralBatchSampler(STORE, 20, seed=0, drop_last=False, selection=spectral_sampler.Uniform()))
    assert said == f"0 {due}\n"


def test_several_ranks_agree_on_the_order_however_they_are_seeded():
    with torch.random.fork_rng():
        for rank in range(2):
            share = {"num_replicas": 2, "rank": rank}
            assert order_under(rank, **share) == order_under(5, seed=0, **share)
            assert order_under(rank, generator=torch.Generator().manual_seed(rank), **share) == order_under(
                5, seed=0, **share
            )


def test_processes_that_a_framework_shards_agree_too(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with torch.random.fork_rng():
            assert order_under(1) != order_under(2)  # one process
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.distributed, "get_world_size", lambda: 2)
                assert order_under(1) == order_under(2) == order_under(5, seed=0)
    finally:
        torch.distributed.destroy_process_group()


def test_batches_carry_their_indices_on_request():
    loader = DataLoader(DATA, batch_size=20, shuffle=True)
    batches = [
        (rows.tolist(), indices.tolist()) for rows, indices in curate(loader, STORE, with_indices=True, **OPTIONS)
    ]
    assert batches == [(batch, batch) for batch in curate(loader, STORE, **OPTIONS).batch_sampler]
    again = curate(
        curate(loader, STORE, with_indices=True, **OPTIONS),
        STORE,
        with_indices=True,
        candidate_batch_size=40,
        **OPTIONS,
    )
    assert all(len(batch) == 2 for batch in again)
    assert loader.dataset is DATA
    with pytest.raises(ArgumentError, match=r"^with_indices must be True or False"):
        curate(loader, STORE, with_indices=1)


def test_observed_indices_reach_the_selection():
    loader = curate(
        DataLoader(DATA, batch_size=40, shuffle=True), STORE, selection=HighestLearnerLoss(), with_indices=True
    )
    for rows, indices in loader:
        loader.batch_sampler.observe(indices, rows.float())
    assert loader.batch_sampler.statistics()["spectral/observed_share"] == 5 * 12 / 200


def test_a_learner_reads_candidates_as_the_loader_collates_them():
    class Sum(torch.nn.Module):
        def forward(self, numbers):
            return torch.stack([numbers, -numbers], dim=1)

    words = [str(number) for number in range(200)]
    labelled = ReferenceStore.from_arrays(STORE.features, labels=np.zeros(200, dtype=np.int64))
    loader = DataLoader(
        words, batch_size=40, collate_fn=lambda samples: torch.tensor([float(word) for word in samples])
    )
    curated = curate(loader, labelled, selection=HighestLearnerLoss(), keep_ratio=0.25, learner=Sum())
    assert sorted(int(number) for number in next(iter(curated))) == list(range(10))  # the loss falls with the number


def test_features_alone_will_do():
    loader = curate(DataLoader(DATA, batch_size=20), STORE.features, keep_ratio=0.5, selection=SALN())
    assert {len(batch) for (batch,) in loader} == {10}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(200))


@pytest.mark.parametrize(
    ("loader", "store", "named"),
    [
        (DataLoader(Stream(), batch_size=20), STORE, "dataset"),
        (DataLoader(Subset(DATA, range(199)), batch_size=20), STORE, "dataset"),
        (DataLoader(DATA, batch_size=20), make_store(201), "dataset"),
        (DataLoader(DATA, batch_size=None), STORE, "loader"),
        (DATA, STORE, "loader"),
        (DataLoader(DATA, batch_size=20), "store", "store"),
        (DataLoader(DATA, batch_size=1), STORE, "candidate_batch_size"),
    ],
)
def test_refusals(loader, store, named):
    with pytest.raises(ArgumentError, match=rf"^{named} must be ") as caught:
        curate(loader, store, **OPTIONS)
    assert "\n" not in str(caught.value)


class Telling(DataLoader):
    """A subclass that keeps DataLoader's keywords."""

    def __init__(self, dataset, **options):
        super().__init__(dataset, **options)


def test_the_class_is_kept_where_it_takes_a_batch_sampler():
    assert type(curate(Telling(DATA, batch_size=20), STORE, **OPTIONS)) is Telling


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_stateful_loader_stays_one(shuffle):
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    old = module.StatefulDataLoader(DATA, batch_size=20, shuffle=shuffle, snapshot_every_n_steps=5)
    new = curate(old, STORE, **OPTIONS)
    assert type(new) is module.StatefulDataLoader
    assert new.snapshot_every_n_steps == 5
    reference = list(SpectralBatchSampler(STORE, 20, shuffle=shuffle, seed=0, **OPTIONS))
    iterator = iter(new)
    assert [next(iterator)[0].tolist() for _ in range(4)] == reference[:4]
    again = curate(old, STORE, **OPTIONS)
    again.load_state_dict(new.state_dict())
    assert [batch[0].tolist() for batch in again] == reference[4:]


def test_curating_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(curate(DataLoader(DATA, batch_size=20, shuffle=True), STORE, **OPTIONS))


def test_training_with_the_curated_loader_needs_no_other_change():
    torch.manual_seed(0)
    inputs = torch.from_numpy(np.asarray(STORE.features))
    targets = (inputs[:, 0] > inputs[:, 1]).long()
    model = torch.nn.Linear(inputs.shape[1], 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = SigmoidSchedule(0.2, 0.9, mean=0.4)
    losses = []
    loader = curate(
        DataLoader(TensorDataset(inputs, targets), batch_size=40, shuffle=True), STORE, epochs=8, keep_ratio=schedule
    )
    for _ in range(8):
        for batch, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(batch), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert len(losses) == 8 * 5
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])

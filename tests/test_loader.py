"""curate(): the same loader, curated."""

import warnings

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, make_store
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

from spectral_sampler import SALN, ArgumentError, SigmoidSchedule, SpectralBatchSampler, curate

STORE = make_store(200)
DATA = TensorDataset(torch.arange(200))
OPTIONS = {"selection": FirstFeature(), "keep_ratio": 0.5}


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
    expected = list(SpectralBatchSampler(STORE, candidate_batch_size=40, **OPTIONS))
    assert [batch[0].tolist() for batch in loader] == expected
    assert data.read == [index for batch in expected for index in batch]
    assert len(data.read) == 100


def test_the_default_is_the_published_method_over_the_given_epochs():
    loader = curate(DataLoader(DATA, batch_size=20, shuffle=True), STORE, epochs=10)
    assert loader.batch_sampler.selection.name == "gstds"
    assert loader.batch_sampler.keep_ratios().mean() == pytest.approx(0.30)
    with pytest.raises(ArgumentError, match=r"^epochs must be "):
        curate(DataLoader(DATA, batch_size=20), STORE)


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
    direct = SpectralBatchSampler(STORE, 20, sampler=order(), drop_last=False, **OPTIONS)
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
    assert list(sampler) == list(SpectralBatchSampler(STORE, 50, seed=4, **OPTIONS))


def test_features_alone_will_do():
    loader = curate(DataLoader(DATA, batch_size=20), STORE.features, keep_ratio=0.5, selection=SALN())
    assert {len(batch) for (batch,) in loader} == {10}


def test_a_loader_with_its_own_batches_needs_a_size():
    own = DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 20, False))
    with pytest.raises(ArgumentError, match=r"^candidate_batch_size must be given"):
        curate(own, STORE, **OPTIONS)
    assert {len(batch) for (batch,) in curate(own, STORE, candidate_batch_size=40, **OPTIONS)} == {20}
    again = curate(own, STORE, candidate_batch_size=40, **OPTIONS)
    assert {len(batch) for (batch,) in curate(again, STORE, candidate_batch_size=20, **OPTIONS)} == {10}


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
        (DataLoader(DATA, batch_size=500), STORE, "candidate_batch_size"),
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


class Closed(DataLoader):
    """One that does not."""

    def __init__(self, dataset, size):
        super().__init__(dataset, batch_size=size)


def test_the_class_is_kept_where_it_takes_a_batch_sampler(caplog):
    assert type(curate(Telling(DATA, batch_size=20), STORE, **OPTIONS)) is Telling
    assert not caplog.records
    plain = curate(Closed(DATA, 20), STORE, **OPTIONS)
    assert type(plain) is DataLoader
    assert "Closed takes no batch_sampler" in caplog.text
    assert sum(1 for _ in plain) == 10


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_stateful_loader_stays_one(shuffle):
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    old = module.StatefulDataLoader(DATA, batch_size=20, shuffle=shuffle, snapshot_every_n_steps=5)
    new = curate(old, STORE, **OPTIONS)
    assert type(new) is module.StatefulDataLoader
    assert new.snapshot_every_n_steps == 5
    reference = list(SpectralBatchSampler(STORE, 20, shuffle=shuffle, **OPTIONS))
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

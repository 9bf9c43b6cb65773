"""curate() of loaders that others have wrapped: batch samplers, prepared loaders, classes of their own."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, make_store
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from spectral_sampler import ArgumentError, SpectralBatchSampler, curate

STORE = make_store(200)
DATA = TensorDataset(torch.arange(200))
OPTIONS = {"selection": FirstFeature(), "keep_ratio": 0.5}
ALL = {**OPTIONS, "keep_ratio": 1.0}


@pytest.fixture(autouse=True)
def _one_seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def batched(order, size=20, drop_last=False, data=DATA, **options):
    return DataLoader(data, batch_sampler=BatchSampler(order, size, drop_last), **options)


def lists(loader, epochs=1):
    return [batch for _ in range(epochs) for batch in loader.batch_sampler]


def refused(loader, *, named="loader", **options):
    with pytest.raises(ArgumentError, match=rf"^{named} must be ") as caught:
        curate(loader, STORE, **{**OPTIONS, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# A plain batch sampler

ORDERS = {
    "distributed": lambda: DistributedSampler(range(200), 2, rank=1),
    "subset": lambda: SubsetRandomSampler(range(30, 130)),
    "weighted": lambda: WeightedRandomSampler(torch.arange(200) + 1.0, 150),
    "random": lambda: RandomSampler(range(200)),
    "replacement": lambda: RandomSampler(range(200), replacement=True),
    "repeated": lambda: RandomSampler(range(50), num_samples=200),
    "sequential": lambda: SequentialSampler(range(200)),
    "part": lambda: SequentialSampler(range(77)),
    "list": lambda: list(range(199, 50, -1)),
}


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_plain_batch_sampler_is_read_as_the_loader_itself(order, drop_last):
    inner = curate(batched(order(), 30, drop_last), STORE, epochs=2, **OPTIONS)
    outer = curate(DataLoader(DATA, 30, sampler=order(), drop_last=drop_last), STORE, epochs=2, **OPTIONS)
    assert inner.batch_sampler.settings == outer.batch_sampler.settings
    assert inner.batch_sampler.settings[0] == 30
    assert lists(inner, 2) == lists(outer, 2) != []


def test_validation_rows_stay_out_and_ranks_stay_apart():
    subset = curate(batched(SubsetRandomSampler(range(60))), STORE, **ALL)
    assert sorted(row for batch in lists(subset) for row in batch) == list(range(60))
    ranks = [curate(batched(DistributedSampler(range(200), 2, rank)), STORE, **ALL) for rank in range(2)]
    assert sorted(row for loader in ranks for batch in lists(loader) for row in batch) == list(range(200))


def test_an_epoch_set_on_the_inner_sampler_arrives():
    order = DistributedSampler(range(200), 2, rank=0)
    loader = curate(batched(order), STORE, **OPTIONS)
    order.set_epoch(3)
    third = lists(loader)
    assert loader.batch_sampler.epoch == 4
    again = curate(batched(DistributedSampler(range(200), 2, rank=0)), STORE, start_epoch=3, **OPTIONS)
    assert lists(again) == third


def test_arguments_win_over_a_batch_samplers():
    order = SubsetRandomSampler(range(100))
    curated = curate(batched(order, 20), STORE, candidate_batch_size=50, drop_last=True, **OPTIONS).batch_sampler
    assert curated.settings[0] == 50
    assert curated.settings.drop_last is True
    assert curated.sampler.source is order
    whole = curate(batched(order, 50), STORE, shuffle=False, seed=4, **ALL)
    assert [row for batch in lists(whole) for row in batch] != []
    assert max(row for batch in lists(whole) for row in batch) == 199
    other = curate(batched(order, 50), STORE, sampler=range(150, 200), **ALL)
    assert {row for batch in lists(other) for row in batch} == set(range(150, 200))


class Backwards(SequentialSampler):
    def __iter__(self):
        return iter(range(len(self) - 1, -1, -1))


def test_only_torchs_own_orders_are_taken_for_ours():
    """A derived sampler orders as it likes, and one over other data, of one length, is not the whole."""
    for loader in (DataLoader(DATA, 20, sampler=Backwards(DATA)), batched(Backwards(DATA))):
        rows = [row for batch in lists(curate(loader, STORE, **ALL)) for row in sorted(batch, reverse=True)]
        assert rows == list(range(199, -1, -1))
    named = type("RandomSampler", (Backwards,), {"replacement": False})
    assert curate(DataLoader(DATA, 20, sampler=named(DATA)), STORE, **ALL).batch_sampler.sampler.source is not None
    few = RandomSampler(range(50), num_samples=200)
    assert max(row for batch in lists(curate(DataLoader(DATA, 20, sampler=few), STORE, **ALL)) for row in batch) < 50


def test_the_seed_of_a_random_samplers_generator_counts():
    def rows(seed):
        return lists(curate(batched(RandomSampler(DATA, generator=torch.Generator().manual_seed(seed))), STORE, **ALL))

    assert rows(3) == rows(3) != rows(4)
    assert rows(3) == lists(curate(batched(RandomSampler(DATA)), STORE, seed=3, **ALL))


def test_processes_that_a_launcher_started_agree_on_the_order(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    orders = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        orders.append(lists(curate(DataLoader(DATA, 20, shuffle=True), STORE, **OPTIONS)))
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone = lists(curate(DataLoader(DATA, 20, shuffle=True), STORE, **OPTIONS))
    assert orders[0] == orders[1] != alone


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("shuffle", [True, False])
def test_torchdatas_samplers_are_read_alike(shuffle):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")
    samplers = pytest.importorskip("torchdata.stateful_dataloader.sampler")
    order = samplers.RandomSampler(DATA) if shuffle else SequentialSampler(DATA)
    loader = stateful.StatefulDataLoader(DATA, batch_sampler=samplers.BatchSampler(order, 20, False))
    curated = curate(loader, STORE, **OPTIONS)
    assert type(curated) is type(loader)
    assert lists(curated) == lists(curate(DataLoader(DATA, 20, shuffle=shuffle), STORE, seed=0, **OPTIONS))


# Sharded twice, or not any more


class RankAware(Sampler):
    """As timm's RepeatAugSampler or torchvision's RASampler: of no class of torch's."""

    def __init__(self, rank):
        self.num_replicas, self.rank = 2, rank

    def __len__(self):
        return 100

    def __iter__(self):
        return iter(range(self.rank, 200, 2))


@pytest.mark.parametrize("order", [lambda: DistributedSampler(range(200), 2, rank=1), lambda: RankAware(1)])
@pytest.mark.parametrize("build", [batched, lambda order: DataLoader(DATA, 20, sampler=order)])
def test_no_shard_of_a_shard_and_no_order_without_shards(order, build):
    assert "One of the two shards" in refused(build(order()), num_replicas=2, rank=1, named="num_replicas")
    for shuffle in (True, False):
        assert type(order()).__name__ in refused(build(order()), shuffle=shuffle, named="shuffle")
    ranks = [
        lists(curate(build(order()), STORE, shuffle=True, num_replicas=2, rank=rank, drop_last=True, **ALL))
        for rank in range(2)
    ]
    assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(200))
    refused(DataLoader(DATA, 20), sampler=order(), num_replicas=2, named="num_replicas")


# Other batch samplers


class Grouped(BatchSampler):
    """As those that keep the aspect ratio or the length within a batch."""


class Lists:
    def __init__(self, batches):
        self.batches, self.drop_last = batches, True

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


OTHERS = {
    "Grouped": lambda: Grouped(SubsetRandomSampler(range(100)), 20, True),
    "Lists": lambda: Lists([[0, 1], [2, 3]]),
    "list": lambda: [[0, 1], [2, 3]],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_batch_samplers_are_refused_by_name_until_all_is_said(name):
    loader = DataLoader(DATA, batch_sampler=OTHERS[name]())
    for said in ({}, {"candidate_batch_size": 40}, {"shuffle": True}, {"sampler": range(80)}):
        text = refused(loader, **said)
        for part in (f"got one with a {name}.", "candidate_batch_size=", "sampler= or shuffle="):
            assert part in text
    curated = curate(loader, STORE, candidate_batch_size=40, sampler=range(90), **OPTIONS)
    assert curated.batch_sampler.drop_last is True
    assert [len(batch) for batch in lists(curated)] == [20, 20]
    shuffled = curate(loader, STORE, candidate_batch_size=40, shuffle=True, seed=2, **OPTIONS)
    assert lists(shuffled) == list(SpectralBatchSampler(STORE, 40, seed=2, **OPTIONS))


# Curated twice


def test_a_curated_loader_keeps_its_order_and_nothing_else():
    order = SubsetRandomSampler(range(100))
    first = curate(
        DataLoader(DATA, 30, sampler=order), STORE, seed=5, epochs=3, start_epoch=2, multiple_of=5, **OPTIONS
    )
    second = curate(first, STORE, **OPTIONS).batch_sampler
    assert second.sampler.source is order
    assert (
        second.settings == SpectralBatchSampler(STORE, 30, sampler=order, drop_last=False, seed=5, **OPTIONS).settings
    )
    assert second.epoch == 0
    again = curate(curate(DataLoader(DATA, 20, shuffle=False, drop_last=True), STORE, **OPTIONS), STORE, **ALL)
    assert lists(again) == [sorted(batch) for batch in lists(again)]
    assert again.batch_sampler.drop_last is True
    assert curate(first, STORE, candidate_batch_size=10, seed=1, **OPTIONS).batch_sampler.settings.seed == 1


def test_a_curated_loader_is_not_unsharded():
    share = {"num_replicas": 2, "rank": 1}
    first = curate(DataLoader(DATA, 20), STORE, **share, **OPTIONS)
    assert "got 1." in refused(first, named="num_replicas")
    refused(first, num_replicas=2, rank=0, named="rank")
    assert lists(curate(first, STORE, **share, **OPTIONS)) == lists(first)
    order = DistributedSampler(range(200), 2, rank=0)
    dealt = curate(batched(order), STORE, **OPTIONS)
    assert curate(dealt, STORE, **OPTIONS).batch_sampler.sampler.source is order
    refused(dealt, shuffle=True, named="shuffle")


# Prepared already


def _pretending(module, bases=(DataLoader,)):
    return type("Wrapped", bases, {"__module__": module})


@pytest.mark.parametrize(
    ("module", "named"),
    [
        ("accelerate.data_loader", "accelerator.prepare()"),
        ("lightning.fabric.wrappers", "fabric.setup_dataloaders()"),
        ("lightning_fabric.wrappers", "fabric.setup_dataloaders()"),
        ("ray.train.torch.train_loop_utils", "add_dist_sampler=False"),
        ("deepspeed.runtime.dataloader", "deepspeed.initialize()"),
    ],
)
def test_what_a_framework_made_is_refused_by_its_module(module, named):
    loader = _pretending(module)(DATA, batch_size=20)
    inside = _pretending(module, (BatchSampler,))(SequentialSampler(DATA), 20, False)
    order = _pretending(module, (SequentialSampler,))(DATA)
    said = {"candidate_batch_size": 20, "shuffle": False}
    for prepared in (loader, DataLoader(DATA, batch_sampler=inside)):
        for options in ({}, said):
            text = refused(prepared, **options)
            assert text.startswith("loader must be curated before ")
            assert named in text
            assert "Wrapped" in text
    for prepared in (batched(order), DataLoader(DATA, 20, sampler=order)):
        assert named in refused(prepared)
        assert lists(curate(prepared, STORE, **said, **OPTIONS))  # the order is said
    derived = type("Mine", (type(loader),), {"__module__": "mine"})
    assert "Mine" in refused(derived(DATA, batch_size=20))
    alike = _pretending("accelerated.data_loader")
    assert type(curate(alike(DATA, batch_size=20), STORE, **OPTIONS)) is alike


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("dispatch", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_accelerates_prepared_loaders_are_refused(stateful, dispatch, processes, request):
    data_loader = pytest.importorskip("accelerate.data_loader", reason="needs accelerate")
    accelerate = pytest.importorskip("accelerate")
    request.addfinalizer(accelerate.PartialState._reset_state)
    accelerate.PartialState(cpu=True)
    for curated in (False, True):
        loader = DataLoader(DATA, 20, shuffle=True)
        prepared = data_loader.prepare_data_loader(
            curate(loader, STORE, **OPTIONS) if curated else loader,
            num_processes=processes,
            process_index=0,
            put_on_device=dispatch,
            dispatch_batches=dispatch,
            device=torch.device("cpu"),
            use_stateful_dataloader=stateful,
            even_batches=False,
        )
        text = refused(prepared, candidate_batch_size=20, shuffle=True)
        assert "before accelerator.prepare()" in text
        assert type(prepared).__name__ in text
    skipping = data_loader.SkipBatchSampler(BatchSampler(SequentialSampler(DATA), 20, False), 2)
    assert "SkipBatchSampler" in refused(DataLoader(DATA, batch_sampler=skipping))
    order = data_loader.SeedableRandomSampler(DATA)
    assert "SeedableRandomSampler" in refused(DataLoader(DATA, 20, sampler=order))


def test_fabrics_loader_is_refused():
    fabric = pytest.importorskip("lightning.fabric", reason="needs lightning").Fabric(accelerator="cpu", devices=1)
    prepared = fabric.setup_dataloaders(DataLoader(DATA, 20))
    text = refused(prepared)
    assert "_FabricDataLoader" in text
    assert "use_distributed_sampler=False" in text


def test_rays_loader_is_refused():
    ray = pytest.importorskip("ray.train.torch.train_loop_utils", reason="needs ray")
    assert "add_dist_sampler=False" in refused(
        ray._WrappedDataLoader(DataLoader(DATA, 20), torch.device("cpu"), auto_transfer=False)
    )


# timm


def test_timms_prefetcher_is_curated_within():
    timm = pytest.importorskip("timm.data.loader", reason="needs timm")
    images = [(np.full((3, 4, 4), row, dtype=np.uint8), row) for row in range(200)]
    loader = DataLoader(images, 20, shuffle=True, collate_fn=timm.fast_collate)
    wrapped = timm.PrefetchLoader(loader, device=torch.device("cpu"))
    assert "loader.loader = curate(loader.loader, store)" in refused(wrapped)
    wrapped.loader = curate(wrapped.loader, STORE, **OPTIONS)
    assert sorted(len(labels) for _, labels in wrapped) == [10] * 10
    assert "timm" not in refused(range(200))


def test_timms_loader_of_many_epochs_is_refused():
    """It hides the batch sampler from the loop, and begins an epoch before the loop can set it."""
    timm = pytest.importorskip("timm.data.loader", reason="needs timm")
    plain = BatchSampler(SequentialSampler(DATA), 20, False)
    for loader in (
        timm.MultiEpochsDataLoader(DATA, batch_size=20, shuffle=True),
        timm.MultiEpochsDataLoader(DATA, batch_sampler=plain),
    ):
        text = refused(loader, candidate_batch_size=20, shuffle=True)
        for part in ("MultiEpochsDataLoader", "_RepeatSampler", "persistent_workers=True"):
            assert part in text
    assert "MultiEpochsDataLoader" in refused(timm.MultiEpochsDataLoader(DATA, batch_size=20))


# Classes of one's own


class Closed(DataLoader):
    """Takes no batch sampler."""

    def __init__(self, dataset, size):
        super().__init__(dataset, batch_size=size)


class Sized(DataLoader):
    """Takes one, and gives a size besides."""

    def __init__(self, dataset, size, **options):
        self.size = size
        super().__init__(dataset, batch_size=size, **options)


class Forgetful(DataLoader):
    """Does not keep what it was given."""

    def __init__(self, dataset, scale=1.0, **options):
        super().__init__(dataset, **options)
        scaled = scale
        self.collate_fn = lambda samples: scaled * len(samples)


class Popping(DataLoader):
    """Has arguments that no signature shows."""

    def __init__(self, *args, **options):
        self.scale = options.pop("scale", 1.0)
        super().__init__(*args, **options)


class Endless(DataLoader):
    """Starts its workers' iterator at once, over a batch sampler that repeats."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        object.__setattr__(self, "batch_sampler", Lists(list(self.batch_sampler)))


class Fixed(DataLoader):
    """Collates in a way of its own."""

    def __init__(self, dataset, batch_sampler=None, batch_size=1):
        super().__init__(dataset, batch_sampler=batch_sampler, batch_size=batch_size, collate_fn=len)


@pytest.mark.parametrize(
    ("loader", "because"),
    [
        (lambda: Closed(DATA, 20), "takes no batch_sampler"),
        (lambda: Sized(DATA, 20), "mutually exclusive"),
        (lambda: Forgetful(DATA, batch_size=20), "does not keep its argument scale"),
        (lambda: Popping(DATA, batch_size=20, scale=2.0), "another scale"),
        (lambda: Endless(DATA, batch_size=20), "makes a Lists of its batch sampler"),
    ],
)
def test_a_class_that_cannot_be_built_anew_is_refused(loader, because):
    loader = loader()
    text = refused(loader)
    assert because in text
    assert f"got {type(loader).__name__}, which" in text


class Keeping(DataLoader):
    def __init__(self, dataset, scale, *, shift=0, transform=None, **options):
        super().__init__(dataset, **options)
        self.scale, self._shift, self.transform = scale, shift, transform
        self.calls = [scale, shift]

    def __iter__(self):
        return (self.scale * batch[0] + self._shift for batch in super().__iter__())


def test_a_class_that_keeps_its_arguments_is_built_anew():
    loader = Keeping(DATA, 3, shift=2, transform=str, batch_size=20, num_workers=1, prefetch_factor=4)
    curated = curate(loader, STORE, **OPTIONS)
    assert type(curated) is Keeping
    assert (curated.transform, curated.num_workers, curated.prefetch_factor) == (str, 1, 4)
    expected = lists(curate(DataLoader(DATA, 20), STORE, **OPTIONS))
    assert [batch.tolist() for batch in curated] == [[3 * row + 2 for row in batch] for batch in expected]
    assert type(curate(Popping(DATA, batch_size=20), STORE, **OPTIONS)) is Popping
    assert list(curate(Fixed(DATA, batch_size=20), STORE, **OPTIONS)) == [10] * 10
    fixed = Fixed(DATA, batch_size=20)
    fixed.collate_fn = sum
    assert "another collate_fn" in refused(fixed)


def test_no_framework_is_imported_to_tell():
    code = (
        "import sys, torch; from torch.utils.data import DataLoader; import spectral_sampler\n"
        "spectral_sampler.curate(DataLoader(range(40), 10), torch.rand(40, 3), selection=spectral_sampler.Uniform())\n"
        "print([name for name in ('accelerate', 'lightning', 'ray', 'timm', 'torchdata') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"

"""Several processes, and the frameworks that start them."""

import multiprocessing
import os
import traceback

import ddp_worker
import numpy as np
import pytest
import torch
from ranks import ranked
from sampler_cases import FirstFeature, epochs_of, make_store
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from spectral_sampler import SigmoidSchedule, SpectralBatchSampler

STORE = make_store(512)
EPOCHS = 3


class Rows(Dataset):
    """Inputs, targets and the index, so that a loop can tell what it was given."""

    def __len__(self):
        return 512

    def __getitem__(self, index):
        return torch.from_numpy(STORE.features[index]), float(index % 5), index


def make(**options):
    defaults = {"candidate_batch_size": 32, "epochs": EPOCHS, "keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.4)}
    return SpectralBatchSampler(STORE, **{**defaults, "selection": FirstFeature(), **options})


REFERENCE = epochs_of(make(), EPOCHS)


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(STORE.width, 1)


def train(network, loader, epochs):
    """Plain SGD; returns the indices of every step."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    seen = []
    for epoch in epochs:
        for inputs, targets, indices in loader:
            loss = (network(inputs).squeeze(1) - targets.float()).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen.append((epoch, indices.tolist()))
    return seen


def in_two_processes(work, tmp_path, *arguments):
    """``work(rank, *arguments)`` in two gloo processes; what they return, by rank."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    place = (tmp_path / "rendezvous").as_uri()
    children = [context.Process(target=_child, args=(work, rank, place, queue, arguments)) for rank in range(2)]
    for child in children:
        child.start()
    try:
        results = dict(queue.get(timeout=100) for _ in children)
    finally:
        for child in children:
            child.join(20)
            if child.is_alive():
                child.kill()
    for rank in range(2):
        assert not isinstance(results[rank], str), results[rank]
    return [results[0], results[1]]


def _child(work, rank, place, queue, arguments):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
        queue.put((rank, work(rank, *arguments)))
        torch.distributed.barrier()
    except BaseException:  # noqa: BLE001 - told to the parent
        queue.put((rank, traceback.format_exc()))
    finally:
        torch.distributed.destroy_process_group()


def train_distributed(rank, workers):
    network = torch.nn.parallel.DistributedDataParallel(model())
    loader = DataLoader(Rows(), batch_sampler=make(num_replicas=2, rank=rank), num_workers=workers)
    seen = train(network, loader, range(EPOCHS))
    return seen, [parameter.detach().tolist() for parameter in network.parameters()]


@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_train_as_one_would_on_the_union(tmp_path, workers):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    (first, weights), (second, other) = in_two_processes(train_distributed, tmp_path, workers)
    assert weights == other
    assert len(first) == len(second) == EPOCHS * 8
    union = [(epoch, batch) for pair in zip(first, second, strict=True) for epoch, batch in pair]
    assert union == [(epoch, batch) for epoch in range(EPOCHS) for batch in REFERENCE[epoch]]
    network = model()
    pairs = [a[1] + b[1] for a, b in zip(first, second, strict=True)]  # equal halves: the mean of means is the mean
    train(network, DataLoader(Rows(), batch_sampler=pairs), [0])
    for parameter, distributed in zip(network.parameters(), weights, strict=True):
        assert torch.allclose(parameter, torch.tensor(distributed), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request, tmp_path_factory):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    return ranked(ddp_worker.found, request.param, tmp_path_factory.mktemp("ranks"))


def union(found, name):
    """The steps of all ranks side by side, as `ddp_worker.play` has them in one process."""
    assert all(isinstance(rank[name], list) for rank in found), found[0][name]
    return [[tuple(batch) for (batch,) in step] for step in zip(*(rank[name] for rank in found), strict=True)]


@pytest.mark.parametrize("name", ddp_worker.RUNS)
def test_ranks_deliver_what_one_process_would(found, name):
    expected, steps = ddp_worker.play(name, len(found)), union(found, name)
    assert len(steps) == EPOCHS * 16 // len(found)
    first = next((number for number, pair in enumerate(zip(steps, expected, strict=True)) if pair[0] != pair[1]), None)
    assert first is None, f"step {first}: {steps[first]} instead of {expected[first]}"


def gain(steps):
    """Mean learnability of the picks after the first epoch, in which nothing is known yet."""
    return np.mean([learnable for step in steps for epoch, _, _, learnable in step if epoch])


def test_what_is_learnable_is_found_whole_on_several_ranks(found):
    uniform, whole = (gain(ddp_worker.play(name, len(found))) for name in ("uniform", "plausible-learnable"))
    assert whole > uniform + 0.1
    assert gain(union(found, "plausible-learnable")) == pytest.approx(whole, abs=1e-9)
    assert gain(union(found, "alone")) < whole - 0.02  # a rank that knows its own losses alone


def train_by_distributed_sampler(rank):
    order = DistributedSampler(Rows())  # reads the process group, as raw DDP scripts have it
    loader = DataLoader(Rows(), batch_sampler=make(sampler=order, keep_ratio=0.5))
    seen = []
    for epoch in range(2):
        order.set_epoch(epoch)
        seen.append([indices.tolist() for _, _, indices in loader])
    return seen


def test_a_distributed_sampler_shards_the_candidates(tmp_path):
    first, second = in_two_processes(train_by_distributed_sampler, tmp_path)
    for ours, theirs in zip(first, second, strict=True):
        assert [len(batch) for batch in ours] == [16] * 8 == [len(batch) for batch in theirs]
        assert not {index for batch in ours for index in batch} & {index for batch in theirs for index in batch}
    assert first[0] != first[1]


def accelerated(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", ACCELERATE_USE_CPU="true")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")  # asked for, though the group exists already
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    sampler = make()
    loader = accelerator.prepare(DataLoader(Rows(), batch_sampler=sampler))
    seen = [[indices.tolist() for _, _, indices in loader] for _ in range(2)]
    loader.set_epoch(2)
    seen.append([indices.tolist() for _, _, indices in loader])
    loader.set_epoch(1)
    seen.append([indices.tolist() for _, _, indices in accelerator.skip_first_batches(loader, 3)])
    return accelerator.num_processes, len(loader), seen


@pytest.mark.filterwarnings("ignore")
def test_accelerate_shards_an_unaware_sampler(tmp_path):
    pytest.importorskip("accelerate", reason="needs accelerate")
    results = in_two_processes(accelerated, tmp_path)
    assert [(processes, length) for processes, length, _ in results] == [(2, 8), (2, 8)]
    for epoch in range(EPOCHS):
        union = [batch for pair in zip(results[0][2][epoch], results[1][2][epoch], strict=True) for batch in pair]
        assert union == REFERENCE[epoch]
    resumed = [batch for pair in zip(results[0][2][3], results[1][2][3], strict=True) for batch in pair]
    assert resumed == REFERENCE[1][6:]


@pytest.mark.filterwarnings("ignore")
def test_accelerate_skips_batches_exactly():
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(Rows(), batch_sampler=make()))
    loader.set_epoch(1)  # on the loader: it sets its own count on the sampler whenever it is iterated
    rest = accelerator.skip_first_batches(loader, 5)
    assert [indices.tolist() for _, _, indices in rest] == REFERENCE[1][5:]
    loader.set_epoch(2)
    assert [indices.tolist() for _, _, indices in loader] == REFERENCE[2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_advances_the_epoch_and_sees_every_batch(tmp_path, workers):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = model(), []

        def training_step(self, batch, number):
            inputs, targets, indices = batch
            self.seen.append((self.current_epoch, indices.tolist()))
            return (self.layer(inputs).squeeze(1) - targets.float()).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

        def train_dataloader(self):
            return DataLoader(Rows(), batch_sampler=make(), num_workers=workers)

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module)
    assert module.seen == [(epoch, batch) for epoch in range(EPOCHS) for batch in REFERENCE[epoch]]

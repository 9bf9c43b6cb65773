"""What docs/frameworks.md says of frameworks without our helpers, and of the traps in them."""

import os
import socket
from importlib import metadata

import pytest
import torch
from small import INPUTS, PAIRS, STORE, Mappings, Network, curated, lightning_parts
from torch.utils.data import DataLoader, Dataset

from spectral_sampler import PlausibleEven, curate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def lists_of(**options):
    sampler = curated(**options).batch_sampler
    return [list(sampler) for _ in range(3)]


def skipped_epoch():
    """The epoch in which a run resumed in epoch 1 skips batches: Accelerate before 1.15 forgets it on one process."""
    major, minor = metadata.version("accelerate").split(".")[:2]
    return 1 if (int(major), int(minor)) >= (1, 15) else 0


def rows(loader):
    """The lists of a pass over a loader whose batches end with their indices."""
    return [batch[-1].tolist() for batch in loader]


@pytest.mark.parametrize("stateful", [False, True])
def test_accelerate_by_hand_needs_the_epoch_on_the_prepared_loader_every_time(stateful):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    configured = accelerate.DataLoaderConfiguration(use_stateful_dataloader=stateful)
    accelerator, lists = accelerate.Accelerator(cpu=True, dataloader_config=configured), lists_of()
    loader, seen = accelerator.prepare(curated(with_indices=True)), []
    for epoch in (1, 2):
        loader.set_epoch(epoch)
        seen.append(rows(accelerator.skip_first_batches(loader, 4) if epoch == 1 else loader))
    assert seen == [lists[skipped_epoch()][4:], lists[2]]
    curated_loader = curated(with_indices=True)
    sampler, prepared = curated_loader.batch_sampler, accelerator.prepare(curated_loader)
    sampler.set_epoch(1)
    assert rows(prepared) == lists[0], "the document says that this is overwritten"


def test_fabric_advances_in_one_run_and_starts_a_resumed_one_at_epoch_0():
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    lists, loader = lists_of(), curated(with_indices=True)
    loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    assert [rows(loader) for _ in range(3)] == lists
    resumed = curated(with_indices=True)
    resumed.batch_sampler.set_epoch(1)
    assert rows(fabric.setup_dataloaders(resumed, use_distributed_sampler=False)) == lists[0], "as the document says"


def make_trainer(tmp_path):
    """A Trainer without our mixin, as the document has it, and the rows that its network is given."""
    transformers, seen = pytest.importorskip("transformers"), []

    class Watched(Network):
        def forward(self, inputs, labels=None):
            table = torch.from_numpy(INPUTS)
            seen.append([int((table == row).all(dim=1).nonzero()) for row in inputs])
            return super().forward(inputs, labels)

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(curated(Mappings()))

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, use_cpu=True, report_to="none", disable_tqdm=True,
        save_strategy="steps", save_steps=10,
    )  # fmt: skip
    return Trainer(model=Watched(), args=arguments, train_dataset=Mappings()), seen


def test_the_trainer_needs_no_mixin_and_no_callback_for_epochs_and_resuming(tmp_path):
    lists = lists_of()
    flat = [batch for epoch in lists for batch in epoch]
    trainer, seen = make_trainer(tmp_path)
    trainer.train()
    assert seen == flat
    trainer, seen = make_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert seen == [*lists[skipped_epoch()][4:], *lists[2]]


class Images(Dataset):
    transform = None

    def __len__(self):
        return 96

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8, dtype=torch.uint8).numpy(), index


@pytest.fixture
def alone():
    """A process group of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_distributed_loader_of_timm_is_dealt_out_once():
    data = pytest.importorskip("timm.data")
    steps = []
    for rank in range(2):
        loader = data.create_loader(
            Images(), input_size=(3, 8, 8), batch_size=16, is_training=True, no_aug=True, num_workers=0,
            distributed=True, device=torch.device("cpu"), persistent_workers=False,
        )  # fmt: skip
        loader.loader = curate(
            loader.loader, STORE, selection=PlausibleEven(label_noise=0), seed=0, shuffle=True,
            num_replicas=2, rank=rank,
        )  # fmt: skip
        steps.append([labels.tolist() for _, labels in loader])
    assert [batch for step in zip(*steps, strict=True) for batch in step] == lists_of()[0]


def test_lightnings_own_resuming_is_right_with_a_stateful_loader_and_wrong_with_a_plain_one(tmp_path):
    pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torchdata.stateful_dataloader import StatefulDataLoader

    lists = lists_of()
    for kind, right in ((StatefulDataLoader, True), (DataLoader, False)):

        def loaders(module, kind=kind):
            loader = kind(PAIRS, batch_size=16, shuffle=True)
            return curate(loader, STORE, selection=PlausibleEven(label_noise=0), seed=0, with_indices=True)

        module, fit = lightning_parts(None, loaders)
        folder = tmp_path / kind.__name__
        saver = ModelCheckpoint(folder, every_n_train_steps=10, save_top_k=-1, filename="{step}")
        fit(module(), callbacks=[saver], enable_checkpointing=True)
        resumed = module()
        fit(resumed, callbacks=[], ckpt_path=folder / "step=10.ckpt")
        expected = [(epoch, batch) for epoch in (1, 2) for batch in lists[epoch]][4:]
        assert (resumed.seen == expected) is right

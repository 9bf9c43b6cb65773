"""Lightning: a callback that saves and loads the sampler at any batch, and logs what it did.

torchrun --nproc-per-node 2 lightning_module.py
torchrun --nproc-per-node 2 lightning_module.py --resume
"""

import os

import lightning.pytorch as pl
import tiny
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from spectral_sampler import SigmoidSchedule, curate
from spectral_sampler.integrations.lightning import SelectionCallback

options = tiny.arguments(__doc__)
dataset = tiny.data(options)
store = tiny.store(dataset)


# [start: lightning]
class Classifier(pl.LightningModule):
    """A module that makes its own loader, where Lightning knows the ranks."""

    def __init__(self, selection):
        super().__init__()
        self.network, self.selection = tiny.net(dataset), selection

    def train_dataloader(self):
        loader = DataLoader(
            dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
            persistent_workers=options.workers > 0,
        )  # fmt: skip
        loader = curate(  # selection
            loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
            keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4),
            num_replicas=self.trainer.world_size, rank=self.trainer.global_rank,
        )  # fmt: skip
        return self.selection.attach(loader)  # selection: loads the state of a checkpoint, if there is one

    def training_step(self, batch):
        inputs, labels = batch
        losses = nn.functional.cross_entropy(self.network(inputs), labels, reduction="none")
        self.selection.sampler.observe_next(losses)  # selection: gathered over the ranks
        return losses.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


selection = SelectionCallback()  # selection
checkpoint = ModelCheckpoint(options.out, save_last=True, every_n_train_steps=options.save_every // options.accumulate)
trainer = pl.Trainer(
    accelerator="cpu", devices=int(os.environ.get("WORLD_SIZE", "1")), max_epochs=options.epochs,
    accumulate_grad_batches=options.accumulate, callbacks=[selection, checkpoint],
    use_distributed_sampler=False,  # selection: it deals out the batches
    logger=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Classifier(selection), ckpt_path=options.out / "last.ckpt" if options.resume else None)
# [end]

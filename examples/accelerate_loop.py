"""Accelerate shards the batches itself: curate first, prepare then, and set the epoch every time.

torchrun --nproc-per-node 2 accelerate_loop.py          (or accelerate launch)
torchrun --nproc-per-node 2 accelerate_loop.py --resume
"""

import tiny
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader

from spectral_sampler import SigmoidSchedule, curate
from spectral_sampler.integrations.accelerate import EpochLoader

options = tiny.arguments(__doc__)
dataset = tiny.data(options)
store = tiny.store(dataset)

# [start: accelerate]
accelerator = Accelerator(
    cpu=True, gradient_accumulation_steps=options.accumulate,
    dataloader_config=DataLoaderConfiguration(even_batches=False),  # selection: batch sizes vary
)  # fmt: skip
loader = DataLoader(
    dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
    persistent_workers=options.workers > 0,
)  # fmt: skip
loader = curate(  # selection: num_replicas stays 1
    loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
    keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4), with_indices=True,
)  # fmt: skip
model = tiny.net(dataset)
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
loader = EpochLoader(accelerator, loader)  # selection: prepares it, sets every epoch, is part of save_state
if options.resume:
    accelerator.load_state(options.out / "checkpoint")
for epoch in range(loader.epoch, options.epochs):  # selection
    for inputs, labels, indices in loader:  # no skip_first_batches: it goes on where it was
        with accelerator.accumulate(model):
            losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
            accelerator.backward(losses.mean())
            optimizer.step()
            optimizer.zero_grad()
        loader.observe(indices, losses)  # selection: for those that follow losses
        if (epoch * len(loader) + loader.done) % options.save_every == 0:
            accelerator.save_state(options.out / "checkpoint")
# [end]
accelerator.end_training()

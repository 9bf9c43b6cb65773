"""Lightning Fabric: the loader deals out the batches and moves on by itself, so Fabric does not set it up.

torchrun --nproc-per-node 2 fabric_loop.py
torchrun --nproc-per-node 2 fabric_loop.py --resume
"""

import os

import tiny
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from spectral_sampler import SigmoidSchedule, curate

options = tiny.arguments(__doc__)
dataset = tiny.data(options)
store = tiny.store(dataset)
devices = int(os.environ.get("WORLD_SIZE", "1"))

# [start: fabric]
fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
fabric.launch()
loader = DataLoader(
    dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
    persistent_workers=options.workers > 0,
)  # fmt: skip
loader = curate(  # selection
    loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
    keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4), num_replicas=fabric.world_size, rank=fabric.global_rank,
)  # fmt: skip
sampler = loader.batch_sampler  # selection
# selection: no fabric.setup_dataloaders(loader), which starts a resumed run at epoch 0; to_device does the rest of it
model = tiny.net(dataset)
model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
checkpoint, done = options.out / "checkpoint.pt", 0
if options.resume:
    state = fabric.load(checkpoint, {"model": model, "optimizer": optimizer})
    sampler.load_state_dict(state["sampler"])  # selection
    done = state["sampler"]["next_batch"]
for epoch in range(sampler.epoch, options.epochs):
    for number, batch in enumerate(loader, start=done + 1):
        inputs, labels = fabric.to_device(batch)
        losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        fabric.backward(losses.mean() / options.accumulate)
        if number % options.accumulate == 0 or number == len(loader):
            optimizer.step()
            optimizer.zero_grad()
        sampler.observe_next(losses)  # selection: gathered over the ranks
        if (epoch * len(loader) + number) % options.save_every == 0:
            position = sampler.state_dict(batches_consumed=number, epoch=epoch, full=True)  # selection
            fabric.save(checkpoint, {"model": model, "optimizer": optimizer, "sampler": position})
    done = 0
# [end]

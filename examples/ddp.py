"""DistributedDataParallel: every rank trains on its share of the batches, and hears of the losses of all.

torchrun --nproc-per-node 2 ddp.py
torchrun --nproc-per-node 2 ddp.py --resume
"""

import tiny
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader

from spectral_sampler import SigmoidSchedule, curate

options = tiny.arguments(__doc__)
dataset = tiny.data(options)
store = tiny.store(dataset)

# [start: ddp]
distributed.init_process_group("gloo")  # "nccl" with a GPU for each rank
rank, ranks = distributed.get_rank(), distributed.get_world_size()
loader = DataLoader(
    dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
    persistent_workers=options.workers > 0,
)  # fmt: skip
loader = curate(  # selection: it deals out the batches, so there is no DistributedSampler
    loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
    keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4), num_replicas=ranks, rank=rank,
)  # fmt: skip
sampler = loader.batch_sampler  # selection
model = nn.parallel.DistributedDataParallel(tiny.net(dataset))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
checkpoint, done = options.out / "checkpoint.pt", 0
if options.resume:
    saved = torch.load(checkpoint, weights_only=True)
    model.module.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    sampler.load_state_dict(saved["sampler"])  # selection: one state serves all ranks
    done = saved["sampler"]["next_batch"]
for epoch in range(sampler.epoch, options.epochs):
    for number, (inputs, labels) in enumerate(loader, start=done + 1):
        losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        (losses.mean() / options.accumulate).backward()
        if number % options.accumulate == 0 or number == len(loader):
            optimizer.step()
            optimizer.zero_grad()
        sampler.observe_next(losses)  # selection: gathered over the ranks, so all of them call it
        if rank == 0 and (epoch * len(loader) + number) % options.save_every == 0:
            position = sampler.state_dict(batches_consumed=number, epoch=epoch, full=True)  # selection
            torch.save(
                {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "sampler": position},
                checkpoint,
            )
    done = 0
distributed.destroy_process_group()
# [end]

"""torchdata's StatefulDataLoader counts the batches itself, whatever its workers have read ahead.

torchrun --nproc-per-node 2 torchdata_loop.py
torchrun --nproc-per-node 2 torchdata_loop.py --resume
"""

import tiny
import torch
from torch import distributed, nn
from torchdata.stateful_dataloader import StatefulDataLoader

from spectral_sampler import SigmoidSchedule, curate

options = tiny.arguments(__doc__)
dataset = tiny.data(options)
store = tiny.store(dataset)
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
model = nn.parallel.DistributedDataParallel(tiny.net(dataset))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
checkpoint, first = options.out / f"checkpoint-{rank}.pt", (0, 0)

# [start: torchdata]
loader = StatefulDataLoader(
    dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
    persistent_workers=options.workers > 0,
)  # fmt: skip
loader = curate(  # selection: a StatefulDataLoader again
    loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
    keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4), num_replicas=ranks, rank=rank,
)  # fmt: skip
sampler = loader.batch_sampler  # selection
if options.resume:
    saved = torch.load(checkpoint, weights_only=True)
    model.module.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    sampler.load_state_dict(saved["sampler"])  # selection: first what it has learnt, then the loader's count
    loader.load_state_dict(saved["loader"])
    first = saved["next"]
for epoch in range(first[0], options.epochs):
    sampler.set_epoch(epoch)  # selection
    for number, (inputs, labels) in enumerate(loader, start=first[1] + 1):
        losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        (losses.mean() / options.accumulate).backward()
        if number % options.accumulate == 0 or number == len(sampler):  # len(loader) is short after a load
            optimizer.step()
            optimizer.zero_grad()
        sampler.observe_next(losses)  # selection: for those that follow losses
        if (epoch * len(sampler) + number) % options.save_every == 0:
            torch.save(
                {
                    "model": model.module.state_dict(), "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(), "next": divmod(epoch * len(sampler) + number, len(sampler)),
                    "sampler": sampler.state_dict(batches_consumed=number, epoch=epoch, full=True),  # selection
                },
                checkpoint,
            )  # fmt: skip
    first = (epoch + 1, 0)
# [end]
distributed.destroy_process_group()

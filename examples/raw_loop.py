"""A plain loop, one process; the lines marked "selection" are what selection adds to it.

python raw_loop.py
python raw_loop.py --resume
"""

import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader

from spectral_sampler import SigmoidSchedule, curate

options = tiny.arguments(__doc__)
dataset = tiny.data(options)
model = tiny.net(dataset)

# [start: raw loop]
store = tiny.store(dataset)  # selection; yours: ReferenceStore.from_model(reference, dataset, "store")
loader = DataLoader(
    dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
    persistent_workers=options.workers > 0,
)  # fmt: skip
loader = curate(  # selection
    loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
    keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4),
)  # fmt: skip
sampler = loader.batch_sampler  # selection
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
checkpoint, done = options.out / "checkpoint.pt", 0
if options.resume:
    saved = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    sampler.load_state_dict(saved["sampler"])  # selection
    done = saved["sampler"]["next_batch"]  # batches of this epoch that were trained on
for epoch in range(sampler.epoch, options.epochs):  # selection: where nothing is loaded, set_epoch(epoch) says it
    for number, (inputs, labels) in enumerate(loader, start=done + 1):
        losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        (losses.mean() / options.accumulate).backward()
        if number % options.accumulate == 0 or number == len(loader):
            optimizer.step()
            optimizer.zero_grad()
        sampler.observe_next(losses)  # selection: for those that follow losses
        if (epoch * len(loader) + number) % options.save_every == 0:
            position = sampler.state_dict(batches_consumed=number, epoch=epoch, full=True)  # selection
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sampler": position}, checkpoint
            )
    done = 0
# [end]

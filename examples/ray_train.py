"""Ray Train: its default would replace the batch sampler, so it is told not to.

python ray_train.py
python ray_train.py --resume
"""

import os

import ray.train
import ray.train.torch
import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader

from spectral_sampler import SigmoidSchedule, curate


# [start: ray train]
def train(options):
    """One worker."""
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    dataset = tiny.data(options)
    torch.manual_seed(options.seed)
    loader = DataLoader(
        dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )  # fmt: skip
    loader = curate(  # selection
        loader, tiny.store(dataset), selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs,
        seed=options.seed, keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4), num_replicas=ranks, rank=rank,
    )  # fmt: skip
    sampler = loader.batch_sampler  # selection: keep it, Ray wraps the loader
    loader = ray.train.torch.prepare_data_loader(loader, add_dist_sampler=False)  # selection: else it is thrown away
    model = ray.train.torch.prepare_model(tiny.net(dataset))
    module = model.module if ranks > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    checkpoint = options.out / "checkpoint.pt"
    if options.resume:
        saved = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        sampler.load_state_dict(saved["sampler"])  # selection
    for epoch in range(sampler.epoch, options.epochs):
        for number, (inputs, labels) in enumerate(loader, start=1):
            losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
            (losses.mean() / options.accumulate).backward()
            if number % options.accumulate == 0 or number == len(loader):
                optimizer.step()
                optimizer.zero_grad()
            sampler.observe_next(losses)  # selection: gathered over the ranks
        if rank == 0:
            position = sampler.state_dict(full=True)  # selection: the epoch is over
            torch.save(
                {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "sampler": position}, checkpoint
            )
        ray.train.report({"epoch": epoch})


# [end]


if __name__ == "__main__":
    arguments = tiny.arguments(__doc__)
    arguments.out = arguments.out.absolute()
    workers = ray.train.ScalingConfig(num_workers=int(os.environ.get("WORLD_SIZE", "2")))
    ray.train.torch.TorchTrainer(train, train_loop_config=arguments, scaling_config=workers).fit()

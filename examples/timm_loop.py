"""timm's loader: the one inside PrefetchLoader is curated, and mixup gets the even batches that it wants.

torchrun --nproc-per-node 2 timm_loop.py
torchrun --nproc-per-node 2 timm_loop.py --resume
"""

import tiny
import torch
from timm.data import FastCollateMixup, create_loader
from torch import distributed, nn
from torch.utils.data import Dataset

from spectral_sampler import SigmoidSchedule, curate

options = tiny.arguments(__doc__)
plain = tiny.data(options)
store = tiny.store(plain)


class Images(Dataset):
    """uint8 images (3, side, side); ``transform`` is what create_loader sets."""

    transform = None

    def __init__(self, dataset):
        inputs, self.labels = dataset.tensors
        side = int(inputs.shape[1] ** 0.5)
        self.images = (inputs.clamp(0, 1) * 255).to(torch.uint8).reshape(-1, 1, side, side).expand(-1, 3, -1, -1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index].numpy(), int(self.labels[index])


dataset = Images(plain)
classes, side = int(dataset.labels.max()) + 1, dataset.images.shape[-1]
distributed.init_process_group("gloo")
rank, ranks = distributed.get_rank(), distributed.get_world_size()
model = nn.parallel.DistributedDataParallel(tiny.Net(side * side, classes))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

# [start: timm]
mixup = FastCollateMixup(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=classes) if options.mixup else None
loader = create_loader(
    dataset, input_size=(3, side, side), batch_size=options.batch_size, is_training=True, collate_fn=mixup,
    num_workers=options.workers, persistent_workers=options.workers > 0, device=torch.device("cpu"),
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), no_aug=True,
)  # fmt: skip
loader.loader = curate(  # selection: the loader inside; that of create_loader(distributed=True) takes shuffle=True too
    loader.loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
    keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4), num_replicas=ranks, rank=rank,
    multiple_of=2,  # selection: mixup pairs the samples of a batch
)  # fmt: skip
sampler, checkpoint = loader.loader.batch_sampler, options.out / "checkpoint.pt"  # selection
if options.resume:
    saved = torch.load(checkpoint, weights_only=True)
    model.module.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    sampler.load_state_dict(saved["sampler"])  # selection
while sampler.epoch < options.epochs:
    for number, (images, labels) in enumerate(loader, start=1):
        losses = nn.functional.cross_entropy(model(images[:, 0].flatten(1)), labels, reduction="none")
        (losses.mean() / options.accumulate).backward()
        if number % options.accumulate == 0 or number == len(loader):
            optimizer.step()
            optimizer.zero_grad()
        sampler.observe_next(losses)  # selection: for those that follow losses
    if rank == 0:
        position = sampler.state_dict(full=True)  # selection: the epoch is over, so its own count is right
        torch.save(
            {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "sampler": position}, checkpoint
        )
# [end]
distributed.destroy_process_group()

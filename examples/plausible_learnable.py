"""PlausibleLearnable from end to end: a reference trained on rows that are held out, and a loop that reports losses.

python plausible_learnable.py
"""

import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from spectral_sampler import PlausibleLearnable, ReferenceStore, curate
from spectral_sampler.extraction import SmallMLP, train_reference

options = tiny.arguments(__doc__)
dataset = tiny.data(options)

# [start: plausible learnable]
order = torch.randperm(len(dataset)).tolist()
held_out, rows = order[: len(order) // 4], order[len(order) // 4 :]
inputs, labels = dataset.tensors
reference = train_reference(SmallMLP(int(labels.max()) + 1, width=inputs.shape[1]), dataset, rows=held_out)
training = Subset(dataset, rows)
store = ReferenceStore.from_model(reference, training, options.out / "store")  # row i is training[i]

loader = DataLoader(training, batch_size=options.batch_size, shuffle=True)
loader = curate(loader, store, selection=PlausibleLearnable(), epochs=options.epochs)
sampler = loader.batch_sampler
model = tiny.net(dataset)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(options.epochs):
    sampler.set_epoch(epoch)
    for inputs, labels in loader:
        losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        sampler.observe_next(losses)
    print(sampler.statistics()["spectral/observed_share"])
# [end]

"""MNIST in PyTorch, as everybody has trained it once; the lines marked "selection" are what selection adds.

python mnist.py                          downloads MNIST on first use
python mnist.py --fashion --root DIR     FashionMNIST, or files that are there already
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from spectral_sampler import ReferenceStore, curate
from spectral_sampler.extraction import SmallCNN, train_reference

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--root", type=Path, default=Path("data"))
parser.add_argument("--fashion", action="store_true")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=128)
options = parser.parse_args()

torch.manual_seed(1)
kind = datasets.FashionMNIST if options.fashion else datasets.MNIST
transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
dataset = kind(options.root, train=True, download=True, transform=transform)
test_loader = DataLoader(kind(options.root, train=False, transform=transform), batch_size=1000)

# [start: mnist]
held_out = len(dataset) // 6  # selection: rows that the reference learns from, and the learner never sees
reference = train_reference(SmallCNN(10), dataset, rows=range(held_out))  # selection
training = Subset(dataset, range(held_out, len(dataset)))  # selection
store = ReferenceStore.from_model(reference, training, "mnist-store")  # selection: once; afterwards it is opened
train_loader = DataLoader(training, batch_size=options.batch_size, shuffle=True)
train_loader = curate(train_loader, store, epochs=options.epochs)  # selection
# [end]

model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
    nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
)  # fmt: skip
optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
for epoch in range(1, options.epochs + 1):
    model.train()
    seen = 0
    for data, target in train_loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), target).backward()
        optimizer.step()
        seen += len(data)
    model.eval()
    with torch.no_grad():
        correct = sum(int((model(data).argmax(1) == target).sum()) for data, target in test_loader)
    print(f"epoch {epoch}: trained on {seen} of {len(training)}, {correct} of {len(test_loader.dataset)} right")
    scheduler.step()

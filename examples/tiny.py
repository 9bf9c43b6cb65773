"""What the examples share: their arguments, and a data set, a store and a network that are small. Bring your own."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from spectral_sampler import JEST, PlausibleEven, PlausibleLearnable, ReferenceStore

SELECTIONS = {"plausible-even": PlausibleEven, "plausible-learnable": PlausibleLearnable, "jest": JEST}


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of every example."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="FILE.npz with x (n, …) and y (n,) class numbers; default scikit-learn's digits")
    parser.add_argument("--selection", choices=SELECTIONS, default="plausible-even")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="candidates offered at a time")
    parser.add_argument("--accumulate", type=int, default=1, help="batches for every step of the optimizer")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--mixup", action="store_true", help="of timm alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=10, help="batches from one checkpoint to the next")
    parser.add_argument("--out", type=Path, default=Path("example-run"), help="folder of the checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    return options


def data(options: argparse.Namespace) -> TensorDataset:
    """Inputs (n, d) float32 and class numbers (n,) int64."""
    if options.data:
        with np.load(options.data) as file:
            inputs, labels = file["x"], file["y"]
    else:
        from sklearn.datasets import load_digits

        inputs, labels = load_digits(return_X_y=True)
        inputs = inputs / 16
    flat = torch.from_numpy(np.asarray(inputs, dtype=np.float32)).flatten(1)
    return TensorDataset(flat, torch.from_numpy(np.asarray(labels, dtype=np.int64)))


def store(dataset: TensorDataset) -> ReferenceStore:
    """What a reference says of every sample; this one measures the distance to the mean of every class."""
    inputs, labels = dataset.tensors
    means = torch.stack([inputs[labels == label].mean(dim=0) for label in range(int(labels.max()) + 1)])
    losses = nn.functional.cross_entropy(-torch.cdist(inputs, means), labels, reduction="none")
    return ReferenceStore.from_arrays(inputs.numpy(), losses=losses.numpy(), labels=labels.numpy())


class Net(nn.Module):
    """A small classifier of flat inputs (B, d)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, classes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


def net(dataset: TensorDataset) -> Net:
    """An untrained network for ``dataset``."""
    inputs, labels = dataset.tensors
    return Net(inputs.shape[1], int(labels.max()) + 1)

"""A small curated loader, and networks for it in the shapes that frameworks want."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from spectral_sampler import PlausibleEven, ReferenceStore, curate

INPUTS, LABELS = np.random.default_rng(0).normal(size=(96, 8)).astype(np.float32), np.arange(96) % 4
STORE = ReferenceStore.from_arrays(INPUTS, losses=np.ones(96), labels=LABELS)
PAIRS = TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(LABELS))


class Mappings(Dataset):
    def __len__(self):
        return 96

    def __getitem__(self, index):
        return {"inputs": INPUTS[index], "labels": LABELS[index]}


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)

    def forward(self, inputs, labels=None):
        logits = self.layer(inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def curated(dataset=PAIRS, *, workers=0, **options):
    options = {"selection": PlausibleEven(label_noise=0), "seed": 0, **options}
    return curate(DataLoader(dataset, batch_size=16, shuffle=True, num_workers=workers), STORE, **options)


def lightning_parts(selection, loaders):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(8, 4)
            self.seen = []

        def train_dataloader(self):
            return loaders(self)

        def training_step(self, batch, number):
            self.seen.append((self.current_epoch, batch[2].tolist()))
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(module, ckpt_path=None, **options):
        settings = {"max_epochs": 3, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        settings |= {"accelerator": "cpu", "enable_model_summary": False, "callbacks": [selection], **options}
        made = lightning.Trainer(**settings)
        made.fit(module, ckpt_path=ckpt_path)
        return made

    return Module, fit

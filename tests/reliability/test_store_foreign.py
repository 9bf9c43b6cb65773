"""A store of other data, order, model or settings is refused, and the refusal says what differs."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from spectral_sampler import curate
from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.extraction import extract

pytestmark = pytest.mark.slow
ROWS = 96


class Images(Dataset):
    """With a transform, and labels in an attribute unless they are read with the sample alone."""

    def __init__(self, seed=0, rows=ROWS, transform=None, *, at_hand=True):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(rows, 6, generator=generator)
        self.transform = transform
        classes = torch.randint(0, 3, (rows,), generator=generator)
        self._hidden = [classes.tolist()]
        if at_hand:
            self.targets = classes

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        sample = self.inputs[index]
        label = int(self.targets[index]) if hasattr(self, "targets") else self._hidden[0][index]
        return (self.transform(sample) if self.transform else sample), label


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, sample):
        return self.factor * sample

    def __repr__(self):
        return f"Times({self.factor})"


def a_model(seed=0, width=10):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Tanh(), torch.nn.Linear(width, 3))


def refused(counted, what, call, kind, named):
    try:
        call()
        counted.failed(f"{what}: accepted")
    except kind as error:
        counted.check(named in str(error), f"{what}: {error}")


def relabelled(dataset, row):
    other = copy.deepcopy(dataset)
    other.targets[row] = (other.targets[row] + 1) % 3
    return other


def test_other_data(line, tmp_path):
    """`verify`, and the sampler where it looks itself: length, labels, order, samples."""
    counted = line(
        "store", "a store beside other data: length, one label, order, split, samples, transform refused by name"
    )
    dataset = Images(transform=Times(1.0))
    store = extract(a_model(), dataset, tmp_path, batch_size=16, progress=False)
    loader = {"batch_size": 16, "shuffle": True}
    counted.check(store.verify(Images(transform=Times(1.0))) is store, "the same is refused")
    for rows in (1, ROWS - 1, ROWS + 1, 2 * ROWS):
        other = Images(rows=rows)
        refused(
            counted, f"{rows} rows", lambda other=other: store.verify(other), ArgumentError, "as long as the reference"
        )
        refused(
            counted,
            f"{rows} rows",
            lambda other=other: curate(DataLoader(other, **loader), store),
            ArgumentError,
            "as long as",
        )
    for row in range(ROWS):
        other = relabelled(dataset, row)
        refused(counted, f"label {row}", lambda other=other: store.verify(other), ArgumentError, "labels that differ")
    for seed in range(20):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed)).tolist()
        for other in (Subset(dataset, order), Images(seed + 1)):
            refused(
                counted, f"order {seed}", lambda other=other: store.verify(other), ArgumentError, "labels that differ"
            )
            refused(
                counted,
                f"order {seed}",
                lambda other=other: curate(DataLoader(other, **loader), store),
                ArgumentError,
                "labels",
            )
    for factor in (0.5, 1.0 + 1e-6, -1.0):
        other = Images(transform=Times(factor))
        refused(
            counted, f"times {factor}", lambda other=other: store.verify(other), ArgumentError, "samples that differ"
        )
    for row in (0, ROWS - 1):  # of the 64 that are read
        other = copy.deepcopy(dataset)
        other.inputs[row, 0] += 1e-3
        refused(counted, f"sample {row}", lambda other=other: store.verify(other), ArgumentError, "samples that differ")
    hidden = Images(transform=Times(1.0), at_hand=False)
    counted.check(store.verify(hidden) is store, "the same, whose labels must be read, is refused")
    other = Images(seed=1, at_hand=False)
    refused(counted, "hidden labels", lambda: store.verify(other), ArgumentError, "labels that differ")


def first(model, inputs):
    return model[:1](inputs)


def second(model, inputs):
    return model[:2](inputs)


def swapped(batch):
    return batch[0].flip(0), batch[1]


def pairs(samples):
    return torch.stack([sample for sample, _ in samples]), torch.tensor([label for _, label in samples])


def smooth(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs, labels, reduction="none", label_smoothing=0.1)


def test_other_extractions(line, tmp_path):
    """What is found on disk was made of something else: not opened, not resumed, and said by name."""
    counted = line(
        "store", "an extraction over a store of something else: model, data, functions, settings refused by name"
    )
    dataset = Images(transform=Times(1.0))
    base = {"model": a_model(), "dataset": dataset, "batch_size": 16, "progress": False}
    whole = extract(path=tmp_path / "m", **base).fingerprint
    nudged = a_model()
    with torch.no_grad():
        nudged[0].bias[3] += 1e-6
    other_labels = TensorDataset(dataset.inputs, dataset.targets)
    changes = [
        ("model", {"model": a_model(1)}), ("model", {"model": a_model(width=11)}), ("model", {"model": nudged}),
        ("length", {"dataset": Images(rows=ROWS - 1)}), ("probes", {"dataset": Images(1)}),
        ("layers", {"dataset": Images(transform=Times(2.0))}), ("layers", {"dataset": other_labels}),
        ("features", {"features": first}), ("features", {"features": second}), ("loss", {"loss": None}),
        ("loss", {"loss": smooth}), ("loss_model", {"loss_model": a_model(1)}), ("split", {"split": swapped}),
        ("collate_fn", {"collate_fn": pairs}), ("version", {"version": "2"}), ("dtype", {"dtype": "float32"}),
        ("zero_rows", {"zero_rows": "uniform"}),
    ]  # fmt: skip
    changes += [("labels", {"dataset": relabelled(dataset, row)}) for row in range(0, ROWS, 5)]
    for named, change in changes:
        again = lambda change=change: extract(path=tmp_path / "m", **{**base, **change})  # noqa: E731
        refused(counted, f"{change}", again, StoreError, "made of something else (")
        try:
            again()
        except StoreError as error:
            differing = str(error).partition("(")[2].partition(" differ)")[0].split(", ")
            counted.check(named in differing, f"{change}: says {differing}")
    counted.check(extract(path=tmp_path / "m", **base).fingerprint == whole, "the same is refused")

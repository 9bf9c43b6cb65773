"""The data sets of the comparison, each cut into training rows, rows for the reference alone, and a test part."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.optional import optional
from spectral_sampler.experiment.samples import ImageSamples, Task, TensorSamples, TextSamples
from spectral_sampler.experiment.wordnet import glosses, token_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["DATA", "Source", "default_cache", "load_task", "stratified"]

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four files."""

_FASHION_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/spectral-sampler``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectral-sampler"


class Source(NamedTuple):
    """Where a data set comes from and how much of it is used."""

    train_size: int | None = None
    """Training rows, classes in their natural proportions; None for the data set's default."""
    root: Path | None = None
    """Folder with the files; None for the usual place."""
    download: bool = False
    """Let torchvision fetch what is not there."""
    cache: Path | None = None
    """Where unpacked files go; None for `default_cache`."""
    image_size: int = 64
    """Side of the square images that photographs are scaled to, in pixels."""

    @property
    def cache_folder(self) -> Path:
        """`cache`, or the default."""
        return self.cache or default_cache()


def stratified(labels: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """``size`` rows, ascending, with every class in its proportion of ``labels`` (M,) to within one row."""
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # shuffled inside each class
    counts = np.bincount(labels)
    within = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    quantile = (within + 0.5) / counts[labels[order]]
    return np.sort(order[np.argsort(quantile, kind="stable")[:size]])


def _cut(labels: NDArray[np.int64], train: int, held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Disjoint training and held-out rows; the held-out ones do not depend on how many are trained on."""
    if not 0 < train <= len(labels) - held_out:
        raise argument_error(
            "train-size",
            f"from 1 to {len(labels) - held_out}",
            train,
            f"{held_out} of the {len(labels)} rows train the reference.",
        )
    generator = np.random.default_rng(20250707)  # the split belongs to the data set: the same for every seed
    reference = stratified(labels, held_out, generator)
    rest = np.setdiff1d(np.arange(len(labels)), reference)
    return rest[stratified(labels[rest], train, generator)], reference


def _digits(source: Source) -> Task:
    bunch = optional("sklearn.datasets").load_digits()
    images = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32))[:, None]
    labels = np.asarray(bunch.target, dtype=np.int64)
    test = stratified(labels, 597, np.random.default_rng(0))
    pool = np.setdiff1d(np.arange(len(labels)), test)
    train, held_out = _cut(labels[pool], source.train_size or 800, 400)
    everything = TensorSamples((images - 4.9) / 6.0, labels)
    parts = [everything.subset(rows) for rows in (pool[train], pool[held_out], test)]
    return Task("digits", parts[0], parts[1], parts[2], tuple(map(str, range(10))), version="sklearn-digits")


def _unpacked_fashion(source: Source) -> Path:
    """Folder that torchvision's FashionMNIST accepts as root with ``download=False``."""
    folder = source.root or FASHION_FOLDER
    packed = sorted(folder.glob("*-ubyte.gz"))
    if not packed:
        return folder  # torchvision's own layout, or nothing yet
    raw = source.cache_folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for path in packed:
        target = raw / path.stem
        if not target.exists():
            with gzip.open(path) as stream, tempfile.NamedTemporaryFile(dir=raw, delete=False) as unpacked:
                shutil.copyfileobj(stream, unpacked)
            Path(unpacked.name).replace(target)  # a reader never sees half a file
    return raw.parents[1]


def _fashion_mnist(source: Source) -> Task:
    folder = source.cache_folder if source.download else _unpacked_fashion(source)
    dataset = optional("torchvision.datasets").FashionMNIST
    try:
        parts = [dataset(str(folder), train=train, download=source.download) for train in (True, False)]
    except RuntimeError as error:
        raise _missing("fashion-mnist", folder, "On Debian: apt-get install dataset-fashion-mnist.") from error
    labels = parts[0].targets.numpy()
    held_out = min(10_000, len(labels) // 6)
    train, reference = _cut(labels, source.train_size or min(12_000, len(labels) - held_out), held_out)
    everything = TensorSamples(parts[0].data[:, None], labels, (0.2860, 0.3530))
    test = TensorSamples(parts[1].data[:, None], parts[1].targets.numpy(), (0.2860, 0.3530))
    version = f"fashion-mnist-{len(labels)}"
    return Task("fashion-mnist", everything.subset(train), everything.subset(reference), test, _FASHION_CLASSES,
                version=version)  # fmt: skip


def _wordnet(source: Source) -> Task:
    return _glosses("wordnet", *glosses(source.root, "noun", 102), 40, source)


def _wordnet_verbs(source: Source) -> Task:
    return _glosses("wordnet-verbs", *glosses(source.root, "verb", 32), 16, source)


def _glosses(
    name: str, texts: list[str], labels: NDArray[np.int64], classes: tuple[str, ...], most: int, source: Source
) -> Task:
    """A task from texts: a quarter tests, every class has equally many training rows, by default ``most``, and what is
    left of each beyond ``most`` is held out."""
    tokens = token_rows(texts)
    generator = np.random.default_rng(0)
    test = stratified(labels, len(labels) // 4, generator)
    pool = np.setdiff1d(np.arange(len(labels)), test)
    smallest = int(np.bincount(labels[pool]).min())
    size = source.train_size or most * len(classes)
    each = size // len(classes)
    if not 1 <= each <= smallest:
        rule = f"from {len(classes)} to {smallest * len(classes)}"
        raise argument_error(
            "train-size", rule, size, f"Each of the {len(classes)} classes gets the same number of rows."
        )
    train, rest = [], []
    for label in range(len(classes)):
        rows = generator.permutation(pool[labels[pool] == label])
        train.append(rows[:each])
        rest.append(rows[min(most, smallest) :])  # the same for 10 and for 40 rows a class
    everything = TextSamples(tokens, labels, texts)
    parts = [everything.subset(np.sort(np.concatenate(rows))) for rows in (train, rest, [test])]
    return Task(name, parts[0], parts[1], parts[2], classes, f"{name}-{len(labels)}")


def _missing(name: str, folder: Path, remedy: str) -> ValueError:
    return argument_error("data-root", f"a folder that holds {name}", folder, remedy + " Or pass --download.")


def _transforms(size: int) -> tuple[Callable[[Any], torch.Tensor], Callable[[Any], torch.Tensor]]:
    """Augmentation of GSTDS §4 (crop, flip, colour, rotation), and none."""
    make = optional("torchvision.transforms")
    normalise = [make.ToTensor(), make.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    augmented = [
        make.RandomResizedCrop(size, scale=(0.6, 1.0)),
        make.RandomHorizontalFlip(),
        make.ColorJitter(0.2, 0.2, 0.2),
        make.RandomRotation(15),
    ]
    return make.Compose(augmented + normalise), make.Compose([make.Resize((size, size)), *normalise])


def _photographs(name: str, train: Any, test: Any, labels: tuple[Any, Any], source: Source) -> Task:
    """A task from two torchvision data sets of PIL images; a fifth of the training rows is held out."""
    augmented, evaluated = _transforms(source.image_size)
    train_labels, test_labels = (np.asarray(part, dtype=np.int64) for part in labels)
    held_out = len(train_labels) // 5
    chosen, reference = _cut(train_labels, source.train_size or len(train_labels) - held_out, held_out)
    everything = ImageSamples(train, np.arange(len(train_labels)), train_labels, augmented, evaluated)
    evaluation = ImageSamples(test, np.arange(len(test_labels)), test_labels, evaluated, evaluated)
    classes = tuple(getattr(train, "classes", None) or map(str, range(int(train_labels.max()) + 1)))
    version = f"{name}-{len(train_labels)}-{source.image_size}"
    return Task(name, everything.subset(chosen), everything.subset(reference).plain(), evaluation, classes,
                version=version)  # fmt: skip


def _cifar10(source: Source) -> Task:
    return _torchvision("cifar10", "CIFAR10", ({"train": True}, {"train": False}), "targets", source)


def _oxford_pet(source: Source) -> Task:
    return _torchvision("oxford-pet", "OxfordIIITPet", ({"split": "trainval"}, {"split": "test"}), "_labels", source)


def _flowers102(source: Source) -> Task:
    return _torchvision("flowers102", "Flowers102", ({"split": "train"}, {"split": "test"}), "_labels", source)


def _torchvision(
    name: str, kind: str, splits: tuple[dict[str, Any], dict[str, Any]], labels: str, source: Source
) -> Task:
    folder = source.root or source.cache_folder
    dataset = getattr(optional("torchvision.datasets"), kind)
    try:
        train, test = (dataset(str(folder), download=source.download, **split) for split in splits)
    except (RuntimeError, FileNotFoundError) as error:
        raise _missing(name, folder, f"torchvision's {kind} was not found there.") from error
    return _photographs(name, train, test, (getattr(train, labels), getattr(test, labels)), source)


DATA: dict[str, Callable[[Source], Task]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "wordnet": _wordnet,
    "wordnet-verbs": _wordnet_verbs,
    "cifar10": _cifar10,
    "oxford-pet": _oxford_pet,
    "flowers102": _flowers102,
}


def load_task(name: str, source: Source) -> Task:
    """The data set ``name`` (a key of `DATA`).

    Raises:
        ArgumentError: an unknown name, files that are not there, or more training rows than exist.
        MissingPackage: an optional package that it needs.
    """
    if name not in DATA:
        raise argument_error("data", f"one of {', '.join(DATA)}", repr(name), "digits needs no files.")
    return DATA[name](source)

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
from spectral_sampler.experiment import own
from spectral_sampler.experiment.augmentation import photograph_transforms
from spectral_sampler.experiment.corruption import Known
from spectral_sampler.experiment.cuts import cut_rows, stratified
from spectral_sampler.experiment.diamonds import CUTS, diamonds
from spectral_sampler.experiment.opinions import LEVELS, opinions
from spectral_sampler.experiment.overlap import overlapping
from spectral_sampler.experiment.samples import ImageSamples, Task, TensorSamples, TextSamples
from spectral_sampler.experiment.wordnet import FIELDS, fields, glosses, token_rows
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["DATA", "PHOTOGRAPHS", "Source", "default_cache", "load_task", "stratified"]

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
    options: own.Options = own.Options()
    """How somebody's own data is read."""
    content: str = ""
    """What it must hold, if it was looked at before; see `Settings.content`."""
    ready_rows: int | None = None
    """Rows of a reference with losses that is there already: none need be held out for it."""
    validation: float = 0.0
    """Share of the training rows, classes in proportion, on which neither learner nor reference is trained."""
    overlap: float = 0.0
    """Share of the classes split into two that cannot be told apart; see `overlap.overlapping`."""

    @property
    def cache_folder(self) -> Path:
        """`cache`, or the default."""
        return self.cache or default_cache()


def _digits(source: Source) -> Task:
    bunch = optional("sklearn.datasets").load_digits()
    images = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32))[:, None]
    labels = np.asarray(bunch.target, dtype=np.int64)
    test = stratified(labels, 597, np.random.default_rng(0))
    pool = np.setdiff1d(np.arange(len(labels)), test)
    train, held_out = cut_rows(labels[pool], source.train_size or 800, 400)
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
    train, reference = cut_rows(labels, source.train_size or min(12_000, len(labels) - held_out), held_out)
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


def _wordnet_fields(source: Source) -> Task:
    texts, labels = fields(source.root)
    everything = TextSamples(token_rows(texts), labels, texts)
    parts = [everything.subset(rows) for rows in _parts(labels, 7000, source)]
    return Task("wordnet-fields", parts[0], parts[1], parts[2], FIELDS, f"wordnet-fields-{len(labels)}")


def _diamonds(source: Source) -> Task:
    stones = diamonds(source.root)
    everything = TensorSamples(torch.from_numpy(stones.inputs), stones.labels)
    parts = [everything.subset(rows) for rows in _parts(stones.labels, 12_000, source)]
    return Task("diamonds", parts[0], parts[1], parts[2], CUTS, stones.version)


def _opinions(source: Source) -> Task:
    """Trained on what one person said of each word, tested on what ten agree on."""
    found = opinions(source.root)
    train, held_out, test = _parts(found.agreed, 4000, source)
    everything = TextSamples(token_rows(found.words), found.said, found.words)
    tested = everything.subset(test, found.agreed[test])
    return Task("opinions", everything.subset(train), everything.subset(held_out), tested, LEVELS, found.version,
                known=Known(truth=found.agreed[train]))  # fmt: skip


def _parts(
    labels: NDArray[np.int64], most: int, source: Source
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows that train, by default at most ``most``, a fifth that is held out and a quarter that tests, classes in the
    proportions of ``labels`` (M,) in each."""
    tested = stratified(labels, len(labels) // 4, np.random.default_rng(0))
    pool = np.setdiff1d(np.arange(len(labels)), tested)
    held_out = len(labels) // 5
    trained, reference = cut_rows(labels[pool], source.train_size or min(most, len(pool) - held_out), held_out)
    return pool[trained], pool[reference], tested


def _missing(name: str, folder: Path, remedy: str) -> ValueError:
    return argument_error("data-root", f"a folder that holds {name}", folder, remedy + " Or pass --download.")


def _photographs(name: str, train: Any, test: Any, labels: tuple[Any, Any], source: Source) -> Task:
    """A task from two torchvision data sets of PIL images; a fifth of the training rows is held out."""
    augmented, evaluated = photograph_transforms(source.image_size)
    train_labels, test_labels = (np.asarray(part, dtype=np.int64) for part in labels)
    held_out = len(train_labels) // 5
    chosen, reference = cut_rows(train_labels, source.train_size or len(train_labels) - held_out, held_out)
    everything = ImageSamples(train, np.arange(len(train_labels)), train_labels, augmented, evaluated)
    evaluation = ImageSamples(test, np.arange(len(test_labels)), test_labels, evaluated, evaluated)
    classes = tuple(getattr(train, "classes", None) or map(str, range(int(train_labels.max()) + 1)))
    version = f"{name}-{len(train_labels)}-{source.image_size}"
    return Task(name, everything.subset(chosen), everything.subset(reference), evaluation, classes,
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
    "wordnet-fields": _wordnet_fields,
    "diamonds": _diamonds,
    "opinions": _opinions,
    "cifar10": _cifar10,
    "oxford-pet": _oxford_pet,
    "flowers102": _flowers102,
}
PHOTOGRAPHS = ("cifar10", "oxford-pet", "flowers102")
"""Those that are scaled to `Source.image_size`."""


def _own(name: str, source: Source) -> Task:
    if source.root is not None:
        raise argument_error("data-root", "left out for data of one's own", source.root, "data is its path itself.")
    raw = own.read(own.resolved(name, tuple(DATA)), source.options, source.content)
    return own.task_of(raw, own.Cut(source.train_size, source.image_size, source.ready_rows))


def _with_validation(task: Task, share: float) -> Task:
    """The task without a stratified ``share`` of its training rows, which become its validation part."""
    labels = task.train.labels
    cut = stratified(labels, round(share * len(labels)), np.random.default_rng(0))
    rest = np.setdiff1d(np.arange(len(labels)), cut)
    rows = None if task.rows is None else task.rows[rest]
    version = f"{task.version}-validation{share}"
    validation = task.train.subset(cut).plain()
    truth = task.known.truth
    known = task.known if truth is None else task.known._replace(truth=truth[rest])
    return task._replace(train=task.train.subset(rest), validation=validation, rows=rows, version=version, known=known)


def load_task(name: str, source: Source) -> Task:
    """The data set ``name``: a key of `DATA`, a folder of pictures, a file of arrays or a table, ``module:function``.

    Raises:
        ArgumentError: an unknown name, files that are not there, more training rows than exist, and whatever makes
            somebody's own data no task.
        MissingPackage: an optional package that it needs.
    """
    task = DATA[name](source) if name in DATA else _own(name, source)
    if source.validation and task.validation is None:
        task = _with_validation(task, source.validation)
    return overlapping(task, source.overlap) if source.overlap else task

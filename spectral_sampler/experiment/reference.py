"""What a frozen reference says about the training rows: features from an encoder, losses from a model that was trained
on rows the learner never sees. Both are kept in a cache folder."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.corruption import corrupt_held_out
from spectral_sampler.experiment.data import default_cache
from spectral_sampler.experiment.learner import evaluate
from spectral_sampler.experiment.networks import network_for
from spectral_sampler.experiment.samples import ImageSamples, Samples, TensorSamples, TextSamples
from spectral_sampler.experiment.zero_shot import class_name_logits
from spectral_sampler.extraction import SmallMLP, efficientnet_lite0, extract, minilm, resnet50, train_reference
from spectral_sampler.selection.rho_loss import holdout_twin_losses
from spectral_sampler.store import ReferenceStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from spectral_sampler.experiment.corruption import Corrupted
    from spectral_sampler.experiment.samples import Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["REFERENCES", "Reference", "encoded_features", "prepare_features", "reference_for"]

_SEED_OFFSET = 1_000_003  # the reference's first weights are not the learner's

ENCODERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "lite0": ("images", efficientnet_lite0),
    "resnet50": ("images", lambda: resnet50("IMAGENET1K_V2")),
    "minilm": ("texts", minilm),
}
"""What they read, and how they are made."""

REFERENCES = ("held-out", "twin", "untrained", *ENCODERS)
"""held-out: features and losses of the learner's architecture trained on held-out rows. twin: the same features; losses
of two such models, each trained on half of the learner's own rows and scoring the other half. untrained: as held-out
before training, for the question what a reference's quality is worth. The others: features of a known encoder, losses
of a model trained on held-out rows."""


class Reference(NamedTuple):
    """A store for the learner's rows, how good the model behind its losses is, and what it says of them."""

    store: ReferenceStore
    record: dict[str, Any]
    logits: NDArray[np.float32]
    """(M, C), from no label of these rows: of the held-out model, of class names where the encoder reads texts."""


class _Encodable(Dataset[Any]):
    """Samples as an encoder wants them: texts, and images in [0, 1] or uint8 without the learner's normalisation."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples.plain()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        label = int(self.samples.labels[row])
        if isinstance(self.samples, ImageSamples):
            return self.samples.picture(row), label
        if isinstance(self.samples, TextSamples):
            return self.samples.texts[row], label
        return cast("TensorSamples", self.samples).inputs[row], label


def _collated(items: list[tuple[Any, int]]) -> tuple[Any, torch.Tensor]:
    """Texts as a list, everything else stacked."""
    inputs = [item[0] for item in items]
    together = inputs if isinstance(inputs[0], str) else torch.stack(inputs)
    return together, torch.tensor([item[1] for item in items])


def encoded_features(samples: Samples, name: str, version: str, cache: Path | None) -> NDArray[Any]:
    """Features (M, d) of the encoder ``name``, from the cache or computed now and put there."""
    wants, make = ENCODERS[name]
    kind = "texts" if isinstance(samples, TextSamples) else "images"
    if wants != kind or (isinstance(samples, TensorSamples) and kind == "images" and samples.scale is None):
        raise argument_error("reference", f"one that reads these {kind}", repr(name), "held-out always does.")
    path = (cache or default_cache()) / "features" / f"{version}-{name}-{samples.digest()}"
    if path.exists() and not any(path.glob(".partial*")):
        return ReferenceStore.open(path, verify=False).features
    encodable = _Encodable(samples)
    return extract(make(), encodable, path, loss=None, collate_fn=_collated, batch_size=64, version=version).features


def prepare_features(settings: Settings, task: Task, cache: Path | None) -> None:
    """Fills the cache with everything that no seed changes, which takes a minute for 12,000 images on one core."""
    if settings.reference not in REFERENCES:
        raise argument_error(
            "reference", f"one of {', '.join(REFERENCES)}", repr(settings.reference), "held-out always works."
        )
    if settings.reference in ENCODERS:
        encoded_features(task.train, settings.reference, task.version, cache)
        if _uses_head(task):
            encoded_features(task.held_out, settings.reference, task.version, cache)


def _uses_head(task: Task) -> bool:
    """Held-out photographs or texts are too few to train a network on, but enough for a classifier on the features."""
    return isinstance(task.train, (TextSamples, ImageSamples))


def _epochs(rows: int) -> int:
    """About 240 batches of 128 in all, but at least 3 passes: a good fit without knowing the held-out rows by heart."""
    return max(3, min(30, 240 * 128 // max(rows, 1)))


def _last_layer(network: nn.Module, samples: Samples) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
    """Losses (M,) of every sample, and input (M, d) and output (M, C) of the last layer."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    hook = last.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].float(), output.float())))
    _, losses = evaluate(network, samples)
    hook.remove()
    features, logits = (torch.cat(parts).cpu().numpy() for parts in zip(*seen, strict=True))
    return losses, features, logits


def _fit(network: nn.Module, samples: Samples, settings: Settings, seed: int) -> None:
    epochs = settings.reference_epochs or _epochs(len(samples))
    train_reference(network, samples, epochs=epochs, batch_size=min(128, 1 + len(samples) // 16), seed=seed)


def _twin_losses(settings: Settings, task: Task, rows: Samples, seed: int) -> NDArray[np.float64]:
    def score(train: NDArray[np.int64], rest: NDArray[np.int64]) -> NDArray[np.float64]:
        network = network_for(task, settings, seed + _SEED_OFFSET)
        _fit(network, rows.subset(train), settings, seed)
        return evaluate(network, rows.subset(rest))[1]

    return holdout_twin_losses(score, len(rows), seed=seed)


def _compute(settings: Settings, task: Task, corrupted: Corrupted, seed: int, cache: Path | None) -> dict[str, Any]:
    """Losses (M,) of the learner's rows under its labels, features (M, d) unless an encoder gives them, and the
    reference's test accuracy."""
    classes = len(task.classes)
    labels = corrupt_held_out(task.held_out.labels, settings.corruption, classes, seed)
    train, held_out = task.train.plain(), task.held_out.plain()
    encoded = settings.reference in ENCODERS
    if encoded and _uses_head(task):
        parts = [encoded_features(part, settings.reference, task.version, cache) for part in (train, held_out)]
        train, held_out = (
            TensorSamples(torch.from_numpy(np.asarray(rows, dtype=np.float32)), part.labels)
            for rows, part in zip(parts, (train, held_out), strict=True)
        )
        network: nn.Module = SmallMLP(classes, width=parts[0].shape[1], hidden=256, seed=seed + _SEED_OFFSET)
    else:
        network = network_for(task, settings, seed + _SEED_OFFSET)
    if settings.reference != "untrained":
        noisy = held_out.subset(np.arange(len(held_out)), labels)
        _fit(network, noisy, settings, seed)
    learner_rows = train.subset(corrupted.rows, corrupted.labels)
    losses, features, logits = _last_layer(network, learner_rows)
    if settings.reference == "twin":
        losses = _twin_losses(settings, task, learner_rows, seed)
    clean, _ = evaluate(network, train)
    found = {"losses": losses.astype(np.float32), "accuracy": np.float64(clean), "logits": logits}
    return found if encoded else {**found, "features": features}


def _cached(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Arrays from ``path``, or computed and written there whole."""
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        np.savez(file, **found)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)  # temporary files are readable by their owner alone
    Path(file.name).replace(path)
    return found


def reference_for(settings: Settings, task: Task, corrupted: Corrupted, seed: int, cache: Path | None) -> Reference:
    """The reference of one seed: its own wrong labels, its own held-out model."""
    kept = (settings.data, settings.train_size, tuple(settings.corruption), settings.reference, settings.image_size,
            settings.reference_epochs, settings.learning_rate, settings.weight_decay, "logits")  # fmt: skip
    key = hashlib.sha256(repr((kept, task.version, len(task.train), len(task.held_out))).encode()).hexdigest()[:16]
    path = (cache or default_cache()) / "references" / f"{settings.data}-{settings.reference}-{key}-seed{seed}.npz"
    found = _cached(path, lambda: _compute(settings, task, corrupted, seed, cache))
    if "features" in found:
        features = found["features"]
    else:
        features = encoded_features(task.train, settings.reference, task.version, cache)[corrupted.rows]
    logits = found["logits"]
    if settings.reference == "minilm":
        encode = functools.partial(encoded_features, name="minilm", version=task.version, cache=cache)
        logits = class_name_logits(features, task.classes, encode)
    losses = found["losses"]
    record = {
        "name": settings.reference,
        "accuracy_on_clean_training_rows": float(found["accuracy"]),
        "loss_median": float(np.median(losses)),
        "loss_99th_percentile": float(np.quantile(losses, 0.99)),
    }
    if corrupted.wrong.any():
        record["wrong_label_auc"] = _auc(losses[corrupted.wrong], losses[~corrupted.wrong])
    return Reference(ReferenceStore.from_arrays(features, losses, corrupted.labels), record, logits)


def _auc(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
    """Probability that a wrongly labelled row has the higher reference loss (Mann-Whitney; ties count half)."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left") + np.searchsorted(order, positive, "right")
    return float(below.mean() / (2 * len(negative)))

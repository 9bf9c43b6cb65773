"""What a comparison is: everything that decides its numbers, in one value that prints as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.corruption import Corruption
from spectral_sampler.experiment.data import DATA, Source
from spectral_sampler.schedule import (
    AdaptiveSchedule,
    AggressiveAIMD,
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
    from pathlib import Path

__all__ = ["DEFAULTS", "SCHEDULES", "Settings"]

SCHEDULES: dict[str, Callable[[float, float, float], Any]] = {
    "constant": lambda _low, _high, mean: ConstantSchedule(mean),
    "sigmoid": lambda low, high, mean: SigmoidSchedule(low, high, mean=mean),
    "linear": lambda low, high, mean: LinearSchedule(low, high, mean=mean),
    "gamma": lambda low, high, mean: GammaSchedule(low, high, mean=mean),
    "sinc": lambda low, high, mean: SincSchedule(low, high, mean=mean),
    "sinusoid": lambda low, high, mean: SinusoidSchedule(low, high, mean=mean),
    "mellow-aimd": lambda low, high, mean: MellowAIMD(low, high, mean=mean),
    "aggressive-aimd": lambda low, high, mean: AggressiveAIMD(low, high, mean=mean),
    "plateau": lambda low, high, mean: PlateauSchedule(low, high, mean=mean),
}
"""Keep-ratio schedules by name, from (smallest, largest, mean)."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 30, "candidate_batch_size": 64, "learning_rate": 3e-3, "reference": "held-out"},
    "fashion-mnist": {"epochs": 12, "candidate_batch_size": 128, "learning_rate": 2e-3, "reference": "lite0"},
    "wordnet": {"epochs": 40, "candidate_batch_size": 128, "learning_rate": 3e-3, "reference": "minilm"},
    "wordnet-verbs": {"epochs": 40, "candidate_batch_size": 64, "learning_rate": 3e-3, "reference": "minilm"},
    "cifar10": {"epochs": 25, "candidate_batch_size": 128, "learning_rate": 1e-3, "reference": "resnet50"},
    "oxford-pet": {"epochs": 25, "candidate_batch_size": 128, "learning_rate": 1e-3, "reference": "resnet50"},
    "flowers102": {"epochs": 25, "candidate_batch_size": 64, "learning_rate": 1e-3, "reference": "resnet50"},
}
"""What each data set uses unless told otherwise. The last three are the papers' epochs and batch sizes."""


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
    """The learner starts from ImageNet weights (photographs only; torchvision downloads them)."""

    @classmethod
    def of(cls, data: str, **changes: Any) -> Settings:
        """The data set's defaults with ``changes``; a change that is None keeps the default."""
        if data not in DATA:
            raise argument_error("data", f"one of {', '.join(DATA)}", repr(data), "digits needs no files.")
        given = {name: value for name, value in changes.items() if value is not None}
        return cls(**{"data": data, **DEFAULTS[data], **given}).checked()

    def checked(self) -> Settings:
        """Itself, or one sentence about the first value that breaks its rule."""
        self.corruption.checked()
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
        self.ratio()
        return self

    @property
    def corruption(self) -> Corruption:
        """What is done to the training rows."""
        return Corruption(self.label_noise, self.imbalance, self.duplicate)

    def ratio(self) -> Any:
        """The keep-ratio schedule."""
        return SCHEDULES[self.schedule](self.keep_min, self.keep_max, self.keep_ratio)

    def planned_ratio(self) -> Any:
        """What is known of it beforehand: of a schedule that listens to the loss, its mean."""
        ratio = self.ratio()
        return ConstantSchedule(self.keep_ratio) if isinstance(ratio, AdaptiveSchedule) else ratio

    def source(self, root: Path | None, cache: Path | None, *, download: bool) -> Source:
        """Where the data comes from on this machine, which is no part of the settings."""
        return Source(self.train_size, root, download, cache, self.image_size)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def key(self, *extra: object) -> str:
        """Twelve hexadecimal digits that change with any value here or in ``extra``."""
        text = json.dumps([self.record(), [str(item) for item in extra]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

"""A small reference of one's own: trained on rows that the learner never sees, so that its losses are honest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from spectral_sampler.errors import argument_error
from spectral_sampler.extraction.forward import classified
from spectral_sampler.modules import arguments, first_two, global_randomness_kept, moved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SmallCNN", "SmallMLP", "train_reference"]


class SmallCNN(nn.Module):
    """Logits (B, classes) of images (B, channels, size, size): two convolutions of stride 2, two linear layers.

    16 and 32 channels with batch normalisation; the penultimate layer is 64 wide. It keeps the positions (no global
    pooling): with a pooled bottleneck a network of this size stalls at .84 on FashionMNIST instead of .90.
    """

    def __init__(self, classes: int, *, channels: int = 1, size: int = 28, seed: int = 0) -> None:
        """Initial weights are a function of ``seed``; the global generator is left alone."""
        super().__init__()
        side = (size + 3) // 4
        with global_randomness_kept():
            torch.manual_seed(seed)
            self.convolutions = nn.Sequential(*_block(channels, 16), *_block(16, 32), nn.Flatten())
            self.hidden = nn.Sequential(nn.Linear(32 * side * side, 64), nn.ReLU())
            self.classifier = nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes)."""
        logits: torch.Tensor = self.classifier(self.hidden(self.convolutions(images)))
        return logits


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class SmallMLP(nn.Module):
    """Logits (B, classes) of feature rows (B, width), with one hidden layer; for texts, on top of their embeddings."""

    def __init__(self, classes: int, *, width: int, hidden: int = 64, seed: int = 0) -> None:
        """Initial weights are a function of ``seed``; the global generator is left alone."""
        super().__init__()
        with global_randomness_kept():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes)."""
        logits: torch.Tensor = self.layers(rows.flatten(1).float())
        return logits


def train_reference(
    model: nn.Module,
    dataset: Any,
    *,
    rows: Sequence[int] | None = None,
    epochs: int = 3,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    split: Callable[[Any], tuple[Any, Any]] = first_two,
) -> nn.Module:
    """Trains ``model`` in place on ``dataset[rows]`` with AdamW on a one-cycle schedule; returned in eval mode.

    The losses of a reference are worth their name on samples that it was **not** trained on: pass ``rows`` that are
    kept out of the learner's training set. The result is a function of the model's weights, the data and ``seed`` (on
    one device and number of threads); global generators are left alone.

    Args:
        model: maps a batch of inputs to logits (B, C), or to what holds them (``.logits``, a mapping, a tuple).
        dataset: map-style, with class numbers as labels.
        rows: the held-out rows; None means all of ``dataset``, for a data set that is held out as a whole.
        epochs, batch_size, learning_rate: of the training; the learning rate is the peak of its cycle.
        seed: of order and dropout.
        device: where to train; the model stays there.
        split: ``split(batch) -> (inputs, labels)``; by default the first two of a tuple, or "labels" of a mapping.

    Raises:
        ArgumentError: labels that are no class numbers of the model, outputs without logits, or no rows.
    """
    chosen = dataset if rows is None else Subset(dataset, [int(row) for row in rows])
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("number of rows", len(chosen))):
        if value < 1:
            raise argument_error(name, "at least 1", value, "Pass a positive number.")
    with global_randomness_kept():
        torch.manual_seed(seed)  # for dropout and random transforms; put back afterwards
        generator = torch.Generator().manual_seed(seed)
        whole = len(chosen) >= batch_size  # a last batch of one sample would break batch normalisation
        loader: DataLoader[Any] = DataLoader(chosen, batch_size, shuffle=True, drop_last=whole, generator=generator)
        model.to(device).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * len(loader))
        for _ in range(epochs):
            for batch in loader:
                inputs, labels = split(moved(batch, torch.device(device)))
                args, named = arguments(model, inputs)
                loss = nn.functional.cross_entropy(*classified(model(*args, **named), labels))
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                cycle.step()
    return model.eval()

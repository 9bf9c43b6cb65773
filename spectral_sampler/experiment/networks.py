"""The networks that are trained: small enough for a CPU, good enough to tell policies apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import nn

from spectral_sampler.experiment.optional import optional
from spectral_sampler.experiment.samples import TensorSamples
from spectral_sampler.experiment.wordnet import word_vectors

if TYPE_CHECKING:
    from spectral_sampler.experiment.samples import Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["ConvolutionalNetwork", "GlossNetwork", "head", "network_for", "seeded", "weights_digest"]


class ConvolutionalNetwork(nn.Module):
    """Two convolutions (16 and 32 channels, batch norm), a layer of 64, and the classes.

    Average pooling before the last layers would save parameters and stall at .84 on FashionMNIST: an undertrained
    learner hides every difference between policies.

    Args:
        side: height and width of the square images; above 16 pixels both convolutions halve it, else only the second.
        classes: number of classes.
        channels: of the images.
    """

    def __init__(self, side: int, classes: int, channels: int = 1) -> None:
        super().__init__()
        first = 2 if side > 16 else 1
        final = (side + first - 1) // first
        final = (final + 1) // 2
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=first, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.hidden = nn.Sequential(nn.Linear(32 * final * final, 64), nn.ReLU())
        self.output = nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, side, side) -> logits (B, classes)."""
        logits: torch.Tensor = self.output(self.hidden(self.convolutions(images)))
        return logits


class GlossNetwork(nn.Module):
    """Mean of frozen word vectors, then two layers.

    Args:
        vectors: (vocabulary, width); row 0 is padding.
        classes: number of classes.
    """

    vectors: torch.Tensor

    def __init__(self, vectors: torch.Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.hidden = nn.Sequential(nn.LayerNorm(vectors.shape[1]), nn.Linear(vectors.shape[1], 256), nn.ReLU())
        self.output = nn.Linear(256, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, length) token numbers -> logits (B, classes)."""
        present = (tokens != 0).to(self.vectors.dtype)
        mean = nn.functional.embedding_bag(
            tokens, self.vectors, mode="sum", per_sample_weights=present
        ) / present.sum(1, keepdim=True).clamp(min=1.0)
        logits: torch.Tensor = self.output(self.hidden(mean))
        return logits


def head(width: int, classes: int) -> nn.Module:
    """A classifier on (B, ``width``) features of a frozen encoder."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, classes))


def _new(task: Task, settings: Settings) -> nn.Module:
    classes = len(task.classes)
    if task.kind == "tokens":
        return GlossNetwork(word_vectors(), classes)
    if isinstance(task.train, TensorSamples):
        _, channels, side, _ = task.train.inputs.shape
        return ConvolutionalNetwork(side, classes, channels)
    models = optional("torchvision.models")
    network: nn.Module = models.resnet18(weights="IMAGENET1K_V1" if settings.pretrained else None)
    network.fc = nn.Linear(512, classes)
    return network


def network_for(task: Task, settings: Settings, seed: int) -> nn.Module:
    """The learner of a task, its weights a function of ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):  # initialisers draw from the global generator, which is not ours
        torch.random.default_generator.manual_seed(seed)
        return _new(task, settings)


def seeded(width: int, classes: int, seed: int) -> nn.Module:
    """`head` with weights that are a function of ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return head(width, classes)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over names and values of all weights, first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

"""The networks that are trained: small enough for a CPU, good enough to tell policies apart."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import nn

from spectral_sampler.experiment.optional import optional
from spectral_sampler.experiment.samples import TensorSamples, TextSamples
from spectral_sampler.experiment.wordnet import word_vectors
from spectral_sampler.extraction import SmallCNN

if TYPE_CHECKING:
    from spectral_sampler.experiment.samples import Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["GlossNetwork", "network_for", "weights_digest"]


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
        mean = nn.functional.embedding_bag(tokens, self.vectors, mode="sum", per_sample_weights=present) / present.sum(
            1, keepdim=True
        ).clamp(min=1.0)
        logits: torch.Tensor = self.output(self.hidden(mean))
        return logits


def _new(task: Task, settings: Settings, seed: int) -> nn.Module:
    classes = len(task.classes)
    if isinstance(task.train, TextSamples):
        return GlossNetwork(word_vectors(), classes)
    if isinstance(task.train, TensorSamples):
        _, channels, side, _ = task.train.inputs.shape
        return SmallCNN(classes, channels=channels, size=side, seed=seed)
    models = optional("torchvision.models")
    network: nn.Module = models.resnet18(weights="IMAGENET1K_V1" if settings.pretrained else None)
    network.fc = nn.Linear(512, classes)
    return network


def network_for(task: Task, settings: Settings, seed: int) -> nn.Module:
    """The learner of a task, its weights a function of ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):  # initialisers draw from the global generator, which is not ours
        torch.manual_seed(seed)
        return _new(task, settings, seed)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over names and values of all weights, first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

"""The networks that are trained: small enough for a CPU, good enough to tell policies apart."""

from __future__ import annotations

import copy
import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment import own
from spectral_sampler.experiment.samples import ImageSamples, TextSamples, sample_shape
from spectral_sampler.experiment.wordnet import word_vectors
from spectral_sampler.extraction import SmallCNN, SmallMLP
from spectral_sampler.modules import frozen, global_randomness_kept
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from spectral_sampler.experiment.samples import Task
    from spectral_sampler.experiment.settings import Settings

__all__ = ["GlossNetwork", "WordBag", "network_for", "weights_digest"]

_LARGEST_SIDE = 96  # pixels; beyond it a small network's last layer has more weights than all of a ResNet-18


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


class WordBag(nn.Module):
    """Mean of word vectors that are learnt, then two layers.

    Args:
        vocabulary: word numbers there are; 0 is padding.
        classes: number of classes.
    """

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(vocabulary, 64, mode="mean", padding_idx=0)
        self.hidden = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU())
        self.output = nn.Linear(64, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, length) word numbers -> logits (B, classes)."""
        logits: torch.Tensor = self.output(self.hidden(self.words(tokens)))
        return logits


def _resnet18(classes: int, channels: int, *, pretrained: bool) -> nn.Module:
    network: nn.Module = optional("torchvision.models").resnet18(weights="IMAGENET1K_V1" if pretrained else None)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.fc = nn.Linear(512, classes)
    return network


def _new(task: Task, settings: Settings, seed: int) -> nn.Module:
    classes, samples = len(task.classes), task.train
    if settings.learner not in {"", "resnet18"}:
        return _somebodys(settings.learner)
    if isinstance(samples, TextSamples) and not settings.learner and not settings.pretrained:
        known = samples.vocabulary
        return GlossNetwork(word_vectors(), classes) if known is None else WordBag(known, classes)
    shape = sample_shape(samples.plain())
    named = settings.learner == "resnet18" or settings.pretrained
    if isinstance(samples, ImageSamples) or named or (len(shape) == 3 and max(shape[1:]) > _LARGEST_SIDE):
        if len(shape) != 3:
            rule, remedy = "one that reads these samples", "Leave it out, and pretrained, for a network that does."
            raise argument_error("learner", rule, f"resnet18 for samples of shape {shape}", remedy)
        return _resnet18(classes, shape[0], pretrained=settings.pretrained)
    if len(shape) != 3:
        return SmallMLP(classes, width=int(np.prod(shape)), seed=seed)
    channels, height, width = shape
    if width in {1, 3, 4} and min(channels, height) > 4:
        rule, remedy = "one that reads such samples", "A small one reads (C, H, W): permute them, or pass a learner."
        raise argument_error("learner", rule, f"none for samples of shape {shape}", remedy)
    network = SmallCNN(classes, channels=channels, size=height, seed=seed)
    if height != width:
        network.hidden[0] = nn.Linear(32 * ((height + 3) // 4) * ((width + 3) // 4), 64)
    return network


def _somebodys(learner: str) -> nn.Module:
    network = own.called_without_arguments("learner", learner)
    if not isinstance(network, nn.Module):
        what = f"{type(network).__name__} from {learner}"
        raise argument_error("learner", "a function that returns a torch.nn.Module", what, "Return the network.")
    return copy.deepcopy(network)  # were it the same object every time, a training would begin where the last ended


def _check_outputs(network: nn.Module, task: Task, learner: str) -> None:
    """That the network reads these samples and tells these classes apart."""
    classes, samples = len(task.classes), task.test
    inputs = torch.stack([samples[row][0] for row in (0, len(samples) - 1)])
    rule = f"one that returns logits (B, {classes}), one for each of the {classes} classes"
    try:
        with frozen(network) as home, torch.no_grad():  # a lazy layer may get its weights here, and must learn later
            evaluated = network(inputs.to(home))
        trained = copy.deepcopy(network).train()(inputs.to(home))  # batch norm's statistics are not to move
    except Exception as error:  # somebody's network may raise anything
        what = f"{learner}, which fails on inputs {tuple(inputs.shape)} {inputs.dtype}"
        remedy = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": .") + "."
        raise argument_error("learner", rule, what, remedy) from error
    for mode, logits in (("", evaluated), (" in training", trained)):
        if not isinstance(logits, torch.Tensor) or logits.shape != (len(inputs), classes):
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            remedy = "Change its last layer, or return the logits alone."
            raise argument_error("learner", rule, f"{shape}{mode} for {len(inputs)} samples from {learner}", remedy)
    if not trained.requires_grad:
        raise argument_error("learner", "one with something to learn", learner, "All its weights are frozen.")


def network_for(task: Task, settings: Settings, seed: int) -> nn.Module:
    """The learner of a task, its weights a function of ``seed`` alone.

    Raises:
        ArgumentError: somebody's learner that cannot be imported, is no module, or has not one output per class.
    """
    with global_randomness_kept():  # initialisers draw from the global generators, which are not ours
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - somebody's initialiser may ask it
        network = _new(task, settings, seed)
        if settings.learner not in {"", "resnet18"}:
            _check_outputs(network, task, settings.learner)
        return network


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over names and values of all weights, first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]

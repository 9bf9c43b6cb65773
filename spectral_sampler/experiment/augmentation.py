"""What is done to photographs before a learner sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

__all__ = ["photograph_transforms"]


def photograph_transforms(size: int) -> tuple[Callable[[Any], torch.Tensor], Callable[[Any], torch.Tensor]]:
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

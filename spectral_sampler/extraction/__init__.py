"""A frozen reference model over a data set: features, losses and labels for a store, and ready-made references."""

from spectral_sampler.extraction.extract import extract
from spectral_sampler.extraction.forward import Encoder
from spectral_sampler.extraction.ray_data import extract_with_ray
from spectral_sampler.extraction.references import ImageEncoder, efficientnet_lite0, resnet50
from spectral_sampler.extraction.text import minilm
from spectral_sampler.extraction.training import SmallCNN, SmallMLP, train_reference

__all__ = [
    "Encoder",
    "ImageEncoder",
    "SmallCNN",
    "SmallMLP",
    "efficientnet_lite0",
    "extract",
    "extract_with_ray",
    "minilm",
    "resnet50",
    "train_reference",
]

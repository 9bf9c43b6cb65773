"""What an extraction was made from, as hashes: so that it is resumed and reused for that, and for nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["callable_name", "dataset_identity", "model_hash"]

_PROBES = 64
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _update(digest: Any, value: Any) -> None:
    """Feeds ``value`` to ``digest``: type, then content, each with its length, so that no two values read alike."""
    if isinstance(value, torch.Tensor):
        dense = value.detach().to("cpu").contiguous()
        _text(digest, f"tensor {dense.dtype} {tuple(dense.shape)}")
        digest.update(dense.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, (np.ndarray, np.generic)):
        _text(digest, f"array {value.dtype.str} {value.shape}")
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        _text(digest, f"mapping {len(value)}")
        for key in sorted(value, key=str):
            _text(digest, str(key))
            _update(digest, value[key])
    elif isinstance(value, (list, tuple)):
        _text(digest, f"sequence {len(value)}")
        for part in value:
            _update(digest, part)
    elif isinstance(value, bytes):
        _text(digest, f"bytes {len(value)}")
        digest.update(value)
    elif callable(getattr(value, "tobytes", None)):  # a PIL image, without importing PIL
        _text(digest, f"image {getattr(value, 'mode', '')} {getattr(value, 'size', '')}")
        digest.update(value.tobytes())
    else:
        _text(digest, f"{type(value).__name__} {_ADDRESS.sub('', repr(value))}")


def _text(digest: Any, text: str) -> None:
    encoded = text.encode("utf-8", "surrogatepass")
    digest.update(len(encoded).to_bytes(8, "little") + encoded)


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def model_hash(model: torch.nn.Module) -> str:
    """SHA-256 over the printed layers and the sorted ``state_dict``.

    The same in train and eval mode, on any device, and in any process.
    """
    return _hash([_ADDRESS.sub("", repr(model)), model.state_dict()])


def callable_name(function: Callable[..., Any] | None) -> str | None:
    """Module and name of a function, or the class and settings of an object; a change inside it needs a new version."""
    if function is None:
        return None
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else _ADDRESS.sub("", repr(function))


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _layers(dataset: Any) -> list[str]:
    """Class and transform of the data set and of what it wraps (Subset and the like call it ``dataset``)."""
    layers: list[str] = []
    while dataset is not None and len(layers) < 8:
        transform = _ADDRESS.sub("", repr(getattr(dataset, "transform", None)))
        layers.append(f"{_class_name(dataset)} {transform}")
        dataset = getattr(dataset, "dataset", None)
    return layers


def dataset_identity(dataset: Any) -> dict[str, Any]:
    """Length, classes, transforms, and one hash of 64 samples spread over the data set.

    Each of them is read twice. Reference features and losses belong to a sample, not to one of its augmentations, so a
    data set whose samples change from one reading to the next is refused.
    """
    size = len(dataset)
    probes = np.unique(np.linspace(0, size - 1, min(_PROBES, size)).round().astype(int)).tolist()
    hashes = [_hash(dataset[index]) for index in probes]
    for index, first in zip(probes, hashes, strict=True):
        if _hash(dataset[index]) != first:
            raise argument_error(
                "dataset",
                "free of random augmentation",
                f"a sample {index} that differs between two readings",
                "Pass the same samples with the transform you evaluate with.",
            )
    return {"length": size, "layers": _layers(dataset), "probes": _hash(hashes)}

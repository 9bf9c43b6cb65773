"""The problems of the table: a feature store and candidate batches into it, from real encoders and synthetic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from spectral_sampler.experiment.data import default_cache

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 2048  # of real data that are encoded: enough for candidate batches that differ, and a few seconds of encoding


class Problem(NamedTuple):
    """B candidate batches of N rows of a store (M, d)."""

    name: str
    store: torch.Tensor
    indices: torch.Tensor  # (B, N)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, N, d)."""
        return (*self.indices.shape, self.store.shape[1])  # type: ignore[return-value]


def rectified(rows: int, width: int, seed: int = 0, device: torch.device | str = "cpu") -> torch.Tensor:
    """Clustered features after a ReLU, as a convolutional network's penultimate layer gives them."""
    generator = torch.Generator(device).manual_seed(seed)
    centres = torch.randn(10, width, generator=generator, device=device)
    labels = torch.randint(0, 10, (rows,), generator=generator, device=device)
    noise = torch.randn(rows, width, generator=generator, device=device)
    return noise.add_(centres[labels], alpha=0.7).clamp_min_(0)


def _cached(name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    path = default_cache() / "benchmarks" / f"{name}-{ROWS}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.inference_mode():
            rows = make().numpy()
        part = path.with_suffix(".part.npy")
        np.save(part, rows)
        part.replace(path)
    return torch.from_numpy(np.load(path, allow_pickle=False))


def fashion_lite0() -> torch.Tensor:
    """FashionMNIST through EfficientNet-Lite0: (ROWS, 1280), non-negative."""

    def make() -> torch.Tensor:
        from spectral_sampler.experiment.data import FASHION_FOLDER, Source, _unpacked_fashion
        from spectral_sampler.extraction.references import efficientnet_lite0

        folder = _unpacked_fashion(Source(root=FASHION_FOLDER)) / "FashionMNIST/raw/train-images-idx3-ubyte"
        pixels = np.frombuffer(Path(folder).read_bytes(), dtype=np.uint8, offset=16)[: ROWS * 784]
        images = torch.from_numpy(pixels.reshape(ROWS, 1, 28, 28).copy())
        encoder = efficientnet_lite0(64)
        return torch.cat([encoder(part) for part in images.split(64)])

    return _cached("fashion-lite0", make)


def wordnet_minilm() -> torch.Tensor:
    """WordNet glosses through MiniLM: (ROWS, 384), signed."""

    def make() -> torch.Tensor:
        from spectral_sampler.experiment.wordnet import glosses
        from spectral_sampler.extraction.text import minilm

        texts = glosses(None, "noun", 102)[0][:ROWS]
        encoder = minilm()
        return torch.cat([encoder(texts[first : first + 64]) for first in range(0, ROWS, 64)])

    return _cached("wordnet-minilm", make)


def problem(name: str, store: torch.Tensor, members: int, size: int) -> Problem:
    """Random candidate batches without repetition."""
    generator = torch.Generator().manual_seed(1)
    picked = [torch.randperm(len(store), generator=generator)[:size] for _ in range(members)]
    return Problem(name, store, torch.stack(picked))


def small() -> list[Problem]:
    """Batches of a training step, and one that is larger."""
    wide, narrow = rectified(8192, 2048), rectified(8192, 512)
    found = [
        problem("rectified", wide, 64, 128),
        problem("rectified, float16 store", wide.half(), 64, 128),
        problem("rectified, narrow", narrow, 64, 128),
    ]
    try:
        lite0 = fashion_lite0()
        found += [problem("FashionMNIST × Lite0", lite0, 64, size) for size in (64, 128)]
    except (ImportError, ValueError, OSError) as error:
        print(f"without FashionMNIST × Lite0: {error}")
        found.append(problem("rectified, for Lite0", rectified(2048, 1280), 64, 64))
    try:
        texts = wordnet_minilm()
        found += [problem("WordNet × MiniLM", texts, members, size) for members, size in ((64, 128), (16, 256))]
    except (ImportError, ValueError, OSError) as error:
        print(f"without WordNet × MiniLM: {error}")
    return [*found, problem("rectified, large", wide[:4096], 1, 1024)]


def large() -> Problem:
    """One graph whose affinities would take a gibibyte."""
    return problem("rectified, no affinities", rectified(20_000, 512), 1, 16_384)

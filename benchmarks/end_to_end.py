"""What selection costs a training run on this CPU: seconds an epoch, and as a share of a ResNet-18 step."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import problems
from spectral_sampler import GSTDS, ReferenceStore, SpectralBatchSampler

_ROWS, _CANDIDATES, _RATIO, _SIDE = 2048, 128, 0.3, 64


def _sampler(store: ReferenceStore, lookahead: int, backend: str) -> SpectralBatchSampler:
    return SpectralBatchSampler(
        store,
        _CANDIDATES,
        keep_ratio=_RATIO,
        selection=GSTDS(),
        lookahead=lookahead,
        backend=backend,
    )


def _step() -> Any:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18(num_classes=10).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()

    return step


def _train(batches: Any, dataset: TensorDataset, step: Any, steps: int) -> float:
    """Seconds a step, the first one left out."""
    loader = DataLoader(dataset, batch_sampler=batches)
    stamps = []
    for number, (images, labels) in enumerate(loader):
        step(images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last), labels)
        stamps.append(time.perf_counter())
        if number == steps:
            break
    return float(np.mean(np.diff(stamps)))


def measure_all(steps: int) -> dict[str, Any]:
    """Selection alone for an epoch, and training steps with lists made before, with and without look-ahead."""
    try:
        features, name = problems.fashion_lite0(), "FashionMNIST × Lite0"
    except (ImportError, ValueError, OSError):
        features, name = problems.rectified(_ROWS, 1280), "rectified"
    generator = torch.Generator().manual_seed(0)
    store = ReferenceStore.from_arrays(features.half(), losses=torch.rand(_ROWS, generator=generator))
    images = torch.randn(_ROWS, 1, _SIDE, _SIDE, generator=generator)
    dataset = TensorDataset(images, torch.randint(0, 10, (_ROWS,), generator=generator))
    batches = _ROWS // _CANDIDATES
    epochs = {}
    for backend in ("native", "eager"):
        sampler = _sampler(store, 16, backend)
        list(sampler)
        start = time.perf_counter()
        lists = list(sampler)
        epochs[backend] = time.perf_counter() - start
    step = _step()
    steps = min(steps, batches - 1)
    _train(lists, dataset, step, 3)  # convolutions choose their algorithms
    found: dict[str, list[float]] = {"none": [], "look-ahead 16": [], "look-ahead 0": []}
    for _ in range(3):  # interleaved: a busy moment hits all alike
        found["none"].append(_train(lists, dataset, step, steps))
        found["look-ahead 16"].append(_train(_sampler(store, 16, "native"), dataset, step, steps))
        found["look-ahead 0"].append(_train(_sampler(store, 0, "native"), dataset, step, steps))
    plain = np.array(found["none"])
    return {
        "features": name,
        "candidates": _CANDIDATES,
        "kept": int(_RATIO * _CANDIDATES),
        "batches an epoch": batches,
        "seconds of selection an epoch": epochs,
        "selection a batch, native": epochs["native"] / batches,
        "seconds a step": float(np.median(plain)),
        "added by selection": {
            name: float(np.median(np.array(each) / plain - 1)) for name, each in found.items() if name != "none"
        },
        "selection as a share of a step": epochs["native"] / batches / float(np.median(plain)),
    }

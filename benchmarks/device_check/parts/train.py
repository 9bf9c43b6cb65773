"""Selection beside a training run: is it held up, are its lists the CPU's, and what does a step cost?"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.device_check import inputs, timing
from benchmarks.device_check.methods import backends
from spectral_sampler import SALN, ReferenceStore, SpectralBatchSampler, ops
from spectral_sampler.kernels.device_store import BUDGET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.device_check.session import Session

_KEEP, _LOOKAHEAD = 0.3, 16
_BUSY = 3_000_000_000  # cycles: a second and a half of a busy stream
_ROUNDS, _SKIPPED = 3, 20  # of training; steps before the time of a step counts


class _Run:
    """The sampler's inputs and a network to train: (rows, N, pixels a side, d)."""

    def __init__(self, session: Session, device: torch.device) -> None:
        self.session, self.device = session, device
        rows, self.size, side, width = (512, 32, 16, 64) if session.dry else (16384, 128, 64, 2048)
        self.features = inputs.store(width, rows, torch.device("cpu"), seed=3)
        images = torch.randint(0, 255, (rows, 3, side, side), dtype=torch.uint8)
        self.dataset = TensorDataset(images, torch.randint(10, (rows,)))
        self.steps = 4 if session.dry else rows // self.size - 2
        self.skipped = 1 if session.dry else _SKIPPED

    def sampler(self, backend: str, lookahead: int) -> SpectralBatchSampler:
        """With a store of its own, so that where its rows lie is decided anew."""
        store = ReferenceStore.from_arrays(self.features)
        return SpectralBatchSampler(store, candidate_batch_size=self.size, keep_ratio=_KEEP, selection=SALN(),
                                    backend=backend, lookahead=lookahead)  # fmt: skip

    def attempt(self, what: str, backend: str, measure: Callable[[], dict[str, Any]]) -> None:
        """A row, also where the measurement breaks off."""
        try:
            told = measure()
        except Exception as error:  # noqa: BLE001  (the next may work)
            told = {"wrong": f"{type(error).__name__}: {str(error)[:300]}"}
        wrong = told.pop("wrong", None)
        self.session.row(what=what, backend=backend, **told, wrong=wrong and f"{what}, {backend}: {wrong}")


def held_up(run: _Run, backend: str, *, resident: bool) -> dict[str, Any]:
    """Three look-aheads of lists while the default stream, on which training runs, is busy for longer than that."""
    os.environ[BUDGET_VARIABLE] = str(run.features.nbytes if resident else 0)
    try:
        sampler = run.sampler(backend, _LOOKAHEAD)
        list(sampler)  # compiles and copies; and CUDA waits for the device where it loads a kernel at its first use
        lists = iter(sampler)
        next(lists)
        timing.wait()
        torch.cuda._sleep(_BUSY)
        busy = torch.cuda.Event()
        busy.record()
        start = time.perf_counter()
        for _ in range(3 * _LOOKAHEAD):
            next(lists)
        seconds, still = time.perf_counter() - start, not busy.query()
        lists.close()
    finally:
        del os.environ[BUDGET_VARIABLE]
        timing.wait()
    wrong = None if still else "the lists came only after the default stream was done"
    return {"rows": "resident" if resident else "gathered", "lists": 3 * _LOOKAHEAD, "seconds": seconds, "wrong": wrong}


def same_lists(run: _Run, backend: str, expected: list[list[int]]) -> dict[str, Any]:
    """Which share of every list is the CPU's, and do lists depend on the look-ahead?"""
    found, again = list(run.sampler(backend, _LOOKAHEAD)), list(run.sampler(backend, 5))
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(expected, found, strict=True)]
    wrong = None if statistics.mean(shares) >= 0.99 else "its lists are not the CPU's"
    if found != again:
        wrong = "its lists depend on the look-ahead"
    return {"mean_share": statistics.mean(shares), "least_share": min(shares), "wrong": wrong}


def alone(run: _Run, backend: str, lookahead: int) -> dict[str, Any]:
    """Microseconds a candidate batch of selection by itself, in its second epoch."""
    sampler = run.sampler(backend, lookahead)
    list(sampler)
    start = time.perf_counter()
    lists = list(sampler)
    return {"lookahead": lookahead, "us_a_batch": (time.perf_counter() - start) / len(lists) * 1e6}


def _network(device: torch.device, dry: bool) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A training step of ResNet-18 in bfloat16; of one linear layer in a dry run."""
    torch.manual_seed(0)
    if dry:
        network: torch.nn.Module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
    else:
        from torchvision.models import resnet18

        network = resnet18(num_classes=10).to(device, memory_format=torch.channels_last)
    network(torch.zeros(2, 3, 16, 16, device=device))
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        if device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        pixels = images.to(device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last).div_(255)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(pixels), labels.to(device, non_blocking=True))
        loss.backward()
        optimiser.step()

    return step


def milliseconds(run: _Run, batches: Iterable[list[int]], step: Callable[..., None]) -> float:
    """A step of training on these batches, after the first ones."""
    start = 0.0
    for number, (images, labels) in enumerate(DataLoader(run.dataset, batch_sampler=batches)):
        if number == run.skipped:
            timing.wait()
            start = time.perf_counter()
        step(images, labels)
        if number == run.steps - 1:
            break
    timing.wait()
    return (time.perf_counter() - start) / (run.steps - run.skipped) * 1e3


def run(session: Session) -> None:
    """Rows of each of the four questions."""
    device = session.device()
    usable, reasons = backends(device)
    for name, reason in reasons.items():
        session.row(backend=name, reason=reason)  # smoke has called that a failure
    training, host = _Run(session, device), "native" if ops.unusable_reason("native") is None else "eager"
    if device.type == "cuda":
        for name in usable:
            for resident in (True, False):
                training.attempt("held up", name, lambda n=name, r=resident: held_up(training, n, resident=r))
    expected = list(training.sampler(host, _LOOKAHEAD))
    for name in usable:
        training.attempt("lists", name, lambda n=name: same_lists(training, n, expected))
    variants = [(host, 16), *((name, ahead) for name in usable if name != host for ahead in (16, 128))]
    for variant in variants:
        training.attempt("selection alone", variant[0], lambda v=variant: alone(training, *v))
    step = _network(device, session.dry)
    timing.warm_clocks(0.5)
    milliseconds(training, expected, step)  # convolutions choose their algorithms
    for _ in range(1 if session.quick or session.dry else _ROUNDS):  # in turns: a busy moment hits all alike
        training.attempt("step", "none", lambda: {"ms": milliseconds(training, expected, step)})
        for name, ahead in variants:
            training.attempt("step", name, lambda n=name, a=ahead: {
                "lookahead": a, "ms": milliseconds(training, training.sampler(n, a), step)})  # fmt: skip

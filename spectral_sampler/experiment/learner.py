"""The training loop every policy shares; only the index lists differ."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, default_collate
from torch.utils.flop_counter import FlopCounterMode

from spectral_sampler.experiment.samples import Samples, TensorSamples
from spectral_sampler.indexed import Indexed
from spectral_sampler.modules import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "LEARNING_RATE_SCHEDULES",
    "Recipe",
    "Timed",
    "Trace",
    "evaluate",
    "fit",
    "flops_per_sample",
    "forward",
    "learning_rate_factor",
    "predictions",
]


class Rows(Indexed):
    """A batch is ``(inputs, labels, rows)``, read in one call."""

    def __getitems__(self, indices: list[int]) -> Any:
        if isinstance(self.dataset, TensorSamples):
            return (*self.dataset.gather(indices), torch.tensor(indices))
        return default_collate(super().__getitems__(indices))


def _as_it_is(batch: Any) -> Any:
    return batch


def _unused() -> torch.Generator:
    """A DataLoader draws a seed for its workers from the global generator unless it is given another."""
    return torch.Generator().manual_seed(0)


class Timed(BatchSampler):
    """Another batch sampler, and how long its consumer waited for it.

    Attributes:
        seconds: sum of the waits. Work done ahead by another thread does not count.
    """

    def __init__(self, batches: Any) -> None:
        self.batches, self.seconds = batches, 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        iterator = iter(self.batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - start
            yield batch


class Recipe(NamedTuple):
    """How to train, the same for every policy of a seed."""

    steps: int
    learning_rate: float
    weight_decay: float
    checkpoints: int
    """Evaluations, evenly spread over the steps."""
    device: str = "cpu"
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate_schedule: str = "cosine"


class Trace(NamedTuple):
    """What happened in one training."""

    curve: list[dict[str, float]]
    """At each checkpoint: steps, samples, loss of the training batches since the last one, test accuracy and loss."""
    selected: NDArray[np.int64]
    """(checkpoints, M) times each row was trained on since the last checkpoint."""
    seconds: dict[str, float]
    """Waiting for index lists, reading samples, training."""
    statistics: dict[str, float]
    """The batch sampler's own, over all epochs: sums of counts and seconds, means of shares."""
    clock: Sequence[float] = ()
    """Seconds of the three kinds together up to each checkpoint."""


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth, then half a cosine down to 0: a function of the share of steps done."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _step_factor(step: int, steps: int) -> float:
    """A tenth after half of the steps, a hundredth after three quarters."""
    return 0.1 ** sum(4 * step >= quarters * steps for quarters in (2, 3))


LEARNING_RATE_SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "cosine": learning_rate_factor,
    "constant": lambda _step, _steps: 1.0,
    "step": _step_factor,
}
"""What the learning rate is multiplied by, from (steps done, steps in all): a shorter run goes through it all."""


def forward(network: nn.Module, samples: Samples, each: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
    """Calls ``each(outputs, labels)`` for all samples without augmentation, in their order, batch by batch; the network
    is left as it was."""
    loader = DataLoader(Rows(samples.plain()), batch_size=500, collate_fn=_as_it_is, generator=_unused())
    with frozen(network) as home, torch.inference_mode():
        for inputs, labels, _ in loader:
            each(network(inputs.to(home)), labels)


def predictions(network: nn.Module, samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Predicted class and cross-entropy of every sample, (M,) each."""
    predicted, losses = [], []

    def each(logits: torch.Tensor, labels: torch.Tensor) -> None:
        predicted.append(logits.argmax(1).cpu())
        losses.append(nn.functional.cross_entropy(logits.cpu().double(), labels, reduction="none"))

    forward(network, samples, each)
    return torch.cat(predicted).numpy(), torch.cat(losses).numpy()


def evaluate(network: nn.Module, samples: Samples) -> tuple[float, NDArray[np.float64]]:
    """Accuracy, and the cross-entropy of every sample (M,); the network is left as it was."""
    predicted, losses = predictions(network, samples)
    return int((predicted == samples.labels).sum()) / len(samples), losses


def flops_per_sample(network: nn.Module, samples: Samples) -> tuple[float, float]:
    """Floating point operations for one sample, forward alone and forward with backward, counted on a small batch.

    Convolutions and matrix products only, which is what ``torch.utils.flop_counter`` counts; they are linear in the
    batch size.
    """
    rows = list(range(min(8, len(samples))))
    inputs, labels, _ = Rows(samples.plain()).__getitems__(rows)
    copied = copy.deepcopy(network).cpu().train()  # batch norm's statistics and gradients stay untouched
    with FlopCounterMode(display=False) as counter:
        loss = nn.functional.cross_entropy(copied(inputs), labels)
        forward = float(counter.get_total_flops())
        loss.backward()  # type: ignore[no-untyped-call]
    return forward / len(rows), float(counter.get_total_flops()) / len(rows)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


class _Loop:
    """State of one training: optimiser, schedule, counts."""

    def __init__(self, network: nn.Module, recipe: Recipe, rows: int) -> None:
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        if recipe.optimizer == "sgd":
            options["momentum"] = recipe.momentum
        self.optimiser = _OPTIMIZERS[recipe.optimizer](parameters, **options)
        self.factor = LEARNING_RATE_SCHEDULES[recipe.learning_rate_schedule]
        self.network, self.recipe = network, recipe
        marks = np.linspace(0, recipe.steps, recipe.checkpoints + 1)[1:]
        self.marks = sorted({max(1, round(mark)) for mark in marks})
        self.step = self.samples = 0
        self.losses: list[float] = []
        self.counts = np.zeros((len(self.marks), rows), dtype=np.int64)

    def train(self, inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """One step; returns the losses (n,) before it."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * self.factor(self.step, self.recipe.steps)
        device = self.recipe.device
        losses = nn.functional.cross_entropy(self.network(inputs.to(device)), labels.to(device), reduction="none")
        self.optimiser.zero_grad(set_to_none=True)
        (losses if weights is None else losses * weights.to(device)).mean().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        self.samples += len(labels)
        self.losses.append(float(losses.detach().mean()))
        return losses.detach().cpu()


def fit(
    network: nn.Module,
    samples: Samples,
    batches: Any,
    recipe: Recipe,
    test: Samples,
    report: Callable[[], None] = lambda: None,
) -> Trace:
    """Trains ``network`` in place for ``recipe.steps`` index lists of ``batches``.

    Args:
        samples: what the index lists refer to.
        batches: a batch sampler with ``set_epoch``; ``observe(indices, losses)`` where it ``listens`` and
            ``weights_for(indices)`` where it has them are used.
        test: evaluated at every checkpoint; its time is not counted.
        report: called at every checkpoint.
    """
    network.to(recipe.device).train()
    loop = _Loop(network, recipe, len(samples))
    curve: list[dict[str, float]] = []
    clock: list[float] = []
    timed, seconds = Timed(batches), {"selection": 0.0, "data": 0.0, "training": 0.0}
    observe, weigh = _listeners(batches)
    loader = DataLoader(Rows(samples), batch_sampler=timed, collate_fn=_as_it_is, generator=_unused())
    statistics: dict[str, list[float]] = {}
    epoch = 0
    while loop.step < recipe.steps:
        batches.set_epoch(epoch)
        epoch += 1
        start = time.perf_counter()
        for inputs, labels, rows in loader:
            seconds["data"] += time.perf_counter() - start
            start = time.perf_counter()
            losses = loop.train(inputs, labels, weigh(rows) if weigh else None)
            if observe:
                observe(rows, losses)
            seconds["training"] += time.perf_counter() - start
            np.add.at(loop.counts[len(curve)], rows.numpy(), 1)  # a batch may hold a row twice
            if loop.step == loop.marks[len(curve)]:
                clock.append(round(seconds["data"] + seconds["training"], 4))
                curve.append(_checkpoint(loop, test))
                report()
            if loop.step == recipe.steps:
                break
            start = time.perf_counter()
        else:  # the sampler's time contains its last call, which yields nothing, so the loader's wait must too
            seconds["data"] += time.perf_counter() - start
        _add_statistics(statistics, batches)
    seconds["selection"] = timed.seconds
    seconds["data"] -= timed.seconds  # the loader's wait contains the sampler's
    return Trace(curve, loop.counts, seconds, _summarised(statistics), clock)


def _listeners(batches: Any) -> tuple[Callable[[Any, Any], None] | None, Callable[[Any], torch.Tensor | None] | None]:
    observe = batches.observe if getattr(batches, "listens", False) else None
    return observe, getattr(batches, "weights_for", None)


def _add_statistics(total: dict[str, list[float]], batches: Any) -> None:
    """The statistics of the pass that just ended."""
    statistics = getattr(batches, "statistics", None)
    for name, value in (statistics() if statistics else {}).items():
        total.setdefault(name, []).append(float(value))


def _summarised(total: dict[str, list[float]]) -> dict[str, float]:
    """Sums of what counts, means of what is a share or an average."""
    summed = ("seconds", "total", "draws", "batches")
    kept = {name: values for name, values in total.items() if name not in {"spectral/epoch", "spectral/kept"}}
    return {
        name: round(sum(values) if any(word in name for word in summed) else sum(values) / len(values), 6)
        for name, values in kept.items()
    }


def _checkpoint(loop: _Loop, test: Samples) -> dict[str, float]:
    accuracy, losses = evaluate(loop.network, test)
    training_loss = float(np.mean(loop.losses))
    loop.losses.clear()
    return {
        "step": loop.step,
        "samples": loop.samples,
        "training_loss": training_loss,
        "test_accuracy": accuracy,
        "test_loss": float(losses.mean()),
    }

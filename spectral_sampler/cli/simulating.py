"""``simulate``: what a sampler will deliver, and what choosing costs, without a data set or a training."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.cli import options
from spectral_sampler.cli.answer import Answer
from spectral_sampler.errors import argument_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from spectral_sampler import SpectralBatchSampler

__all__ = ["add"]


def add(commands: Any) -> None:
    """The command and its options."""
    simulate = commands.add_parser("simulate", help="what a sampler will deliver from a store, and what choosing costs")
    simulate.add_argument("store", type=Path, metavar="STORE")
    simulate.add_argument("--candidate-batch-size", type=int, default=128, metavar="N")
    simulate.add_argument("--epochs", type=int, default=1)
    simulate.add_argument("--selection", metavar="NAME", help="a policy of compare that needs no learner (default: our "
                          "own where the store has labels, else uniform)")  # fmt: skip
    options.add_ratio(simulate, "constant")
    simulate.add_argument("--multiple-of", type=int, default=1, metavar="M", help="batch sizes are multiples of M")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--batches", type=int, default=100, metavar="K", help="choose in so many batches of "
                          "the first epoch (default 100)")  # fmt: skip
    simulate.add_argument("--step-seconds", type=float, metavar="S", help="of your training step on N samples: says "
                          "whether choosing pays for itself")  # fmt: skip
    simulate.set_defaults(run=_simulate, interrupted="nothing was changed")


def _sampler(arguments: argparse.Namespace) -> SpectralBatchSampler:
    from spectral_sampler import ReferenceStore, SpectralBatchSampler
    from spectral_sampler.experiment.policies import POLICIES
    from spectral_sampler.experiment.settings import SCHEDULES

    if arguments.selection is not None and arguments.selection not in POLICIES:
        raise argument_error(
            "selection", f"one of {', '.join(POLICIES)}", repr(arguments.selection), "Or leave it out."
        )
    if arguments.step_seconds is not None and not 0.0 < arguments.step_seconds < float("inf"):
        raise argument_error("step-seconds", "positive", arguments.step_seconds, "It is that of a step on N samples.")
    schedule, mean = arguments.schedule or "constant", 0.3 if arguments.keep_ratio is None else arguments.keep_ratio
    if schedule not in SCHEDULES:
        raise argument_error("schedule", f"one of {', '.join(SCHEDULES)}", repr(schedule), "GSTDS: sigmoid.")
    if schedule == "constant" and (arguments.keep_min, arguments.keep_max) != (None, None):
        rule, remedy = "left out with --keep-max for a constant ratio", "Pass --schedule, such as sigmoid."
        raise argument_error("keep-min", rule, (arguments.keep_min, arguments.keep_max), remedy)
    low, high = (0.18 if arguments.keep_min is None else arguments.keep_min,
                 0.88 if arguments.keep_max is None else arguments.keep_max)  # fmt: skip
    return SpectralBatchSampler(
        ReferenceStore.open(arguments.store), arguments.candidate_batch_size, epochs=arguments.epochs,
        keep_ratio=SCHEDULES[schedule](low, high, mean), multiple_of=arguments.multiple_of, seed=arguments.seed,
        selection=POLICIES[arguments.selection]() if arguments.selection else None,
    )  # fmt: skip


def _chosen(sampler: SpectralBatchSampler, batches: int) -> dict[str, Any]:
    """What the first ``batches`` of the first epoch are, and how long choosing them took."""
    started = time.perf_counter()
    taken = list(itertools.islice(sampler, batches))
    seconds = time.perf_counter() - started
    sizes = [len(batch) for batch in taken]
    shares = {name.removeprefix("spectral/"): value for name, value in sampler.statistics().items()
              if name in {"spectral/suspect_share", "spectral/certified_share"}}  # fmt: skip
    offered = len(taken) * sampler.settings.candidate_batch_size
    return {"batches": len(taken), "samples": sum(sizes), "share": sum(sizes) / offered, "smallest": min(sizes),
            "largest": max(sizes), "seconds_per_batch": seconds / len(taken), **shares}  # fmt: skip


def _simulate(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    if arguments.batches < 1:
        raise argument_error("batches", "at least 1", arguments.batches, "The first one carries what is done once.")
    sampler = _sampler(arguments)
    say(described := sampler.describe())
    found = _chosen(sampler, arguments.batches)
    facts = {"describe": described, "batches_per_epoch": len(sampler), "epochs": arguments.epochs,
             "batch_sizes": sorted(sampler.batch_sizes()), "chosen": found}  # fmt: skip
    lines = [
        "chosen in {batches} batches: {samples} samples ({share:.3f} of the candidates), {smallest} to {largest} a "
        "batch".format(**found),
        f"choosing took {1e3 * found['seconds_per_batch']:.2f} ms a batch here, the first with its estimates included",
    ]
    if arguments.step_seconds is not None:
        saved = (1.0 - found["share"]) * arguments.step_seconds
        facts["pays"] = pays = found["seconds_per_batch"] < saved
        what = "costs less" if pays else "costs more, and pays only where it runs ahead of training"
        lines.append(f"a step of {arguments.step_seconds:g} s saves {1e3 * saved:.2f} ms: choosing {what}")
    return Answer("\n".join(lines), facts)

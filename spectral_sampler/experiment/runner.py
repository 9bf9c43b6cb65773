"""All trainings of a comparison, in parallel processes, resumable."""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import platform
import signal
import subprocess
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import ArgumentError, argument_error
from spectral_sampler.experiment import cell as cells
from spectral_sampler.experiment.cell import Cell, Places
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.outcomes import rows, standings
from spectral_sampler.experiment.policies import FULL, PROBE, chosen_policies, controls_for
from spectral_sampler.experiment.progress import Progress
from spectral_sampler.experiment.reference import prepare_features
from spectral_sampler.experiment.report import check_writable, read_json, write_json
from spectral_sampler.experiment.settings import Settings
from spectral_sampler.schedule import plan_ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Comparison", "available_cores", "circumstances", "compare"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_events: Any = None  # in a worker process: the queue back to the parent


class Comparison(NamedTuple):
    """What to run."""

    settings: Settings
    policies: Sequence[str]
    """`controls` are added."""
    seeds: Sequence[int]
    out: Path
    places: Places = Places()
    jobs: int | None = None
    """Processes; None for the number of cores this process may use."""
    resume: bool = False
    """Keep finished trainings found in ``out`` if they were made with the same settings."""
    command: str = ""
    curves: bool = True
    """False tests every training at its end only, for tables without pictures."""
    overwrite: bool = False
    """Replace what another comparison left in ``out``."""
    controls: Sequence[str] | None = None
    """None for all that the settings call for (`controls_for`); others make a table that proves less."""


def _start_worker(events: Any, plugins: tuple[str, ...]) -> None:
    """One thread each: several processes with several threads on the same cores cost up to nine times the work."""
    global _events  # noqa: PLW0603 - a worker process belongs to the runner
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the runner ends its workers itself
    torch.set_num_threads(1)
    logging.getLogger("spectral_sampler").setLevel(logging.ERROR)  # every training would say the same; results count it
    for module in plugins:
        importlib.import_module(module)


def _tick() -> None:
    if _events is not None:
        _events.put(1)


def _describe(settings: Settings, places: Places, *, probe: bool) -> dict[str, Any]:
    """Fills the cache with encoder features, of the test rows for a ``probe``; says what the data set is."""
    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        remedy = f"{str(error).splitlines()[0]}".rstrip(".") + "."
        raise argument_error("device", "one that torch can use here", repr(settings.device), remedy) from None
    task = cells.load(settings, places)
    prepare_features(settings, task, places.cache, test=probe)
    rows = len(corrupt(task.train.labels, settings.corruption, len(task.classes), 0, task.known).rows)
    if cells.candidate_batches(settings, rows) < 1:
        rule = f"at most the number of training rows ({rows})"
        raise argument_error("candidate-batch-size", rule, settings.candidate_batch_size, "Use a smaller one.")
    _keep_ratios(settings, rows)  # a schedule that does not fit so few steps says so now
    return {
        "classes": list(task.classes),
        "rows": {"train": rows, "held_out": len(task.held_out), "test": len(task.test)},
    }


def _run(cell: Cell, places: Places, path: Path, jobs: int) -> None:
    torch.manual_seed(cell.seed)  # for the augmentation of photographs; this process is ours
    result = cells.run_cell(cell, places, _tick)
    if "clock" in result:
        result["clock"]["jobs"] = jobs  # seconds of trainings that share the machine are worth nothing
    write_json(path, {**result, "commit": _commit()})


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Worker processes inherit the environment; ours comes back afterwards."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def available_cores() -> int:
    """Of those of the machine, the ones that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finished(comparison: Comparison, cell: Cell, path: Path) -> bool:
    if not comparison.resume or not path.exists():
        return False
    try:
        found = read_json(path)
        return bool(found["key"] == cell.key and (found.get("has_curve", True) or not cell.curve))
    except (ArgumentError, KeyError, TypeError):
        return False


def _commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """Revision of the source tree that holds ``package``, with ``-dirty`` if the package was changed since; None where
    it is in none. Results that are written beside it change nothing that is run."""

    def git(*words: str) -> str | None:
        command = subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, timeout=20, check=False)
        return None if command.returncode else command.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", "__init__.py") is None:
            return None  # no repository, or installed beneath one of something else
        head, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return head and head + ("-dirty" if changed else "")


def circumstances(command: str) -> dict[str, Any]:
    """What a result file says of how it came about: command, date, commit, versions, machine."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    for package in ("spectral-sampler", "torchvision", "scikit-learn", "scipy", "tokenizers"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": versions,
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": available_cores()},
    }


def _processor() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def compare(comparison: Comparison, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Runs every training that is not finished, and collects all of them in ``out/results.json``.

    Every finished training is a file of its own in ``out/cells``, so an interrupted comparison goes on with
    ``resume=True``, and policies and seeds can be added later. The trainings run in fresh processes (spawn); the
    calling process draws no random number and keeps its thread settings.

    Raises:
        ArgumentError: settings, a policy or a data set that cannot be.
        RuntimeError: a worker process died.
    """
    settings = comparison.settings.checked()
    for module in comparison.places.plugins:
        importlib.import_module(module)
    controls = controls_for(settings) if comparison.controls is None else comparison.controls
    policies = chosen_policies(comparison.policies, controls)
    folder = comparison.out / "cells"
    _claim(comparison)
    paths = {
        Cell(settings, policy, seed, comparison.curves): folder / f"{policy}-seed{seed}.json"
        for seed in comparison.seeds
        for policy in policies
    }
    pending = [cell for cell, path in paths.items() if not _finished(comparison, cell, path)]
    if len(pending) < len(paths):
        say(f"{len(paths) - len(pending)} of {len(paths)} trainings are finished already.")
    described = _execute(comparison, pending, paths, say)
    finished = [read_json(path) for path in paths.values()]
    results = {
        "settings": settings.record(),
        "policies": list(policies),
        "seeds": list(comparison.seeds),
        **described,
        "circumstances": circumstances(comparison.command),
        "keep_ratios": _keep_ratios(settings, described["rows"]["train"]),
        "table": standings(rows(finished, policies)),
        "cells": finished,
    }
    write_json(comparison.out / "results.json", results)
    return results


_SETTINGS = "settings.json"  # in `Comparison.out` from the start, so that a study is known before it is finished


def _claim(comparison: Comparison) -> None:
    """Refuses a folder that cannot be written, or that holds trainings nobody said what to do with."""
    out = comparison.out
    check_writable(out)
    finished = len(list((out / "cells").glob("*.json")))
    there = [name for name in ("results.json", "index.html") if (out / name).exists()]
    if comparison.overwrite or not (finished or there):
        return
    if not comparison.resume or not (finished or _made(out / "results.json")):
        value = f"{out} with {f'{finished} trainings' if finished else there[0]}"
        remedy = "Go on with them by --resume, or replace" if finished else "Pass another one, or replace"
        raise argument_error(
            "out", "an empty folder", value, f"{remedy} {'them' if finished else 'it'} by --overwrite."
        )
    if differing := _differing(comparison.settings, out):
        rule, value = "one of the same settings to go on with", f"{out} with {finished} trainings"
        remedy = f"They differ in {', '.join(differing)}: pass another --out, or replace them by --overwrite."
        raise argument_error("out", rule, value, remedy)


def _made(path: Path) -> dict[str, Any] | None:
    """The settings in a file of a comparison; None for any other file."""
    with contextlib.suppress(ArgumentError):
        found = read_json(path)
        made = found.get("settings") if isinstance(found, dict) else None
        return made if isinstance(made, dict) and "data" in made else None
    return None


def _differing(settings: Settings, out: Path) -> list[str]:
    """Names of the settings that the trainings in ``out`` were made with otherwise; of trainings older than the files
    that say so, none: `_finished` looks at each."""
    made = _made(out / _SETTINGS) or _made(out / "results.json")
    if made is None:
        return []
    record, known = settings.record(), {**Settings(made["data"]).record(), **made}
    return [field for field in {**known, **record} if known.get(field) != record.get(field)]  # absent is the default


def _begin(comparison: Comparison) -> None:
    """Leaves in ``out`` what belongs to this comparison, and says whose it is."""
    if not comparison.resume:
        for path in [*(comparison.out / "cells").glob("*.json"), *comparison.out.glob("results.json")]:
            path.unlink()
    write_json(comparison.out / _SETTINGS, {"settings": comparison.settings.record()})


def _keep_ratios(settings: Settings, rows: int) -> list[float]:
    ratios = plan_ratios(settings.planned_ratio(), settings.epochs, cells.candidate_batches(settings, rows))
    return [round(float(ratio), 6) for ratio in ratios.flat()]


def _execute(
    comparison: Comparison, pending: list[Cell], paths: dict[Cell, Path], say: Callable[[str], None]
) -> dict[str, Any]:
    settings, places = comparison.settings, comparison.places
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    jobs = comparison.jobs or available_cores()
    probe = any(cell.policy == PROBE for cell in paths)
    # Full trainings take longest; begun last they would leave cores idle at the end.
    pending = sorted(pending, key=lambda cell: (cell.policy != FULL, cell.seed))
    with _one_thread_each(), ProcessPoolExecutor(jobs, context, _start_worker, (events, places.plugins)) as pool:
        progress = Progress(events, say)
        try:
            described: dict[str, Any] = pool.submit(_describe, settings, places, probe=probe).result()
            _begin(comparison)
            seeds = sorted({cell.seed for cell in pending})
            named = {seed: {cell.policy for cell in pending if cell.seed == seed} for seed in seeds}
            references = [pool.submit(cells.prepare, settings, seed, named[seed], places) for seed in seeds]
            progress.finish(references, "references", len(references), "reference")
            futures = [pool.submit(_run, cell, places, paths[cell], jobs) for cell in pending]
            progress.finish(futures, "trainings", sum(map(cells.checkpoints, pending)), "epoch")
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A worker process died, perhaps for lack of memory. What is finished is kept: add --resume --jobs 1."
            ) from error
        except BaseException:
            workers = list(pool._processes.values())  # noqa: SLF001 - forgotten by a shutdown
            pool.shutdown(wait=False)  # cancelled futures would make the pool's thread print a traceback
            for worker in workers:  # what runs is not kept, so it is not waited for
                worker.terminate()
            raise
    return described

"""Timing by interleaved repeats, accuracy against float64, the rates of this machine, and its passport."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.problems import Problem

WRONG = 1e-2  # sine of the angle to the exact vector above which an answer is marked wrong


def seconds(action: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(actions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every repeat. One round runs each action once, so that a busy moment of the machine hits all alike."""
    for action in actions.values():
        action()
    found: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            found[name].append(seconds(action))
    return found


def ratios(ours: list[float], theirs: list[float], scale: float = 1.0) -> dict[str, float]:
    """Median and quintiles of theirs / ours, round by round."""
    each = sorted(scale * b / a for a, b in zip(ours, theirs, strict=True))
    cut = statistics.quantiles(each, n=5) if len(each) > 1 else each * 4
    return {"median": statistics.median(each), "p20": cut[0], "p80": cut[-1]}


def rates() -> dict[str, float]:
    """Floating point operations a second of SGEMM, and bytes a second read from memory, best of several."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    tall = torch.randn(128, 2048)
    many = torch.ones(1 << 26)
    square = min(seconds(lambda: left @ right) for _ in range(15))
    thin = min(seconds(lambda: [tall @ tall.T for _ in range(10)]) for _ in range(15)) / 10
    target = torch.empty_like(many)
    return {
        "sgemm": max(2 * 1024**3 / square, 2 * 128 * 128 * 2048 / thin),
        "read": 4 * many.numel() / min(seconds(many.sum) for _ in range(7)),
        "copy": 8 * many.numel() / min(seconds(lambda: target.copy_(many)) for _ in range(7)),
    }


def exact(store: torch.Tensor, indices: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """L (b, N, N) and the lowest eigenvector on the constant vector's complement (b, N), in float64."""
    rows = store[indices].double().numpy()
    units = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    affinity = units @ units.transpose(0, 2, 1)
    size = affinity.shape[1]
    laplacian = affinity.sum(axis=2)[:, :, None] * np.eye(size) - affinity
    top = 2 * np.abs(laplacian).sum(axis=2).max(axis=1)[:, None, None] / size
    return laplacian, np.linalg.eigh(laplacian + top)[1][:, :, 0]


def accuracy(vectors: np.ndarray, truth: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Worst residual ‖Lv − θv‖ / ‖L‖_∞ and worst sine of the angle to the exact vector; whether that is right."""
    laplacian, best = truth
    vectors = vectors.astype(np.float64)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    image = np.einsum("bij,bj->bi", laplacian, vectors)
    value = (vectors * image).sum(axis=1, keepdims=True)
    norm = np.abs(laplacian).sum(axis=2).max(axis=1)
    residual = np.linalg.norm(image - value * vectors, axis=1) / norm
    along = np.abs((vectors * best).sum(axis=1)).clip(max=1)
    sine = np.sqrt(1 - along**2)
    return {"residual": float(residual.max()), "sine": float(sine.max()), "wrong": int((sine > WRONG).sum()),
            "members": len(vectors)}  # fmt: skip


def residual(problem: Problem, vectors: np.ndarray) -> float:
    """‖Lv − θv‖ / ‖L‖_∞ of the first member, in float64 with products by the rows."""
    units = torch.nn.functional.normalize(problem.store[problem.indices[0]].double())
    vector = torch.from_numpy(vectors[0]).double()
    sums = units @ units.sum(dim=0)
    image = sums * vector - units @ (units.T @ vector)
    return float((image - (vector @ image) * vector).norm() / (2 * sums.max()))


def passport() -> dict[str, Any]:
    """What, where and when was measured."""
    from spectral_sampler.kernels import native

    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "unknown"
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "instruction set": native.instruction_set(),
        "system": platform.platform(),
        "load before": load,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")},
        "commit": commit,
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }

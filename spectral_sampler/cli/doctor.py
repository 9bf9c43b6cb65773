"""``explain`` and ``doctor``: what runs on this machine, and whether it gives the right answers."""

from __future__ import annotations

import functools
import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.cli.answer import Answer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["add"]

_OPTIONAL = {
    "torchvision": "experiment", "scikit-learn": "experiment", "matplotlib": "experiment", "tqdm": "experiment",
    "tokenizers": "text", "safetensors": "text", "pandas": "tables", "pyarrow": "tables", "triton": "triton",
    "torchdata": "stateful", "accelerate": "accelerate", "transformers": "transformers", "lightning": "lightning",
    "ray": "ray",
}  # fmt: skip
"""Packages that parts of this one need, and the extra that brings each."""


def add(commands: Any) -> None:
    """The two commands and their options."""
    explain = commands.add_parser("explain", help="which solver backends are usable here, and why not")
    explain.set_defaults(run=_explain, interrupted="nothing was changed")
    doctor = commands.add_parser("doctor", help="try solver, sampler and store on this machine")
    doctor.add_argument("--path", type=Path, metavar="DIR", help="where stores are to lie: tries to write one there")
    doctor.set_defaults(run=_doctor, interrupted="nothing was changed")


def _backends() -> dict[str, str | None]:
    """Every backend, and why it cannot be used here; None where it can."""
    from spectral_sampler import ops

    return {name: ops.unusable_reason(name) for name in ops.BACKENDS}


def _explain(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:  # noqa: ARG001
    from spectral_sampler import explain

    text = explain()
    return Answer(text, {"text": text, "backends": _backends()})


def _solver(backend: str) -> str:
    """The Fiedler vector of two groups of rows against LAPACK's in double precision; returns what was compared."""
    import torch

    from spectral_sampler import fiedler_vector, graph

    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(2, 64, generator=generator)[torch.arange(128) % 2]
    rows = centres + 0.3 * torch.rand(128, 64, generator=generator)
    device = "cuda" if backend in {"triton", "cuda", "cupy"} else "cpu"
    found = fiedler_vector(rows.to(device), backend=backend).vector.cpu().double()
    exact = torch.linalg.eigh(graph.laplacian(graph.cosine_affinity(rows.double())))[1][:, 1]
    sine = float((1.0 - (found @ exact) ** 2).clamp(min=0.0).sqrt())
    if sine > 1e-3:
        raise ArithmeticError(f"the Fiedler vector of 128 rows is off by an angle of {sine:.1e}")
    return f"Fiedler vector of 128 rows within {max(sine, 1e-9):.0e} of LAPACK's"


def _sampling() -> str:
    """The same lists ahead in a thread, at once, and behind a loader with a worker process."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from spectral_sampler import GSTDS, ReferenceStore, SpectralBatchSampler

    rows = torch.rand(512, 16, generator=torch.Generator().manual_seed(0))
    store = ReferenceStore.from_arrays(rows, losses=rows[:, 0])
    samplers = [SpectralBatchSampler(store, 64, selection=GSTDS(), lookahead=depth) for depth in (0, 4)]
    plain, ahead = (list(sampler) for sampler in samplers)
    loader = DataLoader(TensorDataset(torch.arange(512)), num_workers=1,
                        batch_sampler=SpectralBatchSampler(store, 64, selection=GSTDS()))  # fmt: skip
    loaded = [batch[0].tolist() for batch in loader]
    if not plain == ahead == loaded:
        raise ArithmeticError("a thread or a worker process changes the lists")
    return f"{len(plain)} batches, the same with look-ahead and with a worker process"


def _storing(directory: Path | None) -> str:
    import torch

    from spectral_sampler import ReferenceStore

    with tempfile.TemporaryDirectory(dir=directory) as folder:
        store = ReferenceStore.from_arrays(torch.rand(64, 8) + 0.1)
        if ReferenceStore.open(store.save(Path(folder) / "store").path or folder, verify=True).fingerprint != (
            store.fingerprint
        ):
            raise ArithmeticError("a store that was written reads otherwise")
        return f"written, read and compared in {Path(folder).parent}"


def _tried(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with this machine is the answer
        return False, f"{type(error).__name__}: {error}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _doctor(arguments: argparse.Namespace, say: Callable[[str], None]) -> Answer:
    import torch

    from spectral_sampler.experiment.runner import available_cores

    backends = _backends()
    usable = [name for name, reason in backends.items() if reason is None]
    checks = {f"solver {name}": _tried(functools.partial(_solver, name)) for name in usable}
    checks |= {"sampler": _tried(_sampling), "store": _tried(functools.partial(_storing, arguments.path))}
    cores = available_cores()
    versions = {name: _version(name) for name in ("spectral-sampler", "torch", "numpy", *_OPTIONAL)}
    machine: dict[str, Any] = {"system": platform.platform(), "python": platform.python_version(), "cores": cores,
               "threads": torch.get_num_threads(), "cuda": torch.cuda.is_available()}  # fmt: skip
    say("{system}, Python {python}, {threads} threads on {cores} cores, CUDA device: {cuda}".format(**machine))
    lines = [f"{'ok ' if good else 'BAD'} {name}: {what}" for name, (good, what) in checks.items()]
    lines += [f"--  solver {name}: {reason}" for name, reason in backends.items() if reason is not None]
    lines += [f"--  {name} {version}" if version else f"--  {name}: not installed; pip install "
              f"'spectral-sampler[{_OPTIONAL[name]}]'" for name, version in versions.items()]  # fmt: skip
    if machine["threads"] > cores:
        lines.append(f"--  {machine['threads']} threads share {cores} cores: set OMP_NUM_THREADS={cores}")
    bad = [name for name, (good, _) in checks.items() if not good]
    lines.append(f"{len(bad)} of {len(checks)} checks failed: {', '.join(bad)}" if bad else "All checks passed.")
    data = {"ok": not bad, "checks": {name: {"ok": good, "what": what} for name, (good, what) in checks.items()},
            "backends": backends, "versions": versions, "machine": machine}  # fmt: skip
    return Answer("\n".join(lines), data, status=1 if bad else 0)

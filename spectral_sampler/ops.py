"""Which backend solves: the names, the order of preference, and why one cannot be used here.

A backend is a module ``spectral_sampler.kernels.<name>`` with ``unusable_reason() -> str | None`` and
``solve(features (M, d), indices (B, N)) -> (vector, value, residual, num_matvecs, status, gap)``, imported when first
asked about. It may add ``DEVICES``, the types of device it takes, and ``unsupported(features, indices) -> str | None``,
why it declines these shapes. "auto" may fall back, as far as ``eager``; a backend asked for by name may not.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spectral_sampler.errors import BackendUnavailable, argument_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from torch import Tensor

__all__ = ["BACKENDS", "ENVIRONMENT_VARIABLE", "device_for", "explain", "kernel", "preference"]
__all__ += ["register_solver", "requested", "resolve", "solver_module", "unusable_reason", "use_backend"]

BACKENDS = ("eager", "native", "triton", "cuda", "cupy")
ENVIRONMENT_VARIABLE = "SPECTRAL_SAMPLER_BACKEND"
PREFERENCE = Path(__file__).parent / "kernels" / "preference.json"  # what "auto" follows; `make bench-gpu` rewrites it
_DEVICES = {"native": ("cpu",), "triton": ("cuda",), "cuda": ("cuda",), "cupy": ("cuda",)}
_DTYPES = (None, torch.float16, torch.float32)  # of features, for every backend but eager; None: not known
_chosen: ContextVar[str | None] = ContextVar("spectral_sampler_backend", default=None)


def _checked(name: str, argument: str) -> str:
    if name != "auto" and name not in BACKENDS:
        rule = f'"auto" or one of {", ".join(BACKENDS)}'
        raise argument_error(argument, rule, repr(name), "See spectral_sampler.explain().")
    return name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within this context, in this thread, calls that name no backend use ``name``."""
    token = _chosen.set(_checked(name, "backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def requested(backend: str | None = None) -> str:
    """The name asked for: the argument, else `use_backend`, else the environment variable, else "auto"."""
    if backend is not None and _checked(backend, "backend") != "auto":
        return backend
    return _chosen.get() or _checked(os.environ.get(ENVIRONMENT_VARIABLE) or "auto", ENVIRONMENT_VARIABLE)


def kernel(name: str) -> ModuleType:
    """The module of a backend other than ``eager``; ImportError where it is absent or lacks what it needs."""
    module = f"spectral_sampler.kernels.{name}"
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError("this copy does not contain it")
    return importlib.import_module(module)


def unusable_reason(name: str, device: torch.device | str | None = None) -> str | None:
    """Why ``name`` cannot run here (on tensors of ``device``, where one is given), or None where it can."""
    if name == "eager":
        return None
    try:
        module = kernel(name)
        reason: str | None = module.unusable_reason()
    except (ImportError, OSError, RuntimeError) as error:
        return f"it cannot be loaded: {error}"
    devices = getattr(module, "DEVICES", _DEVICES[name])
    if reason is None and device is not None and torch.device(device).type not in devices:
        return f"it takes tensors on {' or '.join(devices)} and these are on {torch.device(device).type}"
    return reason


@cache
def preference() -> dict[str, list[dict[str, Any]]]:
    """Orders of backends by type of device and size: ``{"max_nodes": N or None, "order": [names]}``, ascending in N."""
    table: dict[str, list[dict[str, Any]]] = json.loads(PREFERENCE.read_text(encoding="utf-8"))["devices"]
    return table


def _candidates(device: torch.device | str, nodes: int | None) -> Iterator[str]:
    """The backends "auto" tries for graphs of ``nodes`` rows (None: of any size), best first; eager runs everywhere."""
    kind = torch.device(device).type
    for entry in preference().get(kind, ()):
        if nodes is None or entry["max_nodes"] is None or nodes <= entry["max_nodes"]:
            yield from (name for name in entry["order"] if unusable_reason(name, kind) is None)
            break
    yield "eager"


def resolve(backend: str | None, device: torch.device | str, dtype: torch.dtype | None = None) -> str:
    """The name of the backend that will run on tensors of ``device``.

    Raises:
        BackendUnavailable: where a backend asked for by name cannot run. "auto" never raises.
    """
    name = requested(backend)
    if name == "auto":
        if dtype not in _DTYPES:
            return "eager"
        return next(_candidates(device, None))
    reason = unusable_reason(name, device)
    if reason is None and dtype not in _DTYPES and name != "eager":
        reason = f"it takes float16 and float32 features and these are {dtype}"
    if reason is not None:
        raise BackendUnavailable(f'Backend "{name}" cannot be used: {reason}. Pass backend="auto" to fall back.')
    return name


def device_for(backend: str | None, device: torch.device) -> torch.device:
    """Where to solve for features on ``device``: there, unless they are on the host and a GPU's backend was named."""
    name = requested(backend)
    if device.type != "cpu" or _DEVICES.get(name) != ("cuda",) or unusable_reason(name) is not None:
        return device
    return device if "cpu" in getattr(kernel(name), "DEVICES", ()) else torch.device("cuda")


def solver_module(backend: str | None, features: Tensor, indices: Tensor) -> ModuleType | None:
    """The kernel module that will solve ``indices`` (B, N) into ``features`` (M, d), or None for eager."""
    device, dtype = features.device, features.dtype
    if requested(backend) == "auto":
        names = _candidates(device, indices.shape[-1]) if dtype in _DTYPES else iter(())
        modules = (kernel(name) for name in names if name != "eager")
        return next((module for module in modules if _declined(module, features, indices) is None), None)
    name = resolve(backend, device, dtype)
    if name == "eager":
        return None
    module = kernel(name)
    reason = _declined(module, features, indices)
    if reason is not None:
        raise BackendUnavailable(f'Backend "{name}" cannot be used: {reason}. Pass backend="auto" to fall back.')
    return module


def _declined(module: ModuleType, features: Tensor, indices: Tensor) -> str | None:
    """Why a backend that can run does not take these shapes."""
    reason: str | None = module.unsupported(features, indices) if hasattr(module, "unsupported") else None
    return reason


def explain() -> str:
    """Every backend on a line of its own: usable, or why not; and what "auto" and the present request come to."""
    lines = []
    for name in BACKENDS:
        reason = unusable_reason(name)
        lines.append(f"{name:7s} usable" if reason is None else f"{name:7s} not usable: {reason}")
    for device, entries in preference().items():
        for entry in entries:
            nodes = entry["max_nodes"]
            size = "" if nodes is None else f" to N = {nodes}"
            lines.append(f'"auto" on {device}{size} means {next(_candidates(device, nodes))}')
    lines.append(f'asked for here: "{requested()}"')
    return "\n".join(lines)


def register_solver(solver: Callable[..., Sequence[Tensor]]) -> None:
    """Make ``solver`` one node of a compiled graph, ``torch.ops.spectral_sampler.fiedler_vector``.

    The backend is picked, and refusals are raised, when the node runs.
    """

    def solve(features: Tensor, backend: str, invalid: str) -> tuple[Tensor, ...]:
        return tuple(solver(features, backend=backend, invalid=invalid))

    def shapes(features: Tensor, backend: str, invalid: str) -> tuple[Tensor, ...]:  # noqa: ARG001
        batch, real = features.shape[:-2], torch.float64 if features.dtype == torch.float64 else torch.float32
        vector = features.new_empty(features.shape[:-1], dtype=real)
        kinds = (real, real, torch.int64, torch.int64, real)
        return (vector, *(features.new_empty(batch, dtype=kind) for kind in kinds))

    schema = f"(Tensor features, str backend, str invalid) -> ({', '.join(['Tensor'] * 6)})"
    torch.library.custom_op("spectral_sampler::fiedler_vector", solve, mutates_args=(), schema=schema)
    torch.library.register_fake("spectral_sampler::fiedler_vector", shapes)

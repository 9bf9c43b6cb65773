"""Which backend solves: the names, the order of preference, and why one cannot be used here.

A backend is a module ``spectral_sampler.kernels.<name>`` with ``unusable_reason() -> str | None`` and
``solve(features (M, d), indices (B, N)) -> (vector, value, residual, num_matvecs, status, gap)`` and, where it knows
better than 2 · residual / gap, ``error`` (`result.FiedlerResult`). It is imported when first asked about.
It may add ``DEVICES``, the types of device it takes, and ``unsupported(features, indices) -> str | None``,
why it declines these shapes. "auto" may fall back, as far as ``eager``; a backend asked for by name may not.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from spectral_sampler import graph, preference
from spectral_sampler.errors import BackendUnavailable, argument_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from torch import Tensor

    Place = Callable[[], torch.device | None]

__all__ = ["BACKENDS", "ENVIRONMENT_VARIABLE", "device_for", "devices", "explain", "in_use", "kernel"]
__all__ += ["register_solver", "requested", "resolve", "solver_module", "unusable_reason", "use_backend", "use_place"]

BACKENDS = tuple(preference.DEVICES)
ENVIRONMENT_VARIABLE = "SPECTRAL_SAMPLER_BACKEND"
_DTYPES = {  # of features; eager takes all
    "native": (torch.bfloat16, torch.float16, torch.float32),
    "triton": (torch.float16, torch.float32),
    "cuda": (torch.float16, torch.float32),
    "cupy": (torch.float16, torch.float32),
}
# Measured: 128 of 100,000 rows of 512 features, one core; float32 takes native 0.2 ms.
_COSTS = {
    torch.float64: "in float64, about 50 times as long as native takes for float32",
}
_chosen: ContextVar[str | None] = ContextVar("spectral_sampler_backend", default=None)
_place: ContextVar[Place | None] = ContextVar("spectral_sampler_place", default=None)


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


@contextlib.contextmanager
def use_place(place: Place) -> Iterator[None]:
    """Within this context, in this thread, a solve of features on the host asks ``place`` for the device to solve on;
    None is the host."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def requested(backend: str | None = None) -> str:
    """The name asked for: the argument, else `use_backend`, else the environment variable, else "auto"."""
    if backend is not None and _checked(backend, "backend") != "auto":
        return backend
    return _chosen.get() or _checked(os.environ.get(ENVIRONMENT_VARIABLE) or "auto", ENVIRONMENT_VARIABLE)


@cache
def kernel(name: str) -> ModuleType:
    """The module of a backend other than ``eager``; ImportError where it is absent or lacks what it needs."""
    module = f"spectral_sampler.kernels.{name}"
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError("this copy does not contain it")
    return importlib.import_module(module)


def devices(name: str) -> tuple[str, ...]:
    """The types of device that a backend solves on."""
    known = preference.DEVICES[name]
    try:
        return known if name == "eager" else getattr(kernel(name), "DEVICES", known)
    except (ImportError, OSError, RuntimeError):
        return known


def unusable_reason(name: str, device: torch.device | str | None = None) -> str | None:
    """Why ``name`` cannot run here (on tensors of ``device``, where one is given), or None where it can."""
    if name == "eager":
        return None
    try:
        reason: str | None = kernel(name).unusable_reason()
    except (ImportError, OSError, RuntimeError) as error:
        return f"it cannot be loaded: {error}"
    if reason is None and device is not None and torch.device(device).type not in devices(name):
        return f"it takes tensors on {' or '.join(devices(name))} and these are on {torch.device(device).type}"
    return reason


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refusal(
    name: str, device: torch.device | str, dtype: torch.dtype | None, problem: tuple[Tensor, Tensor] | None
) -> str | None:
    """Why ``name`` does not solve ``problem``, (features (M, d), indices (B, N)) or None; None where it does."""
    if name == "eager":
        return None
    reason = unusable_reason(name, device)
    if reason is None and dtype is not None and dtype not in _DTYPES[name]:
        taken = ", ".join(map(_short, _DTYPES[name]))
        reason = f"it takes {taken} features and these are {_short(dtype)}"
    if reason is None and problem is not None:
        reason = getattr(kernel(name), "unsupported", lambda *_: None)(*problem)
    return reason


def in_use() -> bool:
    """Does this process use CUDA already? What "auto" does never makes it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _names(device: torch.device | str) -> tuple[str, ...]:
    """What the preference table may call a device, most telling first."""
    place = torch.device(device)
    if place.type == "cuda" and in_use():
        return (torch.cuda.get_device_name(place), "cuda")
    return (place.type,)


def _order(device: torch.device | str, problem: tuple[Tensor, Tensor] | None = None) -> tuple[str, ...]:
    """The backends that "auto" tries on ``device``, best first; eager runs everywhere."""
    size = () if problem is None else (problem[1].shape[-1], problem[0].shape[-1], problem[1].shape[0])
    store = "host" if torch.device(device).type == "cpu" else "device"
    row = next(preference.fitting(preference.table(), _names(device), store, *size), None)
    return ("eager",) if row is None else (*row.order, "eager")


def resolve(
    backend: str | None,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    problem: tuple[Tensor, Tensor] | None = None,
) -> str:
    """The name of the backend that will run on tensors of ``device``, where given for (features, indices).

    Raises:
        BackendUnavailable: where a backend asked for by name cannot run. "auto" never raises.
    """
    name = requested(backend)
    if name == "auto":
        return next(each for each in _order(device, problem) if _refusal(each, device, dtype, problem) is None)
    reason = _refusal(name, device, dtype, problem)
    if reason is not None:
        raise BackendUnavailable(f'Backend "{name}" cannot be used: {reason}. Pass backend="auto" to fall back.')
    return name


def solver_module(backend: str | None, features: Tensor, indices: Tensor) -> ModuleType | None:
    """The kernel module that will solve ``indices`` (B, N) into ``features`` (M, d), or None for eager."""
    name = resolve(backend, features.device, features.dtype, (features, indices))
    return None if name == "eager" else kernel(name)


def device_for(backend: str | None, device: torch.device) -> torch.device:
    """Where to solve for features on ``device``: there, unless they are on the host and `use_place` or a GPU's backend
    that was named and can run says otherwise."""
    place = _place.get()
    if device.type != "cpu":
        return device
    if place is not None:
        return place() or device
    name = requested(backend)
    here = name == "auto" or "cpu" in devices(name) or unusable_reason(name) is not None
    return device if here else torch.device("cuda", torch.cuda.current_device())


def _on_the_host() -> str:
    """What a sampler does with features on the host under "auto"."""
    gpu = torch.cuda.get_device_name() if in_use() else None
    start = '"auto" solves a store on the host on the CPU,'
    if gpu and any(row.measured and row.store == "host" and row.device in (gpu, "cuda") for row in preference.table()):
        return f"{start} and on {gpu} from N = {preference.LARGE} or where training waits, if the table has it ahead"
    if not torch.cuda.is_available():
        return f"{start} because torch sees no CUDA device"
    why = f"nothing has been measured on {gpu}" if gpu else "this process has not used a CUDA device so far"
    ask = 'ask for the GPU with backend="triton" or device="cuda"'
    return f"{start} because {why}; {ask}, or measure: python -m benchmarks.device_check --write-table PATH"


def _solved_by(features: Any) -> str:
    """Which backend gets ``features``, why, and what their dtype costs."""
    if hasattr(features, "candidate_rows"):  # a store, whose rows may be no tensor: any two are of its dtype
        rows = features.candidate_rows(torch.zeros(1, 2, dtype=torch.int64, device="cpu")).features
        rows = rows[:1].expand(len(features), -1)
    else:
        rows = graph.as_features(features)
    shape = " × ".join(map(str, rows.shape))
    what = f"these features ({_short(rows.dtype)}, {shape}, on {rows.device.type})"
    try:
        name = resolve(None, rows.device, rows.dtype)
    except BackendUnavailable as error:
        return f"{what}: {error}"
    tried = _order(rows.device) if requested() == "auto" else (name,)
    reasons = [f"{each}: {_refusal(each, rows.device, rows.dtype, None)}" for each in tried[: tried.index(name)]]
    because = f", not by {'; '.join(reasons)}" if reasons else ""
    cost = f"; {_COSTS[rows.dtype]}" if name == "eager" and rows.dtype in _COSTS else ""
    return f"{what} are solved by {name}{because}{cost}"


def explain(features: Any = None) -> str:
    """Every backend on a line of its own: usable, or why not; what "auto" and the present request come to; and, where
    given, which backend ``features`` (M, d), a tensor, an array or a store, get and why."""
    lines = []
    for name in BACKENDS:
        reason = unusable_reason(name)
        lines.append(f"{name:7s} usable" if reason is None else f"{name:7s} not usable: {reason}")
    here = ("cpu", *_names("cuda"))
    for row in (row for row in preference.table() if row.device in here):
        best = next((name for name in row.order if unusable_reason(name) is None), "eager")
        lines.append(f'"auto" on {row.device}{row.limits()} means {best}' + ("" if row.measured else " (not measured)"))
    lines.append(_on_the_host())
    slow = {dtype: cost for dtype, cost in _COSTS.items() if dtype not in _DTYPES["native"]}
    lines += [f"{_short(dtype)} features are solved by eager, {cost}" for dtype, cost in slow.items()]
    lines.append(f'asked for here: "{requested()}"')
    return "\n".join(lines if features is None else [*lines, _solved_by(features)])


def register_solver(solver: Callable[..., Sequence[Tensor]]) -> None:
    """Make ``solver`` one node of a compiled graph, ``torch.ops.spectral_sampler.fiedler_vector``.

    The backend is picked, and refusals are raised, when the node runs.
    """

    def solve(features: Tensor, backend: str, invalid: str) -> tuple[Tensor, ...]:
        return tuple(solver(features, backend=backend, invalid=invalid))

    def shapes(features: Tensor, backend: str, invalid: str) -> tuple[Tensor, ...]:  # noqa: ARG001
        batch, real = features.shape[:-2], torch.float64 if features.dtype == torch.float64 else torch.float32
        vector = features.new_empty(features.shape[:-1], dtype=real)
        kinds = (real, real, torch.int64, torch.int64, real, real)
        return (vector, *(features.new_empty(batch, dtype=kind) for kind in kinds))

    schema = f"(Tensor features, str backend, str invalid) -> ({', '.join(['Tensor'] * 7)})"
    torch.library.custom_op("spectral_sampler::fiedler_vector", solve, mutates_args=(), schema=schema)
    torch.library.register_fake("spectral_sampler::fiedler_vector", shapes)

"""Every way from indices to Fiedler vectors that the device check times: ours, its peers, and the floor under both."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from spectral_sampler import ops
from spectral_sampler.fiedler import FiedlerResult, fiedler_rows

if TYPE_CHECKING:
    from collections.abc import Callable

GPU_BACKENDS = ("triton", "cuda", "cupy")


class Method(NamedTuple):
    """``solve(features, indices)`` gives a `FiedlerResult`, or vectors (b, N), or, as the floor, something else.

    kind: "ours", "peer" or "floor". backend: which of ours. store: where it finds the features, "device" or "host".
    graph: may it be captured as a CUDA graph. members, largest: most members and nodes that it is given in one call.
    """

    name: str
    solve: Callable[[Tensor, Tensor], Any]
    kind: str = "peer"
    backend: str | None = None
    store: str = "device"
    graph: bool = False
    members: int = 1 << 30
    largest: int = 1024


def _laplacian(features: Tensor, indices: Tensor) -> Tensor:
    """L (B, N, N) in float32 by cuBLAS."""
    units = torch.nn.functional.normalize(features[indices].float(), dim=-1)
    affinity = torch.bmm(units, units.mT)
    affinity.diagonal(dim1=-2, dim2=-1).zero_()
    return torch.diag_embed(affinity.sum(dim=-1)) - affinity


def gather_and_multiply(features: Tensor, indices: Tensor) -> Tensor:
    """What any way by cuBLAS does at least: gather the rows and multiply them once."""
    rows = features[indices]
    return torch.bmm(rows, rows.mT)


def torch_eigh(features: Tensor, indices: Tensor) -> Tensor:
    """All eigenvectors of L by torch.linalg.eigh."""
    return torch.linalg.eigh(_laplacian(features, indices))[1][..., 1]


def cusolver_eigh(features: Tensor, indices: Tensor) -> Tensor:
    """All of them by cuSOLVER's XsyevBatched."""
    from benchmarks.device_check import cusolver

    return cusolver.eigenvectors(_laplacian(features, indices))[..., 1]


def cupy_eigh(features: Tensor, indices: Tensor) -> Tensor:
    """All of them by cupy.linalg.eigh (cuSOLVER's syevjBatched)."""
    import cupy

    return torch.from_dlpack(cupy.linalg.eigh(cupy.from_dlpack(_laplacian(features, indices)))[1])[..., 1]


def cupy_eigsh(features: Tensor, indices: Tensor) -> Tensor:
    """The two lowest pairs, member by member, by cupyx's Lanczos.

    Its tolerance is absolute, and ‖L‖ is about N: its default, eps, is below what float32 can reach, and every call
    would run to the bound on iterations.
    """
    import cupy
    from cupyx.scipy.sparse.linalg import eigsh

    found = []
    for matrix in cupy.from_dlpack(_laplacian(features, indices)):
        values, vectors = eigsh(matrix, k=2, which="SA", tol=1e-6 * len(matrix), maxiter=200)
        found.append(torch.from_dlpack(vectors[:, int(values.argmax())]))
    return torch.stack(found)


def ours(backend: str) -> Callable[[Tensor, Tensor], FiedlerResult]:
    """A backend of this package."""
    return lambda features, indices: fiedler_rows(features, indices, backend=backend)


def from_the_host(backend: str, *, resident: bool) -> Callable[[Tensor, Tensor], FiedlerResult]:
    """As the sampler uses it beside a store on the host: indices to the device, vectors back, and the rows as well
    where the store does not stay there.
    """
    from spectral_sampler.kernels.device_store import DeviceRows

    kept: dict[int, DeviceRows] = {}

    def solve(features: Tensor, indices: Tensor) -> FiedlerResult:
        if features.data_ptr() not in kept:
            kept.clear()
            kept[features.data_ptr()] = DeviceRows(features, "cuda", budget=features.nbytes if resident else 0)
        found = kept[features.data_ptr()].solve(indices, lambda f, i: tuple(fiedler_rows(f, i, backend=backend)))
        return FiedlerResult(*found)

    return solve


def _interpreter_fails() -> str | None:
    """Triton 3.6 converts arrays of one element to numbers, which NumPy 2.4 refuses."""
    versions = [tuple(map(int, importlib.metadata.version(name).split(".")[:2])) for name in ("triton", "numpy")]
    old = versions[0] <= (3, 6) and versions[1] >= (2, 4)
    return "the interpreter of Triton 3.6 does not run under NumPy 2.4 and later" if old else None


def backends(device: torch.device) -> tuple[dict[str, Method], dict[str, str]]:
    """Our backends for tensors on the device, and those that cannot be used with the reason.

    Without a GPU: the CPU's, and the Triton kernels where Triton's interpreter is asked for.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    names = GPU_BACKENDS if device.type == "cuda" else ("native", "eager", *(("triton",) if interpreted else ()))
    reasons = {name: ops.unusable_reason(name, device) for name in names}
    if interpreted and reasons["triton"] is None:
        reasons["triton"] = _interpreter_fails()
    largest = {"cuda": 1024, "cupy": 1024}
    usable = {
        name: Method(
            name, ours(name), "ours", name, graph=name in ("triton", "cuda"), largest=largest.get(name, 1_000_000)
        )
        for name, reason in reasons.items()
        if reason is None
    }
    return usable, {name: reason for name, reason in reasons.items() if reason is not None}


def peers(device: torch.device, usable: dict[str, Method]) -> list[Method]:
    """What ours is compared with, the most telling first, and the ways of ``usable`` backends from the host."""
    floor = Method("gather + bmm", gather_and_multiply, "floor", graph=True, largest=4096)
    native = Method("native", ours("native"), "ours", "native", store="host", largest=1_000_000)
    eager = Method("eager", ours("eager"), largest=4096)
    if device.type == "cpu":
        return [floor, Method("torch.linalg.eigh", torch_eigh)]
    hosted = [
        Method(f"{name}, {'resident' if resident else 'gathered'}", from_the_host(name, resident=resident), "ours",
               name, store="host", largest=each.largest)
        for name, each in usable.items() if name != "cupy" for resident in (True, False)
    ]  # fmt: skip
    cupy = [Method("cupy.linalg.eigh", cupy_eigh), Method("cupyx eigsh", cupy_eigsh, members=4)]
    return [
        floor, native, *hosted, Method("cuSOLVER XsyevBatched", cusolver_eigh),
        *(cupy if importlib.util.find_spec("cupy") else ()), Method("torch.linalg.eigh", torch_eigh, members=16), eager,
    ]  # fmt: skip

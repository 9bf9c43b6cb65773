"""Every Triton kernel that the package can launch, as its own launchers ask for it, for a GPU that is not here.

The launchers are run on empty tensors with a device that exists in name only. Triton's own front end turns each launch
into a compilation (types, constants, divisibility, options), and where it would compile, the compilation is written
down instead. Nothing about a launch is therefore said twice. The kernels are written so that all launches fall on a
short list of compilations, which the shapes below exhaust; tests/test_prove_gpu.py draws others and finds them there.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget

from spectral_sampler.kernels import triton as backend
from spectral_sampler.kernels.cuda import LARGEST
from spectral_sampler.kernels.triton_matrixfree import OnePassGraph

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TENSOR_CORES", "Problem", "features_like", "launch", "launch_graphs", "recorded", "triton_problems"]

TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")  # sm_80, sm_90 and sm_100; small tiles use the first everywhere
_SHOWN = ("NP", "KP", "TILE", "T", "BD", "RT", "DP", "MODE")
_KINDS = [(torch.float16, None), *((torch.float32, precision) for precision in backend.PRECISIONS)]
_SIZES = (2, 3, 16, 17, 32, 33, 64, 100, 128, 129, 256, 300, 512, 1000, 1024)
_WIDTHS = (1, 31, 64, 100, 2048)
_LARGER = (1025, 4096, 100_003)  # beyond S
_LARGER_WIDTHS = (1, 31, 128, 200, 256, 500, 512, 1000, 1024, 2047, 2048, 4095, 4096, 8191, 8192)


@dataclass(frozen=True)
class Problem:
    """One compilation."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: Any

    @property
    def identity(self) -> str:
        """Equal for launches that run the same machine code."""
        return f"{self.kernel.__name__} {self.signature} {self.constants} {self.attributes} {self.options}"

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def named(self) -> dict[str, Any]:
        """Constants by name."""
        return {self.kernel.arg_names[place]: value for (place,), value in self.constants.items()}

    @property
    def warps(self) -> int:
        return int(self.options.num_warps)

    @property
    def dtype(self) -> str:
        """Type of the features; S and the parts of z are fp32."""
        return self.signature.get("features", "*fp32")[1:]

    @property
    def precision(self) -> str:
        """Of the product, where there is one."""
        chosen = str(self.named.get("PRECISION", "-"))
        return "fp16" if chosen == "exact" else chosen

    @property
    def solves(self) -> bool:
        return self.name in ("solve_small", "solve_large")

    @property
    def needs_tensor_cores(self) -> bool:
        return self.name in ("solve_small", "gram_tiles") and self.precision != "ieee"

    @property
    def label(self) -> str:
        shown = " ".join(f"{name}={self.named[name]}" for name in _SHOWN if name in self.named)
        reading = {True: " aligned", False: " unaligned", None: ""}[self.named.get("ALIGNED")]
        return f"{self.name} {self.dtype} {self.precision} {shown}{reading}"


@contextmanager
def recorded(arch: int) -> Iterator[list[Problem]]:
    """Launches inside are written down as ``arch`` would compile them; nothing is compiled or run."""
    problems: list[Problem] = []

    def note(kernel: Any, _key: Any, signature: Any, _device: Any, constants: Any, options: Any, attributes: Any,
             _warmup: Any) -> None:  # fmt: skip
        problems.append(Problem(kernel, signature, constants, attributes, options))

    device = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", arch, 32),
        get_current_device=lambda: arch,  # Triton keeps what it has compiled by device
        get_current_stream=lambda _device: 0,
    )
    driver = triton.runtime.driver
    before = driver._active  # reading the public name would look for a GPU
    driver.set_active(device)
    try:
        with mock.patch.object(triton.runtime.JITFunction, "_do_compile", note):
            yield problems
    finally:
        driver.set_active(before)


def features_like(width: int, dtype: torch.dtype, *, gap: int = 0, shift: int = 0) -> torch.Tensor:
    """An empty table of ``width`` columns whose rows lie ``gap`` numbers apart and begin ``shift`` numbers after an
    aligned address.
    """
    rows, stride = 2, width + gap
    return torch.empty(shift + rows * stride, dtype=dtype)[shift:].as_strided((rows, width), (stride, 1), shift)


def launch(features: torch.Tensor, size: int, precision: str | None) -> None:
    """All launches of a solve of two graphs of ``size`` nodes by the backend "triton"."""
    indices = torch.empty((2, size), dtype=torch.int64)
    if size <= 1024:
        backend.solve(features, indices, precision=precision)
        return
    # The host reads results on the way, so the solve itself cannot go on: its two kinds of step instead. Rows of a
    # matrix, which need not be aligned, come as indices and as q.
    graph = OnePassGraph(features, indices[1])
    vector = torch.empty((2, size))[1]
    graph.mix(vector)
    graph.step(torch.empty(size), torch.empty(size), torch.empty(features.shape[1]))


def launch_graphs(features: torch.Tensor, size: int, precision: str | None) -> None:
    """The launches for the backend "cuda", which solves what these make; none where it makes S itself."""
    if size <= LARGEST:
        list(backend.graphs(features, torch.empty((2, size), dtype=torch.int64), precision=precision))


def _cases(quick: bool) -> Iterator[tuple[int, int, torch.dtype, str | None]]:
    if quick:
        half, single = _KINDS[:2]
        yield from ((size, 2048, *kind) for size in (64, 128, 256, 4096) for kind in (half, single))
        yield from ((size, 31, *single) for size in (128, 256))
        return
    yield from ((size, width, *kind) for kind in _KINDS for size in _SIZES for width in _WIDTHS)
    yield from ((size, width, *kind) for kind in _KINDS[:2] for size in _LARGER for width in _LARGER_WIDTHS)


def triton_problems(arch: int, *, quick: bool = False) -> list[Problem]:
    """All of them, or one of each kernel in the default precision and in fp16; each compilation once."""
    with recorded(arch) as problems:
        for size, width, dtype, precision in _cases(quick):
            launch(features_like(width, dtype), size, precision)
            launch_graphs(features_like(width, dtype), size, precision)
    return list({problem.identity: problem for problem in problems}.values())

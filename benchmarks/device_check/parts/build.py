"""The extension for this device alone, and the Triton kernels meanwhile on all cores.

Otherwise each Triton kernel, some 5 s of compilation, would be made when a test or a benchmark first launches it, one
after another. A dry run compiles one of them and no C++, so that it leaves the extension that is there alone.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.device_check.methods import GPU_BACKENDS
from benchmarks.device_check.session import ROOT
from spectral_sampler import ops

if TYPE_CHECKING:
    from benchmarks.device_check.session import Session

_TRITON_SIZES = (128, 64, 256, 512, 1024, 32, 16)  # the most wanted first


def _arch(session: Session) -> int:
    """As 90 for capability 9.0."""
    device = session.device()
    if device.type == "cpu":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _start_extension(session: Session, arch: int) -> subprocess.Popen[bytes]:
    settings = {"SPECTRAL_SAMPLER_REQUIRE_EXT": "1", "SPECTRAL_SAMPLER_CUDA": "1"}
    if session.dry:
        settings = dict(zip(settings, "00", strict=True)) | {"SPECTRAL_SAMPLER_NO_EXT": "1"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | settings | {"SPECTRAL_SAMPLER_CUDA_ARCHS": str(arch)})


@functools.cache
def wanted(arch: int, *, dry: bool = False) -> list[Any]:
    """The compilations that tests/gpu and the other parts come to, each once."""
    from benchmarks import gpu_problems

    half, single = torch.float16, torch.float32
    asked: list[tuple[int, torch.dtype, int, str | None]] = [
        *((size, dtype, 2048, None) for dtype in (half, single) for size in _TRITON_SIZES),
        *((size, single, 31, None) for size in _TRITON_SIZES if size != 1024),
        (128, half, 31, None),
        *((4096, half, width, None) for width in (384, 768, 2048)),
        (4096, single, 384, None),
        *((128, single, 512, precision) for precision in ("ieee", "tf32", "bf16")),
    ]
    with gpu_problems.recorded(arch) as found:
        for size, dtype, width, precision in [(16, half, 2048, None)] if dry else asked:
            gpu_problems.launch(gpu_problems.features_like(width, dtype), size, precision)
            gpu_problems.launch_graphs(gpu_problems.features_like(width, dtype), size, precision)
    return list({problem.identity: problem for problem in found}.values())


def _compiled(arch: int, number: int, dry: bool) -> dict[str, Any]:
    """Compile one of them into Triton's cache, from which a launch takes it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    problem, start = wanted(arch, dry=dry)[number], time.perf_counter()
    source = ASTSource(problem.kernel, problem.signature, problem.constants, problem.attributes)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=problem.options.__dict__)
    seconds = round(time.perf_counter() - start, 2)
    return {"kernel": problem.label, "seconds": seconds, "shared_bytes": made.metadata.shared}


def _compile_triton(session: Session, arch: int) -> None:
    jobs = 1 if session.dry else max(1, (os.cpu_count() or 2) - 2)  # the extension's compilers run beside these
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        count = len(wanted(arch, dry=session.dry))
        for future in [pool.submit(_compiled, arch, number, session.dry) for number in range(count)]:
            error = future.exception()
            if error is None:
                session.row(**future.result())
            else:
                session.row(wrong=f"a Triton kernel does not compile: {type(error).__name__}: {str(error)[-300:]}")


def run(session: Session) -> None:
    """A row for each Triton kernel, the extension and every backend."""
    arch, start = _arch(session), time.perf_counter()
    process = _start_extension(session, arch)
    if importlib.util.find_spec("triton") is not None:
        _compile_triton(session, arch)
    status = process.wait()
    wrong = f"the extension does not build: status {status}, see log.txt" if status else None
    session.row(extension=status == 0, arch=arch, seconds=round(time.perf_counter() - start, 1), wrong=wrong)
    for name in ("native",) if session.dry else ("native", *GPU_BACKENDS):
        reason = ops.unusable_reason(name)
        session.row(backend=name, reason=reason, wrong=reason and f"{name} cannot be used: {reason}")

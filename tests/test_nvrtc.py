"""NVRTC compiles the text of csrc/cuda as it is: the kernels need no host header and nothing that only nvcc knows.

NVRTC is called by ctypes. It comes with torch (nvidia-cuda-nvrtc) or with the CUDA toolkit and needs no device.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

KERNELS = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
HEADERS = {file.name: file.read_text(encoding="utf-8") for file in sorted(KERNELS.glob("*.cuh"))}
LIMITS = {"../solver_limits.h": (KERNELS.parent / "solver_limits.h").read_text(encoding="utf-8")}
# Every instance that launch.cu launches.
INSTANCES = [
    *(f"row_factors<{entry}>" for entry in ("float", "unsigned short")),
    *(f"cosine_graph<{entry}, {aligned}>" for entry in ("float", "unsigned short") for aligned in ("true", "false")),
    *(f"fiedler<{kind}>" for kind in ("float, true, false", "float, true, true", "float, false, false")),
    "fiedler<unsigned short, true, false>",
]
PROGRAM = "".join(f'#include "{name}"\n' for name in HEADERS)


class Nvrtc(NamedTuple):
    library: ctypes.CDLL
    include: Path  # with cuda_fp16.h


class Compiled(NamedTuple):
    code: int
    log: str
    names: list[str]  # of the kernels in the machine code
    ptx: bytes = b""
    cubin: bytes = b""


def homes() -> list[Path]:
    """Folders that may have lib and include of CUDA: the toolkit's, then those of nvidia's wheels."""
    nvcc = shutil.which("nvcc")
    toolkits = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", Path(nvcc).resolve().parent.parent if nvcc else None]
    specification = importlib.util.find_spec("nvidia")
    wheels = [] if specification is None else [Path(place) for place in specification.submodule_search_locations or ()]
    return [*(Path(home) for home in toolkits if home), *(home for place in wheels for home in sorted(place.iterdir()))]


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    found = [
        file for home in homes() for lib in ("lib64", "lib") for file in sorted((home / lib).glob("libnvrtc.so.*"))
    ]
    if not found:
        pytest.skip("there is no libnvrtc (pip install nvidia-cuda-nvrtc)")
    includes = [home / "include" for home in homes() if (home / "include" / "cuda_fp16.h").exists()]
    if not includes:
        pytest.skip("there is no cuda_fp16.h (pip install nvidia-cuda-runtime)")
    for builtins in sorted(found[0].parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins))  # NVRTC asks for it by name, and its folder need not be on the loader's path
    return Nvrtc(ctypes.CDLL(str(found[0])), includes[0])


def compile_for(nvrtc: Nvrtc, arch: str, headers: dict[str, str]) -> Compiled:
    """PROGRAM with the headers as texts in memory, so that no other file of ours can be included."""
    library, program = nvrtc.library, ctypes.c_void_p()

    def call(name: str, *arguments: object) -> None:
        assert getattr(library, name)(*arguments) == 0, name

    def fetch(kind: str) -> bytes:
        size = ctypes.c_size_t()
        call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{kind}", program, data)
        return data.raw

    def strings(texts: list[str]) -> ctypes.Array:
        return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))

    headers = headers | LIMITS
    sources = (len(headers), strings(list(headers.values())), strings(list(headers)))
    call("nvrtcCreateProgram", ctypes.byref(program), PROGRAM.encode(), b"kernels.cu", *sources)
    try:
        expressions = [f"spectral::device::{instance}".encode() for instance in INSTANCES]
        for expression in expressions:
            call("nvrtcAddNameExpression", program, expression)
        options = strings([f"--gpu-architecture={arch}", "--std=c++17", f"--include-path={nvrtc.include}"])
        code = library.nvrtcCompileProgram(program, len(options), options)
        log = fetch("ProgramLog").rstrip(b"\0").decode()
        if code:
            return Compiled(code, log, [])
        names = []
        for expression in expressions:
            name = ctypes.c_char_p()
            call("nvrtcGetLoweredName", program, expression, ctypes.byref(name))
            names.append(name.value.decode())
        return Compiled(code, log, names, fetch("PTX"), fetch("CUBIN") if arch.startswith("sm_") else b"")
    finally:
        call("nvrtcDestroyProgram", ctypes.byref(program))


@pytest.mark.parametrize(
    "arch",
    ["sm_90", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("sm_80", "compute_90"))],
)
def test_every_kernel_that_is_launched_compiles(nvrtc, arch):
    compiled = compile_for(nvrtc, arch, HEADERS)
    assert compiled.code == 0, compiled.log
    assert len(set(compiled.names)) == len(INSTANCES) == 10
    for name in compiled.names:
        assert f".entry {name}(".encode() in compiled.ptx
        assert not arch.startswith("sm_") or f".text.{name}\0".encode() in compiled.cubin
    assert f".target sm_{arch.partition('_')[2]}\n".encode() in compiled.ptx


@pytest.mark.parametrize("planted", ["return INFINITY;", "return std::fabs(1.f);", '#include "launch.h"\nreturn 1.f;'])
def test_what_only_nvcc_knows_is_refused(nvrtc, planted):
    """The checker itself: these three compile under nvcc or need a file that NVRTC must not be given."""
    sound = "return __uint_as_float(0x7f800000u);"
    assert HEADERS["primitives.cuh"].count(sound) == 1, "the kernel changed: plant the fault anew"
    text = HEADERS["primitives.cuh"].replace(sound, planted)
    compiled = compile_for(nvrtc, "compute_90", HEADERS | {"primitives.cuh": text})
    assert compiled.code != 0
    assert "primitives.cuh" in compiled.log

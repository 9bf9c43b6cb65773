"""The extension module; everything else is in pyproject.toml.

Build with torch installed and `--no-build-isolation`: torch is not a build requirement, because an isolated build would
download all of it. Where the extension cannot be built (no torch, no C++ compiler, a compiler's error), one sentence
says why, the package is pure Python and its wheel is tagged py3-none-any.

    SPECTRAL_SAMPLER_REQUIRE_EXT=1   a build without the extension is an error
    SPECTRAL_SAMPLER_NO_EXT=1        do not try
    SPECTRAL_SAMPLER_CUDA=0|1        without CUDA kernels, or an error where nvcc is missing or fails; else if it works
    SPECTRAL_SAMPLER_CUDA_ARCHS      "80;90;100" by default; PTX of the last is added for later devices
"""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError, ExecError

CUDA = os.environ.get("SPECTRAL_SAMPLER_CUDA", "auto")
CUDA_ARCHS = os.environ.get("SPECTRAL_SAMPLER_CUDA_ARCHS", "80;90;100")
REQUIRED = os.environ.get("SPECTRAL_SAMPLER_REQUIRE_EXT") == "1" or CUDA == "1"
REFUSED = os.environ.get("SPECTRAL_SAMPLER_NO_EXT") == "1"

# parallel_for and versioned registration came to the stable ABI with torch 2.10: that is the floor of the binary.
TORCH_TARGET_VERSION = "0x020a000000000000"
NUMERICS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
# csrc is on no search path, where a header of its could stand in for one of the system's.
COMMON = ["-O3", "-g0", "-std=c++20", "-pthread", "-fvisibility=hidden", "-Wno-psabi", *NUMERICS]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512"]
# Flags of single files. No other file may use an instruction set that the processor was not asked about.
FLAGS = {"csrc/cpu/kernels_avx2.cpp": AVX2, "csrc/cpu/kernels_avx512.cpp": AVX512}
SANITIZE = os.environ.get("SPECTRAL_SAMPLER_SANITIZE")  # csrc/sanitize.sh sets it to the sanitizers' names
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def warn(sentence: str) -> None:
    print(f"spectral_sampler: {sentence}", file=sys.stderr)  # noqa: T201


def find_nvcc() -> str | None:
    """The CUDA compiler, by CUDA_HOME and then PATH: no device is needed to build, and none is asked about."""
    if CUDA == "0" or SANITIZE:
        return None
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    if nvcc is None and CUDA == "1":
        raise CompileError("SPECTRAL_SAMPLER_CUDA=1, but there is no nvcc in CUDA_HOME/bin or on PATH")
    return nvcc


def sources() -> list[str]:
    return ["csrc/ops.cpp", *sorted(str(path) for path in Path("csrc/cpu").glob("*.cpp"))]


def missing() -> str | None:
    """Why the extension cannot be built here, or None."""
    if REFUSED:
        return "SPECTRAL_SAMPLER_NO_EXT is set"
    if sys.platform not in ("linux", "darwin"):
        return f"its vector types need GCC or Clang, and this is {sys.platform}"
    if FREE_THREADED:
        return "this Python is free-threaded, and has no stable ABI"
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++").split()[0], "g++", "clang++")):
        return "no C++ compiler was found"
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported at build time ({error}); build with --no-build-isolation"
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 10):
        return f"it needs the stable ABI of torch 2.10, and this is torch {torch.__version__}"
    return None


class Build(build_ext):
    """Compiles every file with its own flags; device code is added where `device_objects` says."""

    def run(self) -> None:
        reason = missing() or self.failure()
        if reason is None:
            return
        if REQUIRED:
            raise CompileError(f"SPECTRAL_SAMPLER_REQUIRE_EXT=1, but the extension cannot be built: {reason}")
        warn(f"no compiled kernels, because {reason}; SPECTRAL_SAMPLER_REQUIRE_EXT=1 makes that an error")
        self.extensions = self.distribution.ext_modules = []  # nothing is platform specific any more
        wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
        if wheel is not None:
            wheel.root_is_pure = True

    def failure(self) -> str | None:
        """Builds, and returns why that failed, or None."""
        try:
            super().run()
        except (BaseError, CCompilerError) as error:
            return f"building them failed ({type(error).__name__}, see above)"
        return None

    def build_extension(self, ext: Extension) -> None:
        import torch

        root = Path(torch.__file__).parent
        ext.include_dirs += [str(root / "include"), str(root / "include/torch/csrc/api/include")]
        ext.library_dirs += [str(root / "lib")]
        ext.libraries += ["torch_cpu", "c10"]
        # No symbol of libtorch is used, but libtorch_cuda is found through it (csrc/cuda/ops_cuda.cpp): kept where the
        # linker drops what is unused. Beside a CPU build of torch the same name leads to libtorch_cpu alone.
        linux = sys.platform == "linux"
        ext.extra_link_args += ["-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"] if linux else ["-ltorch"]
        ext.extra_link_args += ["-pthread"]
        flags = list(COMMON)
        if SANITIZE:
            flags += ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
            ext.extra_link_args += [f"-fsanitize={SANITIZE}"]
        x86 = platform.machine() in ("x86_64", "AMD64")
        separate = {name: FLAGS[name] if x86 else [] for name in ext.sources if name in FLAGS}
        ext.sources = [name for name in ext.sources if name not in separate]
        shared = {"output_dir": self.build_temp, "include_dirs": ext.include_dirs, "depends": ext.depends}
        for name, own in separate.items():
            ext.extra_objects += self.compiler.compile([name], extra_postargs=flags + own, **shared)
        ext.extra_compile_args += flags
        ext.extra_objects += self.device_objects(ext)
        super().build_extension(ext)

    def device_objects(self, ext: Extension) -> list[str]:
        """The CUDA kernels by nvcc, statically linked to the CUDA runtime; nothing where there is no nvcc."""
        nvcc = find_nvcc()
        if nvcc is None:
            return []
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        archs = CUDA_ARCHS.split(";")
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        target = str(folder / "launch.cu.o")
        command = [nvcc, "-c", "csrc/cuda/launch.cu", "-o", target, "-O3", "-std=c++17", "--threads", "0"]
        try:
            self.spawn([*command, *codes, "-Xcompiler", "-fPIC,-fvisibility=hidden"])
        except ExecError as error:
            if CUDA == "1":
                raise
            warn(f"no CUDA kernels, because nvcc failed ({error}); SPECTRAL_SAMPLER_CUDA=1 makes that an error")
            return []
        home = Path(nvcc).resolve().parent.parent
        places = [Path("/usr/local/cuda/lib64"), home / "lib64", *home.glob("targets/*/lib")]
        ext.library_dirs += [str(place) for place in places if (place / "libcudart_static.a").exists()][:1]
        ext.libraries += ["cudart_static", "rt", "dl", "pthread"]
        ext.sources += ["csrc/cuda/ops_cuda.cpp"]
        return [target]


setup(
    ext_modules=[
        Extension(
            "spectral_sampler._C",
            sources(),
            depends=sorted(str(path) for suffix in ("h", "cu", "cuh") for path in Path("csrc").rglob(f"*.{suffix}")),
            define_macros=[
                ("Py_LIMITED_API", "0x030a0000"),
                ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION),
                ("TORCH_STABLE_ONLY", None),
            ],
            language="c++",
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": Build},
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp310"}},
)

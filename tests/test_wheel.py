"""The wheel as a user gets it: built from an sdist, installed elsewhere, loaded and run; and its device code."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from installs import ROOT, build_sdist, build_wheel, run

SMOKE = """
import pathlib, sys, torch
import spectral_sampler
from spectral_sampler.kernels import native
tree = pathlib.Path(sys.argv[1])
assert tree not in pathlib.Path(spectral_sampler.__file__).resolve().parents, "the source tree shadows the wheel"
assert native.unusable_reason() is None, native.unusable_reason()
module = pathlib.Path(sys.modules["spectral_sampler._C"].__file__)
assert module.suffix == ".so" and module.parent == pathlib.Path(spectral_sampler.__file__).parent, module
features = torch.rand(4, 60, 33)
compiled = spectral_sampler.fiedler_vector(features, backend="native")
eager = spectral_sampler.fiedler_vector(features, backend="eager")
assert ((compiled.vector * eager.vector).sum(dim=1) > 1 - 1e-5).all()
assert (compiled.status == eager.status).all()
assert "native  usable" in spectral_sampler.explain()
store = spectral_sampler.ReferenceStore.from_arrays(torch.rand(256, 16), losses=torch.rand(256))
batches = list(spectral_sampler.SpectralBatchSampler(store, candidate_batch_size=64, keep_ratio=0.25, backend="native"))
assert [len(batch) for batch in batches] == [16] * 4
print(torch.__version__, native.instruction_set())
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build_sdist(tmp_path_factory.mktemp("sdist"), torch=False)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """By a linker that drops what is unused, as Ubuntu's does."""
    environment = {"SPECTRAL_SAMPLER_REQUIRE_EXT": "1", "LDFLAGS": "-Wl,--as-needed"}
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"), **environment)[0]


@pytest.mark.slow
def test_wheel_is_abi3_and_holds_what_it_should(wheel):
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names, needed = archive.namelist(), archive.read("spectral_sampler/_C.abi3.so")
    assert not sys.platform.startswith("linux") or b"\0libtorch.so\0" in needed, "the way to libtorch_cuda"
    assert "spectral_sampler/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "csrc"))]


def pythons() -> list[str]:
    """The running one, and those in SPECTRAL_SAMPLER_WHEEL_PYTHONS (other releases of torch), colon-separated."""
    others = os.environ.get("SPECTRAL_SAMPLER_WHEEL_PYTHONS", "")
    return [sys.executable, *filter(None, others.split(os.pathsep))]


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons())
def test_installed_wheel_loads_its_module_and_runs(wheel, tmp_path, python):
    """In an environment of its own, outside the tree, which sees the torch of ``python`` and nothing else of ours."""
    environment = tmp_path / "venv"
    packages = run(python, "-c", "import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)").strip()
    run(python, "-m", "venv", "--without-pip", environment)
    (site,) = environment.glob("lib/python*/site-packages")
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin/python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site / "torch.pth").write_text(packages + "\n")
    version, instruction_set = run(environment / "bin/python", "-c", SMOKE, ROOT).split()
    assert version == run(python, "-c", "import torch; print(torch.__version__)").strip()
    assert instruction_set in ("baseline", "avx2", "avx512")


UNBUILDABLE = [
    ({"PATH": "/nowhere", "CXX": "c++"}, "no C\\+\\+ compiler was found"),
    ({"CXX": "/bin/false"}, "building them failed .CompileError"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "reason"), UNBUILDABLE, ids=["no compiler", "failing compiler"])
def test_where_the_extension_cannot_be_built_the_wheel_is_pure_and_says_why(sdist, tmp_path, environment, reason):
    wheel, said = build_wheel(sdist, tmp_path, **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        assert "Root-Is-Purelib: true" in archive.read(record).decode()
    (sentence,) = re.findall("spectral_sampler: .*", said)
    assert re.search(f"no compiled kernels, because {reason}.*; SPECTRAL_SAMPLER_REQUIRE_EXT=1 makes", sentence)


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "reason"), UNBUILDABLE, ids=["no compiler", "failing compiler"])
def test_required_extension_that_cannot_be_built_is_an_error(sdist, tmp_path, environment, reason):
    with pytest.raises(AssertionError, match=f"SPECTRAL_SAMPLER_REQUIRE_EXT=1.*: {reason}"):
        build_wheel(sdist, tmp_path, SPECTRAL_SAMPLER_REQUIRE_EXT="1", **environment)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF symbols")
def test_files_with_their_own_instruction_set_share_no_code(tmp_path):
    """A template instantiated there could be the copy that the linker keeps for every processor."""
    for name, flags in (("avx2", ["-mavx2", "-mfma", "-mf16c"]), ("avx512", ["-mavx512f", "-mavx512vl", "-mavx2"])):
        target = tmp_path / f"{name}.o"
        source = ROOT / f"csrc/cpu/kernels_{name}.cpp"
        run("c++", "-O1", "-std=c++20", *flags, "-Wno-psabi", "-c", source, "-o", target)
        shared = [
            line.split()[-1] for line in run("nm", "--defined-only", target).splitlines() if line.split()[-2] in "WVTu"
        ]
        assert shared == []


def nvcc() -> str | None:
    """The CUDA compiler, by setup.py's rule."""
    home = os.environ.get("CUDA_HOME")
    return None if os.environ.get("SPECTRAL_SAMPLER_CUDA") == "0" else shutil.which("nvcc", path=home and f"{home}/bin")


def find_cuobjdump() -> str | None:
    """From the CUDA toolkit, or from triton's wheel."""
    triton = Path(sysconfig.get_path("purelib"), "triton/backends/nvidia/bin")
    folders = (Path(nvcc() or "nvcc").resolve().parent, Path("/usr/local/cuda/bin"), triton)
    return shutil.which("cuobjdump", path=os.pathsep.join((os.environ["PATH"], *map(str, folders))))


def device_code(cuobjdump: str, binary: Path) -> dict[tuple[str, str], set[str]]:
    """The kernels of each piece of device code in a binary, by ("elf" or "ptx", architecture); none named for PTX."""
    usage = run(cuobjdump, "-res-usage", binary)
    pieces = re.split(r"^Fatbin (elf|ptx) code:$", usage, flags=re.MULTILINE)[1:]
    found = {}
    for kind, text in zip(pieces[::2], pieces[1::2], strict=True):
        (arch,) = re.findall(r"^arch = (\S+)$", text, flags=re.MULTILINE)
        found[kind, arch] = set(re.findall(r"^ Function (\S+):$", text, flags=re.MULTILINE))
    return found


def test_one_extension_holds_the_code_of_every_architecture():
    """Read from the extension in the source tree, which the ordinary build made: by nvcc for sm_80, sm_90 and sm_100,
    and PTX for later devices. `make test-cpu-torch` loads this same file beside a torch without CUDA.
    """
    extension, cuobjdump = ROOT / "spectral_sampler" / "_C.abi3.so", find_cuobjdump()
    if not extension.exists():
        pytest.skip("the extension is not built in the source tree (pip install --no-build-isolation --editable .)")
    if nvcc() is None:
        pytest.skip("there is no nvcc in CUDA_HOME/bin or on PATH: the extension is built without CUDA kernels")
    if cuobjdump is None:
        pytest.skip("there is no cuobjdump (it comes with the CUDA toolkit and with triton)")
    found = device_code(cuobjdump, extension)
    assert set(found) == {("elf", "sm_80"), ("elf", "sm_90"), ("elf", "sm_100"), ("ptx", "sm_100")}, "build it anew"
    kernels = found["elf", "sm_80"]
    assert len(kernels) == 10, "launch.cu launches ten"
    assert all(found[kind, arch] == (kernels if kind == "elf" else set()) for kind, arch in found)

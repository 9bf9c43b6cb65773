"""Compile every shipped GPU kernel to machine code for GPUs that are not here, and refuse what would run badly.

    python benchmarks/prove_gpu.py [--quick] [--arch 80,90,100] [--json FILE] [--only triton|cuda] [--match TEXT]

Gates, for each kernel × architecture × configuration that a launcher can ask for: the assembler accepts it, no register
is spilled (no stack, no local loads or stores), its shared memory fits the chip, tensor-core instructions are there
where the precision asks for them, and a solver reads nothing through the read-only path, which no barrier orders.
Triton's register allocation differs by version: spills are refused under the one that is pinned here, and reported
under any other.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # read when the kernels are imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

TRITON = "3.8.0"  # pinned: under 3.6.0, 18 of 134 kernels spilled on sm_90
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99}  # KiB one block may use
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32  # of one multiprocessor
WATCHED = ("HMMA", "HGMMA", "UTCHMMA", "FFMA", "LDL", "STL", "BAR", "SHFL", "LDGSTS", "MUFU")


def _instructions(disassembly: str) -> Counter[str]:
    return Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", disassembly))


def occupancy(registers: int, shared: int, warps: int, arch: int) -> int:
    """Programs one multiprocessor holds: registers go in units of 256 a warp, and 1 KiB of shared memory is the
    system's.
    """
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = (SHARED[arch] + 1) * 1024 // (shared + 1024)
    return min(by_registers, by_shared, THREADS // (32 * warps), BLOCKS)


def read_cubin(cubin: bytes, tools: Path) -> list[dict[str, Any]]:
    """Name, registers, stack and instruction counts of every kernel in a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage, code = (
            subprocess.run(
                [str(tools / "cuobjdump"), flag, str(path)], capture_output=True, text=True, check=True
            ).stdout
            for flag in ("-res-usage", "-sass")
        )
    bodies = dict(re.findall(r"Function : (\S+)\n(.*?)(?=Function : |\Z)", code, re.DOTALL))
    found = []
    for name, registers, stack in re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", usage):
        found.append(
            {"name": name, "registers": int(registers), "stack": int(stack), "ops": _instructions(bodies[name])}
        )
    return found


def verdict(row: dict[str, Any]) -> list[str]:
    """What is to be said of a row; nothing, if all is well."""
    ops, wrong = row["ops"], []
    if row["stack"] or row["spill"] or ops["LDL"] or ops["STL"]:
        wrong.append("spills")
    if row["shared"] > SHARED[row["arch"]] * 1024 or row["blocks"] < 1:
        wrong.append("does not fit")
    if row["tensor_cores_due"] and not row["tensor_cores"]:
        wrong.append("no tensor-core instruction")
    if row.get("read_only_loads"):  # the solver reads T, which it wrote
        wrong.append("loads past the ordering of a barrier")
    return wrong


def refused(wrong: list[str], *, pinned: bool) -> bool:
    """Does what `verdict` says make the proof fail?"""
    return any(pinned or fault != "spills" for fault in wrong)


def prove_triton(problem: Any, arch: int, tools: Path) -> dict[str, Any]:
    """Compile one configuration as Triton's launcher would, and measure its machine code."""
    import triton
    from gpu_counts import disassembled
    from gpu_problems import TENSOR_CORES
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(problem.kernel, problem.signature, problem.constants, problem.attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=problem.options.__dict__)
    code = read_cubin(compiled.asm["cubin"], tools)[0]
    shared = compiled.metadata.shared
    blocks = occupancy(code["registers"], shared, problem.warps, arch)
    text = "".join(disassembled(compiled.asm["cubin"], tools).values()) if problem.solves else ""
    return {
        "kernel": "triton " + problem.label, "arch": arch, "warps": problem.warps, "registers": code["registers"],
        "stack": code["stack"], "spill": 0, "shared": shared, "blocks": blocks, "ops": code["ops"],
        "tensor_cores": sum(code["ops"][name] for name in TENSOR_CORES), "tensor_cores_due": problem.needs_tensor_cores,
        "read_only_loads": "LDG.E.CONSTANT" in text,
    }  # fmt: skip


def show(row: dict[str, Any], wrong: list[str]) -> str:
    """One line of the table."""
    ops = row["ops"]
    return (
        f"{row['kernel']:62s} {row['arch']:>4} {row['warps']:>3} {row['registers']:>4} "
        f"{row['stack'] + row['spill']:>5} "
        f"{row['shared']:>7} {row['blocks']:>3} {row['tensor_cores']:>5} {ops['FFMA']:>6} {ops['BAR']:>5} "
        f"{sum(ops.values()):>6}  {', '.join(wrong) or 'ok'}"
    )


def header() -> str:
    """The table's first lines."""
    columns = [("sm", 4), ("w", 3), ("regs", 4), ("spill", 5), ("shared", 7), ("occ", 3), ("tc", 5), ("FFMA", 6)]
    columns += [("BAR", 5), ("instr", 6)]
    title = " ".join([f"{'kernel':62s}", *(f"{name:>{width}}" for name, width in columns)])
    return f"{title}\n{'-' * len(title)}"


def tools_of_triton() -> Path:
    """Where triton keeps cuobjdump and nvdisasm."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def jobs_of(options: argparse.Namespace, architectures: list[int]) -> list[Any]:
    """What to compile: (function, problem, architecture)."""
    jobs: list[Any] = []
    if options.only != "triton":
        from gpu_cuda import cuda_problems, prove_cuda

        sources = cuda_problems()
        if not sources:
            raise SystemExit("There is no nvcc on PATH to prove the CUDA kernels: install it, or ask for --only triton")
        jobs += [(prove_cuda, source, arch) for arch in architectures for source in sources]
    if options.only != "cuda":
        from gpu_problems import triton_problems

        for arch in architectures:
            problems = triton_problems(arch, quick=options.quick)
            jobs += [(prove_triton, problem, arch) for problem in problems if options.match in problem.label]
    if not jobs:
        raise SystemExit(f"Nothing to prove: no Triton configuration's label holds {options.match!r}")
    return jobs


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write the JSON, and return the number of configurations refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one configuration of each kernel, for CI")
    parser.add_argument("--arch", default="80,90,100")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("triton", "cuda"), help="default: both, and no nvcc is a failure")
    parser.add_argument("--match", default="", help="only Triton configurations whose label holds this text")
    options = parser.parse_args(arguments)
    architectures = [int(arch) for arch in options.arch.split(",")]
    import triton

    tools, rows, failed = tools_of_triton(), [], 0
    pinned = triton.__version__ == TRITON
    jobs = jobs_of(options, architectures)
    print(
        f"Triton {triton.__version__}"
        + ("." if pinned else f": spills are reported, not refused ({TRITON} is pinned).")
    )
    print(header())
    for prove, problem, arch in jobs:
        made = prove(problem, arch, tools)
        for row in made if isinstance(made, list) else [made]:
            row["wrong"] = verdict(row)
            failed += refused(row["wrong"], pinned=pinned)
            row["ops"] = Counter({name: count for name, count in row["ops"].items() if name in WATCHED or count > 50})
            rows.append(row)
            print(show(row, row["wrong"]), flush=True)
    spilled = sum("spills" in row["wrong"] for row in rows)
    print(f"{len(rows)} kernels compiled, {failed} refused, {spilled} with spills.")
    if options.json:
        passport = {"triton": triton.__version__}
        options.json.write_text(json.dumps({"passport": passport, "rows": rows}, indent=1), encoding="utf-8")
    return min(failed, 125)


if __name__ == "__main__":
    raise SystemExit(main())

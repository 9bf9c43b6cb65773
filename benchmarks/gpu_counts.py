"""What the loops of the solvers cost in machine code: barriers, shuffles and instructions of a warp. Needs no device.

    python -m benchmarks.gpu_counts [--arch 90] [--match TEXT] [--root FOLDER]

Compiles the Triton configurations whose label holds TEXT (default: fp16 at N = 128) and, with nvcc, the CUDA solver
with S in shared memory, disassembles them with their lines, and counts by the functions that instructions come from.
A section is

    step   one Lanczos step while the early half of the basis suffices: product with L, Gram-Schmidt twice, norm
    late   what the late half adds to it (Triton)
    look   the fixed part of a look at the tridiagonal matrix T
    round  one round of multisection, without its rows
    row    one row of T in Sturm's count
    pivot  one row of T in the twisted factorisation

Counts are of the code, not of a run: a loop over rows inside a step counts once, a branch not taken too. A Triton older
than 3.8 tells less of what was inlined where: its sections run together. ``--root`` is a checkout whose kernels are
counted instead, for a table of before and after.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

os.environ.pop("TRITON_INTERPRET", None)  # read when the kernels are imported
ROOT = Path(__file__).resolve().parent.parent

SECTIONS = ("step", "late", "look", "round", "row", "pivot")
_STEP, _EIGENVALUE, _VECTOR = ("_cycle", "cycle"), ("_eigenvalue", "eigenvalue"), ("_lowest_vector", "lowest_vector")
_LOOK, _LATE = ("_look", "look"), ("_late_part",)
_DEFINED = re.compile(r"^(?:@|__device__|__global__|def ).*?(?:\w+::)?(\w+)\(")
_PLACE = re.compile(r'//## File "([^"]+)", line (\d+)')
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_OPERATION = re.compile(r"(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")

__all__ = ["SECTIONS", "Section", "counted", "disassembled"]


class Section(NamedTuple):
    """Of one warp: barriers of the block, shuffles, accesses to shared memory, and all instructions."""

    barriers: float = 0
    shuffles: float = 0
    shared: float = 0
    instructions: float = 0


class _Code(NamedTuple):
    operations: list[str]
    texts: list[str]
    functions: list[tuple[str, ...]]  # that each instruction comes from, innermost first
    loops: list[tuple[int, int]]  # first and last instruction


@cache
def _functions(path: str) -> list[str]:
    """The function that each line of a source file lies in; "" for library code."""
    file, found, name = Path(path), [""], ""
    if not file.exists() or "triton/language" in path:
        return found
    for line in file.read_text(encoding="utf-8").splitlines():
        defined = _DEFINED.match(line)
        name = defined.group(1) if defined else name
        found.append(name)
    return found


def _function(path: str, line: str) -> str:
    names = _functions(path)
    return names[int(line)] if int(line) < len(names) else ""


def _parsed(text: str) -> _Code:
    """The main part of one kernel's disassembly, up to the first unconditional EXIT: only what it calls lies behind."""
    texts: list[str] = []
    functions: list[tuple[str, ...]] = []
    labels: dict[str, int] = {}
    chain: list[str] = []
    fresh = True
    for line in text.splitlines():
        if place := _PLACE.search(line):
            chain = [*([] if fresh else chain), _function(*place.groups())]
            fresh = False
        elif label := re.match(r"\s*(\.L\w+):", line):
            labels[label.group(1)] = len(texts)
            fresh = True
        elif instruction := _INSTRUCTION.search(line):
            texts.append(instruction.group(1))
            functions.append(tuple(name for name in chain if name))
            fresh = True
            if instruction.group(1) == "EXIT":
                break
    ends: dict[int, int] = {}
    for place, instruction in enumerate(texts):
        target = re.search(r"BRA.*\((\.L\w+)\)", instruction)
        if target and labels.get(target.group(1), place) < place:
            ends[labels[target.group(1)]] = place
    operations = [found.group(1) if (found := _OPERATION.match(text)) else text for text in texts]
    return _Code(operations, texts, functions, sorted(ends.items()))


def _own(code: _Code, loop: tuple[int, int]) -> list[int]:
    """Instructions of a loop that lie in none of its inner loops."""
    inner = [other for other in code.loops if other != loop and loop[0] <= other[0] and other[1] <= loop[1]]
    return [place for place in range(loop[0], loop[1] + 1) if not any(a <= place <= b for a, b in inner)]


def _summed(code: _Code, places: list[int], parts: float = 1) -> Section:
    operations = Counter(code.operations[place] for place in places)
    sums = (operations["BAR"], operations["SHFL"], operations["LDS"] + operations["STS"], len(places))
    return Section(*(round(number / parts, 1) for number in sums))


def _nested(code: _Code, loop: tuple[int, int], own: list[int], inner: tuple[str, ...]) -> list[int]:
    """``own``, and of the loops inside what comes from none of ``inner``: walks of a block along vectors."""
    for other in code.loops:
        if loop[0] < other[0] and other[1] <= loop[1]:
            places = [place for place in _own(code, other) if not set(code.functions[place]) & set(inner)]
            own = sorted({*own, *places})
    return own


def counted(text: str, *, shifts: int = 1, ways: int = 2) -> dict[str, Section]:
    """Sections of one kernel from its disassembly with lines. A thread follows ``shifts`` minors along the rows of
    Sturm's count and divides ``ways`` times for one of the twisted factorisation.
    """
    code = _parsed(text)
    look = (*_EIGENVALUE, *_VECTOR, *_LOOK)
    home = {loop: code.functions[loop[1]][:1] for loop in code.loops}  # the function that the loop is written in
    steps = [loop for loop in code.loops if home[loop] and home[loop][0] in _STEP and _barriers(code, loop)]
    if not steps:
        return {}
    step = max(steps, key=lambda loop: loop[1] - loop[0])
    own, sections = _own(code, step), {}
    everything = _nested(code, step, own, look)
    late = [place for place in everything if set(code.functions[place]) & set(_LATE)]
    looked = [place for place in own if set(code.functions[place]) & set(look)]
    sections["step"] = _summed(code, sorted({*everything} - {*late} - {*looked}))
    sections["late"] = _summed(code, late)
    sections["look"] = _summed(code, looked)
    inside = [loop for loop in code.loops if step[0] <= loop[0] and loop[1] <= step[1]]
    multisection = [loop for loop in inside if home[loop] and home[loop][0] in _EIGENVALUE]
    rows = [loop for loop in multisection if not _holds_another(loop, multisection)]
    rounds = [
        loop for loop in multisection if any(loop[0] <= row[0] and row[1] <= loop[1] for row in rows if row != loop)
    ]
    pivots = [loop for loop in inside if home[loop] and home[loop][0] in _VECTOR]
    if rounds:
        sections["round"] = _summed(code, _own(code, rounds[0]))
    for name, loops, each in (("row", rows, shifts), ("pivot", pivots, ways)):
        if loops:  # the compiler unrolls it, and may keep a rest: the first is the one that most rows go through
            places = _own(code, loops[0])
            # A row divides, or compares with zero, once for each of ``each``.
            marks = [sum(mark in code.texts[place] for place in places) for mark in ("RCP", "FSETP.NEU")]
            sections[name] = _summed(code, places, max(1, (marks[0] or marks[1]) / each))
    return sections


def _barriers(code: _Code, loop: tuple[int, int]) -> int:
    return sum(operation == "BAR" for operation in code.operations[loop[0] : loop[1] + 1])


def _holds_another(loop: tuple[int, int], loops: list[tuple[int, int]]) -> bool:
    """Does the loop hold another of ``loops``?"""
    return any(loop[0] <= other[0] and other[1] <= loop[1] for other in loops if other != loop)


def disassembled(cubin: bytes, tools: Path) -> dict[str, str]:
    """Disassembly with lines of every kernel in a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(tools / "nvdisasm"), "-gi", "-c", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"(?m)^\.text\.(\S+):", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def triton_counts(arch: int, match: str, tools: Path) -> dict[str, dict[str, Section]]:
    """Sections of the solvers among the quick Triton configurations, by label."""
    import triton
    from gpu_problems import triton_problems
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = {}
    for problem in triton_problems(arch, quick=True):
        if problem.name.startswith("solve") and match in problem.label:
            source = ASTSource(problem.kernel, problem.signature, problem.constants, problem.attributes)
            compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=problem.options.__dict__)
            (text,) = disassembled(compiled.asm["cubin"], tools).values()
            found["triton " + problem.label] = counted(
                text, shifts=max(1, problem.named["WIDTH"] // (32 * problem.warps))
            )
    return found


def cuda_counts(arch: int, root: Path, tools: Path) -> dict[str, dict[str, Section]]:
    """Sections of the CUDA solver with fp32 S in shared memory, by the kernel's mangled name."""
    with tempfile.TemporaryDirectory() as folder:
        cubin, source = Path(folder, "kernels.cubin"), root / "csrc" / "cuda" / "launch.cu"
        command = ["nvcc", "-cubin", f"-arch=sm_{arch}", "-O3", "-std=c++17", "-lineinfo", f"-I{root / 'csrc'}"]
        subprocess.run([*command, str(source), "-o", str(cubin)], check=True)
        texts = disassembled(cubin.read_bytes(), tools)
    shifts = 4 if "kShifts = 4" in (root / "csrc" / "cuda" / "tridiagonal.cuh").read_text(encoding="utf-8") else 1
    return {
        "cuda " + name: counted(text, shifts=shifts, ways=1) for name, text in texts.items() if "7fiedlerIfLb1E" in name
    }


def show(name: str, sections: dict[str, Section]) -> str:
    """A small table."""
    lines = [name, f"{'':8}{'BAR':>8}{'SHFL':>8}{'LDS+STS':>9}{'all':>8}"]
    lines += [f"  {part:6}{s.barriers:8}{s.shuffles:8}{s.shared:9}{s.instructions:8}" for part, s in sections.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--match", default="fp16 fp16 NP=128")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    sys.path[:0] = [str(root), str(root / "benchmarks")]
    from prove_gpu import tools_of_triton

    tools = tools_of_triton()
    print(f"sm_{options.arch}, counted in machine code; nothing has been run.")
    found = triton_counts(options.arch, options.match, tools)
    if shutil.which("nvcc"):
        found |= cuda_counts(options.arch, root, tools)
    for name, sections in found.items():
        print(show(name, sections))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Every configuration of the Triton kernels that the package ships, as something the compiler can be given without a
GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from spectral_sampler.kernels import triton as backend
from spectral_sampler.kernels import triton_large, triton_matrixfree, triton_small

ARCHITECTURES = (80, 90, 100)
TENSOR_CORES = ("HMMA", "HGMMA", "UTCHMMA")  # sm_80, sm_90 and sm_100; small tiles use the first everywhere
_TYPES = {
    "features": "*fp32", "indices": "*i64", "vectors": "*fp32", "values": "*fp32", "residuals": "*fp32",
    "matvecs": "*i64",
    "statuses": "*i64", "gaps": "*fp32", "scales": "*fp32", "inverses": "*fp32", "affinities": "*fp32",
    "degrees": "*fp32",
    "q": "*fp32", "y": "*fp32", "r": "*fp32", "z": "*fp32", "parts": "*fp32", "d": "i32", "stride": "i64", "N": "i32",
    "padded": "i32", "most": "i32", "count": "i32", "per_program": "i32",
}  # fmt: skip
_ALIGNED = {name for name, kind in _TYPES.items() if kind[0] == "*"} | {
    "d",
    "stride",
}  # what launches at d = 2048 promise


@dataclass(frozen=True)
class Problem:
    """One kernel with its constants; ``gram`` (share of the product S) and ``steps`` say what work the modelled time
    counts.
    """

    kernel: Any
    dtype: str
    constants: dict[str, Any]
    warps: int
    precision: str = "-"
    N: int = 0
    gram: float = 0.0
    steps: int = 0
    names: tuple[str, ...] = field(default=())

    @property
    def label(self) -> str:
        shown = {
            name: value
            for name, value in self.constants.items()
            if name in ("NP", "KP", "TILE", "T", "BD", "RT", "DP", "MODE")
        }
        return f"{self.kernel.__name__} {self.dtype} {self.precision} " + " ".join(f"{a}={b}" for a, b in shown.items())

    @property
    def options(self) -> dict[str, Any]:
        """What the launcher passes beside the constants."""
        limit = (
            {}
            if self.kernel.__name__ in ("gram_tiles", "scale_rows", "add_parts")
            else {"maxnreg": triton_small.REGISTERS}
        )
        return {"num_warps": self.warps, "num_stages": self.constants.get("STAGES", 3)} | limit

    @property
    def needs_tensor_cores(self) -> bool:
        return self.gram > 0 and (self.precision != "ieee" or self.dtype == "fp16")

    def signature(self) -> dict[str, str]:
        """Types of the arguments, for triton.compiler.ASTSource."""
        types = {name: "constexpr" if name in self.constants else _TYPES[name] for name in self.kernel.arg_names}
        return types | ({"features": f"*{self.dtype}"} if "features" in types else {})

    def attributes(self) -> dict[tuple[int, ...], list[list[Any]]]:
        """Which arguments are multiples of 16, as the launcher finds out at run time."""
        positions = enumerate(self.kernel.arg_names)
        return {
            (i,): [["tt.divisibility", 16]] for i, name in positions if name in _ALIGNED and name not in self.constants
        }


def _kinds(quick: bool) -> list[tuple[str, str]]:
    every = [("fp16", "fp16"), *(("fp32", precision) for precision in backend.PRECISIONS)]
    return every[:2] if quick else every


def _small(quick: bool) -> list[Problem]:
    problems = []
    for padded in (64, 128) if quick else triton_small.SMALL:
        for dtype, precision in _kinds(quick):
            torch_type = torch.float16 if dtype == "fp16" else torch.float32
            shape = triton_small.small_shape(padded, precision, torch_type)
            constants = {"NP": padded, "BD": shape.BD, "KP": shape.KP, "WIDTH": shape.WIDTH,
                "CHECK": triton_small.CHECK,
                         "PRECISION": "tf32x3" if dtype == "fp16" else precision, "SCALED": dtype != "fp16",
                         "STAGES": shape.STAGES}  # fmt: skip
            problems.append(
                Problem(
                    triton_small.solve_small, dtype, constants, shape.warps, precision, N=padded, gram=1.0, steps=32
                )
            )
    return problems


def _large(quick: bool) -> list[Problem]:
    problems = []
    for padded, shape in triton_large.LARGE.items():
        if quick and padded != 256:
            continue
        share = 0.5 + 0.5 * shape.T / padded  # tiles on or below the diagonal
        for dtype, precision in _kinds(quick):
            constants = {"NP": padded, "T": shape.T, "BD": shape.BD,
                "PRECISION": "tf32x3" if dtype == "fp16" else precision,
                         "SCALED": dtype != "fp16", "STAGES": shape.STAGES}  # fmt: skip
            problems.append(Problem(triton_large.gram_tiles, dtype, constants, 4, precision, N=padded, gram=share))
        constants = {"NP": padded, "KP": shape.KP, "TILE": shape.TILE, "WIDTH": 256, "CHECK": triton_small.CHECK}
        problems.append(Problem(triton_large.solve_large, "fp32", constants, triton_large.WARPS, N=padded, steps=32))
    return problems


def _rows(quick: bool) -> list[Problem]:
    problems = []
    for dtype in ("fp16", "fp32"):
        constants = {"ROWS": triton_large.SCALE_ROWS, "BD": 128, "SCALED": dtype != "fp16"}
        problems.append(Problem(triton_large.scale_rows, dtype, constants, 4))
        for width in (2048,) if quick else (16, 128, 512, 2048, 8192):
            for mode in (0, 1):
                rows = min(triton_matrixfree.TILE // width, 256)
                constants = {"RT": rows, "DP": width, "MODE": mode}
                problems.append(Problem(triton_matrixfree.one_pass, dtype, constants, 8))
    problems.append(Problem(triton_matrixfree.add_parts, "fp32", {"DP": 2048, "BD": 128}, 4))
    return problems


def triton_problems(*, quick: bool = False) -> list[Problem]:
    """All of them, or one of each kernel in the default precision and in fp16."""
    return _small(quick) + _large(quick) + _rows(quick)

"""The device, its clocks and memory, and the tools that are there."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from benchmarks.device_check.passport import passport, told_by

if TYPE_CHECKING:
    from benchmarks.device_check.session import Session

_ASKED = (
    "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw,"
    "ecc.mode.current,compute_mode"
)


def run(session: Session) -> None:
    """Rows: passport, nvidia-smi, tools, the device as torch sees it."""
    session.row(**passport())
    session.row(**{"nvidia-smi": told_by("nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader", "--id=0")})
    tools = ("nvcc", "g++", "compute-sanitizer", "ncu", "cuobjdump", "make", "git")
    session.row(tools={name: shutil.which(name) for name in tools})
    device = session.device()
    if device.type == "cuda":
        import torch

        told = torch.cuda.get_device_properties(device)
        capability = f"{told.major}.{told.minor}"
        session.row(device=told.name, capability=capability, multiprocessors=told.multi_processor_count,
                    bytes=told.total_memory, l2_bytes=told.L2_cache_size, cuda=torch.version.cuda)  # fmt: skip

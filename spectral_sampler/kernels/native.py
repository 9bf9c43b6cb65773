"""The compiled CPU kernels behind ``backend="native"``: rows of a feature store in, Fiedler vectors out, in one call.

``torch.ops.spectral_sampler.fiedler`` gathers, forms S (or, for large N, never forms it) and solves every member, in
float32, from float32 or float16 storage; csrc/fiedler.h says what its bits depend on. It runs on the threads of torch
and without the GIL.
"""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple

import torch
from torch import Tensor

from spectral_sampler.errors import BackendUnavailable

__all__ = ["DEVICES", "cosine_graph", "instruction_set", "solve", "unusable_reason"]

DEVICES = ("cpu",)
_FORMS = {"auto": 0, "dense": 1, "factored": 2}


class Solution(NamedTuple):
    """The fields of `spectral_sampler.FiedlerResult`, each with a leading axis of B."""

    vector: Tensor
    value: Tensor
    residual: Tensor
    num_matvecs: Tensor
    status: Tensor
    gap: Tensor


@functools.cache
def _load() -> str | None:
    """Load the extension, which registers the operators; the reason where that fails."""
    try:
        importlib.import_module("spectral_sampler._C")
    except ModuleNotFoundError:
        return "this copy was installed without the extension; reinstall with a C++ compiler and torch present"
    except (ImportError, OSError) as error:
        return f"the extension does not load under torch {torch.__version__}, it needs 2.10 or later ({error})"
    torch.library.register_fake("spectral_sampler::fiedler", _fake_fiedler)
    torch.library.register_fake("spectral_sampler::cosine_graph", _fake_cosine_graph)
    return None


def _fake_fiedler(features: Tensor, indices: Tensor, form: int = 0, refresh_every: int = 32) -> Solution:
    del form, refresh_every
    members, size = indices.shape
    torch._check(features.dim() == 2)  # noqa: SLF001
    numbers = [features.new_empty((members,), dtype=torch.float32) for _ in range(3)]
    counts = [features.new_empty((members,), dtype=torch.int64) for _ in range(2)]
    vector = features.new_empty((members, size), dtype=torch.float32)
    return Solution(vector, numbers[0], numbers[1], counts[0], counts[1], numbers[2])


def _fake_cosine_graph(features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    members, size = indices.shape
    affinity = features.new_empty((members, size, size), dtype=torch.float32)
    return affinity, features.new_empty((members, size), dtype=torch.float32)


def unusable_reason() -> str | None:
    """Why this backend cannot run here, or None where it can."""
    return _load()


def _require() -> None:
    reason = _load()
    if reason is not None:
        raise BackendUnavailable(f'Backend "native" cannot be used: {reason}.')


def instruction_set() -> str:
    """Which of the compiled variants this processor runs: "baseline", "avx2" or "avx512"."""
    _require()
    name: str = importlib.import_module("spectral_sampler._C").instruction_set()
    return name


def solve(features: Tensor, indices: Tensor, *, form: str = "auto", refresh_every: int = 32) -> Solution:
    """Fiedler vectors of the graphs of ``features[indices]``.

    Args:
        features: (M, d), float32 or float16; other types are converted to float32 first.
        indices: (B, N) int64, rows of each member.
        form: "dense" keeps S in memory, "factored" never forms it, "auto" takes the faster.
        refresh_every: factored form: steps between fresh products Uᵀq (csrc/cpu/factored_laplacian.cpp).
    """
    _require()
    rows = features if features.dtype in (torch.float32, torch.float16) else features.to(torch.float32)
    return Solution(*torch.ops.spectral_sampler.fiedler(rows, indices, _FORMS[form], refresh_every))


def cosine_graph(features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """S without its diagonal (B, N, N) and its row sums (B, N), float32; zeros for a member with a faulty row."""
    _require()
    rows = features if features.dtype in (torch.float32, torch.float16) else features.to(torch.float32)
    affinity, degrees = torch.ops.spectral_sampler.cosine_graph(rows, indices)
    return affinity, degrees

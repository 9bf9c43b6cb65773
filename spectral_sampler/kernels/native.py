"""The compiled CPU kernels behind ``backend="native"``: rows of a feature store in, Fiedler vectors out, in one call.

``torch.ops.spectral_sampler.fiedler`` gathers, forms S (or, for large N, never forms it) and solves every member, in
float32, from float32, float16 or bfloat16 storage; csrc/fiedler.h says what its bits depend on. It runs on up to
as many threads as torch and without the GIL.
"""

from __future__ import annotations

import functools
import importlib

import torch
from torch import Tensor

from spectral_sampler.errors import BackendUnavailable
from spectral_sampler.result import FiedlerResult

__all__ = ["DEVICES", "NUMBERED", "cosine_graph", "instruction_set", "solve", "unusable_reason"]

DEVICES = ("cpu",)
NUMBERED = True  # solve() can be told what rows are called elsewhere
_STORED = (torch.float32, torch.float16, torch.bfloat16)  # what is read as it lies
_FORMS = {"auto": 0, "dense": 1, "factored": 2}


@functools.cache
def _load() -> str | None:
    """Load the extension, which registers the operators; the reason where that fails.

    Raises:
        ValueError: SPECTRAL_SAMPLER_CPU, the instruction set not to go beyond, is not the name of one.
    """
    try:
        extension = importlib.import_module("spectral_sampler._C")
    except ModuleNotFoundError:
        return (
            "this copy was installed without the extension; reinstall with a C++ compiler and torch present, and with "
            "SPECTRAL_SAMPLER_REQUIRE_EXT=1 to see what fails"
        )
    except (ImportError, OSError) as error:
        return f"the extension does not load under torch {torch.__version__}, it needs 2.10 or later ({error})"
    extension.instruction_set()
    torch.library.register_fake("spectral_sampler::fiedler", _fake_fiedler)
    torch.library.register_fake("spectral_sampler::fiedler.numbered", _fake_numbered)
    torch.library.register_fake("spectral_sampler::cosine_graph", _fake_cosine_graph)
    return None


def _fake_fiedler(features: Tensor, indices: Tensor, form: int = 0, refresh_every: int = 32) -> FiedlerResult:
    del form, refresh_every
    members, size = indices.shape
    torch._check(features.dim() == 2)  # noqa: SLF001
    numbers = [features.new_empty((members,), dtype=torch.float32) for _ in range(4)]
    counts = [features.new_empty((members,), dtype=torch.int64) for _ in range(2)]
    vector = features.new_empty((members, size), dtype=torch.float32)
    return FiedlerResult(vector, numbers[0], numbers[1], counts[0], counts[1], *numbers[2:])


def _fake_numbered(
    features: Tensor, indices: Tensor, numbers: Tensor, form: int = 0, refresh_every: int = 32
) -> FiedlerResult:
    del numbers
    return _fake_fiedler(features, indices, form, refresh_every)


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


def solve(
    features: Tensor,
    indices: Tensor,
    *,
    numbers: Tensor | None = None,
    form: str = "auto",
    refresh_every: int = 32,
) -> FiedlerResult:
    """Fiedler vectors of the graphs of ``features[indices]``.

    Args:
        features: (M, d), float32, float16 or bfloat16; other types are converted to float32 first, and copied if the
            features of a row do not lie side by side.
        indices: (B, N) int64, rows of each member.
        numbers: (B, N) int64 that name these rows to the start vector and the sign; None for ``indices`` themselves.
        form: "dense" keeps S in memory, "factored" never forms it, "auto" takes the faster.
        refresh_every: factored form: steps between fresh products Uᵀq (csrc/cpu/factored_laplacian.cpp).
    """
    _require()
    rows = features if features.dtype in _STORED else features.to(torch.float32)
    if numbers is not None:
        numbered = torch.ops.spectral_sampler.fiedler.numbered
        return FiedlerResult(*numbered(rows, indices, numbers, _FORMS[form], refresh_every))
    return FiedlerResult(*torch.ops.spectral_sampler.fiedler(rows, indices, _FORMS[form], refresh_every))


def cosine_graph(features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """S without its diagonal (B, N, N) and its row sums (B, N), float32; zeros for a member with a faulty row."""
    _require()
    rows = features if features.dtype in _STORED else features.to(torch.float32)
    affinity, degrees = torch.ops.spectral_sampler.cosine_graph(rows, indices)
    return affinity, degrees

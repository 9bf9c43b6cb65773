"""Every way to solve on this machine, called alike: the backends, and the forms of one that large graphs alone take."""

from __future__ import annotations

import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor

from spectral_sampler import fiedler, limits, ops
from spectral_sampler.fiedler import FiedlerResult, fiedler_rows
from spectral_sampler.graph import start_vectors
from spectral_sampler.kernels import array_solver, cupy
from spectral_sampler.search import to_host

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

Problem = tuple[Tensor, Tensor]  # features (M, d), indices (B, N) into them


class Way(NamedTuple):
    """``solve`` takes problems, not one: a worker's start costs more than a small graph. Faulty members are marked."""

    name: str
    solve: Callable[[list[Problem]], list[FiedlerResult]]
    dtype: torch.dtype = torch.float32  # what it computes in
    backend: str | None = None  # by which `fiedler_vector` knows it
    place: str = "cpu"
    slow: bool = False  # graphs take tenths of a second each
    formed: bool = True  # S is, and ‖L‖_∞ known; else estimated

    def unusable(self) -> str | None:
        """Why this machine or installation cannot, or None."""
        for word, module in (("strict", "array_api_strict"), ("interpreted", "triton")):
            if word in self.name and find_spec(module) is None:
                return f"{module} is not installed"
        backend = "native" if self.name.startswith("native") else self.backend
        return None if backend is None else ops.unusable_reason(backend, self.place)

    def skip_if_unusable(self) -> None:
        """Skips the test where it cannot be run."""
        if self.unusable() is not None:
            pytest.skip(self.unusable())


def same_bits(one: FiedlerResult, other: FiedlerResult) -> bool:
    """Every field to the last bit. A NaN equals nothing."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def members_of(features: np.ndarray | Tensor) -> Problem:
    """The problem whose members are the features (B, N, d)."""
    features = torch.as_tensor(features)
    count, size, width = features.shape
    return features.reshape(count * size, width), torch.arange(count * size).reshape(count, size)


def solve_one(way: Way, features: np.ndarray | Tensor) -> FiedlerResult:
    """Of features (B, N, d), in the dtype of the way if that is wider."""
    return way.solve([members_of(widened(way, features))])[0]


def widened(way: Way, features: np.ndarray | Tensor) -> Tensor:
    """As the way is given them: float64 for float64, else as they are stored."""
    features = torch.as_tensor(features)
    return features.double() if way.dtype == torch.float64 else features


def _named(backend: str, place: str, problems: list[Problem]) -> list[FiedlerResult]:
    results = [fiedler_rows(rows.to(place), indices.to(place), backend=backend) for rows, indices in problems]
    return [FiedlerResult(*(field.cpu() for field in result)) for result in results]


def _never_formed(problems: list[Problem]) -> list[FiedlerResult]:
    with mock.patch.object(fiedler, "DENSE_LIMIT", 1):
        return _named("eager", "cpu", problems)


def _factored(problems: list[Problem]) -> list[FiedlerResult]:
    from spectral_sampler.kernels import native

    return [FiedlerResult(*native.solve(rows, indices, form="factored")) for rows, indices in problems]


def _on_arrays(strict: bool, problems: list[Problem]) -> list[FiedlerResult]:
    """As `cupy.solve` does it, on NumPy's arrays or on those of array-api-strict's second device."""

    def solve(rows: Tensor, indices: Tensor) -> FiedlerResult:
        starts = (start_vectors(indices, salt).numpy() for salt in (0, limits.PROBE_SALT))
        arrays = [rows[indices].float().numpy(), *starts]
        if strict:
            import array_api_strict

            second = array_api_strict.Device("device1")
            arrays = [array_api_strict.asarray(array, device=second) for array in arrays]
        graphs, found = array_solver.solve_features(arrays[0], (arrays[1], arrays[2]))
        return cupy.finish(graphs, found, indices, lambda array: torch.from_numpy(to_host(array).copy()))

    return [solve(rows, indices) for rows, indices in problems]


def _interpreted(problems: list[Problem]) -> list[FiedlerResult]:
    from test_triton import solve_all

    with tempfile.TemporaryDirectory() as folder:
        return solve_all(Path(folder), [(rows.numpy(), indices.numpy()) for rows, indices in problems])


EAGER = Way("eager", partial(_named, "eager", "cpu"), backend="eager")
DOUBLE = Way("eager, float64", partial(_named, "eager", "cpu"), torch.float64)
NATIVE_FACTORED = Way("native, S not formed", _factored, formed=False)
NATIVE = Way("native", partial(_named, "native", "cpu"), backend="native")
WAYS = [
    EAGER,
    DOUBLE,
    Way("eager, S not formed", _never_formed, slow=True, formed=False),
    NATIVE,
    NATIVE_FACTORED,
    Way("cupy's on NumPy", partial(_on_arrays, False)),
    Way("cupy's on array-api-strict", partial(_on_arrays, True), slow=True),
    Way("triton, interpreted", _interpreted, slow=True),
    *(Way(name, partial(_named, name, "cuda"), backend=name, place="cuda") for name in ("triton", "cuda", "cupy")),
]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)

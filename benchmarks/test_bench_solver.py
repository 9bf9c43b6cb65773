"""The solver and its peers on the same candidate batches, a group for every size: the table shows their ratios.

Ratios for the documents come from `make bench`, which interleaves the solvers; these are for comparing two commits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from benchmarks import measure, peers, problems
from spectral_sampler import Status, fiedler_rows
from spectral_sampler.kernels import native

MEMBERS = {32: 64, 64: 32, 128: 16, 256: 4, 512: 2, 1024: 1}  # candidate batches in one call
OURS = {"native": peers.ours("native"), "native, float16 store": peers.ours("native"), "eager": peers.ours("eager")}
THEIRS = {
    name: peers.PEERS[name]
    for name in (
        *("NumPy cosine + eigh", "torch bmm + linalg.eigh", "SciPy eigh, one pair"),
        *("SciPy eigsh", "SciPy eigsh, LinearOperator"),
    )
}
bounded = pytest.mark.benchmark(max_time=0.25, min_rounds=3)


@cache
def _scaled(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cosines stay, and nothing overflows in half precision."""
    return (rows.float() / rows.float().abs().max()).to(dtype)


def _stored(rows: torch.Tensor, solver: str) -> torch.Tensor:
    if solver.startswith("native") and native.unusable_reason() is not None:
        pytest.skip("native is not built")
    return _scaled(rows, torch.float16 if "float16" in solver else torch.float32)


@cache
def _truth(store: torch.Tensor, size: int):
    return measure.exact(store, problems.problem("", store, MEMBERS[size], size).indices)


def _check(solver: str, case: problems.Problem, vectors, own) -> None:
    """Ours is right wherever it does not say "degenerate". Peers may be wrong on the user's features, not on ours."""
    laplacians, best = _truth(case.store, case.shape[1])
    asked = np.ones(len(vectors), dtype=np.bool_)
    if solver in OURS:
        status = fiedler_rows(case.store, case.indices, backend=solver.partition(",")[0]).status
        asked = (status.numpy() & int(Status.DEGENERATE)) == 0
        assert own is not None or asked.all()
    wrong = measure.accuracy(vectors[asked], (laplacians[asked], best[asked]))["wrong"] if asked.any() else 0
    if wrong and solver in THEIRS and own is not None:
        pytest.xfail(f"{solver} is wrong in {wrong} of {len(vectors)}")
    assert wrong == 0


def _gram(case: problems.Problem) -> int:
    """Floating point operations of the symmetric half of S."""
    members, size, width = case.shape
    return members * size * (size + 1) * width


@bounded
@pytest.mark.parametrize("solver", [*OURS, *THEIRS])
def test_solve(benchmark, beside_limit, rows, own, size, solver):
    case = problems.problem("", _stored(rows, solver), MEMBERS[size], size)
    benchmark.group = f"solve B={MEMBERS[size]}, N={size}, d={case.shape[2]}"
    vectors = benchmark({**OURS, **THEIRS}[solver], case.store, case.indices)
    _check(solver, case, vectors, own)
    if solver == "native":
        beside_limit("sgemm", _gram(case), "the symmetric Gram product's flops at the SGEMM rate")


@bounded
def test_graph(benchmark, beside_limit, rows, size):
    case = problems.problem("", _stored(rows, "native"), MEMBERS[size], size)
    benchmark.group = "cosine graph alone"
    affinity, _ = benchmark(native.cosine_graph, case.store, case.indices)
    units = torch.nn.functional.normalize(case.store[case.indices].double(), dim=2)
    wanted = units @ units.mT
    off = ~torch.eye(size, dtype=torch.bool)
    assert (affinity - wanted)[:, off].abs().max() < 1e-5
    beside_limit("sgemm", _gram(case), "the symmetric Gram product's flops at the SGEMM rate")


@cache
def _large(own_rows: torch.Tensor | None) -> problems.Problem:
    return problems.large() if own_rows is None else problems.problem("", own_rows, 1, min(len(own_rows), 16_384))


@cache
def _large_truth(store: torch.Tensor, indices: torch.Tensor):
    return OURS["eager"](store, indices)[0]  # float64 would take minutes; SciPy's row is held against it too


@pytest.mark.parametrize("solver", [*OURS, "SciPy eigsh, LinearOperator"])
def test_large(benchmark, beside_limit, rows, own, solver):
    """S is never formed: a gibibyte would not be small beside the rows."""
    case = _large(None if own is None else rows)
    if case.shape[1] <= max(MEMBERS):
        pytest.skip("the file has no more rows than the largest of the small graphs")
    case = case._replace(store=_stored(case.store, solver))
    benchmark.group = "solve B={}, N={}, d={}, S never formed".format(*case.shape)
    vectors = benchmark.pedantic({**OURS, **THEIRS}[solver], (case.store, case.indices), rounds=3, warmup_rounds=1)
    sine = (1 - min(1.0, abs(vectors[0] @ _large_truth(case.store, case.indices))) ** 2) ** 0.5
    if solver in THEIRS and own is not None and sine > measure.WRONG:
        pytest.xfail(f"{solver} is wrong")
    assert sine <= measure.WRONG
    assert measure.residual(case, vectors) < 1e-6
    if solver == "native":
        steps = int(native.solve(case.store, case.indices).num_matvecs[0])
        read = case.indices.numel() * case.shape[2] * case.store.element_size() * steps
        beside_limit("read", read, "reading the rows once a product with L, from memory")

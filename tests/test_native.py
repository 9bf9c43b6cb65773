"""The compiled CPU kernels against float64: every case, thousands of fuzzed graphs, and the same bits every time."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import solver_checks as checks
import torch
from processes import python
from solver_cases import CASES, counts, fuzzed, post_relu, sentences

from spectral_sampler.fiedler import FiedlerResult, fiedler_rows, fiedler_vector
from spectral_sampler.graph import canonical_sign, cosine_affinity
from spectral_sampler.kernels import native
from spectral_sampler.limits import Status

pytestmark = pytest.mark.skipif(native.unusable_reason() is not None, reason=f"native: {native.unusable_reason()}")

SEEDS = range(20)
REALISTIC = [post_relu, sentences, counts]
FORMS = ["dense", "factored"]


def stacked(builder, seeds=SEEDS) -> torch.Tensor:
    return torch.from_numpy(np.stack([builder(seed) for seed in seeds]))


def solve(features: torch.Tensor, form: str = "auto", **options) -> FiedlerResult:
    """Of features (B, N, d) in a store of their own."""
    count, size, width = features.shape
    rows = features.reshape(count * size, width)
    return FiedlerResult(*native.solve(rows, torch.arange(count * size).reshape(count, size), form=form, **options))


def same_bits(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- right ---


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case):
    features = stacked(case.builder)
    result = fiedler_vector(features, backend="native")
    checks.check_all(result, features, case.expectation, SEEDS, case.name)
    if case.expectation.same_bits_as is not None:
        assert same_bits(result, fiedler_vector(stacked(case.expectation.same_bits_as), backend="native"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_without_forming_the_affinity(case):
    features = stacked(case.builder)
    result = solve(features, "factored")
    truth = checks.truth_of_features(features.numpy())
    checks.check_ratios(result, truth, case.name)
    checks.check_sign(result, truth, label=case.name)
    checks.check_expectation(result, case.expectation, SEEDS, case.name)


@pytest.mark.parametrize("seed", range(60))
def test_fuzzed_graphs(seed):
    rng = np.random.default_rng([seed, 1])
    size, width = int(rng.integers(2, 49)), int(rng.integers(1, 65))
    features = np.stack([fuzzed(rng, size, width) for _ in range(50)])
    truth = checks.truth_of_features(features)
    label = f"N={size}, d={width}"
    result = fiedler_vector(features, backend="native")
    checks.check_ratios(result, truth, label)
    checks.check_status(result, truth, label)
    checks.check_sign(result, truth, label=label)
    checks.check_ratios(solve(torch.from_numpy(features), "factored"), truth, label + ", factored")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("size", "width"), [(2, 1), (15, 17), (16, 16), (17, 255), (33, 256), (130, 257), (300, 600)])
def test_cosine_graph_is_the_definition(size, width, dtype):
    generator = torch.Generator().manual_seed(size)
    store = torch.randn(2 * size, width, generator=generator).to(dtype)
    indices = torch.stack([torch.randperm(2 * size, generator=generator)[:size] for _ in range(3)])
    affinity, degrees = native.cosine_graph(store, indices)
    exact = cosine_affinity(store[indices].double())
    exact.diagonal(dim1=1, dim2=2).zero_()
    ulp = torch.finfo(torch.float32).eps
    assert float((affinity - exact).abs().max()) <= 2 * width**0.5 * ulp + 2 * ulp
    assert torch.equal(affinity, affinity.mT)
    assert not affinity.diagonal(dim1=1, dim2=2).any()
    torch.testing.assert_close(degrees.double(), affinity.double().sum(2), rtol=0, atol=size * ulp)


def test_float16_rows_are_read_exactly():
    """Every finite half, subnormals included: from half storage and from the same numbers in float32, the same bits."""
    halves = torch.arange(0x7C00, dtype=torch.int32).to(torch.int16).view(torch.float16)
    store = torch.cat((halves, -halves)).reshape(-1, 496)
    store = store[(store != 0).any(dim=1)]
    indices = torch.arange(len(store))[None]
    for form in FORMS:
        one = native.solve(store, indices, form=form)
        assert same_bits(one, native.solve(store.float(), indices, form=form))
        assert not int(one.status[0]) & Status.INVALID


@pytest.mark.parametrize("builder", REALISTIC)
def test_kept_set_is_float64s(builder):
    """On ≥ 99.9 % of realistic batches; elsewhere the margin at the cut is within the member's own error bound."""
    features = stacked(lambda seed: builder(seed, 128), range(200))
    single = fiedler_vector(features, backend="native")
    double = fiedler_vector(features.double(), backend="eager")
    number = 38
    ordered = single.vector.sort(dim=1, descending=True).values
    margin = ordered[:, number - 1] - ordered[:, number]
    certain = margin > 2 * (single.residual + 4 * torch.finfo(torch.float32).eps) / single.gap.clamp(min=1e-9)
    one, two = (result.vector.topk(number).indices.sort(dim=1).values for result in (single, double))
    equal = (one == two).all(dim=1)
    assert equal[certain].all()
    assert certain.float().mean() > 0.2
    assert equal.float().mean() >= 0.99


def test_sign_rule_is_the_definition():
    same_shape = [case for case in CASES if case.builder(0).shape == (48, 96)]
    features = torch.cat([stacked(case.builder, range(4)).float() for case in same_shape])
    count, size = features.shape[:2]
    indices = torch.randperm(count * size, generator=torch.Generator().manual_seed(0)).reshape(count, size)
    store = torch.empty(count * size, features.shape[2])
    store[indices.reshape(-1)] = features.reshape(count * size, -1)
    result = fiedler_rows(store, indices, backend="native")
    affinity, degrees = native.cosine_graph(store, indices)
    norm = (degrees.abs() + affinity.abs().sum(dim=2)).amax(dim=1)
    assert (canonical_sign(result.vector, degrees, indices, norm) == 1).all()


def test_steps_of_an_easy_batch_are_few():
    for builder in REALISTIC:
        result = solve(stacked(lambda seed, make=builder: make(seed, 128, 256), range(8)))
        assert result.num_matvecs.float().mean() <= 60


# --- large graphs ---


@pytest.mark.parametrize("refresh_every", [1, 3, 8, 10_000])
@pytest.mark.parametrize("builder", [post_relu, sentences, counts])
def test_one_pass_step_does_not_drift(builder, refresh_every):
    """The images y = Uᵀq are carried along by linearity: their error stays below what the residual shows."""
    features = torch.from_numpy(builder(1, 700, 200))[None]
    result = solve(features, "factored", refresh_every=refresh_every)
    assert float(result.residual) <= 4 * torch.finfo(torch.float32).eps
    exact = solve(features, "dense")
    assert float((result.vector * exact.vector).sum()) == pytest.approx(1.0, abs=1e-6)
    # The probe starts from v's rounding, which is another one in each form, and looks at every fourth step.
    assert abs(int(result.num_matvecs) - int(exact.num_matvecs)) <= 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_graph(dtype):
    """Checked in float64 without forming S either; its basis is limited, so that restarts are taken."""
    generator = torch.Generator().manual_seed(3)
    store = (torch.randn(20_000, 48, generator=generator) + 0.5).to(dtype)
    indices = torch.randperm(20_000, generator=generator)[None, :16_384]
    result = native.solve(store, indices)
    units = torch.nn.functional.normalize(store[indices[0]].double())
    vector, value = result.vector[0].double(), float(result.value)
    sums = units @ units.sum(dim=0)
    residual = sums * vector - units @ (units.T @ vector) - value * vector
    norm = 2 * float(sums.max())
    assert abs(float(vector.sum())) / 128 <= 1e-5
    assert float(residual.norm()) / norm <= 16 * torch.finfo(torch.float32).eps
    assert int(result.status) & Status.CONVERGED
    dense_value = torch.linalg.eigvalsh(torch.diag(sums[:1000]) - units[:1000] @ units[:1000].T)[0]
    assert value <= float(dense_value) + 1.0  # Cauchy: the lowest value of any principal submatrix lies above


PEAK = """
import ctypes, pathlib, sys, torch
from spectral_sampler.kernels import native
def status(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024
rows, width, dtype = int(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3])
torch.manual_seed(0)
store = torch.empty(rows, width, dtype=dtype)
for part in store.split(4096):
    part.copy_(torch.rand(part.shape) + 0.1 * torch.randn(part.shape[0], 1))
indices = torch.arange(rows)[None]
native.solve(store[:4096].clone(), indices[:, :4096])
ctypes.CDLL(None).malloc_trim(0)  # else what was freed above is used again, and nothing seems to be needed
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = status("VmRSS")
result = native.solve(store, indices)
beyond = status("VmHWM") - before
print(beyond / (store.numel() * store.element_size()), int(result.status), float(result.residual))
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    done = python(code, *arguments, environment={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    not (Path("/proc/self/clear_refs").exists() and hasattr(ctypes.CDLL(None), "malloc_trim")),
    reason="reads Linux's account of memory and trims glibc's heap",
)
@pytest.mark.parametrize(
    ("rows", "dtype"), [(65_536, "float16"), pytest.param(262_144, "float32", marks=pytest.mark.slow)]
)
def test_memory_beyond_the_store(rows, dtype):
    share, status, residual = run(PEAK, str(rows), "256", dtype).split()
    assert 0 < float(share) <= 0.2
    assert int(status) & Status.CONVERGED
    assert float(residual) <= 1e-4


# --- the same bits ---


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("builder", REALISTIC)
def test_a_hundred_runs_give_the_same_bits(builder, form):
    features = stacked(builder, range(4))
    first = solve(features, form)
    assert all(same_bits(first, solve(features, form)) for _ in range(100))


@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_threads(form):
    many, large = stacked(counts, range(24)), torch.from_numpy(post_relu(2, 1500, 70))[None]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((solve(many, form), solve(large, form)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(same_bits(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("builder", REALISTIC)
def test_bits_do_not_depend_on_neighbours_or_place(builder, form):
    features = stacked(builder, range(32))
    together = solve(features, form)
    for member in (0, 1, 17, 31):
        assert same_bits(solve(features[member][None], form), [field[member][None] for field in together])
    # Rows of a store behind an odd offset, in another order of members.
    store = torch.cat((torch.full((5, features.shape[2]), 7.0), features.flip(0).reshape(-1, features.shape[2])))
    indices = 5 + torch.arange(len(store) - 5).reshape(32, -1).flip(0)
    moved = native.solve(store, indices, form=form)
    assert torch.equal(moved.vector, together.vector)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf"), 0.0])
def test_poisoned_member_is_alone(poison, form):
    features = stacked(post_relu, range(5))
    clean = solve(features, form)
    features[3, 7] = 0.0 if poison == 0 else features[3, 7]
    features[3, 7, 2] = poison
    marked = solve(features, form)
    assert marked.status.tolist()[3] == Status.INVALID
    assert all(not field[3].any() for name, field in marked._asdict().items() if name != "status")
    others = [0, 1, 2, 4]
    assert same_bits([field[others] for field in marked], [field[others] for field in clean])


def test_one_row_over_and_over():
    """A candidate batch may repeat an index: the start vector, a hash of indices, is then constant."""
    result = native.solve(torch.rand(3, 4), torch.full((2, 9), 1))
    assert (result.status & int(Status.DEGENERATE)).all()
    torch.testing.assert_close(result.vector.norm(dim=1), torch.ones(2))
    assert float(result.vector.sum(dim=1).abs().max()) <= 1e-5


INSTRUCTION_SETS = """
import sys, numpy as np, torch, solver_checks as checks
from solver_cases import CASES
from spectral_sampler.fiedler import FiedlerResult
from spectral_sampler.kernels import native
assert native.unusable_reason() is None
for case in CASES[:: int(sys.argv[1])]:
    features = torch.from_numpy(np.stack([case.builder(seed) for seed in range(2)]))
    rows, indices = features.reshape(-1, features.shape[2]), torch.arange(2 * features.shape[1]).reshape(2, -1)
    truth = checks.truth_of_features(features.numpy())
    for form in ("dense", "factored"):
        checks.check_ratios(FiedlerResult(*native.solve(rows, indices, form=form)), truth, case.name)
print(native.instruction_set())
"""


@pytest.mark.parametrize("name", ["baseline", "avx2"])
def test_lesser_instruction_sets(name):
    found = run(INSTRUCTION_SETS, "2", SPECTRAL_SAMPLER_CPU=name).strip()
    assert found == name or found == "baseline"


# --- arguments, operators ---


def test_indices_are_checked_before_they_are_followed():
    store = torch.rand(10, 4)
    for wrong in (-1, 10, 2**40):
        indices = torch.arange(6).reshape(1, 6).clone()
        indices[0, 3] = wrong
        with pytest.raises(RuntimeError, match=r"indices must be in \[0, 10\)"):
            native.solve(store, indices)


@pytest.mark.parametrize(
    ("features", "indices", "sentence"),
    [
        (torch.rand(4), torch.zeros(1, 2, dtype=torch.int64), "features must be of shape"),
        (torch.rand(4, 2), torch.zeros(2, dtype=torch.int64), "indices must be of shape"),
        (torch.rand(4, 2), torch.zeros(1, 2, dtype=torch.int32), "indices must be int64"),
        (torch.rand(4, 2).double(), torch.zeros(1, 2, dtype=torch.int64), "float32 or float16"),
        (torch.rand(4, 2), torch.zeros(1, 1, dtype=torch.int64), "at least two rows"),
        (torch.rand(4, 0), torch.zeros(1, 2, dtype=torch.int64), "at least one column"),
    ],
)
def test_operator_refuses(features, indices, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        torch.ops.spectral_sampler.fiedler(features, indices)


def test_strided_and_transposed_stores():
    store = torch.rand(12, 40)
    indices = torch.arange(12).reshape(1, 12)
    expected = native.solve(store, indices)
    assert same_bits(expected, native.solve(store.repeat_interleave(2, dim=1)[:, ::2], indices))
    assert same_bits(expected, native.solve(store.T.contiguous().T, indices))
    assert same_bits(expected, native.solve(store, indices.T.contiguous().T))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_opcheck(dtype):
    store, indices = torch.rand(30, 12).to(dtype), torch.arange(28).reshape(2, 14)
    torch.library.opcheck(torch.ops.spectral_sampler.fiedler.default, (store, indices))
    torch.library.opcheck(torch.ops.spectral_sampler.fiedler.default, (store, indices, 2, 4))
    torch.library.opcheck(torch.ops.spectral_sampler.cosine_graph.default, (store, indices))


def test_the_interpreter_is_free_while_a_batch_is_solved():
    store = torch.rand(4096, 512)
    indices = torch.stack([torch.randperm(4096)[:512] for _ in range(24)])
    ticks, solved = [], threading.Event()

    def work():
        native.solve(store, indices)
        solved.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not solved.is_set():
        ticks.append(time.perf_counter())
        time.sleep(0.0005)
    thread.join()
    assert len(ticks) > 10


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "eager"])
def test_compiled_into_one_graph(backend):
    """fiedler_vector is a node of the graph: no break, the same bits, and the refusal where it runs."""

    def doubled(features):
        result = fiedler_vector(features, backend=backend)
        return 2 * result.vector, result.status

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    for shape in ((3, 20, 8), (20, 8)):
        features = torch.rand(shape)
        assert same_bits(doubled(features), compiled(features))
    with pytest.raises(ValueError, match=r"rows \[0"):
        compiled(torch.zeros(3, 20, 8))


def test_opcheck_of_the_whole():
    torch.library.opcheck(torch.ops.spectral_sampler.fiedler_vector.default, (torch.rand(3, 20, 8), "native", "raise"))

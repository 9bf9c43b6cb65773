"""Every case of the table, some seeds each, in eager; and the relations between solutions of related graphs."""

from __future__ import annotations

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_cases import CASES, counts, positive, post_relu, sentences

from spectral_sampler.errors import ArgumentError
from spectral_sampler.fiedler import Status, fiedler_of_affinity, fiedler_rows, fiedler_vector

SEEDS = range(20)


def stacked(builder, seeds=SEEDS) -> torch.Tensor:
    return torch.from_numpy(np.stack([builder(seed) for seed in seeds]))


def solve(features, **options):
    return fiedler_vector(features, backend="eager", **options)


def same_bits(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


FEW = range(4)  # of a case; tests/reliability has twenty


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case):
    features = stacked(case.builder, FEW)
    result = solve(features)
    assert result.vector.dtype == torch.float32
    checks.check_all(result, features, case.expectation, FEW, case.name)
    if case.expectation.same_bits_as is not None:
        assert same_bits(result, solve(stacked(case.expectation.same_bits_as, FEW)))


UNSCALED = [case for case in CASES if case.group not in {"scale", "shape"}]


@pytest.mark.parametrize("case", UNSCALED, ids=lambda case: case.name)
def test_case_in_float64(case):
    # Of the same float32 numbers, whose near-degenerate gaps float64 can tell: expectations are for float32.
    seeds = range(3)
    features = stacked(case.builder, seeds).double()
    result = solve(features)
    assert result.vector.dtype == torch.float64
    truth = checks.truth_of_features(features.numpy())
    checks.check_ratios(result, truth, case.name)
    checks.check_sign(result, truth, label=case.name)


# --- known spectra ---


def path(size):
    return torch.diag(torch.ones(size - 1), 1) + torch.diag(torch.ones(size - 1), -1)


def path_value(size, number):
    return 2 - 2 * np.cos(number * np.pi / size)


def cycle(size):
    weights = path(size)
    weights[0, -1] = weights[-1, 0] = 1
    return weights


def star_graph(size):
    weights = torch.zeros(size, size)
    weights[0, 1:] = weights[1:, 0] = 1
    return weights


def barbell(size):
    weights = torch.block_diag(torch.ones(size, size), torch.ones(size, size))
    weights[0, size] = weights[size, 0] = 1
    return weights


def barbell_value(m):
    # Antisymmetric under the swap of the halves: x = (a, b, …, b) with a (m + 1) − (m − 1) b = λ a and b − a = λ b.
    return ((m + 2) - ((m + 2) ** 2 - 8) ** 0.5) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("weights", "value", "gap"),
    [
        *((path(n), path_value(n, 1), path_value(n, 2) - path_value(n, 1)) for n in (2, 3, 5, 40, 200)),
        *((cycle(n), 2 - 2 * np.cos(2 * np.pi / n), 0.0) for n in (5, 12, 41)),
        *((torch.ones(n, n), n, 0.0) for n in (3, 30)),
        (star_graph(12), 1.0, 0.0),
        *((barbell(n), barbell_value(n), None) for n in (4, 15)),
        (torch.block_diag(torch.ones(4, 4), torch.ones(9, 9)), 0.0, 4.0),
        (-torch.ones(6, 6), -6.0, 0.0),
    ],
)
def test_known_spectrum(weights, value, gap, dtype):
    size, ulp = len(weights), torch.finfo(dtype).eps
    result = fiedler_of_affinity(weights.to(dtype))
    norm = float(weights.fill_diagonal_(0).abs().sum(dim=1).max() * 2)
    assert float(result.value) == pytest.approx(value, abs=8 * ulp * norm)
    truth = checks.truth_of_affinity(weights.double().numpy()[None], ulp)
    batched = type(result)(*(field[None] for field in result))
    checks.check_ratios(batched, truth)
    checks.check_status(batched, truth)
    if gap is not None and size > 2:
        assert truth.gap * truth.unit == pytest.approx(gap, abs=1e-12 * norm)


def test_path_vector_is_a_cosine():
    vector = fiedler_of_affinity(path(60).double()).vector
    exact = torch.cos(torch.pi * (torch.arange(60) + 0.5) / 60).double()
    assert abs(float(vector @ exact / exact.norm())) == pytest.approx(1.0, abs=1e-12)


def test_tiny_and_huge_weights_are_relative():
    # Weights have no absolute unit: the same graph in another one gives the same vector.
    one = fiedler_of_affinity(path(20))
    for factor in (2.0**-90, 2.0**90):
        other = fiedler_of_affinity(path(20) * factor)
        assert torch.equal(one.vector, other.vector)
        assert float(other.value) == pytest.approx(float(one.value) * factor)


def test_the_wrong_vector_is_found_out(monkeypatch):
    """A run that starts without any part of v settles on a higher eigenvector; the probe sees it, and v is found."""
    from spectral_sampler import fiedler

    features = torch.from_numpy(post_relu(3))[None]
    right = solve(features)
    truth = checks.truth_of_features(features.numpy())
    honest = fiedler.start_vectors

    def blind(indices, salt=0):
        start = honest(indices, salt)
        if salt == 0:
            start = start - (start * right.vector).sum(dim=1, keepdim=True) * right.vector
            start = torch.from_numpy(truth.vectors[:, :, 1]).float() + 0 * start
        return start

    monkeypatch.setattr(fiedler, "start_vectors", blind)
    result = solve(features)
    checks.check_ratios(result, truth)
    assert float((result.vector * right.vector).sum()) == pytest.approx(1.0, abs=1e-5)
    assert int(result.num_matvecs) > int(right.num_matvecs)


def test_max_matvecs_limits_and_is_told():
    features = stacked(sentences, range(4))
    result = solve(features, max_matvecs=4)
    assert not checks.has(result, Status.CONVERGED).any()
    assert int(result.num_matvecs.max()) <= 9
    assert torch.allclose(result.vector.norm(dim=1), torch.ones(4), atol=1e-5)
    truth = checks.truth_of_features(features.numpy())
    measured = checks.ratios(result, truth)["residual"] * truth.unit / truth.norm
    np.testing.assert_allclose(result.residual.numpy(), measured, rtol=1e-2)


# --- relations ---


def kept(vector: torch.Tensor, number: int) -> list[set[int]]:
    return [set(row.tolist()) for row in vector.topk(number).indices]


REALISTIC = [post_relu, sentences, counts]


@pytest.mark.parametrize("builder", REALISTIC)
@pytest.mark.parametrize("change", ["scaled rows", "rotated", "copied columns", "reflected"])
def test_same_graph_same_vector(builder, change):
    features = stacked(builder)
    size, width = features.shape[1:]
    generator = torch.Generator().manual_seed(0)
    if change == "scaled rows":
        other = features * (0.1 + torch.rand(20, size, 1, generator=generator) * 1e4)
    elif change == "rotated":
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator).double())[0]
        other = (features.double() @ rotation).float()
    elif change == "copied columns":
        other = torch.cat((features, features, features), dim=2)
    else:
        other = -features
    one, two = solve(features), solve(other)
    gap = one.gap.clamp(min=1e-6)
    distance = (one.vector - two.vector).norm(dim=1)
    assert (distance <= 4 * size * torch.finfo(torch.float32).eps / gap).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_permuted_rows_rank_alike(case):
    features = stacked(case.builder, range(6))
    size = features.shape[1]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(1))
    rows = features.reshape(-1, features.shape[2])
    indices = torch.arange(len(rows)).reshape(6, size)
    one = fiedler_rows(rows, indices, backend="eager")
    two = fiedler_rows(rows, indices[:, order], backend="eager")
    gap = torch.where(one.gap > 0, one.gap, torch.inf)  # any vector of the eigenspace is right where there is no gap
    distance = (one.vector[:, order] - two.vector).norm(dim=1)
    assert (distance <= 4 * size * torch.finfo(torch.float32).eps * torch.where(gap.isinf(), 1e9, 1 / gap)).all()
    assert torch.allclose(one.value, two.value, rtol=0, atol=4 * size * size * 2.4e-7)


@pytest.mark.parametrize("builder", [*REALISTIC, positive(17, 33), positive(31, 5), positive(3, 33)])
def test_bits_do_not_depend_on_neighbours(builder):
    features = stacked(builder, range(64))
    together = solve(features)
    assert same_bits(together, solve(features)), "twice the same, not twice the same bits"
    for member in (0, 1, 31, 63):
        alone = solve(features[member].clone())
        assert same_bits(alone, [field[member] for field in together])
    pair = solve(torch.stack((features[40], torch.ones_like(features[0]))))
    assert same_bits([field[0] for field in pair], [field[40] for field in together])


def test_bits_do_not_depend_on_chunks_or_threads(monkeypatch):
    features = stacked(counts, range(24))
    before = torch.get_num_threads()
    together = solve(features)
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        assert same_bits(together, solve(features))
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr("spectral_sampler.fiedler._CHUNK_BYTES", 5 * 48 * 48 * 4)
    assert same_bits(together, solve(features))


def test_bits_do_not_depend_on_the_callers_switches():
    features = stacked(post_relu, range(3))
    expected = solve(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(expected, solve(features))
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert same_bits(expected, solve(features))
    finally:
        torch.set_default_dtype(previous)
    try:
        torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
        assert same_bits(expected, solve(features.clone().requires_grad_(True)))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("builder", REALISTIC)
def test_kept_set_is_float64s(builder):
    features = stacked(lambda seed: builder(seed, 128), range(60))
    single, double = solve(features), solve(features.double())
    number = 32
    ordered = single.vector.sort(dim=1, descending=True).values
    margin = ordered[:, number - 1] - ordered[:, number]
    # Rounding of the cosines perturbs L by a few ulps, and so v by that over the gap.
    certain = margin > 2 * (single.residual + 4 * torch.finfo(torch.float32).eps) / single.gap.clamp(min=1e-9)
    pairs = zip(kept(single.vector, number), kept(double.vector, number), strict=True)
    equal = torch.tensor([one == other for one, other in pairs])
    assert certain.float().mean() > 0.2
    assert equal[certain].all()
    assert equal.float().mean() >= 0.98


def test_realistic_batches_need_few_steps():
    for builder in REALISTIC:
        result = solve(stacked(lambda seed, make=builder: make(seed, 128, 256), range(8)))
        assert result.num_matvecs.float().mean() <= 60
        assert (result.residual <= 8 * torch.finfo(torch.float32).eps).all()


# --- the matrix-free definition ---


@pytest.mark.parametrize("builder", [*REALISTIC, *(case.builder for case in UNSCALED)])
def test_matrix_free_agrees_with_dense(builder, monkeypatch):
    features = stacked(builder, range(2))
    monkeypatch.setattr("spectral_sampler.fiedler.DENSE_LIMIT", 1)
    result = solve(features)
    truth = checks.truth_of_features(features.numpy())
    checks.check_ratios(result, truth)
    checks.check_sign(result, truth)


def test_matrix_free_on_a_large_graph_never_forms_the_affinity(monkeypatch):
    from spectral_sampler import graph

    features = torch.from_numpy(post_relu(0, 1100, 40))
    monkeypatch.setattr(graph, "gram", lambda units: pytest.fail("formed S"))
    result = solve(features)
    checks.check_ratios(type(result)(*(f[None] for f in result)), checks.truth_of_features(features.numpy()[None]))


# --- refusals ---


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf"), 0.0])
def test_poisoned_member_is_named_and_alone(poison):
    features = stacked(post_relu, range(5))
    clean = solve(features)
    features[3, 7] = 0.0 if poison == 0 else features[3, 7]
    features[3, 7, 2] = poison
    features[3, 11] = 0.0
    with pytest.raises(ArgumentError, match=r"rows \[7, 11\] of member 3"):
        solve(features)
    marked = solve(features, invalid="mark")
    assert marked.status.tolist()[3] == Status.INVALID
    assert all(not field[3].any() for name, field in marked._asdict().items() if name != "status")
    others = [0, 1, 2, 4]
    assert same_bits([field[others] for field in marked], [field[others] for field in clean])


def test_everything_poisoned():
    marked = solve(torch.full((2, 5, 3), torch.nan), invalid="mark")
    assert marked.status.tolist() == [Status.INVALID] * 2
    assert not marked.vector.any()


def test_finite_only_in_float64():
    features = post_relu(0).astype(np.float64) * 1e200
    assert int(solve(features).status) & Status.CONVERGED
    with pytest.raises(ArgumentError, match="rows"):
        solve(torch.from_numpy(features).float())


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (torch.ones(3), "shape"),
        (torch.ones(2, 2, 2, 2), "shape"),
        (torch.ones(0, 4), "empty"),
        (torch.ones(4, 0), "empty"),
        (torch.ones(0, 4, 4), "empty"),
        (torch.ones(1, 4), "at least 2 rows"),
        (torch.ones(3, 4, dtype=torch.complex64), "real"),
        (np.ones((3, 4), dtype=complex), "real"),
        (np.array([["a", "b"], ["c", "d"]]), "real"),
        (np.array([[1, None], [2, 3]], dtype=object), "real"),
        (torch.eye(4).to_sparse(), "dense"),
    ],
)
def test_refused_in_one_sentence(features, sentence):
    with pytest.raises(ArgumentError, match=sentence) as caught:
        fiedler_vector(features)
    assert str(caught.value).startswith("features must be ")


@pytest.mark.parametrize(("option", "value"), [("invalid", "skip"), ("max_matvecs", 0), ("backend", "numpy")])
def test_options_are_checked(option, value):
    with pytest.raises(ArgumentError, match=option):
        fiedler_vector(torch.ones(4, 4), **{option: value})


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.int64),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(">f8"),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.ascontiguousarray(x[::-1])[::-1],
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(np.uint16),
        lambda x: torch.from_numpy(x).bfloat16(),
        lambda x: torch.from_numpy(x).to(torch.int32).T.contiguous().T,
        lambda x: x.tolist(),
    ],
)
def test_any_real_dtype_and_layout(convert):
    integers = np.round(post_relu(1, 20, 30) * 40 + 1).clip(0, 255).astype(np.float32)
    expected, result = solve(integers), solve(convert(integers))
    assert float(expected.vector.double() @ result.vector.double()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(20, 30), (3, 20, 30)])
def test_the_layout_of_a_tensor_changes_no_bit(shape, dtype):
    """Sums and products of eager round by the strides: transposed memory once gave other bits than the same numbers."""
    features = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = solve(features)
    assert same_bits(expected, solve(features.mT.contiguous().mT))
    assert same_bits(expected, solve(features.repeat_interleave(2, dim=-1)[..., ::2]))
    weights = torch.nn.functional.pad(features, (0, 2))[..., :20, :20] + features[..., :20, :20].mT
    weights = (weights + weights.mT).contiguous()
    assert same_bits(fiedler_of_affinity(weights), fiedler_of_affinity(weights.mT))


def test_the_layout_of_indices_changes_no_bit():
    """The start vector has their strides, and one of other strides is summed in another order."""
    for seed in range(6):
        rows = torch.from_numpy(np.round(post_relu(seed, 66, 65) * 20 + 1))
        indices = torch.arange(66).flip(0).reshape(2, 33)
        turned = fiedler_rows(rows, indices.T.contiguous().T, backend="eager")
        assert same_bits(fiedler_rows(rows, indices, backend="eager"), turned)


def test_read_only_and_bool_arrays():
    array = post_relu(2) > 0.5
    array[:, 0] = True
    array.flags.writeable = False
    assert int(solve(array).status) & Status.CONVERGED


@pytest.mark.parametrize(
    ("indices", "word"),
    [
        (torch.arange(6), "shape"),
        (torch.zeros(2, 1, dtype=torch.int64), "shape"),
        (torch.zeros(2, 4, dtype=torch.int32), "int64"),
        (torch.tensor([[0, 99]]), "between"),
        (torch.tensor([[-1, 2]]), "between"),
    ],
)
def test_rows_checks_indices(indices, word):
    with pytest.raises(ArgumentError, match=word):
        fiedler_rows(torch.ones(9, 3), indices)


def test_rows_solves_what_was_gathered():
    features = torch.from_numpy(post_relu(0, 200, 32)).half()
    indices = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(k))[:40] for k in range(6)])
    result = fiedler_rows(features, indices, backend="eager")
    truth = checks.truth_of_features(features[indices].numpy())
    checks.check_ratios(result, truth)
    checks.check_status(result, truth)
    checks.check_sign(result, truth, indices.numpy())


def test_rows_mark_the_member_with_a_faulty_row():
    features = torch.from_numpy(post_relu(0, 60, 32))
    indices = torch.arange(60).reshape(3, 20)
    clean = fiedler_rows(features, indices, backend="eager")
    features[25] = torch.inf
    marked = fiedler_rows(features, indices, backend="eager")
    assert marked.status[1] == Status.INVALID
    assert same_bits([field[[0, 2]] for field in marked], [field[[0, 2]] for field in clean])


@pytest.mark.parametrize("weights", [torch.ones(3, 4), torch.full((3, 3), torch.nan)])
def test_affinity_is_checked(weights):
    with pytest.raises(ArgumentError, match="affinity"):
        fiedler_of_affinity(weights)

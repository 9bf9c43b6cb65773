"""Graphs that take a solver to its limits, with spectra known in advance: restarts, missed eigenvectors, the bound on
steps, the estimate of ‖L‖_∞, and sizes from which thresholds in N used to be wrong.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_cases import gaussian, post_relu, sentences

from spectral_sampler import FiedlerResult, fiedler, fiedler_vector, limits
from spectral_sampler.graph import start_vectors
from spectral_sampler.kernels import native
from spectral_sampler.limits import Status

pytestmark = pytest.mark.skipif(native.unusable_reason() is not None, reason="native is not built")
FORMS = ("dense", "factored")


def solve(features: np.ndarray, form: str) -> FiedlerResult:
    """One graph (N, d) through native."""
    return native.solve(torch.from_numpy(features), torch.arange(len(features))[None], form=form)


def path(size: int) -> np.ndarray:
    """Rows that overlap with the next one only, by a cosine of 1/2: L is half a path's, λ_k = 1 − cos(kπ/N)."""
    features = np.zeros((size, size + 1), dtype=np.float32)
    place = np.arange(size)
    features[place, place] = features[place, place + 1] = 1.0
    return features


def check_path(result: FiedlerResult, size: int) -> None:
    exact = np.cos((np.arange(size) + 0.5) * np.pi / size)
    along = result.vector[0].double().numpy() @ exact / np.linalg.norm(exact)
    value, gap = 1 - np.cos(np.pi / size), np.cos(np.pi / size) - np.cos(2 * np.pi / size)
    ulp, norm = limits.ULP, 2.0
    assert float(result.value) == pytest.approx(value, abs=8 * ulp * norm)
    assert float(result.gap) * norm == pytest.approx(gap, rel=0.3)
    assert np.sqrt(max(0.0, 1 - along**2)) * gap / norm <= 4 * ulp
    assert float(result.residual) <= 4 * ulp
    assert int(result.status) == Status.CONVERGED


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [150, 300])
def test_a_path_takes_hundreds_of_steps_and_many_restarts(form, size):
    """Its steps are about 1.9 N: a thick restart keeps what was learnt, and the images of the basis are mixed alike."""
    result = solve(path(size), form)
    check_path(result, size)
    assert 150 <= int(result.num_matvecs) <= 2.2 * size


def test_a_restart_keeps_its_accuracy_on_a_large_graph():
    features = gaussian(4096, 512)(1)
    result = solve(features, "factored")
    assert int(result.num_matvecs) > 100, "nothing was restarted"
    units = features.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    vector = result.vector[0].double().numpy()
    rest = units @ units.sum(axis=0) * vector - units @ (units.T @ vector) - float(result.value) * vector
    norm = float(np.abs(units @ units.sum(axis=0) - 1).max() + np.abs(units[:256] @ units.T).sum(axis=1).max())
    assert np.linalg.norm(rest) / norm <= 4 * limits.ULP


def test_not_converged_is_said():
    """1,200 nodes in a row need 2,200 steps, which no run takes."""
    result = solve(path(1200), "dense")
    assert float(result.residual) > limits.RESIDUAL * limits.ULP
    assert not int(result.status) & Status.CONVERGED


def balanced_halves(size: int) -> np.ndarray:  # a size whose noise adds up to an even number
    """(size,) bool, half of it true: the start vector sums to exactly the same over both halves."""
    noise = np.round(start_vectors(torch.arange(size)[None])[0].double().numpy() * 2**23).astype(np.int64)
    rng = np.random.default_rng(0)
    pairs = np.array(list(itertools.combinations(range(size // 2), 2)))
    while True:
        order = rng.permutation(size)
        one, two = order[: size // 2], order[size // 2 :]
        wanted, odd = divmod(int(noise[one].sum() - noise[two].sum()), 2)
        inward, outward = noise[one][pairs].sum(axis=1), noise[two][pairs].sum(axis=1)
        swaps = np.searchsorted(sorted_out := np.sort(outward), inward - wanted)
        hits = np.flatnonzero(sorted_out[np.minimum(swaps, len(pairs) - 1)] == inward - wanted)
        assert not odd, "another size is needed"
        if not hits.size:
            continue
        back = np.flatnonzero(outward == inward[hits[0]] - wanted)[0]
        half = np.isin(np.arange(size), one)
        half[one[pairs[hits[0]]]], half[two[pairs[back]]] = False, True
        assert noise[half].sum() == noise[~half].sum()
        return half


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_a_missed_eigenvector_is_taken_up_again(backend):
    """The start vector is orthogonal to the Fiedler vector of two groups: only the probe can find it."""
    half = balanced_halves(66)
    features = np.where(half[:, None], [[1.0, 0.25]], [[0.25, 1.0]]).astype(np.float32)
    result = fiedler_vector(features, backend=backend)
    cosine = 0.5 / (1 + 0.25**2)
    assert float(result.value) == pytest.approx(66 * cosine, rel=1e-5)
    assert result.vector.sign().eq(torch.where(torch.from_numpy(half), 1, -1)).float().mean() in (0.0, 1.0)
    assert int(result.status) == Status.CONVERGED


def threefold(size: int, width: int, seed: int) -> np.ndarray:
    """Rows [X, XP, XP²] with P of order three: half of all eigenvectors or more come in pairs of the same value."""
    rows = np.maximum(np.random.default_rng(seed).normal(size=(size, 3 * width)), 0).astype(np.float32)
    return np.concatenate([np.roll(rows, width * turn, axis=1) for turn in range(3)])


@pytest.mark.parametrize(("size", "width", "seeds"), [(70, 40, 24), (200, 64, 8), (400, 128, 4)])
def test_a_double_eigenvalue_is_seen(size, width, seeds):
    """The residual of v has no part along the other eigenvectors of λ2: only a probe from noise finds them."""
    double = 0
    for seed in range(seeds):
        features = threefold(size, width, seed)
        truth = checks.truth_of_features(features[None])
        double += bool(truth.gap[0] < 1e-3)
        for backend in ("native", "eager"):
            result = fiedler_vector(features, backend=backend)
            if truth.gap[0] < 1e-3:
                said = f"{backend}, seed {seed}: a gap of {float(result.gap)}"
                assert int(result.status) & Status.DEGENERATE, said
                assert float(result.error) == pytest.approx(limits.WORST), said
            else:
                checks.check_status(FiedlerResult(*(field[None] for field in result)), truth, backend)
    assert double >= seeds // 2


def test_the_norm_is_not_that_of_the_largest_degree():
    """Rows in two opposite directions have degrees near −1 and the largest Σ|S|: ‖L‖_∞ is 9 times that of the
    row with the largest degree."""
    rng = np.random.default_rng(5)
    features = 0.05 * rng.normal(size=(620, 24))
    features[:20, 0] += 1.0
    features[20:, 1] += np.resize([1.0, -1.0], 600)
    features = features[rng.permutation(620)].astype(np.float32)
    truth = checks.truth_of_features(features[None])
    for form in FORMS:
        result = solve(features, form)
        checks.check_ratios(result, truth, form)
        checks.check_status(result, truth, form)


def test_eager_restarts_where_its_basis_is_full(monkeypatch):
    features = path(80)
    free = fiedler_vector(features, backend="eager")
    assert int(free.num_matvecs) > 64 + 32, "the basis would not have been full"
    monkeypatch.setattr(fiedler, "_BASIS_BYTES", 0)
    result = fiedler_vector(features, backend="eager")
    check_path(FiedlerResult(*(field[None] for field in result)), 80)
    assert int(result.num_matvecs) > 2 * int(free.num_matvecs)


@pytest.mark.parametrize(
    "builder",
    [post_relu, sentences, lambda seed, size, width: gaussian(size, width)(seed)],
    ids=["relu", "text", "signed"],
)
@pytest.mark.parametrize("size", [300, 700, 1700])
def test_large_graphs_against_the_truth(size, builder):
    """Vectors and status bits where thresholds in N · ulp called healthy graphs degenerate, any vector converged."""
    features = builder(1, size, 96)[None]
    truth = checks.truth_of_features(features)  # takes longer than both backends
    for backend in ("native", "eager"):
        result = fiedler_vector(features, backend=backend)
        checks.check_ratios(result, truth, backend)
        checks.check_status(result, truth, backend)
        checks.check_sign(result, truth, label=backend)

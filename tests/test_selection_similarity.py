"""Graphs that are not the papers': against dense float64 eigenvectors, spectra known in advance, and refusals."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from spectral_sampler import GSTDS, SALN, ReferenceStore, SpectralBatchSampler
from spectral_sampler.errors import ArgumentError
from spectral_sampler.fiedler import LAPLACIANS, Status, fiedler_of_affinity
from spectral_sampler.selection import SpectralStrata
from spectral_sampler.selection.similarity import SIMILARITIES, Graph, affinity, solve_similarity
from spectral_sampler.selection.spectral import fiedler_scores

N = 40
GRAPHS = [
    Graph(similarity, laplacian)
    for similarity, laplacian in itertools.product(SIMILARITIES, LAPLACIANS)
    if (similarity, laplacian) != ("cosine", "normalised")
]
every_graph = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: f"{graph.similarity}-{graph.laplacian}")


def _store(seed, *, signed):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(3, 24)) * (2.0 if signed else 1.0)
    rows = centres[generator.integers(3, size=200)] + 0.6 * generator.normal(size=(200, 24))
    return ReferenceStore.from_arrays((rows if signed else np.abs(rows)).astype(np.float32))


def _scores(store, indices, graph):
    return fiedler_scores(store, indices, score="signed", backend="auto", **vars(graph))


def _weights(rows, similarity, k=10):
    """The definition, in float64, without its diagonal."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    others = ~np.eye(len(rows), dtype=bool)
    if similarity in ("cosine", "clamped", "knn"):
        weights = units @ units.T
        weights = weights if similarity == "cosine" else np.maximum(weights, 0)
    else:
        distances = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))
        distances /= np.sort(distances[others])[(others.sum() - 1) // 2]
        weights = np.exp(-0.5 * distances**2) if similarity == "rbf" else 1 / (1 + distances)
    kept = others
    if similarity.startswith("knn"):
        kept = np.zeros_like(others)
        for i, row in enumerate(weights):
            nearest = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -row[j])[:k]
            kept[i, nearest] = kept[nearest, i] = True
    return np.where(kept, weights, 0)


def _lowest(weights, laplacian="unnormalised"):
    """The lowest vector of L y = θ M y away from the constant one, M the identity or the degrees, and its gap."""
    sums = weights.sum(1)
    scale = 1 / np.sqrt(sums) if laplacian == "normalised" else np.ones(len(weights))
    basis = scipy.linalg.null_space(1 / scale[None])
    matrix = scale[:, None] * (np.diag(sums) - weights) * scale
    values, inner = np.linalg.eigh(basis.T @ matrix @ basis)
    vector = scale * (basis @ inner[:, 0])
    return vector / np.linalg.norm(vector), values[1] - values[0]


@every_graph
@pytest.mark.parametrize("signed", [False, True])
def test_scores_are_the_lowest_eigenvector_of_the_named_graph(graph, signed):
    compared = 0
    for seed in range(20):
        store = _store(seed, signed=signed)
        indices = np.random.default_rng(seed).permutation(200)[: 3 * N].reshape(3, N)
        found = _scores(store, indices, graph)
        for b, member in enumerate(indices):
            weights = _weights(store.features[member].astype(np.float64), graph.similarity)
            if graph.laplacian == "normalised" and (weights.sum(1) == 0).any():
                continue
            expected, gap = _lowest(weights, graph.laplacian)
            if gap > 1e-2:
                assert abs(found.values[b] @ expected) > 1 - 1e-6
                compared += 1
        assert np.isfinite(found.error).any() or graph.similarity.startswith("knn")
    assert compared >= 20


@pytest.mark.parametrize("similarity", sorted(SIMILARITIES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_the_definition_rounded_once(similarity, dtype):
    generator = np.random.default_rng(0)
    centres = 5.0 * generator.normal(size=(3, 8))
    for width, offset in ((1.0, 0.0), (1e-3, 0.0), (1.0, 1e3)):  # clusters so tight that products would cancel
        rows = torch.from_numpy(centres[np.arange(30) % 3] + width * generator.normal(size=(30, 8)) + offset).to(dtype)
        found = affinity(rows, Graph(similarity))
        expected = torch.from_numpy(_weights(rows.double().numpy(), similarity))
        assert found.dtype == dtype
        difference = (found.double() - expected).fill_diagonal_(0).abs().max()
        assert float(difference) <= (2.0**-24 if dtype == torch.float32 else 1e-13)


def test_similarities_differ_where_cosines_are_negative_and_agree_where_they_are_not():
    indices = np.arange(3 * N).reshape(3, N)
    scores = {
        (signed, similarity): _scores(_store(1, signed=signed), indices, Graph(similarity)).values
        for signed in (False, True)
        for similarity in SIMILARITIES
    }
    assert np.abs(scores[False, "cosine"] - scores[False, "clamped"]).max() < 1e-4
    assert np.abs(scores[True, "cosine"] - scores[True, "clamped"]).max() > 1e-2
    for one, other in itertools.combinations(sorted(SIMILARITIES.keys() - {"clamped"}), 2):
        assert np.abs(scores[False, one] - scores[False, other]).max() > 1e-2


# --- neighbours ---


def _solved(rows, graph):
    rows = torch.as_tensor(rows)
    return solve_similarity(rows, torch.arange(len(rows))[None], graph, "auto")


def _circle(size):
    angles = 2 * torch.pi * torch.arange(size).double() / size
    return torch.stack((torch.cos(angles), torch.sin(angles)), dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("laplacian", LAPLACIANS)
def test_points_on_a_line_are_a_path(laplacian, dtype):
    """Both neighbours of a point are equally near, so k = 1 takes them both."""
    for size in (3, 10, 50):
        rows = torch.arange(1, 1 + size, dtype=dtype)[:, None]
        weights = affinity(rows, Graph("knn-euclidean", k=1))
        weight = float(weights[0, 1])
        edges = torch.diag(torch.ones(size - 1), 1)
        assert torch.allclose(weights.double(), weight * (edges + edges.T).double(), atol=1e-7)
        result = _solved(rows, Graph("knn-euclidean", laplacian, 1))
        if laplacian == "normalised":
            value, exact = 1 - np.cos(np.pi / (size - 1)), np.cos(np.pi * np.arange(size) / (size - 1))
        else:
            value, exact = weight * (2 - 2 * np.cos(np.pi / size)), np.cos(np.pi * (np.arange(size) + 0.5) / size)
        assert float(result.value) == pytest.approx(value, abs=1e-6)
        assert abs(result.vector[0].double().numpy() @ exact) / np.linalg.norm(exact) == pytest.approx(1.0, abs=1e-6)
        assert int(result.status) == Status.CONVERGED


@pytest.mark.parametrize(("k", "dtype"), [(1, torch.float64), (2, torch.float64), (2, torch.float32)])
@pytest.mark.parametrize("similarity", ["knn", "knn-euclidean"])
def test_points_on_a_circle_are_a_cycle_and_its_order_is_not_defined(similarity, k, dtype):
    for size in (5, 12, 64):
        weights = affinity(_circle(size).to(dtype), Graph(similarity, k=k))
        assert [int((row > 0).sum()) for row in weights - torch.diag(weights.diagonal())] == [2] * size
        result = _solved(_circle(size).to(dtype), Graph(similarity, "normalised", k))
        assert float(result.value) == pytest.approx(1 - np.cos(2 * np.pi / size), abs=1e-6)
        assert int(result.status) & Status.DEGENERATE


@pytest.mark.parametrize("similarity", ["knn", "knn-euclidean"])
def test_all_others_are_neighbours_where_there_are_no_more(similarity):
    rows = torch.rand(9, 5, generator=torch.Generator().manual_seed(0))
    plain = {"knn": "clamped", "knn-euclidean": "euclidean"}[similarity]
    everyone = affinity(rows, Graph(plain)).fill_diagonal_(0)
    for k in (8, 9, 1000):
        assert torch.equal(affinity(rows, Graph(similarity, k=k)).fill_diagonal_(0), everyone)
    assert int((affinity(rows, Graph(similarity, k=1)) > 0).sum()) < int((everyone > 0).sum()) / 2
    simplex = _solved(torch.eye(6) + 1.0, Graph("knn", k=2))  # all equally near: complete, whatever k is
    assert float(simplex.value) == pytest.approx(6 * 8 / 9)


@pytest.mark.parametrize("laplacian", LAPLACIANS)
def test_components_are_told_apart_or_said_to_be_too_many(laplacian):
    """Two: their indicator, the smaller one first. Three: nothing ranks them, and candidates go by their ties."""
    generator = np.random.default_rng(5)
    for sizes in ((12, 5), (8, 7, 6)):
        group = np.repeat(np.arange(len(sizes)), sizes)
        rows = 50.0 * np.eye(3)[group] + generator.random((len(group), 3))
        scores = _scores(
            ReferenceStore.from_arrays(rows), np.arange(len(group))[None], Graph("knn-euclidean", laplacian, 3)
        )
        if len(sizes) == 2:
            assert scores.status[0] == Status.CONVERGED
            assert np.ptp(scores.values[0][:12]) < 1e-6
            assert np.ptp(scores.values[0][12:]) < 1e-6
            assert scores.values[0][16] > 0.1 > scores.values[0][0]
        else:
            assert scores.status[0] & Status.DEGENERATE
            assert (scores.values == 0).all()
            assert np.isinf(scores.error).all()


# --- what every graph does ---


@every_graph
def test_copies_of_one_row_are_degenerate_and_finite(graph):
    store = ReferenceStore.from_arrays(np.tile(np.array([3.0, 4.0, 0.0], dtype=np.float32), (N, 1)))
    scores = _scores(store, np.arange(N)[None], graph)
    assert scores.status[0] == Status.CONVERGED | Status.DEGENERATE
    assert (scores.values == 0).all()


@every_graph
def test_copies_among_others_have_one_score(graph):
    rows = np.random.default_rng(1).random((N, 6)).astype(np.float32)
    rows[30:] = rows[:10]
    indices = np.random.default_rng(2).permutation(N)[None]
    scores = _scores(ReferenceStore.from_arrays(rows), indices, graph)
    by_index = scores.values[0][np.argsort(indices[0])]
    assert np.array_equal(by_index[30:], by_index[:10])
    assert len(set(by_index[:30])) > 20
    assert not scores.status[0] & Status.DEGENERATE


def test_an_rbf_graph_of_duplicates_is_finite():
    rows = np.ones((N, 4), dtype=np.float32)
    rows[0] = 2.0
    for graph in (Graph("rbf"), Graph("euclidean"), Graph("rbf", "normalised"), Graph("knn-euclidean")):
        scores = _scores(ReferenceStore.from_arrays(rows), np.arange(N)[None], graph)
        assert np.isfinite(scores.values).all()
        assert scores.values.argmax() == 0 or scores.status[0] & Status.DEGENERATE


@every_graph
def test_two_rows(graph):
    for rows in ([[1.0, 0.2], [0.3, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]):
        result = _solved(torch.tensor(rows), graph)
        assert result.vector[0].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])
        weight = float(affinity(torch.tensor(rows), graph)[0, 1])
        value = 2.0 * weight if graph.laplacian == "unnormalised" else 2.0 * (weight > 0)
        assert float(result.value) == pytest.approx(value, abs=1e-6)


@every_graph
def test_the_order_of_the_candidates_and_their_neighbours_in_the_call_do_not_matter(graph):
    store = _store(3, signed=False)
    order = np.random.default_rng(4).permutation(N)
    together = _scores(store, np.arange(3 * N).reshape(3, N), graph)
    moved = _scores(store, order[None], graph)
    assert np.abs(together.values[0][order] - moved.values[0]).max() <= max(1e-4, 2 * min(moved.error[0], 1.0))
    for b in range(3):
        alone = _scores(store, np.arange(b * N, (b + 1) * N)[None], graph)
        assert np.array_equal(together.values[b], alone.values[0])


def test_the_order_of_the_weights_does_not_matter():
    weights = torch.from_numpy(_weights(_store(3, signed=False).features[:N].astype(np.float64), "rbf"))
    order = torch.from_numpy(np.random.default_rng(4).permutation(N))
    indices = torch.arange(N)[None]
    plain = fiedler_of_affinity(weights[None], indices=indices).vector[0]
    moved = fiedler_of_affinity(weights[order][:, order][None], indices=indices[:, order]).vector[0]
    assert torch.allclose(plain[order], moved, atol=1e-9)


@every_graph
def test_lists_are_those_of_eager_and_follow_the_scores(graph):
    store = _store(7, signed=False)

    def lists(backend):
        sampler = SpectralBatchSampler(
            store, candidate_batch_size=N, keep_ratio=0.25, selection=SALN(**vars(graph)), seed=3, backend=backend
        )
        return list(sampler)

    kept = lists("auto")
    assert kept == lists("eager")
    assert [len(batch) for batch in kept] == [10] * 5


def test_how_many_candidate_batches_are_weighed_at_once_does_not_matter(monkeypatch):
    store, indices = _store(2, signed=False), np.arange(160).reshape(8, 20)
    whole = _scores(store, indices, Graph("knn", "normalised"))
    monkeypatch.setattr("spectral_sampler.selection.similarity._CHUNK_BYTES", 3 * 8 * 20**2)
    parts = _scores(store, indices, Graph("knn", "normalised"))
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


# --- arguments ---

SELECTIONS = pytest.mark.parametrize("selection", [SALN, GSTDS, SpectralStrata])


@SELECTIONS
def test_the_graph_is_said_and_the_papers_is_not(selection):
    assert "similarity" not in repr(selection())
    assert repr(selection(similarity="cosine", laplacian="unnormalised")) == repr(selection())
    said = repr(selection(similarity="rbf", laplacian="normalised"))
    assert "similarity='rbf', laplacian='normalised')" in said
    assert "similarity='knn', k=10)" in repr(selection(similarity="knn"))
    assert "(," not in said
    namespace = {each.__name__: each for each in (SALN, GSTDS, SpectralStrata)}
    for made in (selection(), selection(similarity="knn", k=3, laplacian="normalised")):
        assert repr(eval(repr(made), namespace)) == repr(made)  # noqa: S307
        assert eval(repr(made), namespace).graph == made.graph  # noqa: S307


@SELECTIONS
def test_scores_are_of_the_graph_that_was_asked_for(selection):
    store, indices = _store(1, signed=False), np.arange(N)[None]
    for graph in (Graph("euclidean"), Graph("knn", k=3), Graph("clamped", "normalised")):
        found = selection(**vars(graph)).score(store, indices, backend="auto")
        assert np.array_equal(found.values, _scores(store, indices, graph).values)


@SELECTIONS
def test_refusals(selection):
    for arguments, message in (
        ({"similarity": "euclid"}, r"^similarity must be one of .*got 'euclid'"),
        ({"laplacian": "random-walk"}, r"^laplacian must be one of .*got 'random-walk'"),
        ({"laplacian": "normalised"}, r"^similarity must be without negative weights .*'cosine'.*\"clamped\""),
        ({"similarity": "knn", "k": 0}, r"^k must be a whole number of at least 1, got 0"),
        ({"similarity": "knn", "k": 2.5}, r"^k must be a whole number of at least 1, got 2.5"),
        ({"similarity": "rbf", "k": 5}, r"^k must be None for similarity='rbf', got 5"),
        ({"k": 5}, r"^k must be None for similarity='cosine', got 5"),
    ):
        with pytest.raises(ArgumentError, match=message):
            selection(**arguments)
    policy, store = (
        selection(similarity="rbf"),
        ReferenceStore.from_arrays(np.random.default_rng(0).normal(size=(N, 4))),
    )
    with pytest.raises(ArgumentError, match=r"^backend must be .* for similarity='rbf', got 'native'"):
        policy.score(store, np.arange(N)[None], backend="native")

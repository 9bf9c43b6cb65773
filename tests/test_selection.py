"""The selections against ten-line references written from the papers, and against what their probabilities must be."""

import numpy as np
import pytest
from scipy import stats

from spectral_sampler import GSTDS, SALN, LossWeighted, ReferenceStore, Uniform, draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection.protocol import KINDS, CandidateBatch, Selection

N, WIDTH = 64, 48


def make_store(seed=0, size=512, *, signed=False):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(8, WIDTH))
    features = centres[generator.integers(8, size=size)] + 0.7 * generator.normal(size=(size, WIDTH))
    features = features if signed else np.maximum(features, 0) + 1e-3
    losses = generator.lognormal(-3, 3, size=size)  # median .05, 99th percentile around 50
    return ReferenceStore.from_arrays(features.astype(np.float32), losses=losses.astype(np.float32))


def candidates(store, selection, batch=0, seed=0, epoch=0, size=N):
    indices = np.random.default_rng([seed, epoch, batch]).permutation(len(store))[:size].astype(np.int64)
    scores = selection.score(store, indices[None], backend="eager")
    return CandidateBatch(
        indices=indices,
        scores=None if scores is None else scores.values[0],
        error=0.0 if scores is None else float(scores.error[0]),
        losses=store.losses[indices].astype(np.float64),
        seed=seed,
        epoch=epoch,
        batch=batch,
    )


def published_fiedler(features):
    """GSTDS §3.3 in float64 by LAPACK, with the sign of the larger third moment."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    affinity = rows @ rows.T
    values, vectors = np.linalg.eigh(np.diag(affinity.sum(1)) - affinity)
    assert abs(values[0]) < 1e-9, "non-negative affinities: the constant vector comes first"
    vector = vectors[:, 1]
    return vector if (vector**3).sum() >= 0 else -vector


@pytest.mark.parametrize("batch", range(12))
@pytest.mark.parametrize("budget", [2, 7, 20, 63, 64])
def test_gstds_against_the_paper(batch, budget):
    store = make_store()
    offered = candidates(store, GSTDS(), batch)
    choice = GSTDS().select(offered, budget)
    vector = published_fiedler(store.features[offered.indices])
    first = set(np.argsort(-vector)[: budget // 2].tolist())
    spectral = choice.positions[choice.kinds == KINDS.index("spectral")]
    weighted = choice.positions[choice.kinds == KINDS.index("weighted")]
    assert set(spectral.tolist()) == first
    assert choice.certified
    rest = [j for j in range(N) if j not in first]
    keys = {j: np.log(offered.uniforms()[j]) * (offered.losses[j] + 1e-8) for j in rest}  # u^(1/w), Efraimidis–Spirakis
    assert weighted.tolist() == sorted(rest, key=lambda j: -keys[j])[: budget - budget // 2]
    assert len(set(choice.positions.tolist())) == budget


@pytest.mark.parametrize("batch", range(6))
def test_saln_is_the_top_of_the_fiedler_vector(batch):
    store = make_store(1)
    offered = candidates(store, SALN(), batch)
    vector = published_fiedler(store.features[offered.indices])
    assert SALN().select(offered, 19).positions.tolist() == np.argsort(-vector)[:19].tolist()
    for score, key in (("negated", vector), ("abs", -np.abs(vector)), ("boundary", np.abs(vector))):
        offered = candidates(store, SALN(score), batch)
        assert set(SALN(score).select(offered, 19).positions.tolist()) == set(np.argsort(key)[:19].tolist())


def test_saln_is_gstds_without_its_draw_and_loss_weighted_is_gstds_without_its_rank():
    store = make_store(2)
    for batch in range(5):
        spectral = GSTDS(spectral_share=1.0)
        assert (
            spectral.select(candidates(store, spectral, batch), 20).positions.tolist()
            == SALN().select(candidates(store, SALN(), batch), 20).positions.tolist()
        )
        drawn = GSTDS(spectral_share=0.0)
        assert (
            drawn.select(candidates(store, drawn, batch), 20).positions.tolist()
            == LossWeighted().select(candidates(store, LossWeighted(), batch), 20).positions.tolist()
        )


def inclusion(selection, offered, trials, budget):
    counts = np.zeros(len(offered.indices))
    for trial in range(trials):
        counts[selection.select(offered._replace(batch=trial), budget).positions] += 1
    return counts


def test_uniform_takes_everyone_equally_often():
    store = make_store(3)
    offered = candidates(store, Uniform())
    trials = 4000
    counts = inclusion(Uniform(), offered, trials, 16)
    # Without replacement the counts vary less than independent draws would, by (N − n)/(N − 1).
    share = 16 / N
    statistic = ((counts - trials * share) ** 2).sum() / (trials * share * (1 - share)) * (N - 1) / N
    assert 1e-4 < stats.chi2.sf(statistic, N - 1) < 1 - 1e-4
    weighted = inclusion(LossWeighted(), offered, 400, 16)
    assert weighted.max() > 5 * max(weighted.min(), 1), "the control cannot tell weighted from uniform"


@pytest.mark.parametrize(
    ("selection", "weight"),
    [
        (LossWeighted(epsilon=0.05), lambda loss, score: 1 / (loss + 0.05)),
        (GSTDS(weights="loss", spectral_share=0.0), lambda loss, score: loss),
        (GSTDS(weights="abs_fiedler", spectral_share=0.0), lambda loss, score: np.abs(score)),
        (GSTDS(epsilon=0.05, spectral_share=0.0), lambda loss, score: 1 / (loss + 0.05)),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_first_draws_follow_the_weights(selection, weight):
    store = make_store(4)
    offered = candidates(store, selection if "features" in selection.needs else GSTDS(), size=8)
    losses = np.linspace(0.01, 0.5, 8)
    offered = offered._replace(losses=losses)
    expected = weight(losses, offered.scores)
    counts = inclusion(selection, offered, 6000, 1)
    assert stats.chisquare(counts, 6000 * expected / expected.sum()).pvalue > 1e-4
    assert stats.chisquare(counts, np.full(8, 750.0)).pvalue < 1e-6, "indistinguishable from uniform draws"


def test_heavy_tailed_losses_keep_their_order_of_magnitude():
    """Losses of a held-out reference span 1e-8 to 50: in float32 the floor of 1e-8 would vanish beside 1."""
    losses = np.array([0.0, 1e-9, 1e-8, 1e-4, 0.018, 4.9, 50.0, 1e6])
    offered = CandidateBatch(np.arange(8), losses=losses)
    counts = inclusion(LossWeighted(), offered, 2000, 2)
    assert counts[:3].sum() > 0.99 * 2 * 2000
    pairs = counts[:3] / counts[:3].sum()
    assert pairs[0] > pairs[1] > pairs[2], "weights 1e8, 9.1e7 and 5e7"
    every = LossWeighted().select(offered, 8)
    assert sorted(every.positions.tolist()) == list(range(8))
    assert every.zero_weight_draws == 0


def test_too_few_non_zero_weights_are_reported():
    losses = np.zeros(8)
    losses[[2, 5]] = 1.0
    offered = CandidateBatch(np.arange(8), scores=np.arange(8.0), losses=losses)
    choice = GSTDS(weights="loss", spectral_share=0.0).select(offered, 5)
    assert set(choice.positions[:2].tolist()) == {2, 5}
    assert choice.zero_weight_draws == 3


def test_a_degenerate_batch_ranks_by_a_hash_of_the_index():
    store = ReferenceStore.from_arrays(np.ones((40, 6), dtype=np.float32), losses=np.ones(40))
    offered = candidates(store, SALN(), size=16)
    choice = SALN().select(offered, 5)
    assert not choice.certified
    kept = set(offered.indices[choice.positions])
    turned = offered._replace(indices=offered.indices[::-1])
    assert set(turned.indices[SALN().select(turned, 5).positions]) == kept  # whatever the order of the candidates
    epochs = [set(offered.indices[SALN().select(offered._replace(epoch=e), 5).positions]) for e in range(40)]
    assert set.union(*epochs) == set(offered.indices), "some rows are never kept"


def test_signed_features_take_the_lowest_eigenvector_off_the_constant():
    store = make_store(5, signed=True)
    offered = candidates(store, SALN())
    rows = store.features[offered.indices].astype(np.float64)
    rows -= rows.mean(0)  # centred rows make the Laplacian indefinite
    store = ReferenceStore.from_arrays(rows.astype(np.float32))
    scores = SALN().score(store, np.arange(N)[None], backend="eager")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    affinity = rows @ rows.T
    laplacian = np.diag(affinity.sum(1)) - affinity
    basis = np.linalg.qr(np.c_[np.ones(N), np.eye(N)[:, :-1]])[0][:, 1:]
    values, vectors = np.linalg.eigh(basis.T @ laplacian @ basis)
    assert values[0] < 0
    assert abs(scores.values[0] @ (basis @ vectors[:, 0])) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("selection", [GSTDS(), SALN(), Uniform(), LossWeighted()], ids=repr)
def test_protocol(selection):
    assert isinstance(selection, Selection)
    store = make_store(6)
    offered = candidates(store, selection)
    for budget in range(1, N + 1, 9):
        choice = selection.select(offered, budget)
        assert choice.positions.shape == choice.kinds.shape == (budget,)
        assert choice.positions.dtype == np.int64
        assert len(set(choice.positions.tolist())) == budget
        assert 0 <= choice.positions.min() <= choice.positions.max() < N
        again = selection.select(offered, budget)
        assert again.positions.tolist() == choice.positions.tolist()
    assert eval(repr(selection)).name == selection.name  # noqa: S307 - our own four strings


def test_a_choice_does_not_depend_on_the_order_of_the_candidates():
    store = make_store(7)
    for selection in (GSTDS(), SALN(), Uniform(), LossWeighted()):
        offered = candidates(store, selection)
        shuffle = np.random.default_rng(0).permutation(N)
        indices = offered.indices[shuffle]
        scores = selection.score(store, indices[None], backend="eager")
        permuted = offered._replace(
            indices=indices,
            losses=offered.losses[shuffle],
            scores=None if scores is None else scores.values[0],
        )
        kept = set(offered.indices[selection.select(offered, 20).positions].tolist())
        assert set(indices[selection.select(permuted, 20).positions].tolist()) == kept


def test_draws_differ_between_batches_and_epochs_and_seeds():
    store = make_store(8)
    offered = candidates(store, Uniform())
    sets = {
        tuple(Uniform().select(offered._replace(seed=s, epoch=e, batch=b), 20).positions.tolist())
        for s in range(3)
        for e in range(3)
        for b in range(3)
    }
    assert len(sets) == 27
    assert draws.uniforms(0, 0, 0, np.arange(2))[0] != draws.uniforms(0, 0, 0, np.arange(2))[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GSTDS(score="up"), r"^score must be one of .*got 'up'"),
        (lambda: SALN(score=1), r"^score must be one of .*got 1"),
        (lambda: GSTDS(weights="losses"), r"^weights must be one of .*got 'losses'"),
        (lambda: GSTDS(epsilon=0), r"^epsilon must be a number in \(0, inf\), got 0"),
        (lambda: LossWeighted(epsilon=float("nan")), r"^epsilon must be a number in \(0, inf\), got nan"),
        (lambda: GSTDS(spectral_share=1.5), r"^spectral_share must be a number in \[0, 1\], got 1\.5"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()

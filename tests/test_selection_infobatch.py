"""InfoBatch: what is pruned, the unchanged expected gradient, equal batches."""

import numpy as np
import pytest

from spectral_sampler import ReferenceStore, draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import InfoBatch
from spectral_sampler.selection.protocol import EpochRequest

M = 200
STORE = ReferenceStore.from_arrays(np.ones((M, 2), dtype=np.float32))


def losses(seed=0):
    return np.random.default_rng(seed).exponential(size=M)


def request(table, epoch=0, batches=10, size=20, progress=0.0):
    return EpochRequest(STORE, draws.permutation(0, epoch, M), batches, size, table, 0, epoch, progress)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.8])
def test_prunes_a_share_of_those_below_the_mean(share):
    table = losses()
    kept, weights = InfoBatch(share).kept(InfoBatch().easy(table), np.arange(M), 0, 3)
    below = np.flatnonzero(table < table.mean())
    assert kept[table >= table.mean()].all()
    assert np.count_nonzero(~kept) == int(share * len(below))
    assert weights[below] == pytest.approx(1 / (1 - share))
    assert (weights[table >= table.mean()] == 1).all()


def test_expected_gradient_is_that_of_the_whole_data():
    table = next(t for t in map(losses, range(1, 9)) if np.count_nonzero(t < t.mean()) % 2 == 0)  # an exact half
    below = table < table.mean()
    gradients = np.random.default_rng(2).normal(size=(M, 3)) + np.where(below, 2.0, -1.0)[:, None]
    sums, plain = np.zeros((600, 3)), np.zeros((600, 3))
    for epoch in range(600):
        kept, weights = InfoBatch().kept(InfoBatch().easy(table), np.arange(M), 0, epoch)
        sums[epoch] = (weights[kept, None] * gradients[kept]).sum(0)
        plain[epoch] = gradients[kept].sum(0) * M / kept.sum()
    error = sums.std(0) / np.sqrt(600)
    assert np.all(np.abs(sums.mean(0) - gradients.sum(0)) < 4 * error)
    assert np.all(np.abs(plain.mean(0) - gradients.sum(0)) > 8 * error), "without weights the gradient is biased"


def test_every_easy_sample_is_left_out_equally_often():
    table = losses(3)
    below = table < table.mean()
    counts = sum(
        InfoBatch().kept(InfoBatch().easy(table), np.arange(M), 0, epoch)[0].astype(int) for epoch in range(400)
    )
    assert (counts[~below] == 400).all()
    assert np.all(np.abs(counts[below] - 200) < 5 * 10)


def test_a_proposal_has_equal_batches_and_the_right_weights():
    table = losses(4)
    proposal = InfoBatch().propose(request(table))
    kept = M - np.count_nonzero(table < table.mean()) // 2
    assert proposal.batches.shape == proposal.weights.shape == (10, kept // 10)
    flat = proposal.batches.ravel()
    assert len(set(flat.tolist())) == len(flat)
    assert proposal.weights.ravel() == pytest.approx(np.where(table[flat] < table.mean(), 2.0, 1.0))
    order = request(table).order
    assert np.all(np.diff([order.tolist().index(index) for index in flat]) > 0), "the order given is kept"
    assert InfoBatch().propose(request(table, epoch=1)).batches.tolist() != proposal.batches.tolist()


def test_nothing_is_pruned_when_nothing_is_easier_than_the_mean_or_known_or_late():
    for value in np.random.default_rng(0).exponential(size=50):
        assert InfoBatch().propose(request(np.full(M, value))) is None, "the mean rounds to either side"
    assert InfoBatch().easy(np.array([1.0, 2.0, 3.0])).tolist() == [True, False, False], "strictly below"
    assert InfoBatch().propose(request(np.full(M, np.nan))) is None
    assert InfoBatch().propose(request(None)) is None
    assert InfoBatch().propose(request(losses(), progress=0.875)) is None
    assert InfoBatch().propose(request(losses(), progress=0.874)) is not None
    assert InfoBatch(annealing=1.0).propose(request(losses(), progress=0.99)) is not None


def test_samples_never_observed_stay_with_weight_one():
    table = losses(5)
    table[:50] = np.nan
    kept, weights = InfoBatch().kept(InfoBatch().easy(table), np.arange(M), 0, 0)
    assert kept[:50].all()
    assert (weights[:50] == 1).all()
    assert np.count_nonzero(~kept) == np.count_nonzero(table[50:] < table[50:].mean()) // 2


def test_it_is_a_selection_that_proposes():
    assert InfoBatch().proposes
    assert InfoBatch().needs == {"learner_losses"}


@pytest.mark.parametrize(("arguments", "name"), [({"share": 1.0}, "share"), ({"annealing": 1.1}, "annealing")])
def test_bad_arguments(arguments, name):
    with pytest.raises(ArgumentError, match=rf"^{name} must be a number in \[0, 1"):
        InfoBatch(**arguments)

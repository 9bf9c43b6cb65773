"""SeTa: the clusters of the losses, the window's course, what an epoch offers."""

import itertools

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore, SpectralBatchSampler, draws
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import SeTa
from spectral_sampler.selection.protocol import EpochRequest
from spectral_sampler.selection.seta import loss_groups

M = 240
STORE = ReferenceStore.from_arrays(np.ones((M, 2), dtype=np.float32))


def losses(seed=0, size=M):
    return np.random.default_rng(seed).exponential(size=size)


def request(table, epoch=0, batches=10, size=24, progress=0.0, memo=None):
    return EpochRequest(STORE, draws.permutation(0, epoch, M), batches, size, table, 0, epoch, progress, memo)


def spread(values, cuts):
    return sum(((part - part.mean()) ** 2).sum() for part in np.split(values, cuts) if len(part))


@pytest.mark.parametrize("groups", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_a_fixed_point_of_k_means(seed, groups):
    table = losses(seed)
    found = loss_groups(table, groups)
    assert sorted(set(found.tolist())) == list(range(groups))
    centres = np.array([table[found == one].mean() for one in range(groups)])
    assert np.all(np.diff(centres) > 0), "the easiest first"
    assert found.tolist() == np.abs(table[:, None] - centres).argmin(1).tolist()
    order = np.random.default_rng(9).permutation(M)
    assert loss_groups(table[order], groups).tolist() == found[order].tolist()


def test_clusters_are_the_best_there_are():
    for seed in range(20):
        table = np.sort(losses(seed, 14)) + 1e4 * (seed % 2)
        best = min(spread(table, list(cuts)) for cuts in itertools.combinations(range(1, 14), 3))
        found = loss_groups(table, 4)
        assert spread(table, np.flatnonzero(np.diff(found)) + 1) == pytest.approx(best)


def test_many_losses_are_clustered_as_well_as_by_the_best_of_many_starts():
    cluster = pytest.importorskip("sklearn.cluster")
    table = np.sort(np.random.default_rng(0).lognormal(-3.0, 2.0, size=6_000))
    found = loss_groups(table, 10)
    assert found.max() == 9
    peer = cluster.KMeans(10, n_init=3, random_state=0).fit(table[:, None]).inertia_
    assert spread(table, np.flatnonzero(np.diff(found)) + 1) < 1.02 * peer
    apart = np.array([9.0, 0.1, 5.0, 0.2, 5.1, 9.1, 0.15])
    assert loss_groups(apart, 3).tolist() == [2, 0, 1, 0, 1, 2, 0]


def test_equal_losses_share_a_cluster():
    assert loss_groups(np.full(20, 0.3), 10).tolist() == [0] * 20
    few = np.repeat([0.0, 1.0, 4.0], [90, 3, 7])
    assert loss_groups(few, 10).tolist() == np.repeat([0, 1, 2], [90, 3, 7]).tolist()
    assert loss_groups(np.array([2.0]), 10).tolist() == [0]


def test_the_window_slides_from_easy_to_hard_and_starts_over():
    table = losses(1)
    found = loss_groups(table, 10)
    assert SeTa().in_window(table, 0).all()
    for epoch in range(1, 14):
        start = epoch % 6  # of ten clusters five are in the window
        assert SeTa().in_window(table, epoch).tolist() == ((found >= start) & (found < start + 5)).tolist()
    narrow = [set(found[SeTa(window=0.1).in_window(table, epoch)]) for epoch in range(1, 11)]
    assert narrow == [{one % 10} for one in range(1, 11)]
    assert SeTa(window=1.0).in_window(table, 3).all()
    assert SeTa(groups=1).in_window(table, 3).all()


def test_unknown_losses_stay_and_take_no_part():
    table = losses(2)
    known = np.arange(M) % 3 > 0
    holes = np.where(known, table, np.nan)
    inside = SeTa().in_window(holes, 2)
    assert inside[~known].all()
    assert inside[known].tolist() == SeTa().in_window(table[known], 2).tolist()
    assert SeTa().in_window(np.full(M, np.nan), 2).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_an_epoch_is_pruned_at_random_then_by_the_window(share):
    table, selection = losses(3), SeTa(share)
    proposal = selection.propose(request(table, epoch=2))
    flat = proposal.batches.ravel()
    assert proposal.weights is None
    assert len(set(flat.tolist())) == len(flat)
    order = request(table, epoch=2).order
    random = draws.uniforms(0, 2, 0, order, 0x53455441)
    left = order[np.sort(np.argsort(random)[int(share * M) :])]
    stay = left[selection.in_window(table[left], 2)]
    assert proposal.batches.shape == (10, len(stay) // 10)
    assert flat.tolist() == stay[: len(flat)].tolist(), "in the order given, but for those that fill no batch"


def test_the_random_share_is_another_every_epoch():
    counts = np.zeros(M)
    for epoch in range(300):
        counts[SeTa(0.25).propose(request(None, epoch=epoch)).batches] += 1
    assert np.all(np.abs(counts - 225) < 5 * np.sqrt(300 * 0.25 * 0.75))


def test_first_and_last_epochs_leave_out_the_random_share_alone():
    for arguments in ({"epoch": 0}, {"epoch": 7, "progress": 0.875}):
        proposal = SeTa(0.5).propose(request(losses(4), **arguments))
        assert proposal.batches.shape == (10, 12)
        assert proposal.memo is None
        assert SeTa(0.0).propose(request(losses(4), **arguments)) is None
    assert SeTa(0.0).propose(request(losses(4), epoch=7, progress=0.874)) is not None
    assert SeTa(0.0).propose(request(np.full(M, 0.7), epoch=7)) is None, "one cluster, nothing to leave out"
    assert SeTa(0.99).propose(request(losses(4), epoch=1)) is None, "not a sample for every batch left"


def test_the_memo_repeats_the_epoch_and_knows_no_losses_too():
    for table in (losses(5), np.full(M, np.nan)):
        proposal = SeTa().propose(request(table, epoch=3))
        again = SeTa().propose(request(losses(6), epoch=3, memo=proposal.memo))
        assert again.batches.tolist() == proposal.batches.tolist()
        assert SeTa().propose(request(losses(6), epoch=3)).batches.tolist() != proposal.batches.tolist()
        assert torch.equal(again.memo, proposal.memo)


def test_in_a_sampler_the_hard_come_after_the_easy():
    sampler = SpectralBatchSampler(STORE, 24, keep_ratio=1.0, epochs=8, selection=SeTa(0.1))
    table, means, sizes = losses(7), [], []
    sampler.observe(np.arange(M), table)
    for _ in range(8):
        lists = list(sampler)
        assert len(lists) == len(sampler) == 10
        assert len({len(rows) for rows in lists}) == 1
        rows = np.concatenate(lists)
        sampler.observe(np.arange(M), table)
        means.append(table[rows].mean())
        sizes.append(len(rows))
    assert sizes[0] == sizes[7] == 210, "216 of 240 in ten equal batches"
    assert max(sizes[1:7]) < 210
    assert means[1] < means[2] < means[3] < means[4] < means[5]
    assert means[6] < means[1], "epoch 6 starts over"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.0}, r"^share must be a number in \[0, 1\), got 1\.0\. "),
        ({"groups": 0}, r"^groups must be a whole number of at least 1, got 0\. "),
        ({"window": 0}, r"^window must be a number in \(0, 1\], got 0\. "),
        ({"annealing": 1.1}, r"^annealing must be a number in \[0, 1\], got 1\.1\. "),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        SeTa(**arguments)

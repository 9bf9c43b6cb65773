"""Selections that listen, weigh, propose or forward, inside the sampler and in front of a DataLoader."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from spectral_sampler import GSTDS, ReferenceStore, SpectralBatchSampler, Uniform, curate
from spectral_sampler.errors import ArgumentError
from spectral_sampler.schedule import AggressiveAIMD, BanditSchedule, LinearSchedule, MellowAIMD, PlateauSchedule
from spectral_sampler.selection import (
    JEST,
    BayesianSelection,
    GradientNorm,
    InfoBatch,
    OnlineSelection,
    PlausibleLearnable,
    RHOLoss,
    SensitivitySampling,
)

M, N, C, D = 240, 24, 3, 6
generator = np.random.default_rng(0)
INPUTS = torch.tensor(generator.normal(size=(M, D)), dtype=torch.float32)
STORE = ReferenceStore.from_arrays(
    generator.normal(size=(M, 8)).astype(np.float32),
    losses=generator.exponential(size=M),
    labels=generator.integers(C, size=M),
)
DATA = TensorDataset(INPUTS, torch.from_numpy(STORE.labels), torch.arange(M))
ZERO_SHOT = generator.normal(size=(M, C))


def make(selection, **options):
    return SpectralBatchSampler(
        STORE, **{"candidate_batch_size": N, "keep_ratio": 0.5, "selection": selection, **options}
    )


def network():
    part = nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, C))
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.tensor(np.random.default_rng(parameter.numel()).normal(size=parameter.shape)))
    return part


def flattened(lists):
    return list(itertools.chain.from_iterable(lists))


def table(seed=0):
    return np.random.default_rng(seed).exponential(size=M)


# learner losses by observe


def test_rho_follows_observe_and_forgets_after_epochs_that_follow_the_ratio():
    sampler = make(RHOLoss())
    sampler.observe(np.arange(M), table())
    for candidates, choice, _ in (sampler.selection_at(0, b) for b in range(10)):
        excess = table()[candidates] - STORE.losses[candidates]
        assert choice.positions.tolist() == np.argsort(-excess)[: N // 2].tolist()
    for _ in range(200):  # reports age nothing: a batch may be handed over in parts
        sampler.observe([0], [1.0])
    for _ in range(7):  # of half the data: until three epochs' worth went out since
        list(sampler)
        statistics = sampler.statistics()
        assert (statistics["spectral/observed_known_share"], statistics["spectral/observed_stale_share"]) == (1, 0)
    assert statistics["spectral/observed_longest"] == 6
    sampler.observe(range(60), np.ones(60))
    list(sampler)
    statistics = sampler.statistics()
    assert statistics["spectral/observed_known_share"] == pytest.approx(1 / 4)
    assert statistics["spectral/observed_stale_share"] == pytest.approx(3 / 4)
    few = make(RHOLoss())
    few.observe(range(60), np.ones(60))
    [list(few) for _ in range(8)]
    assert few.statistics()["spectral/observed_stale_share"] == 1 / 4, "what was never seen is not too old"
    for ratio, longest in ((1.0, 3), (0.3, 10), (0.1, 30)):
        assert make(RHOLoss(), keep_ratio=ratio).statistics()["spectral/observed_longest"] == longest


@pytest.mark.parametrize("replicas", [1, 2])
def test_losses_grow_too_old_after_resuming_too(replicas):
    sampler, resumed = (make(RHOLoss(), num_replicas=replicas) for _ in range(2))
    sampler.observe(np.arange(M), table())
    [list(sampler) for _ in range(4)]
    resumed.load_state_dict(sampler.state_dict(full=True))
    for _ in range(4):
        assert list(resumed) == list(sampler)
    for each in (sampler, resumed):
        assert each.statistics()["spectral/observed_stale_share"] == 1.0


@pytest.mark.parametrize("ratio", [0.1, 0.3])
def test_most_losses_are_known_at_low_ratios(ratio):
    sampler = SpectralBatchSampler(STORE, 80, keep_ratio=ratio, selection=PlausibleLearnable(label_noise=0))
    for _ in range(40):
        for rows in sampler:
            losses = STORE.losses + np.random.default_rng(rows).normal(0.0, 0.2, M)
            sampler.observe(rows[:3], losses[rows[:3]])
            sampler.observe(rows[3:], losses[rows[3:]])
    assert sampler.statistics()["spectral/observed_known_share"] > 0.8


# weights


def test_weights_are_ones_without_a_selection_that_weighs():
    sampler = make(GSTDS())
    rows = next(iter(sampler))
    assert sampler.weights_for(rows).tolist() == [1.0] * len(rows)
    assert sampler.weights_for(torch.tensor(rows)).dtype == torch.float32
    for bad in ([M], [-1], [0.5]):
        with pytest.raises(ArgumentError, match=r"^indices must be integers from 0 to 239"):
            sampler.weights_for(bad)


def test_infobatch_prunes_the_epoch_and_weighs_what_stays():
    sampler = make(InfoBatch(), keep_ratio=1.0, epochs=8)
    assert sorted(flattened(sampler)) == list(range(M)), "the first epoch knows nothing: all the data"
    losses = table(1)
    sampler.observe(np.arange(M), losses)
    below = losses < losses.mean()
    kept = M - np.count_nonzero(below) // 2
    lists = list(sampler)
    assert [len(rows) for rows in lists] == [kept // 10] * 10 == [len(lists[0])] * len(sampler)
    assert {len(rows) for rows in lists} <= sampler.batch_sizes() == set(range(2, N + 1))
    listening = make(InfoBatch(), keep_ratio=MellowAIMD(0.2, 0.75, mean=0.5), epochs=8)
    assert listening.batch_sizes() == set(range(2, int(0.75 * N) + 1)), "the bounds of a ratio that is decided later"
    flat = flattened(lists)
    assert len(set(flat)) == len(flat)
    assert sampler.weights_for(flat).tolist() == [2.0 if below[row] else 1.0 for row in flat]
    missing = sorted(set(range(M)) - set(flat))
    assert np.count_nonzero(~below[missing]) <= 9, "but for equal batches only easy samples are left out"
    sampler.set_epoch(7)  # beyond 0.875 of 8 epochs
    assert sorted(flattened(sampler)) == list(range(M))
    assert sampler.weights_for(np.arange(M)).tolist() == [1.0] * M


def test_infobatch_decides_an_epoch_once_and_looking_decides_nothing():
    sampler = make(InfoBatch(), keep_ratio=1.0)
    sampler.observe(np.arange(M), table(2))
    looked = [sampler.selection_at(0, b)[0].tolist() for b in range(10)]
    sampler.observe(np.arange(M), table(3))
    iterator = iter(sampler)
    first = next(iterator)
    assert first != looked[0], "losses that arrive before the pass count"
    sampler.observe(np.arange(M), table(4))
    rest = list(iterator)
    assert [sampler.selection_at(0, b)[0].tolist() for b in range(10)] == [first, *rest]


def test_infobatch_resumes_within_an_epoch():
    sampler = make(InfoBatch(), keep_ratio=1.0)
    sampler.observe(np.arange(M), table(5))
    iterator = iter(sampler)
    [next(iterator) for _ in range(4)]
    sampler.observe(np.arange(M), table(6))  # counts from the next epoch on
    state = sampler.state_dict(full=True)
    rest, following = list(iterator), list(sampler)
    resumed = make(InfoBatch(), keep_ratio=1.0)
    resumed.load_state_dict(state)
    assert list(resumed) == rest
    assert 1.0 < resumed.weights_for(rest[0]).mean() < 2.0
    assert list(resumed) == following


def test_what_a_state_says_of_its_epoch_holds_for_one_pass():
    source, sampler = (make(InfoBatch(), keep_ratio=1.0) for _ in range(2))
    first = next(running := iter(source))
    sampler.load_state_dict(source.state_dict(full=True))
    running.close()
    assert sorted(first + flattened(sampler)) == list(range(M)), "nothing was known"
    sampler.observe(np.arange(M), table(1))
    [list(sampler) for _ in range(2)]
    sampler.set_epoch(0)
    assert len(flattened(sampler)) < M


def test_what_infobatch_leaves_out_follows_the_seed():
    kept = []
    for seed in (0, 1, 1):
        sampler = make(InfoBatch(), keep_ratio=1.0, shuffle=False, seed=seed)
        sampler.observe(np.arange(M), table(1))
        kept.append(sorted(flattened(sampler)))
    assert kept[0] != kept[1] == kept[2]


def test_weights_of_a_pass_survive_the_begin_of_another_one():
    sampler = make(InfoBatch(), keep_ratio=1.0)
    sampler.observe(np.arange(M), table(1))
    running = iter(sampler)
    next(running)
    sampler.set_epoch(1)
    other = iter(sampler)
    next(other)
    assert set(sampler.weights_for(next(running)).tolist()) == {1.0, 2.0}
    other.close()


def test_a_loaded_state_wins_over_what_the_sampler_had_proposed_itself():
    def begun(seed):
        sampler = make(InfoBatch(), keep_ratio=1.0)
        sampler.observe(np.arange(M), table(seed))
        iterator = iter(sampler)
        [next(iterator) for _ in range(4)]
        return sampler, iterator

    (source, rest), (other, held) = begun(5), begun(6)
    other.load_state_dict(source.state_dict(full=True))
    expected = list(rest)
    assert list(other) == expected != list(held)


def test_sensitivity_fills_the_candidate_batches():
    sampler = make(SensitivitySampling(8), keep_ratio=0.5)
    p = sampler.selection.sensitivities(STORE).probabilities
    counts, means = np.zeros(M), []
    losses = STORE.losses.astype(np.float64)
    for _ in range(60):
        for rows in sampler:
            assert len(set(rows)) == len(rows) == N // 2
            counts[rows] += 1
            means.append(float((sampler.weights_for(rows).numpy() * losses[rows]).mean()))
    means = np.array(means)
    assert abs(means.mean() - losses.mean()) < 4 * means.std() / np.sqrt(len(means))
    assert np.corrcoef(counts, p)[0, 1] > 0.95


# outputs of the learner


def test_learner_is_asked_about_the_candidates_and_counted():
    asked = []

    def learner(indices):
        asked.append(indices)
        logits = torch.tensor(np.random.default_rng(indices).normal(size=(len(indices), C)))
        return logits, INPUTS[indices]

    selection = JEST(joint=True)
    sampler = make(selection, learner=learner)
    lists = list(sampler)
    assert sorted(flattened(asked)) == list(range(M))
    assert sampler.statistics()["spectral/forwarded_total"] == M
    assert sampler.statistics()["spectral/seconds_forwarding"] > 0
    for number, (candidates, rows) in enumerate(zip(list(asked), lists, strict=True)):
        logits, features = learner(candidates)
        online = OnlineSelection(JEST(joint=True), 0.5, store=STORE)
        online.calls = number
        kept = online(indices=candidates, logits=logits, features=features)
        assert np.array(candidates)[kept].tolist() == rows, "the same choice as in the training loop"
    list(sampler)
    assert sampler.statistics()["spectral/forwarded_total"] == M, "of the latest pass"


@pytest.mark.parametrize(
    "selection",
    [lambda: BayesianSelection(ZERO_SHOT, samples=8), lambda: GradientNorm(gate=False), lambda: JEST(joint=True)],
)
def test_a_module_reads_the_candidates_and_is_left_as_it_was(selection):
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sampler = make(selection(), learner=model, dataset=DATA)
    rng = torch.get_rng_state()
    lists = list(sampler)
    assert all(len(rows) == N // 2 for rows in lists)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    again = list(make(selection(), learner=model, dataset=DATA))
    assert again == lists
    with torch.no_grad():
        model[3].weight.mul_(-3)
    assert list(make(selection(), learner=model, dataset=DATA)) != lists, "it is the learner of this moment"


def test_running_state_follows_delivery_and_not_looking():
    sampler = make(GradientNorm(), learner=network(), dataset=DATA)
    sampler.selection_at(0, 3)
    assert sampler.selection.tau is None
    assert sampler.statistics()["spectral/forwarded_total"] == 0
    next(iter(sampler))
    assert sampler.selection.tau >= 1
    sampler.selection_at(0, 3)
    assert sampler.statistics()["spectral/forwarded_total"] == N
    bayesian = make(BayesianSelection(ZERO_SHOT, samples=4), learner=network(), dataset=DATA)
    rows = next(iter(bayesian))
    hidden = network().eval()[:3](INPUTS[rows]).detach().double().numpy()
    assert bayesian.selection.posterior.factors["input"] == pytest.approx(hidden.T @ hidden / len(rows), rel=1e-4)


def test_a_candidate_batch_that_is_kept_whole_moves_the_running_state_too():
    sampler = make(GradientNorm(), learner=network(), dataset=DATA, keep_ratio=1.0)
    assert sorted(flattened(sampler)) == list(range(M))
    assert sampler.selection.tau >= 1
    assert sampler.statistics()["spectral/forwarded_total"] == M
    untouched = make(JEST(joint=True), learner=network(), dataset=DATA, keep_ratio=1.0)
    assert sorted(flattened(untouched)) == list(range(M))
    assert untouched.statistics()["spectral/forwarded_total"] == 0, "nothing to decide, nothing to learn"


def test_a_scoring_selection_that_learns_has_its_scores_for_whole_batches_too():
    seen = []

    class Learning(GSTDS):
        def trained(self, batch, choice):
            seen.append(batch.scores)

    for look_ahead in (0, 3):
        assert sorted(flattened(make(Learning(), keep_ratio=1.0, lookahead=look_ahead))) == list(range(M))
    assert len(seen) == 2 * (M // N)
    assert all(np.isfinite(scores).all() for scores in seen)


@pytest.mark.parametrize("make_selection", [InfoBatch, lambda: SensitivitySampling(4, losses="learner")])
def test_looking_at_what_is_offered_moves_nothing(make_selection):
    def trained_for_an_epoch():
        sampler = make(make_selection())
        for rows in sampler:
            sampler.observe(rows, 1.0 + np.array(rows) % 7)
        next(iter(sampler))
        return sampler

    sampler, other = trained_for_an_epoch(), trained_for_an_epoch()
    statistics = sampler.statistics()
    sampler.selection_at(5, 0)
    assert sampler.statistics() == statistics
    assert list(sampler) == list(other)


def test_looking_does_not_count_as_asking_for_losses():
    sampler = make(RHOLoss())
    for _ in range(2):
        sampler.observe(np.arange(M), np.ones(M))
    before = sampler.statistics()
    sampler.selection_at(0, 1)
    assert sampler.statistics() == before
    assert before["spectral/observed_known_share"] == 0.0
    next(iter(sampler))
    assert sampler.statistics()["spectral/observed_known_share"] == 1.0


def test_gradient_norm_weighs_in_the_sampler():
    sampler = make(GradientNorm(gate=False), learner=network(), dataset=DATA)
    rows = next(iter(sampler))
    weights = sampler.weights_for(rows)
    assert weights.std() > 0.01
    chosen = sampler.selection_at(0, 0)[1]
    assert weights.tolist() == pytest.approx(chosen.weights.tolist())


def test_a_sampler_with_a_learner_and_weights_pickles():
    sampler = make(GradientNorm(gate=False), learner=network(), dataset=DATA)
    rows = next(iter(sampler))
    again = pickle.loads(pickle.dumps(sampler))
    assert again.weights_for(rows).tolist() == sampler.weights_for(rows).tolist() != [1.0] * len(rows)
    assert list(again) == list(sampler)


def test_curate_passes_the_learner_its_data():
    loader = curate(
        DataLoader(DATA, batch_size=N, shuffle=True, drop_last=True), STORE, keep_ratio=0.25,
        selection=GradientNorm(gate=False), learner=network(),
    )  # fmt: skip
    batches = list(loader)
    assert [len(rows) for *_, rows in batches] == [6] * 10
    assert loader.batch_sampler.statistics()["spectral/forwarded_total"] == M


# keep ratios that listen


def drive(sampler, loss, workers=0):
    """Trains for three epochs; the sizes of the batches."""
    sizes = []
    for _ in range(3):
        for _, _, rows in DataLoader(DATA, batch_sampler=sampler, num_workers=workers):
            sizes.append(len(rows))
            sampler.observe(rows, np.full(len(rows), loss(len(sizes))))
    return sizes


def test_aimd_listens_to_observe():
    sizes = drive(make(Uniform(), keep_ratio=MellowAIMD(0.1, 0.9, mean=0.5, decrease=0.05)), lambda step: 1 / step)
    ratios = 0.5 - 0.05 * np.maximum(0, np.arange(30) - 1)
    wanted = np.maximum(np.maximum(ratios, 0.1) * N, 2)
    assert ((np.floor(wanted + 1e-9) <= sizes) & (sizes <= np.ceil(wanted - 1e-9))).all()
    worse = drive(make(Uniform(), keep_ratio=AggressiveAIMD(0.1, 0.9)), float)
    assert worse[-1] in {21, 22}  # .9 · 24


def plateau_run(look):
    sampler = make(GSTDS(), keep_ratio=PlateauSchedule(0.2, 0.8, mean=0.5, periods=10), epochs=3)
    ratios, sizes = [], []
    for epoch in range(3):
        for number, rows in enumerate(sampler):
            sizes.append(len(rows))
            ratios.append(sampler.statistics()["spectral/keep_ratio"])
            if look:
                assert sampler.selection_at(epoch, number)[2] == ratios[-1]
                sampler.selection_at(2, 9)
            sampler.observe(rows, np.full(len(rows), max(1.0, 3 - len(sizes) / 4)))
    return sampler, ratios, sizes


def test_plateau_spends_its_mean_in_the_sampler_and_looking_ahead_decides_nothing():
    sampler, ratios, sizes = plateau_run(look=False)
    assert np.isnan(sampler.keep_ratios()).all()
    assert sampler.batch_sizes() == set(range(4, 21))
    assert np.mean(ratios) == pytest.approx(0.5, abs=1e-12)
    assert np.diff(ratios).min() < -0.05, "it fell again after the stall: not the line alone"
    assert set(sizes) <= sampler.batch_sizes()
    assert plateau_run(look=True)[1] == ratios


def test_ranks_share_a_ratio_where_a_period_ends_within_their_step():
    schedules = [PlateauSchedule(0.2, 0.8, mean=0.5, periods=7) for _ in range(2)]
    ranks = [make(Uniform(), keep_ratio=s, epochs=3, num_replicas=2, rank=r) for r, s in enumerate(schedules)]
    ratios = []
    for _ in range(3):
        for rows, other in zip(*ranks, strict=True):
            first, second = (sampler.statistics()["spectral/keep_ratio"] for sampler in ranks)
            assert first == second
            assert len(rows) == len(other)
            ratios.append(first)
            for sampler in ranks:
                sampler.observe(rows, np.full(len(rows), 1 / len(ratios)))
    assert len(set(ratios)) == 7


_ADAPTIVE = [MellowAIMD, AggressiveAIMD, lambda: PlateauSchedule(periods=9), lambda: BanditSchedule(periods=9)]


@pytest.mark.parametrize("make_schedule", _ADAPTIVE)
@pytest.mark.parametrize("stop", [1, 13, 27])
def test_an_adaptive_ratio_resumes_at_every_batch(make_schedule, stop):
    losses = np.random.default_rng(1).exponential(size=60)

    def steps(sampler, first):
        step = first
        while step < 30:
            for rows in sampler:
                yield step, rows
                sampler.observe(rows, np.full(len(rows), losses[step]))
                step += 1

    sampler = make(Uniform(), keep_ratio=make_schedule(), epochs=3)
    run = steps(sampler, 0)
    for _ in range(stop):
        next(run)
    sampler.observe([0], [losses[stop - 1]])  # the loss of the last batch, before the checkpoint
    state = json.dumps(sampler.state_dict())
    assert len(state) < 2000
    resumed = make(Uniform(), keep_ratio=make_schedule(), epochs=3)
    resumed.load_state_dict(json.loads(state))
    iterator = iter(sampler)
    iterator.load_state_dict(json.loads(state))
    again = iter(resumed)
    for step in range(stop, stop + 3):
        expected = next(iterator, None)
        assert next(again, None) == expected
        if expected is None:
            break
        for each in (sampler, resumed):
            each.observe(expected, np.full(len(expected), losses[step]))


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": GradientNorm()}, r"^selection must be one whose needs are among .*learner="),
        ({"selection": BayesianSelection(ZERO_SHOT)}, r"^selection must be one whose needs are among"),
        ({"selection": GSTDS(), "learner": network(), "dataset": DATA}, r"^learner must be left out with gstds, got"),
        (
            {"selection": InfoBatch(), "learner": network(), "dataset": DATA},
            r"^learner must be left out with infobatch",
        ),
        ({"selection": GradientNorm(), "learner": network()}, r"^dataset must be given with a module"),
        ({"selection": GradientNorm(), "learner": 3}, r"^learner must be a module or a function of indices, got 3"),
        ({"selection": InfoBatch(), "emit": "constant", "batch_size": 8}, r'^emit must be "shrink" with infobatch'),
        ({"keep_ratio": MellowAIMD(), "emit": "constant", "batch_size": 8}, r'^emit must be "shrink" with an adaptive'),
        ({"keep_ratio": PlateauSchedule()}, r"^epochs must be the number of training epochs with a Plateau"),
    ],
)
def test_refused_in_one_sentence(options, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        make(**{"selection": Uniform(), **options})
    assert "\n" not in str(caught.value)


def test_a_learner_without_the_features_a_selection_needs_is_named():
    sampler = make(JEST(joint=True), learner=lambda indices: torch.zeros(len(indices), C))
    with pytest.raises(ArgumentError, match=r"^features must be given, because jest needs embeddings"):
        next(iter(sampler))


@pytest.mark.parametrize(
    "options",
    [
        {"selection": Uniform(), "keep_ratio": PlateauSchedule(0.1, 0.9, mean=0.5), "epochs": 2},
        {"selection": InfoBatch(), "keep_ratio": LinearSchedule(0.3, 0.9, mean=0.6), "epochs": 2},
    ],
)
def test_ranks_keep_equally_many_in_a_step_that_is_filled_up(options):
    sizes = []
    for rank in range(2):
        sampler = SpectralBatchSampler(STORE, 28, num_replicas=2, rank=rank, drop_last=False, **copy.deepcopy(options))
        sampler.observe(range(M), table())
        sizes.append([len(rows) for _ in range(2) for rows in sampler])
    assert len(sampler) * 2 > M / 28, "the last step is filled up"
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("selection", [InfoBatch, lambda: SensitivitySampling(4)])
def test_proposals_from_an_order_that_repeats_hold_a_sample_once_a_batch(selection):
    weights = torch.ones(M)
    weights[:6] = 60.0
    sampler = make(selection(), sampler=WeightedRandomSampler(weights, M))
    sampler.observe(range(M), table())
    for rows in sampler:
        assert len(set(rows)) == len(rows)


def test_looks_draw_nothing_of_the_running_epoch_again():
    class Drawn:
        def __init__(self):
            self.times = 0

        def __len__(self):
            return M

        def __iter__(self):
            self.times += 1
            return iter(np.random.default_rng(self.times).permutation(M).tolist())

    order = Drawn()
    sampler = make(Uniform(), keep_ratio=1.0, sampler=order, lookahead=2)
    iterator = iter(sampler)
    seen = list(next(iterator))
    for epoch in (1, 2, 3):
        sampler.selection_at(epoch, 0)
    for rows in iterator:
        seen += rows
    assert sorted(seen) == list(range(M))


def test_a_learning_selection_may_inherit_how_it_learns():
    class Learns:
        def trained(self, batch, choice):
            self.seen = getattr(self, "seen", 0) + len(choice.positions)

    class Inherits(Learns, Uniform):
        pass

    selection = Inherits()
    list(make(selection, keep_ratio=1.0))
    assert selection.seen == M


def test_infobatch_prunes_nothing_where_less_than_a_sample_a_batch_would_stay():
    sampler = make(InfoBatch(0.95), candidate_batch_size=4, keep_ratio=1.0)
    sampler.observe(range(M), np.r_[np.zeros(M - 1), 1.0])
    assert sorted(flattened(sampler)) == list(range(M))

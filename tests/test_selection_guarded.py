"""Guarded: what it compares, what follows from it, and that a selection as good as uniform is rarely given up."""

import copy
import io
import logging

import numpy as np
import pytest
import torch
from sampler_cases import make_store
from torch.utils.data import DataLoader, TensorDataset

from spectral_sampler import (
    JEST,
    SALN,
    ArgumentError,
    BayesianSelection,
    Guarded,
    InfoBatch,
    OnlineSelection,
    PlausibleEven,
    ReferenceStore,
    SensitivitySampling,
    SpectralBatchSampler,
    Uniform,
    curate,
    draws,
)
from spectral_sampler.experiment.zero_shot import PLACEHOLDER, with_zero_shot
from spectral_sampler.selection import Choice, Selection, guarded
from spectral_sampler.selection.guarded import lead

M, C, N = 480, 6, 48
_random = np.random.default_rng(0)
CLEAN = _random.integers(C, size=M)
FEATURES = (_random.normal(size=(M, 12)) + 2.0 * np.eye(12)[CLEAN]).astype(np.float32)
STORE = ReferenceStore.from_arrays(FEATURES, labels=CLEAN, losses=_random.exponential(size=M))
EVERY = np.arange(M)


class Starving(Selection):
    """Shows two of six classes, then the rest."""

    name = "starving"
    needs = frozenset({"labels"})

    def select(self, batch, budget):
        keys = (batch.labels > 1) + batch.uniforms()
        return Choice(np.argsort(keys)[:budget], np.full(budget, 2, dtype=np.int8))


class Learning(Starving):
    """Would not choose in a trial as it does when it is trained with, as far as one can know: it acts at once."""

    def trained(self, batch, choice):
        pass


class Turning(PlausibleEven):
    """Shows five of the six classes before epoch 14."""

    name = "turning"

    def select(self, batch, budget):
        if batch.epoch >= 14:
            return super().select(batch, budget)
        return Choice(np.argsort((batch.labels == 5) + batch.uniforms())[:budget], np.full(budget, 2, dtype=np.int8))


NOISY = np.where(_random.random(M) < 0.4, _random.integers(C, size=M), CLEAN)
DOUBTED = ReferenceStore.from_arrays(FEATURES, labels=NOISY)


def make(selection, store=STORE, **options):
    return SpectralBatchSampler(store, N, **{"selection": selection, "keep_ratio": 0.3, "seed": 3, **options})


def passes(sampler, count):
    return [[list(batch) for batch in sampler] for _ in range(count)]


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def naive(store, rows, weights, number, seed, balance):
    """The comparison by loops and least squares on rows stacked with the penalty; rows all labelled."""
    x = store.features.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y, pool = store.labels, np.arange(len(store))
    drawn = sorted(pool, key=lambda row: draws.uniforms(seed, number, 0, np.array([row]), guarded._FLOOR_STREAM)[0])
    arms = [(rows, weights), (np.array(drawn[: len(rows)]), np.ones(len(rows)))]
    folds = np.floor(draws.uniforms(seed, number, 0, pool, guarded._FOLD_STREAM) * 4)
    right = np.zeros((2, len(pool)))
    for arm, (own, factors) in enumerate(arms):
        for fold in range(4):
            use = np.array([place for place, row in enumerate(own) if folds[row] != fold and factors[place] > 0])
            share = factors[use] / factors[use].sum()
            mean, onehot = share @ x[own[use]], np.eye(y.max() + 1)[y[own[use]]]
            z = x[own[use]] - mean
            moment = (z * share[:, None]).T @ z
            penalty = 0.05 * np.sqrt((moment**2).sum())
            stacked = np.vstack([z * np.sqrt(share)[:, None], np.sqrt(penalty) * np.eye(x.shape[1])])
            aim = np.vstack([(onehot - share @ onehot) * np.sqrt(share)[:, None], np.zeros((x.shape[1], y.max() + 1))])
            learnt = np.linalg.lstsq(stacked, aim, rcond=None)[0]
            here = folds == fold
            right[arm, here] = ((x[here] - mean) @ learnt + share @ onehot).argmax(1) == y[here]
    importance = np.bincount(y)[y] ** -float(balance)
    return (importance * (right[0] - right[1])).sum() / importance.sum()


@pytest.mark.parametrize("width", [5, 12, 200])  # more columns than rows, too
@pytest.mark.parametrize("balance", [0, 1])
def test_a_comparison_is_that_of_two_ridge_regressions_that_learnt_without_the_rows_they_predict(width, balance):
    random = np.random.default_rng(width)
    labels = random.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=200)
    store = ReferenceStore.from_arrays(random.normal(size=(200, width)) + np.eye(width)[labels], labels=labels)
    found = []
    for number in range(4):
        rows = random.choice(200, size=60)  # some of them twice
        weights = random.choice([0.0, 0.5, 3.0], size=60)
        found.append(lead(store, [(rows, weights)], np.arange(200), seed=2, number=number, balance=balance))
        assert found[-1] == pytest.approx(naive(store, rows, weights, number, 2, balance), abs=1e-12)
    assert len(set(found)) > 1


def test_rows_that_two_passes_both_show_are_seen_to_be_the_same():
    """Each pass alone is uniform; together they have a third of the rows of three uniform passes."""
    random = np.random.default_rng(4)
    labels = random.integers(10, size=400)
    store = ReferenceStore.from_arrays(random.normal(size=(400, 20)) + np.eye(20)[labels], labels=labels)
    same, fresh = [], []
    for number in range(20):
        order = random.permutation(400)
        thirds = [(order[start : start + 60], np.ones(60)) for start in (0, 60, 120)]
        same.append(lead(store, thirds[:1] * 3, None, seed=0, number=number))
        fresh.append(lead(store, thirds, None, seed=0, number=number))
    assert np.mean(same) < -0.025
    assert np.mean(fresh) > -0.01


def test_wide_features_are_projected_and_still_tell_the_better_arm():
    random = np.random.default_rng(1)
    wide = FEATURES @ random.normal(size=(12, 900)).astype(np.float32)
    store = ReferenceStore.from_arrays(wide, labels=CLEAN)
    starved = np.flatnonzero(CLEAN < 2)[:100]
    assert lead(store, [(starved, np.ones(100))], EVERY, seed=0, number=0) < -0.3
    assert abs(lead(store, [(EVERY[:100], np.ones(100))], EVERY, seed=0, number=0)) < 0.1


def test_rows_without_a_label_and_too_few_rows_decide_nothing():
    labels = np.where(np.arange(M) < M - 3, -1, CLEAN)
    store = ReferenceStore.from_arrays(FEATURES, labels=labels)
    assert lead(store, [(EVERY[:50], np.ones(50))], EVERY, seed=0, number=0) == 0.0


def test_rare_classes_count_as_much_as_balance_says():
    """One arm knows the rare class, the other the frequent ones."""
    labels = np.where(np.arange(M) % 12 == 0, 2, np.arange(M) % 2)
    features = np.random.default_rng(0).normal(size=(M, 12)) + 4.0 * np.eye(12)[labels]
    store = ReferenceStore.from_arrays(features, labels=labels)
    rare, frequent = np.flatnonzero(labels == 2)[:30], np.flatnonzero(labels == 0)[:30]
    plain, alike = (
        lead(store, [(np.append(rare, frequent), np.ones(60))], EVERY, seed=0, number=0, balance=b) for b in (0, 1)
    )
    assert plain < 0  # class 1 is nearly half of the rows
    assert alike > plain + 0.05


def told(leads, monkeypatch, **options):
    """A guard after comparisons with these leads."""
    guard = Guarded(Uniform(), **options)
    answers = iter(leads)
    monkeypatch.setattr(guarded, "lead", lambda *_, **__: next(answers))
    for epoch in range(len(leads)):
        guard.shown(EVERY[:40], None, epoch)
        assert not guard.due(M, epoch)
        if guard.due(M, epoch + 1):
            guard.compare(STORE, EVERY, 0, epoch + 1)
    return guard


def test_evidence_is_the_wealth_of_the_two_bettors(monkeypatch):
    leads = [-0.1, 0.2, 0.0, -0.3, -1e-9]
    guard = told(leads, monkeypatch)
    expected = 0.75 * 1.9 * 0.1 * 1.9 * 1.9 + 0.25 * 1.5 * 0.5 * 1.5 * 1.5
    assert guard.evidence == pytest.approx(expected)
    assert (guard.comparisons, guard.lost, guard.since) == (5, 3, None)
    assert guard.facts(STORE)["guard_evidence"] == pytest.approx(expected)


@pytest.mark.parametrize(("level", "needed"), [(0.5, 2), (0.05, 5), (0.001, 12)])
def test_it_gives_way_at_one_over_the_level_and_for_good(monkeypatch, level, needed):
    assert told([-0.1] * (needed - 1), monkeypatch, level=level).since is None
    guard = told([-0.1] * needed + [0.9] * 5, monkeypatch, level=level)
    assert guard.since == needed
    assert guard.comparisons == needed  # nothing is compared any more
    assert guard.evidence >= 1 / level


def test_the_evidence_never_reaches_twenty_more_often_than_the_level_says():
    """Every fair sequence of wins and losses, up to 16 long, weighed alike: Ville's bound with its own numbers."""
    alive, ruined = {(1.0, 1.0): 1.0}, 0.0
    for _ in range(16):
        after = {}
        for (a, b), chance in alive.items():
            for sign in (-1, 1):
                wealth = (a * (1 + 0.9 * sign), b * (1 + 0.5 * sign))
                if 0.75 * wealth[0] + 0.25 * wealth[1] >= 20:
                    ruined += chance / 2
                else:
                    key = tuple(round(part, 12) for part in wealth)
                    after[key] = after.get(key, 0.0) + chance / 2
        alive = after
    assert 0.03 < ruined <= 0.05
    assert sum(guarded._STAKES.values()) == 1.0
    assert all(0 < stake < 1 for stake in guarded._STAKES)


def test_a_selection_that_starves_classes_gives_way_with_one_warning(caplog):
    sampler = make(Guarded(Learning()))
    with caplog.at_level(logging.INFO):
        found = passes(sampler, 9)
    assert found[:5] == passes(make(Learning()), 5)
    assert found[5:] == passes(make(Uniform()), 9)[5:]
    said = warnings_of(caplog)
    assert len(said) == 1
    assert said[0].startswith(
        "epoch 5: starving gives way to uniform for the rest of the training: probes learnt less "
    )
    statistics = sampler.statistics()
    assert statistics["spectral/guard_fallen"] == 1.0
    assert statistics["spectral/guard_probation"] == 0.0
    assert statistics["spectral/guard_evidence"] >= 20
    assert statistics["spectral/guard_comparisons"] == statistics["spectral/guard_lost"] == 5


@pytest.mark.parametrize("options", [{}, {"emit": "constant", "batch_size": 16}, {"shuffle": False}])
def test_what_goes_by_the_store_alone_is_tried_before_it_acts(caplog, options):
    sampler = make(Guarded(Starving()), **options)
    assert passes(sampler, 3) == passes(make(Uniform(), **options), 3)
    said = warnings_of(caplog)
    assert len(said) == 1
    assert said[0].startswith("epoch 0: starving gives way to uniform for the rest of the training")
    assert (sampler.selection.since, sampler.selection.comparisons) == (0, 5)


def turned(guard, count=26):
    """Lists of a guarded `Turning`, and who selected in each of the passes, seen from its lists."""
    found = passes(make(guard, DOUBTED), count)
    arms = {name: passes(make(arm, DOUBTED), count) for name, arm in (("own", Turning()), ("floor", Uniform()))}
    return found, ["".join(name for name in arms if arms[name][at] == lists) for at, lists in enumerate(found)]


def test_on_probation_the_floor_acts_and_who_would_gain_takes_over(caplog):
    guard = Guarded(Turning(), level=1e-9)
    with caplog.at_level(logging.INFO):
        _, who = turned(guard)
    first = who.index("own")
    assert 14 <= first < 26
    assert who == ["floor"] * first + ["own"] * (26 - first)
    said = [line for line in (r.getMessage() for r in caplog.records) if "probation" in line or " acts" in line]
    assert said[0].startswith("epoch 0: turning is on probation, uniform acts, after ")
    assert said[1].startswith(f"epoch {first}: turning acts, after ")
    assert len(said) == 2
    assert guard.facts(DOUBTED)["guard_probation"] == 0.0
    assert guard.comparisons == 8 + 25
    assert guard.lead > 0


def test_what_would_be_chosen_is_what_is_judged(monkeypatch):
    judged = []
    monkeypatch.setattr(guarded, "lead", lambda _, passes, *__, **___: judged.append(passes) or -0.1)
    inner = SensitivitySampling(4, losses=np.where(CLEAN < 2, 1.0, 0.1))
    guard = Guarded(inner, level=1e-9)
    passes(make(guard), 2)
    plain = make(inner)
    expected = []
    for _ in range(16):
        lists = [(batch, plain.weights_for(batch).tolist()) for batch in plain]
        expected.append([[one for part in parts for one in part] for parts in zip(*lists, strict=True)])
    of = lambda two: [[rows.tolist(), pytest.approx(weights)] for rows, weights in two]  # noqa: E731
    assert [of(two) for two in judged[:8]] == [expected[at : at + 2] for at in range(0, 16, 2)]
    assert of(judged[8]) == expected[1:3]  # before the second pass: that one and the third
    assert len(set(expected[0][1])) > 10
    assert guard.on_probation


def test_a_proposed_pass_is_all_the_selection_s_or_all_the_floor_s(monkeypatch):
    """Leads that change sign in every comparison, several of them within a pass."""
    store = ReferenceStore.from_arrays(np.tile(FEATURES, (10, 1)), labels=np.tile(CLEAN, 10))
    signs = iter([0.1, -0.4, 0.9, -0.9] * 100)
    monkeypatch.setattr(guarded, "lead", lambda *_, **__: next(signs))
    inner = lambda: SensitivitySampling(4, losses=np.where(np.tile(CLEAN, 10) < 2, 1.0, 0.1))  # noqa: E731
    sampler = make(Guarded(inner(), level=1e-9), store)
    found = passes(sampler, 6)
    own, floor = passes(make(inner(), store), 6), passes(make(Uniform(), store), 6)
    who = [(lists == mine, lists == theirs) for lists, mine, theirs in zip(found, own, floor, strict=True)]
    assert all(sum(pair) == 1 for pair in who)
    assert len(set(who)) == 2


def test_a_caller_s_sampler_is_not_drawn_from_for_trials():
    class Counting(torch.utils.data.Sampler):
        begun = 0

        def __len__(self):
            return M

        def __iter__(self):
            self.begun += 1
            return iter(np.random.default_rng(self.begun).permutation(M).tolist())

    source = Counting()
    guard = Guarded(Starving())
    passes(make(guard, sampler=source), 3)
    assert source.begun == 3
    assert (guard.comparisons, guard.lost) == (2, 2)  # it acts, and what was shown is judged


def test_selections_that_gain_stay():
    guard = Guarded(PlausibleEven(), balance=1)
    found = passes(make(guard, DOUBTED), 12)
    assert found == passes(make(PlausibleEven(), DOUBTED), 12)
    assert guard.comparisons == 8 + 11
    assert guard.lost <= 1


def test_another_uniform_selection_is_rarely_given_up():
    """Level 0.5, where few comparisons suffice: of 60 runs 30 may fall, and 44 would in one of 4,000 sets of them."""
    fallen = 0
    for seed in range(60):
        guard = Guarded(Uniform(), level=0.5)
        passes(make(guard, seed=seed), 6)
        fallen += guard.since is not None
        assert guard.comparisons >= 2
    assert 2 <= fallen <= 43


@pytest.mark.parametrize("inner", [Learning, Starving, Turning])
def test_looking_moves_nothing(inner):
    sampler, other = (make(Guarded(inner()), DOUBTED) for _ in range(2))
    for epoch in range(7):
        for number, (one, plain) in enumerate(zip(sampler, other, strict=True)):
            assert one == plain
            sampler.selection_at(epoch, number)
            sampler.selection_at(epoch + 1, number)
            sampler.describe()
    assert sampler.selection.facts(DOUBTED) == other.selection.facts(DOUBTED)
    assert sampler.selection.comparisons >= 5


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


STARVING_PROPOSAL = lambda: SensitivitySampling(4, losses=np.where(CLEAN < 2, 1.0, 1e-3))  # noqa: E731


@pytest.mark.parametrize(
    ("inner", "level", "store", "count"),
    [(Learning, 0.05, STORE, 8), (STARVING_PROPOSAL, 1e-3, STORE, 8), (Turning, 1e-9, DOUBTED, 24)],
)
def test_resuming_is_exact_anywhere(inner, level, store, count):
    guarded_by = lambda: make(Guarded(inner(), level=level), store)  # noqa: E731
    reference = passes(guarded_by(), count)
    sampler, arms = guarded_by(), set()
    for epoch, lists in enumerate(reference):
        for number, batch in enumerate(sampler):
            assert batch == lists[number]
            arms.add((sampler.selection.acts, sampler.selection.since))
            if number in {0, 6} and epoch % 4 == 1:
                resumed = guarded_by()
                resumed.load_state_dict(through_a_file(sampler.state_dict(full=True)))
                assert [list(rest) for rest in resumed] == lists[number + 1 :]
                assert passes(resumed, len(reference[epoch + 1 :])) == reference[epoch + 1 :]
        resumed = guarded_by()
        resumed.load_state_dict(through_a_file(sampler.state_dict(full=True)))
        assert passes(resumed, len(reference[epoch + 1 :])) == reference[epoch + 1 :]
    assert len(arms) == 2


def test_without_its_state_a_guard_begins_anew_and_that_is_said(caplog):
    sampler = make(Guarded(Learning()))
    passes(sampler, 3)
    resumed = make(Guarded(Learning()))
    with caplog.at_level(logging.WARNING):
        resumed.load_state_dict(sampler.state_dict())
    assert "save state_dict(full=True) to resume exactly" in warnings_of(caplog)[0]


def test_long_passes_are_compared_within():
    guard = Guarded(Learning())
    store = ReferenceStore.from_arrays(np.tile(FEATURES, (20, 1)), labels=np.tile(CLEAN, 20))
    found = passes(make(guard, store), 1)[0]
    assert guard.lost == guard.comparisons == 5
    assert guard.since == 1
    trained, floor = np.concatenate(found), passes(make(Uniform(), store), 1)[0]
    ends = np.cumsum([len(batch) for batch in found])
    change = int(np.searchsorted(ends, 5 * 512)) + 1
    assert found[change:] == floor[change:]
    assert found[:change] == passes(make(Learning(), store), 1)[0][:change]
    assert len(trained) > 5 * 512


def test_large_data_are_compared_less_often_and_drawn_without_an_order_of_all():
    copies = 40_000 // M
    store = ReferenceStore.from_arrays(np.tile(FEATURES, (copies, 1)), labels=np.tile(CLEAN, copies))
    guard, rows = Guarded(Starving()), np.tile(EVERY[CLEAN < 2], 10)
    guard.shown(rows[:624], None, 0)
    assert not guard.due(40_000, 0)
    guard.shown(rows[:10], None, 0)
    assert guard.due(40_000, 0)
    guard.compare(store, None, 0, 0)
    assert (guard.lost, len(guard._rows)) == (1, 634 - len(store) // 64)
    for pool in (None, np.arange(len(store))[::2]):
        drawn = guarded._drawn(len(store), pool, 3000, (1, 2), 7)
        assert len(set(drawn.tolist())) == 3000
        assert pool is None or not (drawn % 2).any()
        assert 0.45 < (drawn < len(store) / 2).mean() < 0.55
        assert drawn.tolist() != guarded._drawn(len(store), pool, 3000, (1, 3), 7).tolist()


class LearningProposal(SensitivitySampling):
    """Proposes, and acts at once."""

    def trained(self, batch, choice):
        pass


def test_what_a_selection_proposed_is_used_up_and_then_all_data_are_offered():
    inner = lambda: LearningProposal(4, losses=np.where(CLEAN < 2, 1.0, 1e-3))  # noqa: E731
    sampler = make(Guarded(inner()))
    found = passes(sampler, 7)
    assert found[:5] == passes(make(inner()), 5)
    assert found[5:] == passes(make(Uniform()), 7)[5:]
    assert sampler.weights_for(found[-1][-1]).tolist() == [1.0] * len(found[-1][-1])


def test_probes_learn_with_the_weights_with_which_samples_go_out(monkeypatch):
    guard = Guarded(LearningProposal(4, losses=np.where(CLEAN < 2, 1.0, 0.1)))
    sampler, seen = make(guard), []
    monkeypatch.setattr(guard, "shown", lambda rows, weights, epoch: seen.append((rows, weights, epoch)))
    for batch in sampler:
        rows, weights, epoch = seen[-1]
        assert rows.tolist() == batch
        assert weights.tolist() == sampler.weights_for(batch).tolist()
        assert epoch == 0


def test_no_forward_pass_is_spent_once_the_selection_gave_way():
    asked = []

    def learner(indices):
        asked.append(len(indices))
        logits = torch.zeros(len(indices), C)
        return logits, torch.ones(len(indices), 3)

    zero_shot = np.eye(C)[np.where(CLEAN < 2, CLEAN, (CLEAN + 1) % C)] * 5.0  # right for two classes alone
    sampler = make(Guarded(BayesianSelection(zero_shot, samples=4)), learner=learner)
    passes(sampler, 6)
    assert len(asked) == 5 * len(sampler)
    assert sampler.selection.since == 5


def test_learner_losses_reach_the_selection():
    plain, sampler = make(JEST()), make(Guarded(JEST()))
    assert sampler.listens
    for _ in range(2):
        for one, other in zip(sampler, plain, strict=True):
            assert one == other
            for each in (sampler, plain):
                each.observe_next(torch.from_numpy(CLEAN[one] + 0.1))
    assert not make(Guarded(Starving())).listens  # one process: nothing needs to be reported


def ranked(ranks, report, guard=lambda: Guarded(Learning()), count=8, store=STORE):
    """Samplers of all ranks that hear of each other, as if losses were gathered; lists of all, step by step."""
    samplers = [make(guard(), store, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    assert all(sampler.listens for sampler in samplers)
    found = []
    for _ in range(count):
        found.append([])
        for step in zip(*samplers, strict=True):
            rows = np.concatenate(step)
            found[-1] += [list(batch) for batch in step]
            for sampler in samplers if report else ():
                sampler.observe(rows, np.ones(len(rows)))
    return found, samplers


def test_ranks_that_report_decide_as_one_process_would():
    found, samplers = ranked(2, report=True)
    assert found == passes(make(Guarded(Learning())), 8)
    assert [sampler.selection.since for sampler in samplers] == [5, 5]


def test_ranks_try_a_selection_as_one_process_would():
    guard = lambda: Guarded(Turning(), level=1e-9)  # noqa: E731
    found, samplers = ranked(2, report=True, guard=guard, count=26, store=DOUBTED)
    alone, who = turned(guard())
    assert {"own", "floor"} == set(who)
    # One process compares what went out with the weights, ranks with ones: the same until the selection acts.
    first = who.index("own")
    assert found[: first + 1] == alone[: first + 1]
    assert len({(s.selection.acts, s.selection.lead, s.selection.comparisons) for s in samplers}) == 1


def test_ranks_that_report_nothing_take_the_floor_and_say_so_once(caplog):
    with caplog.at_level(logging.WARNING):
        found, samplers = ranked(2, report=False)
    assert found[0] == passes(make(Learning()), 1)[0]
    assert found[1:] == passes(make(Uniform()), 8)[1:]
    said = warnings_of(caplog)
    assert len(said) == len(samplers)
    assert all("of the last pass nothing was reported" in line for line in said)


def test_curated_loaders_and_constant_batches():
    data = TensorDataset(torch.from_numpy(FEATURES), torch.from_numpy(CLEAN))
    loader = curate(
        DataLoader(data, batch_size=N, shuffle=True),
        STORE,
        selection=Guarded(Learning()),
        emit="constant",
        batch_size=16,
    )
    for _ in range(7):
        sizes = {len(labels) for _, labels in loader}
    assert sizes == {16}
    assert loader.batch_sampler.selection.since is not None
    assert len({int(label) for _, labels in loader for label in labels}) == C


def test_a_caller_s_order_is_what_is_on_offer():
    """Of two classes alone, a selection that shows two classes starves nobody."""
    source, lost = torch.utils.data.SubsetRandomSampler(np.flatnonzero(CLEAN < 2).tolist()), 0
    for seed in range(8):
        guard = Guarded(Starving(), level=1e-9)
        passes(make(guard, sampler=source, seed=seed), 1)
        lost += guard.lost
        assert guard.comparisons == 8
    assert 16 <= lost <= 48  # of 64


def test_a_copy_and_its_original_go_on_alone():
    sampler = make(Guarded(Learning()))
    passes(sampler, 2)
    other = copy.copy(sampler)
    passes(other, 4)
    assert (sampler.selection.comparisons, other.selection.comparisons) == (1, 5)


def test_a_comparison_gives_the_guarded_selection_its_zero_shot_predictor():
    given = Guarded(BayesianSelection(PLACEHOLDER), level=0.2, balance=1)
    filled = with_zero_shot(given, np.ones((M, C)))
    assert filled.selection.zero_shot.shape == (M, C)
    assert (filled.level, filled.balance, filled.floor) == (0.2, 1.0, given.floor)


def test_repr_name_and_needs():
    guard = Guarded(SALN(), level=0.1)
    assert repr(guard) == "Guarded(selection=SALN(score='signed'), floor=Uniform(), level=0.1, balance=0.0)"
    assert guard.name == "guarded-saln"
    assert guard.needs == {"features", "labels"}
    assert Guarded(PlausibleEven()).balance == 0.0
    assert Guarded(PlausibleEven(balance=1)).balance == 1.0
    assert Guarded(PlausibleEven(balance=1), balance=0).balance == 0.0
    assert Guarded(InfoBatch()).proposes


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: Guarded(3), r"^selection must be a Selection, got 3"),
        (lambda: Guarded(Guarded(SALN())), r"^selection must be one that is not guarded yet, got Guarded"),
        (lambda: Guarded(SALN(), 3), r"^floor must be a Selection, got 3"),
        (
            lambda: Guarded(SALN(), SALN()),
            r"^floor must be a selection that neither scores, proposes nor learns, got SALN",
        ),
        (lambda: Guarded(SALN(), InfoBatch()), r"^floor must be a selection that neither scores"),
        (lambda: Guarded(SALN(), level=0.0), r"^level must be a number in \(0, 1\), got 0\.0"),
        (lambda: Guarded(SALN(), balance=-1), r"^balance must be a number in \[0, inf\), got -1"),
        (lambda: make(Guarded(Uniform()), make_store()), r"^selection must be one that does without labels, which"),
        (lambda: OnlineSelection(Guarded(PlausibleEven()), store=STORE), r"^policy must be one without a guard, got "),
    ],
)
def test_mistakes_are_one_sentence(wrong, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        wrong()

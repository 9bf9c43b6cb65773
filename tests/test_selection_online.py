"""OnlineSelection in a training loop: what it feeds the policies, what it refuses, what it returns."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from spectral_sampler import GSTDS, MellowAIMD, PlateauSchedule, ReferenceStore, SigmoidSchedule, Uniform
from spectral_sampler.errors import ArgumentError
from spectral_sampler.selection import (
    EL2N,
    JEST,
    UDS,
    BayesianSelection,
    CandidateBatch,
    Choice,
    DivBS,
    Forgetting,
    GradientNorm,
    Herding,
    InfoBatch,
    KCentre,
    Leverage,
    OnlineSelection,
    PlausibleEven,
    PlausibleLearnable,
    RHOLoss,
    SensitivitySampling,
    SeTa,
)
from spectral_sampler.selection.needs import NEEDS

M, N, C, D = 120, 32, 3, 6


def make_store(seed=0, **columns):
    generator = np.random.default_rng(seed)
    columns = {"losses": generator.exponential(size=M), "labels": generator.integers(C, size=M), **columns}
    return ReferenceStore.from_arrays(generator.normal(size=(M, 9)).astype(np.float32), **columns)


def outputs(seed=0):
    generator = np.random.default_rng(seed)
    return {
        "indices": torch.tensor(generator.permutation(M)[:N]),
        "logits": torch.tensor(generator.normal(size=(N, C)), dtype=torch.float32, requires_grad=True),
        "labels": torch.tensor(generator.integers(C, size=N)),
        "features": torch.tensor(generator.normal(size=(N, D)), dtype=torch.float32),
    }


POLICIES = {
    "jest": JEST,
    "joint": lambda: JEST(joint=True),
    "rho": RHOLoss,
    "bayesian": lambda: BayesianSelection(np.random.default_rng(3).normal(size=(M, C)), samples=16),
    "gradient-norm": lambda: GradientNorm(gate=False),
    "gstds": GSTDS,
    "uniform": Uniform,
    "plausible-even": PlausibleEven,
    "plausible-learnable": PlausibleLearnable,
    "divbs": DivBS,
    "uds": UDS,
    "el2n": lambda: EL2N(0.1),
    "forgetting": Forgetting,
    "k-centre": KCentre,
    "herding": Herding,
    "leverage": Leverage,
}
RANKING = {"rho", "bayesian", "divbs", "uds", "el2n", "k-centre", "herding"}
"""Those that draw nothing but the order of equals."""


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_keeps_its_budget(name):
    online = OnlineSelection(POLICIES[name](), 0.3, store=make_store())
    for step in range(3):
        before = torch.get_rng_state()
        kept = online(**outputs(step))
        assert kept.dtype == torch.int64
        assert len(set(kept.tolist())) == int(0.3 * N)
        assert online.weights.shape == kept.shape
        assert torch.equal(before, torch.get_rng_state())
    assert online.statistics() == {
        "spectral/online_calls": 3.0,
        "spectral/online_forwarded": 3.0 * N,
        "spectral/online_kept": 27.0,
        "spectral/nonfinite_total": 0.0,
    }


def test_rho_sees_fresh_losses_of_the_learner_and_losses_of_the_store():
    store, given = make_store(), outputs()
    fresh = nn.functional.cross_entropy(given["logits"], given["labels"], reduction="none").detach().double().numpy()
    excess = fresh - store.losses[given["indices"].numpy()]
    assert OnlineSelection(RHOLoss(), 0.25, store=store)(**given).tolist() == np.argsort(-excess)[:8].tolist()
    own = np.linspace(0, 1000, N)
    kept = OnlineSelection(RHOLoss(), 0.25, store=store)(indices=given["indices"], losses=own)
    assert kept.tolist() == list(range(N - 1, N - 9, -1)), "losses= wins"
    without = OnlineSelection(RHOLoss(), 0.25, store=store)(indices=given["indices"], logits=given["logits"])
    stored = store.labels[given["indices"].numpy()]
    fresh = nn.functional.cross_entropy(given["logits"], torch.tensor(stored), reduction="none").detach().numpy()
    excess = fresh - store.losses[given["indices"].numpy()]
    assert without.tolist() == np.argsort(-excess)[:8].tolist(), "labels of the store"


def test_policies_get_what_they_name():
    seen = {}

    class Spy(Uniform):
        needs = frozenset({"logits", "labels", "embeddings", "features", "losses"})

        def select(self, batch, budget):
            seen["batch"] = batch
            return super().select(batch, budget)

        def trained(self, batch, choice):
            seen["trained"] = (batch, choice)

    store, given = make_store(), outputs()
    kept = OnlineSelection(Spy(), 0.5, store=store, seed=7)(**given)
    batch, index = seen["batch"], given["indices"].numpy()
    assert isinstance(batch, CandidateBatch)
    assert batch.indices.tolist() == index.tolist()
    assert batch.embeddings == pytest.approx(given["features"].numpy())
    assert batch.features == pytest.approx(store.features[index])
    assert batch.losses == pytest.approx(store.losses[index])
    assert batch.logits == pytest.approx(given["logits"].detach().numpy())
    assert (batch.seed, batch.epoch, batch.batch) == (7, 0, 0)
    assert seen["trained"][1].positions.tolist() == kept.tolist()


def test_schedule_over_steps():
    online = OnlineSelection(Uniform(), SigmoidSchedule(0.2, 0.8, mean=0.4), steps=40)
    sizes = [len(online(indices=np.arange(50))) for _ in range(45)]
    assert (sizes[0], sizes[39], sizes[44]) == (10, 40, 40)
    assert abs(np.mean(sizes[:40]) / 50 - 0.4) < 0.02
    assert sizes == sorted(sizes)
    assert len(OnlineSelection(Uniform(), 0.01, min_keep=3)(indices=np.arange(50))) == 3


def test_a_schedule_that_listens_hears_the_losses_of_what_was_kept():
    online = OnlineSelection(Uniform(), MellowAIMD(0.2, 0.8, mean=0.4, decrease=0.1, patience=None))
    sizes = [len(online(indices=np.arange(50), losses=np.full(50, loss))) for loss in (3.0, 2.0, 1.0, 0.5)]
    assert sizes == [20, 20, 15, 10], "falling losses, of which the first has nothing before it"
    state = online.state_dict()
    rest = [len(online(indices=np.arange(50), losses=np.full(50, loss))) for loss in (9.0, 10.0, 11.0)]
    assert rest[0] < rest[1] < rest[2]
    again = OnlineSelection(Uniform(), MellowAIMD(0.2, 0.8, mean=0.4, decrease=0.1, patience=None))
    again.load_state_dict(state)
    assert [len(again(indices=np.arange(50), losses=np.full(50, loss))) for loss in (9.0, 10.0, 11.0)] == rest

    class First(Uniform):
        def select(self, batch, budget):
            return super().select(batch, budget)._replace(positions=np.arange(budget))

    rising = np.arange(50.0)
    heard = []
    schedule = MellowAIMD(0.2, 0.8, mean=0.4)
    schedule.step = heard.append
    OnlineSelection(First(), schedule)(indices=np.arange(50), losses=rising)
    assert heard == [rising[:20].mean()]


def test_a_schedule_that_listens_and_keeps_its_mean():
    online = OnlineSelection(Uniform(), PlateauSchedule(0.2, 0.8, mean=0.4), steps=60)
    sizes = [len(online(indices=np.arange(100), losses=np.full(100, 3.0 / (1 + step)))) for step in range(60)]
    assert abs(sum(sizes) - 0.4 * 6000) <= 60  # budgets are whole numbers
    assert len(set(sizes)) > 3


class Noting(Uniform):
    """Keeps what it is offered."""

    def __init__(self, *needs):
        self.needs, self.seen = frozenset(needs), []

    def select(self, batch, budget):
        self.seen.append(batch)
        return super().select(batch, budget)


def test_a_turn_is_a_pass_over_the_data_and_not_a_call():
    policy = Noting("features")
    online = OnlineSelection(policy, 0.5, store=make_store())
    for start in range(0, 3 * M, N):
        online(indices=np.arange(start, start + N) % M)
    assert [batch.turn for batch in policy.seen] == [N * call // M for call in range(len(policy.seen))]
    assert [batch.batch for batch in policy.seen] == list(range(len(policy.seen)))


class Foreign:
    """Has the parts of a selection without being derived from it."""

    name, needs = "foreign", frozenset({"losses"})

    def score(self, store, indices, *, backend):
        return None

    def select(self, batch, budget):
        return Choice(np.argsort(batch.losses)[:budget], np.zeros(budget, dtype=np.int8))


def test_a_foreign_policy_goes_without_what_it_does_not_have():
    store = make_store()
    online = OnlineSelection(Foreign(), 0.25, store=store)
    assert online(indices=np.arange(N)).tolist() == np.argsort(store.losses[:N])[: N // 4].tolist()
    online.load_state_dict(online.state_dict())


SCHEDULES = {
    "constant": lambda: 0.3,
    "sigmoid": lambda: SigmoidSchedule(0.2, 0.8, mean=0.4),
    "aimd": lambda: MellowAIMD(0.2, 0.8, mean=0.4, window=3),
    "plateau": lambda: PlateauSchedule(0.2, 0.8, mean=0.4, periods=7),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", POLICIES)
def test_it_resumes_at_every_call(name, schedule):
    def run(calls, state=None):
        online = OnlineSelection(POLICIES[name](), SCHEDULES[schedule](), store=make_store(), steps=12)
        if state is not None:
            online(**outputs(99))  # what it did before is overwritten
            online.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        lists, states = [], []
        for step in calls:
            file = io.BytesIO()
            torch.save(online.state_dict(), file)
            states.append(file.getvalue())
            lists.append((online(**outputs(step)).tolist(), online.weights.tolist()))
        return lists, states, online.statistics()

    lists, states, statistics = run(range(14))
    assert len({len(kept) for kept, _ in lists}) > (1 if schedule != "constant" else 0)
    for stop in (0, 1, 2, 6, 7, 11, 13):  # some in an epoch of the schedule, some between two, and past its end
        rest, _, end = run(range(stop, 14), states[stop])
        assert rest == lists[stop:], stop
        assert end == statistics


def test_calls_draw_anew_and_the_same_calls_draw_the_same():
    first, second = (OnlineSelection(Uniform(), 0.3, seed=1) for _ in range(2))
    lists = [first(indices=np.arange(40)).tolist() for _ in range(5)]
    assert len({tuple(kept) for kept in lists}) == 5
    assert [second(indices=np.arange(40)).tolist() for _ in range(5)] == lists
    assert OnlineSelection(Uniform(), 0.3, seed=2)(indices=np.arange(40)).tolist() != lists[0]


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in RANKING])
def test_passes_over_the_data_differ(name):
    online, given = OnlineSelection(POLICIES[name](), 0.3, store=make_store()), outputs()
    lists = {tuple(sorted(online(**given).tolist())) for _ in range(4 * M // N)}  # the same candidates, four passes
    assert len(lists) >= 4


def test_two_lines_in_a_loop_train_a_network():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(M, D, generator=generator)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    network = nn.Linear(D, C)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    optimiser = torch.optim.SGD(network.parameters(), 0.5)
    online = OnlineSelection(GradientNorm(), 0.4)
    losses = []
    for step in range(80):
        rows = torch.arange(step * N, step * N + N) % M
        logits = network(inputs[rows])
        kept = online(indices=rows, logits=logits, labels=labels[rows])
        loss = (nn.functional.cross_entropy(logits[kept], labels[rows][kept], reduction="none") * online.weights).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(nn.functional.cross_entropy(network(inputs), labels).item())
    assert losses[-1] < 0.6 * losses[0]
    assert online.policy.tau > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineSelection(RHOLoss(), 0.3), r"^policy must be a policy whose needs .*\(losses is missing\)"),
        (
            lambda: OnlineSelection(JEST(joint=True), 0.3, store=make_store(losses=None)),
            r"^policy must be .*\(losses is missing\), got JEST\(.*\. Make the store with losses=",
        ),
        (lambda: OnlineSelection(RHOLoss, 0.3), r"^policy must be a Selection, got"),
        (lambda: OnlineSelection(InfoBatch()), r"^policy must be one that selects from the candidates it is given"),
        (lambda: OnlineSelection(SeTa()), r"^policy must be one that selects from the candidates it is given"),
        (lambda: OnlineSelection(KCentre()), r"^policy must be .*\(features is missing\), got KCentre\(\)\. "),
        (lambda: OnlineSelection(SensitivitySampling()), r"^policy must be one .* pass it to a SpectralBatchSampler"),
        (
            lambda: OnlineSelection(PlausibleEven(), store=make_store(labels=None)),
            r"^policy must be .*\(labels is missing\)",
        ),
        (
            lambda: OnlineSelection(RHOLoss(), store=make_store())(
                indices=[1, 2], logits=torch.ones(2, 3), labels=[0, 3]
            ),
            r"^labels must be from 0 to 2, the classes of the logits, got 3",
        ),
        (
            lambda: OnlineSelection(RHOLoss(), store=make_store())(
                indices=[1, 2], logits=torch.ones(2, 3), labels=[-1, 2]
            ),
            r"^labels must be from 0 to 2, the classes of the logits, got -1",
        ),
        (lambda: OnlineSelection(Uniform(), 0.0), r"^keep_ratio must be in \(0, 1\], got 0\.0"),
        (lambda: OnlineSelection(Uniform(), SigmoidSchedule()), r"^steps must be the number of calls when keep_ratio"),
        (lambda: OnlineSelection(Uniform(), PlateauSchedule()), r"^epochs must be .*steps= to an OnlineSelection"),
        (
            lambda: OnlineSelection(Uniform(), MellowAIMD())(indices=[1, 2]),
            r"^losses must be given when keep_ratio follows the loss, got None. Pass losses=",
        ),
        (lambda: OnlineSelection(Uniform(), 0.3, steps=0), r"^steps must be a whole number of at least 1"),
        (lambda: OnlineSelection(Uniform(), 0.3, min_keep=0), r"^min_keep must be a whole number of at least 1"),
        (lambda: OnlineSelection(GradientNorm())(indices=[1, 2]), r"^labels must be given, because gradient-norm"),
        (
            lambda: OnlineSelection(POLICIES["bayesian"]())(**{**outputs(), "features": None}),
            r"^features must be given, because bayesian needs embeddings",
        ),
        (lambda: OnlineSelection(Uniform())(indices=[1, 1]), r"^indices must be distinct .*\[1, 1\]"),
        (lambda: OnlineSelection(Uniform())(indices=[]), r"^indices must be distinct dataset indices, at least one"),
        (lambda: OnlineSelection(RHOLoss(), store=make_store())(indices=[1, M], losses=[1, 2]), r"^indices must be"),
        (
            lambda: OnlineSelection(GradientNorm())(indices=[1, 2], logits=torch.ones(3, 2), labels=[0, 1]),
            r"^logits must be of 2 rows, one for each index, got 3",
        ),
    ],
)  # fmt: skip
def test_one_sentence(make, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_every_need_has_its_remedy():
    for name, make in POLICIES.items():
        assert make().needs <= set(NEEDS), name

"""What policies are offered and what is made of their choices: outputs that are not finite, labels, places."""

import math

import numpy as np
import pytest
import torch

from spectral_sampler import MellowAIMD, ReferenceStore, SpectralBatchSampler, Uniform
from spectral_sampler.errors import ArgumentError
from spectral_sampler.likelihood import cross_entropy, gradient_norms, output_gradients
from spectral_sampler.selection import (
    EL2N,
    JEST,
    UDS,
    BayesianSelection,
    Choice,
    DivBS,
    Forgetting,
    GradientNorm,
    OnlineSelection,
    PlausibleLearnable,
    RHOLoss,
    Scores,
    Selection,
)
from spectral_sampler.selection.offered import chosen, learnt, offered, part_of

M, N, C, D = 90, 24, 4, 6
generator = np.random.default_rng(0)
STORE = ReferenceStore.from_arrays(
    generator.normal(size=(M, 9)).astype(np.float16),
    losses=generator.exponential(size=M),
    labels=generator.integers(C, size=M),
)
ZERO_SHOT = generator.normal(size=(M, C))
POLICIES = {
    "rho": RHOLoss,
    "rho-drawn": lambda: RHOLoss(temperature=1e-3),
    "jest": JEST,
    "joint": lambda: JEST(joint=True),
    "bayesian": lambda: BayesianSelection(ZERO_SHOT, samples=16),
    "gradient-norm": lambda: GradientNorm(gate=False),
    "gate shut": GradientNorm,
    "plausible-learnable": PlausibleLearnable,
    "divbs": DivBS,
    "uds": UDS,
    "el2n": lambda: EL2N(0.1),
    "forgetting": Forgetting,
    "uniform": Uniform,
}


def outputs(seed=0, kind=torch.float32):
    rows = np.random.default_rng(seed)
    return {
        "logits": torch.tensor(3 * rows.normal(size=(N, C)), dtype=kind),
        "labels": torch.tensor(rows.integers(C, size=N)),
        "embeddings": torch.tensor(rows.normal(size=(N, D)), dtype=kind),
    }


INDICES = np.random.default_rng(5).permutation(M)[:N]
BAD = {2: math.nan, 5: math.inf, 11: -math.inf, 17: math.nan}


def spoilt(given, part="logits"):
    rows = given[part].clone()
    for row, value in BAD.items():
        rows[row, 0 if value != -math.inf else slice(None)] = value
    return {**given, part: rows}


# the numbers, against float64 written out in NumPy


def published(logits, labels):
    """Cross-entropies, gradients and their norms in float64, by the label's complement where that is all there is."""
    f, rows = np.asarray(logits, dtype=np.float64), np.arange(len(labels))
    away = f - f[rows, labels][:, None]
    away[rows, labels] = -np.inf
    losses = np.logaddexp(0.0, np.logaddexp.reduce(away, axis=1))
    gradients = np.exp(f - np.logaddexp.reduce(f, axis=1)[:, None])
    gradients[rows, labels] = np.expm1(-losses)
    return losses, gradients, np.linalg.norm(gradients, axis=1)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_losses_and_gradients_in_every_precision(kind, scale, monkeypatch):
    monkeypatch.setattr("spectral_sampler.likelihood._BLOCK_OF_CPU", 7 * 50)
    logits = (scale * torch.randn(33, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(kind)
    labels = np.arange(33) % 50
    labels[:16] = logits[:16].double().argmax(1)  # nearly all of the probability: 1 - p has no digits left
    losses, gradients, norms = published(logits.double(), labels)
    tolerance = 1e-12 if kind == torch.float64 else 1e-5
    assert cross_entropy(logits, labels) == pytest.approx(losses, rel=tolerance, abs=1e-38)
    assert gradient_norms(logits.requires_grad_(), labels) == pytest.approx(norms, rel=tolerance, abs=1e-38)
    assert output_gradients(logits, labels).numpy() == pytest.approx(gradients, abs=1e-12)
    if kind == torch.float64:
        assert cross_entropy(logits.detach().numpy(), labels.tolist()) == pytest.approx(losses, rel=tolerance)


def test_classes_that_are_masked_and_one_class_alone():
    logits = torch.tensor([[0.0, 1.0, -math.inf], [-math.inf, -math.inf, 4.0], [-math.inf, 0.0, 0.0]])
    assert cross_entropy(logits, [1, 2, 0]) == pytest.approx([math.log1p(math.exp(-1.0)), 0.0, math.inf])
    assert gradient_norms(logits, [1, 2, 0]) == pytest.approx([math.sqrt(2) / (1 + math.e), 0.0, math.sqrt(1.5)])
    assert (
        cross_entropy(torch.ones(2, 1), [0, 0]).tolist() == gradient_norms(torch.ones(2, 1), [0, 0]).tolist() == [0, 0]
    )


# outputs that are not finite


@pytest.mark.parametrize("part", ["logits", "embeddings"])
@pytest.mark.parametrize("budget", [1, 9, N - len(BAD), N - 2, N])
@pytest.mark.parametrize("name", POLICIES)
def test_outputs_that_are_not_finite_come_last_and_are_counted(name, budget, part):
    policy = POLICIES[name]()
    scores = policy.score(STORE, INDICES[None], backend="auto")
    score = None if scores is None else Scores(*(column[0] for column in scores))
    batch = offered(policy, STORE, INDICES, spoilt(outputs(), part), score, batch=3)
    before = repr(policy.state_dict())
    choice = chosen(policy, batch, budget)
    assert repr(policy.state_dict()) == before
    positions = choice.positions.tolist()
    assert len(set(positions)) == budget == len(choice.kinds)
    assert choice.nonfinite == len(BAD)
    assert len(BAD.keys() & set(positions)) == max(0, budget - (N - len(BAD))), "not one more than there must be"
    assert not BAD.keys() & set(positions[: N - len(BAD)])
    learnt(policy, batch, choice)
    for value in policy.state_dict().values():
        assert np.isfinite(np.asarray(value)).all()


def test_the_others_are_chosen_and_learnt_from_as_if_alone():
    good = np.setdiff1d(np.arange(N), list(BAD))
    whole, part = GradientNorm(gate=False), GradientNorm(gate=False)
    given = outputs()
    batch = offered(whole, STORE, INDICES, spoilt(given), batch=3)
    alone = offered(part, STORE, INDICES[good], {name: value[good] for name, value in given.items()}, batch=3)
    one, other = chosen(whole, batch, 8), chosen(part, alone, 8)
    assert one.positions.tolist() == good[other.positions].tolist()
    assert one.weights == pytest.approx(other.weights)
    learnt(whole, batch, one)
    learnt(part, alone, other)
    assert whole.tau == part.tau
    assert other.nonfinite == 0


def test_a_loss_without_bound_is_not_an_unknown_one():
    given = outputs()
    given["logits"][3, given["labels"][3]] = -math.inf  # the label's own class is masked, the row is no fault otherwise
    choice = chosen(RHOLoss(), offered(RHOLoss(), STORE, INDICES, given), N - 1)
    assert 3 not in choice.positions
    assert choice.nonfinite == 1


def test_nothing_finite_at_all():
    given = {**outputs(), "logits": torch.full((N, C), math.nan)}
    policy = GradientNorm()
    batch = offered(policy, STORE, INDICES, given)
    choice = chosen(policy, batch, 5)
    assert len(set(choice.positions.tolist())) == 5
    learnt(policy, batch, choice)
    assert policy.tau is None


def test_losses_never_observed_are_not_such():
    losses = np.where(np.arange(N) < 3, np.nan, 1.0)
    choice = chosen(RHOLoss(), offered(RHOLoss(), STORE, INDICES, {"learner_losses": losses}), 8)
    assert choice.nonfinite == 0


def test_in_the_loop_every_loss_is_known():
    losses = np.where(np.arange(N) % 2, 1.0, np.nan)
    online = OnlineSelection(RHOLoss(), 0.5, store=STORE)
    assert set(online(indices=INDICES, losses=losses).tolist()) == set(range(1, N, 2))
    assert online.statistics()["spectral/nonfinite_total"] == N // 2
    again = OnlineSelection(RHOLoss(), 0.5, store=STORE)
    again.load_state_dict(online.state_dict())
    assert again.statistics() == online.statistics()


# what is offered


class Spy(Selection):
    name = "spy"

    def __init__(self, *needs):
        self.needs = frozenset(needs)

    def select(self, batch, budget):
        return Choice(np.arange(budget), np.zeros(budget, dtype=np.int8))


def test_outputs_stay_where_they_are():
    given = outputs(kind=torch.bfloat16)
    given["logits"].requires_grad_()
    batch = offered(Spy("learner_losses", "features", "embeddings"), STORE, INDICES, given, seed=4, turn=2)
    assert batch.logits.data_ptr() == given["logits"].data_ptr()
    assert batch.embeddings is given["embeddings"] or batch.embeddings.data_ptr() == given["embeddings"].data_ptr()
    assert not batch.logits.requires_grad
    assert batch.features.tolist() == STORE.features[INDICES].tolist()
    losses, *_ = published(given["logits"].detach().double(), given["labels"].numpy())
    assert batch.learner_losses == pytest.approx(losses, rel=1e-5)
    assert (batch.seed, batch.turn, batch.losses) == (4, 2, None)
    assert offered(Spy(), STORE, INDICES, outputs()).learner_losses is None, "nobody asked"
    again = np.arange(len(INDICES)) % 3
    assert part_of(offered(Spy(), STORE, INDICES, {}, again=again), np.array([2, 1])).again.tolist() == [2, 1]


def test_what_is_given_wins_over_the_store():
    spy = Spy("labels", "losses")
    assert offered(spy, STORE, INDICES, {}).labels.tolist() == STORE.labels[INDICES].tolist()
    assert offered(spy, STORE, INDICES, {"labels": [3] * N}).labels.tolist() == [3] * N
    assert offered(spy, STORE, INDICES, {}).losses == pytest.approx(STORE.losses[INDICES])


@pytest.mark.parametrize(
    "name", ["rho", "joint", "bayesian", "gradient-norm", "gate shut", "divbs", "el2n", "forgetting"]
)
@pytest.mark.parametrize("label", [-1, -100, C])
def test_a_label_that_is_no_class_is_refused(name, label):
    policy, given = POLICIES[name](), outputs()
    given["labels"][3] = label
    with pytest.raises(ArgumentError, match=rf"^labels must be from 0 to 3, the classes of the logits, got {label}\. "):
        chosen(policy, offered(policy, STORE, INDICES, given), 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": [0.5] * N}, r"^labels must be integers, got dtype float64"),
        ({"logits": torch.ones(N)}, r"^logits must be of shape \(24, n\), got \(24,\)"),
        ({"embeddings": torch.ones(N, 3, 2)}, r"^features must be of shape \(24, n\), got \(24, 3, 2\)"),
        ({"learner_losses": torch.ones(N, 2)}, r"^learner_losses must be of 24 rows, one for each index, got 48"),
        ({}, r"^logits must be given, because spy needs logits, got None"),
    ],
)  # fmt: skip
def test_one_sentence(given, message):
    with pytest.raises(ArgumentError, match=message):
        offered(Spy("logits"), None, INDICES, given)


def test_a_wrong_choice_is_not_delivered():
    class Wrong(Spy):
        def select(self, batch, budget):
            return Choice(np.zeros(budget, dtype=np.int64), np.zeros(budget, dtype=np.int8))

    with pytest.raises(RuntimeError, match="was to select 3 distinct candidates"):
        chosen(Wrong(), offered(Wrong(), None, INDICES, {}), 3)


IGNORING = {
    "gradient-norm": lambda: GradientNorm(gate=False),
    "jest-joint": lambda: JEST(joint=True),
    "rho": RHOLoss,
    "bayesian": lambda: BayesianSelection(np.zeros((12, 3)), samples=4),
    "divbs": DivBS,
    "el2n": EL2N,
    "forgetting": Forgetting,
}


@pytest.mark.parametrize("name", IGNORING)
@pytest.mark.parametrize("label", [-1, -100, 7])
def test_a_label_to_ignore_comes_last_and_others_are_refused(name, label):
    generator = np.random.default_rng(0)
    store = ReferenceStore.from_arrays(generator.normal(size=(12, 4)), losses=np.zeros(12), labels=np.arange(12) % 3)
    given = {"logits": generator.normal(size=(12, 3)), "features": generator.normal(size=(12, 4))}
    labels = np.arange(12) % 3
    labels[[2, 5, 9]] = label
    with pytest.raises(ArgumentError, match=r"^labels must be from 0 to 2, the classes of the logits, got"):
        OnlineSelection(IGNORING[name](), 0.5, store=store)(indices=np.arange(12), labels=labels, **given)
    for ratio, ignored in ((0.5, set()), (1.0, {2, 5, 9})):
        online = OnlineSelection(IGNORING[name](), ratio, store=store, ignore_index=label)
        kept = online(indices=np.arange(12), labels=labels, **given).tolist()
        assert set(kept) & {2, 5, 9} == ignored
        assert online.statistics()["spectral/nonfinite_total"] == 0
        without = OnlineSelection(IGNORING[name](), 0.5, store=store, ignore_index=label + 500)
        with pytest.raises(ArgumentError, match=r"^labels must be"):
            without(indices=np.arange(12), labels=labels, **given)
    rest = np.flatnonzero(labels != label)
    alone = OnlineSelection(IGNORING[name](), 6 / 9, store=store)
    several = OnlineSelection(IGNORING[name](), 0.5, store=store, ignore_index=label)
    chosen = alone(indices=rest, labels=labels[rest], **{key: rows[rest] for key, rows in given.items()})
    assert rest[chosen.numpy()].tolist() == several(indices=np.arange(12), labels=labels, **given).tolist()


def test_the_sampler_ignores_labels_as_asked():
    generator = np.random.default_rng(1)
    labels = np.where(np.arange(48) % 4 == 0, -1, np.arange(48) % 3)
    store = ReferenceStore.from_arrays(generator.normal(size=(48, 4)), labels=labels)
    logits = torch.from_numpy(generator.normal(size=(48, 3)))
    options = {"keep_ratio": 0.5, "selection": GradientNorm(gate=False), "learner": lambda rows: logits[rows]}
    with pytest.raises(ArgumentError, match=r"^labels must be from 0 to 2"):
        next(iter(SpectralBatchSampler(store, 16, **options)))
    for rows in SpectralBatchSampler(store, 16, ignore_index=-1, **options):
        assert (labels[rows] >= 0).all()


def test_a_batch_of_labels_to_ignore_is_no_error_and_no_news():
    logits, labels = torch.zeros(6, 3), np.full(6, -100)
    for policy in (RHOLoss(), Uniform()):
        schedule = MellowAIMD(0.2, 0.9, mean=0.5)
        store = ReferenceStore.from_arrays(np.ones((6, 2)), losses=np.ones(6))
        online = OnlineSelection(policy, schedule, store=store, ignore_index=-100)
        for _ in range(3):
            assert len(online(indices=np.arange(6), logits=logits, labels=labels)) == 3
        assert schedule.ratio(3) == 0.5, "heard nothing"

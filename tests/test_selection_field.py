"""What all selections of the field have in common, each in its own file's terms: places, copies, ties, budgets."""

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore
from spectral_sampler.selection import (
    EL2N,
    UDS,
    CandidateBatch,
    DivBS,
    Forgetting,
    Herding,
    KCentre,
    Leverage,
    OnlineSelection,
)
from spectral_sampler.selection.offered import chosen, offered

M, N, C, D = 300, 40, 5, 7
generator = np.random.default_rng(0)
STORE = ReferenceStore.from_arrays(generator.normal(size=(M, D)), labels=generator.integers(C, size=M))
POLICIES = {
    "divbs": DivBS,
    "divbs-streamlined": lambda: DivBS(normalised=False),
    "uds": UDS,
    "el2n": EL2N,
    "el2n-offset": lambda: EL2N(0.2),
    "forgetting": Forgetting,
    "k-centre": KCentre,
    "herding": Herding,
    "leverage": Leverage,
    "leverage-top": lambda: Leverage(deterministic=True),
}


def outputs(seed=0, size=N):
    rows = np.random.default_rng(seed)
    return {
        "logits": torch.tensor(2 * rows.normal(size=(size, C)), dtype=torch.float32),
        "embeddings": torch.tensor(rows.normal(size=(size, D)), dtype=torch.float32),
    }


def offer(policy, indices, given, store=STORE, **place):
    score = policy.score(store, indices[None], backend="auto")
    row = None if score is None else type(score)(*(part[0] for part in score))
    return offered(policy, store, indices, given, row, **place)


def seasoned(name):
    """A selection that has learnt from three batches, where it learns."""
    policy = POLICIES[name]()
    for step in range(3):
        indices = np.random.default_rng(step).permutation(M)[:N]
        batch = offer(policy, indices, outputs(step), batch=step)
        policy.trained(batch, policy.select(batch, 12))
    return policy


INDICES = np.random.default_rng(9).permutation(M)[:N]


@pytest.mark.parametrize("budget", [1, 13, N - 1, N])
@pytest.mark.parametrize("name", POLICIES)
def test_the_order_of_the_candidates_has_no_part(name, budget):
    policy, given = seasoned(name), outputs(7)
    first = policy.select(offer(policy, INDICES, given, batch=4), budget)
    places = np.random.default_rng(1).permutation(N)
    moved = {part: rows[places] for part, rows in given.items()}
    again = policy.select(offer(policy, INDICES[places], moved, batch=4), budget)
    assert places[again.positions].tolist() == first.positions.tolist()
    assert len(set(first.positions.tolist())) == len(first.kinds) == budget
    if first.weights is not None:
        assert again.weights == pytest.approx(first.weights)


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "leverage"])
def test_equals_take_turns(name):
    """All candidates are copies of one: which go is another matter in every epoch."""
    features = np.tile(np.arange(1.0, D + 1), (M, 1))
    store = ReferenceStore.from_arrays(features, labels=np.zeros(M, dtype=np.int64))
    given = {"logits": torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]]).repeat(N, 1), "embeddings": torch.ones(N, D)}
    policy, counts = POLICIES[name](), np.zeros(N)
    for epoch in range(200):
        counts[policy.select(offer(policy, INDICES, given, store, epoch=epoch), 10).positions] += 1
    assert np.all(np.abs(counts - 50) < 5 * np.sqrt(200 * 0.25 * 0.75))


@pytest.mark.parametrize("name", ["divbs", "k-centre", "herding", "leverage", "leverage-top"])
def test_rows_of_any_size(name):
    for factor in (1e-18, 1e18):
        policy, given = POLICIES[name](), outputs(3)
        store = ReferenceStore.from_arrays((STORE.features * factor).astype(np.float32), labels=STORE.labels)
        scaled = {**given, "embeddings": given["embeddings"] * factor}
        found = policy.select(offer(policy, INDICES, scaled, store), 15).positions
        assert found.tolist() == policy.select(offer(policy, INDICES, given), 15).positions.tolist()


@pytest.mark.parametrize("name", ["divbs", "uds", "el2n", "el2n-offset", "forgetting"])
@pytest.mark.parametrize("budget", [10, N - 3, N])
def test_outputs_that_are_not_finite_come_last_and_leave_no_trace(name, budget):
    bad, given, policy, alone = [3, 8, 20, 31], outputs(5), seasoned(name), seasoned(name)
    given["logits"][bad] = torch.tensor([torch.nan, torch.inf, torch.nan, -torch.inf])[:, None]
    batch = offer(policy, INDICES, given, batch=6)
    choice = chosen(policy, batch, budget)
    assert choice.nonfinite == 4
    assert len(set(bad) & set(choice.positions.tolist())) == max(0, budget - (N - 4))
    good = np.setdiff1d(np.arange(N), bad)
    rest = offer(alone, INDICES[good], {part: rows[good] for part, rows in given.items()}, batch=6)
    expected = good[alone.select(rest, min(budget, N - 4)).positions]
    assert choice.positions[: N - 4].tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["divbs", "uds", "el2n", "forgetting"])
def test_a_masked_class_is_no_fault(name):
    given = outputs(6)
    given["logits"] = torch.cat([given["logits"], torch.full((N, 1), -torch.inf)], dim=1)
    policy = POLICIES[name]()
    masked = chosen(policy, offer(policy, INDICES, given), 12)
    plain = chosen(policy, offer(policy, INDICES, outputs(6)), 12)
    assert masked.nonfinite == 0
    assert masked.positions.tolist() == plain.positions.tolist()


@pytest.mark.parametrize("name", ["divbs", "uds", "el2n", "forgetting"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_outputs_of_the_learners_own_precision(name, kind):
    given = {part: rows.to(kind) for part, rows in outputs(8).items()}
    exact = {part: rows.double() for part, rows in given.items()}
    policy = POLICIES[name]()
    found = policy.select(offer(policy, INDICES, given), 12).positions
    assert found.tolist() == policy.select(offer(policy, INDICES, exact), 12).positions.tolist()


@pytest.mark.parametrize("name", POLICIES)
def test_one_candidate(name):
    given = {part: rows[:1] for part, rows in outputs(2).items()}
    policy = POLICIES[name]()
    assert policy.select(offer(policy, INDICES[:1], given), 1).positions.tolist() == [0]


@pytest.mark.parametrize("name", ["k-centre", "herding"])
def test_features_reach_a_selection_that_reads_them(name):
    online = OnlineSelection(POLICIES[name](), 0.25, store=STORE)
    kept = online(indices=INDICES).tolist()
    batch = CandidateBatch(INDICES, features=STORE.features[INDICES])
    assert kept == POLICIES[name]().select(batch, 10).positions.tolist()

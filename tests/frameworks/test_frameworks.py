"""What is trained on in everyone's loop, told from the rows that reached the network.

Reference: the lists of one sampler in one process without a framework, which other tests compare with the papers.
"""

import pytest
from plays import AFTER, BATCHES, EPOCHS, FRAMEWORKS, MIDDLE, expected, union

CASES = [(name, ranks) for name, framework in FRAMEWORKS.items() for ranks in framework.ranks]
WITHOUT_RAY = [case for case in CASES if case[0] != "ray"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
every = pytest.mark.parametrize(("name", "ranks"), CASES)


def reference(name):
    return [batch for epoch in expected(FRAMEWORKS[name].multiple_of) for batch in epoch]


def epochs_of(steps, ranks):
    size = BATCHES // ranks
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def check_ranks(steps, ranks):
    """Equal sizes in a step, no row twice in an epoch on whatever rank, and other rows in every epoch."""
    assert len(steps) == EPOCHS * BATCHES // ranks
    for step in steps:
        assert len({len(batch) for batch in step}) == 1
    rows = [[row for batch in union(epoch) for row in batch] for epoch in epochs_of(steps, ranks)]
    assert all(len(epoch) == len(set(epoch)) for epoch in rows)
    assert len({tuple(epoch) for epoch in rows}) == EPOCHS


def one_network(played, play, ranks):
    (weights,) = {rank["weights"] for rank in played.record(play, ranks)}
    return weights


@every
def test_every_batch_once_in_every_epoch(played, passed, name, ranks):
    steps = played(name).steps("full", ranks)
    assert union(steps) == reference(name)
    check_ranks(steps, ranks)
    one_network(played(name), "full", ranks)
    passed(name, ranks, "every batch once")


@pytest.mark.parametrize(("name", "ranks"), WITHOUT_RAY)
def test_persistent_workers_change_nothing(played, passed, name, ranks):
    assert union(played(name).steps("workers", ranks)) == reference(name)
    assert one_network(played(name), "workers", ranks) == one_network(played(name), "full", ranks)
    passed(name, ranks, "persistent workers")


@pytest.mark.parametrize(("name", "ranks"), WITHOUT_RAY)
def test_accumulation_takes_the_same_batches(played, passed, name, ranks):
    assert union(played(name).steps("accumulate", ranks)) == reference(name)
    assert one_network(played(name), "accumulate", ranks) != one_network(played(name), "full", ranks)
    passed(name, ranks, "accumulation")


@pytest.mark.parametrize(("name", "ranks"), [case for case in CASES if FRAMEWORKS[case[0]].mid])
def test_resuming_within_an_epoch_is_exact(played, passed, name, ranks):
    """With two workers, which had read ahead when the process was killed."""
    at = BATCHES // ranks + MIDDLE
    assert len(played(name).steps("killed", ranks)) == at + AFTER
    assert union(played(name).steps("resumed", ranks)) == reference(name)[at * ranks :]
    assert one_network(played(name), "resumed", ranks) == one_network(played(name), "full", ranks)
    passed(name, ranks, "resume within an epoch")


@every
def test_losses_of_all_ranks_are_heard(played, passed, name, ranks):
    steps = played(name).steps("learner", ranks)
    check_ranks(steps, ranks)
    assert union(steps) != reference(name)
    records = played(name).record("learner", ranks)
    trained = sorted({row for batch in union(steps) for row in batch})
    assert all(rank["heard"] == trained for rank in records)
    assert len({rank["losses"] for rank in records}) == 1
    passed(name, ranks, "losses heard")


@every
def test_resuming_is_exact_with_what_was_heard(played, passed, name, ranks):
    """Within an epoch where the framework reads no batch before the last one is reported, else at an epoch's end."""
    framework = FRAMEWORKS[name]
    at = BATCHES // ranks + (MIDDLE if framework.mid and not framework.ahead else 0)
    whole, resumed = (played(name).steps(play, ranks) for play in ("learner", "learner-resumed"))
    assert resumed == whole[at:]
    assert one_network(played(name), "learner-resumed", ranks) == one_network(played(name), "learner", ranks)
    passed(name, ranks, "resume with losses")


@pytest.mark.parametrize("ranks", [1, 2])
def test_mixup_of_timm_gets_even_batches(played, ranks):
    records = played("timm").record("mixup", ranks)
    sizes = [len(batch) for rank in records for batch in rank["trained"]]
    assert len(sizes) == EPOCHS * BATCHES
    assert {size % 2 for size in sizes} == {0}
    assert all(rank["strangers"] > 0 for rank in records), "nothing was mixed"

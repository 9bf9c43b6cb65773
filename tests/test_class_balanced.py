"""The order in which every class is offered equally often, by itself and under a selection."""

import logging
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from spectral_sampler import (
    ArgumentError,
    ClassBalancedSampler,
    Guarded,
    PlausibleEven,
    PlausibleLearnable,
    ReferenceStore,
    SpectralBatchSampler,
    Uniform,
    curate,
)
from spectral_sampler.class_balanced import balanced_order

LABELS = np.repeat([3, 0, 7], [200, 60, 4])


def epochs(sampler, count):
    for epoch in range(count):
        sampler.set_epoch(epoch)
        yield list(sampler)


def store_of(labels):
    centres = np.random.default_rng(0).normal(size=(8, 16))
    noise = 0.1 * np.random.default_rng(1).normal(size=(len(labels), 16))
    return ReferenceStore.from_arrays((centres[labels] + noise).astype(np.float32), labels=labels)


@pytest.mark.parametrize(("start", "stop"), [(0, 90), (1, 90), (44, 45), (45, 45), (61, 88)])
def test_the_order_is_a_function_of_the_place(start, stop):
    rows = np.flatnonzero(LABELS != 0)
    whole = balanced_order(5, rows, LABELS[rows], 0, 90)
    assert balanced_order(5, rows, LABELS[rows], start, stop).tolist() == whole[start:stop].tolist()


def test_over_epochs_classes_come_equally_often_and_their_rows():
    counts = np.zeros(len(LABELS), dtype=int)
    for rows in epochs(ClassBalancedSampler(LABELS), 7):
        assert len(rows) == len(LABELS)
        counts += np.bincount(rows, minlength=len(LABELS))
        of_classes = [counts[label == LABELS] for label in np.unique(LABELS)]
        assert np.ptp([own.sum() for own in of_classes]) <= 1
        assert max(np.ptp(own) for own in of_classes) <= 1


def test_only_rows_with_a_class_that_may_be_offered_are():
    labels = LABELS.copy()
    labels[:5] = -1
    allowed = np.flatnonzero(np.arange(len(labels)) % 3)
    rows = next(epochs(ClassBalancedSampler(labels, allowed), 1))
    assert len(rows) == len(labels)
    assert set(rows) <= set(allowed[labels[allowed] >= 0].tolist())
    assert {0, 3, 7} == set(labels[rows].tolist())
    signs = np.where(np.arange(30) < 25, -1, 1)
    assert np.bincount((signs[next(epochs(ClassBalancedSampler(signs), 1))] + 1) // 2).tolist() == [15, 15], (
        "two classes"
    )


def test_seeds_and_epochs_differ_and_a_copy_is_the_same():
    first, second = epochs(ClassBalancedSampler(LABELS), 2)
    assert first != second
    assert first != next(epochs(ClassBalancedSampler(LABELS, seed=1), 1))
    copy = pickle.loads(pickle.dumps(ClassBalancedSampler(torch.from_numpy(LABELS))))
    assert next(epochs(copy, 1)) == first


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        ([0.5, 1.0], None, "labels must be (M,) integers, got float64 of shape (2,)"),
        ([[0, 1]], None, "labels must be (M,) integers"),
        ([], None, "labels must be (M,) integers"),
        ([-1, 0, 2], [0], "labels must be of a class for some row"),
        ([0, 1], [2], "rows must be indices from 0 to 1, got 2 to 2"),
        ([0, 1], [-1], "rows must be indices from 0 to 1, got -1 to -1"),
        ([0, 1], [], "rows must be indices from 0 to 1, got float64 of shape (0,)"),
        (
            [0, 1],
            [True, False],
            "rows must be indices from 0 to 1, got bool of shape (2,). They count the labels; of a",
        ),
        ([0, 1], [[0, 1]], "rows must be indices from 0 to 1, got int64 of shape (1, 2)"),
        ([0, 1], {0, 1}, "rows must be indices from 0 to 1, got object of shape ()"),
        ([[0, 1], [0]], None, "labels must be (M,) integers, got list"),
        (torch.zeros(2, dtype=torch.bfloat16), None, "labels must be (M,) integers, got Tensor"),
        (torch.zeros(2, requires_grad=True), None, "labels must be (M,) integers, got float32 of shape (2,)"),
    ],
)
def test_bad_input_gets_one_sentence(labels, rows, message):
    with pytest.raises(ArgumentError) as error:
        ClassBalancedSampler(labels, rows)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("epoch", [-1, 1.5, None, "a"])
def test_epochs_count_from_zero(epoch):
    with pytest.raises(ArgumentError, match="epoch must be"):
        ClassBalancedSampler(LABELS).set_epoch(epoch)
    sampler = ClassBalancedSampler(LABELS)
    sampler.set_epoch(np.int32(2**30))
    assert len(set(sampler)) > 4, "in numbers that do not overflow"


def test_the_order_answers_for_a_selection_that_has_not_said(caplog):
    store = store_of(LABELS)
    next(iter(SpectralBatchSampler(store, 60, sampler=ClassBalancedSampler(LABELS))))
    assert not [record for record in caplog.records if "uneven" in record.getMessage()]


def test_a_store_whose_classes_were_asked_about_is_told_of_a_shortfall_too(caplog):
    labels = np.repeat(np.arange(3), [400, 400, 10])
    store = store_of(labels)
    for selection in (PlausibleEven(), PlausibleEven(balance=1), PlausibleEven(balance=1)):
        next(iter(SpectralBatchSampler(store, 60, selection=selection)))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(" ")[0] for text in said if "classes" in text] == ["classes", "at"]


def test_the_ratio_from_which_balance_falls_short_counts_all_candidates(caplog):
    labels = np.repeat(np.arange(3), [100, 100, 40])
    store = store_of(np.concatenate([labels, np.zeros(240, dtype=int)]))
    store = ReferenceStore.from_arrays(store.features, labels=np.concatenate([labels, np.full(240, -1)]))
    next(iter(SpectralBatchSampler(store, 60, selection=PlausibleEven(balance=1, label_noise=0))))
    (said,) = [record.getMessage() for record in caplog.records if "balance=1" in record.getMessage()]
    assert said.startswith("at keep ratios above 0.25 balance=1"), "3 · 40 rows of 480"


def shown(sampler, labels, count=30):
    rows = np.concatenate([row for _ in range(count) for row in sampler])
    return np.bincount(labels[rows], minlength=8)[np.unique(labels)] / len(rows)


def test_a_selection_shows_rare_classes_as_often_where_balance_cannot(caplog):
    labels = np.repeat(np.arange(4), [1200, 600, 180, 30])
    store = store_of(labels)
    options = {"candidate_batch_size": 60, "keep_ratio": 0.5}
    with caplog.at_level(logging.WARNING, "spectral_sampler"):
        balanced = SpectralBatchSampler(store, selection=PlausibleEven(balance=1), **options)
        assert shown(balanced, labels)[3] < 0.05, "taken whole, and too few: 0.25 are meant"
    said = [record.getMessage() for record in caplog.records if "ClassBalancedSampler" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("at keep ratios above 0.06 balance=1 takes the rarest classes whole")
    for selection in (PlausibleEven(balance=0), Uniform()):
        offered = SpectralBatchSampler(store, selection=selection, sampler=ClassBalancedSampler(labels), **options)
        assert np.abs(shown(offered, labels) - 0.25).max() < 0.03


def test_curated_loaders_and_resumed_samplers_have_it():
    labels = np.repeat(np.arange(3), [300, 60, 30])
    store, data = store_of(labels), TensorDataset(torch.arange(len(labels)), torch.from_numpy(labels))
    loader = DataLoader(data, batch_size=45, sampler=ClassBalancedSampler(labels))
    curated = curate(loader, store, selection=PlausibleEven(balance=0))
    assert np.ptp(np.bincount(torch.cat([y for _ in range(10) for _, y in curated]))) < 60
    make = lambda: SpectralBatchSampler(store, 45, selection=PlausibleEven(balance=0),  # noqa: E731
                                        sampler=ClassBalancedSampler(labels))  # fmt: skip
    whole = make()
    lists = [list(whole) for _ in range(3)]
    resumed = make()
    resumed.load_state_dict({**make().state_dict(), "epoch": 2})
    assert list(resumed) == lists[2]


@pytest.mark.parametrize(
    "selection", [PlausibleEven(balance=1), PlausibleLearnable(balance=0.5), Guarded(PlausibleEven(balance=1))]
)
def test_classes_are_not_evened_out_twice(selection):
    labels = np.repeat(np.arange(3), [300, 60, 15])
    store = ReferenceStore.from_arrays(store_of(labels).features, losses=np.ones(len(labels)), labels=labels)
    with pytest.raises(ArgumentError, match="balance must be 0 with a ClassBalancedSampler, got"):
        SpectralBatchSampler(store, 75, selection=selection, sampler=ClassBalancedSampler(labels))


@pytest.mark.parametrize("ratio", [0.1, 0.3])
def test_a_rare_class_is_shown_by_all_its_rows_alike_within_an_epoch(ratio):
    labels = np.repeat(np.arange(4), [3000, 900, 100, 40])
    store, shown = store_of(labels), []
    for epoch in range(12):
        sampler = SpectralBatchSampler(
            store, 200, keep_ratio=ratio, selection=PlausibleEven(balance=0, label_noise=0),
            sampler=ClassBalancedSampler(labels),
        )  # fmt: skip
        sampler.set_epoch(epoch)
        shown.append(np.bincount(np.concatenate(list(sampler)), minlength=len(labels)))
    times = np.array(shown)[:, labels == 2]  # each of its rows is offered ten times an epoch
    share = times.mean() / 10
    independent = 10 * share * (1 - share)
    assert share == pytest.approx(ratio, rel=0.1)
    assert times.var(axis=1).mean() < 0.5 * independent, "within an epoch"
    assert times.sum(0).var() < 0.3 * 12 * independent, "and over epochs"

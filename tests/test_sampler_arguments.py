"""Every wrong argument is refused by the constructor, in one sentence that names it."""

import logging
import pickle
import re

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, make_store
from torch.utils.data import (
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from spectral_sampler import (
    GSTDS,
    SALN,
    ArgumentError,
    BackendUnavailable,
    ClassBalancedSampler,
    LossWeighted,
    ReferenceStore,
    SigmoidSchedule,
    SpectralBatchSampler,
)
from spectral_sampler.selection import Choice

STORE = make_store(64)


class Stream(IterableDataset):
    def __iter__(self):
        yield 0


class Endless:
    def __iter__(self):
        return iter(range(64))


class NeedsLogits(FirstFeature):
    needs = frozenset({"logits"})


class NeedsLabels(FirstFeature):
    needs = frozenset({"labels"})


SCHEDULE = SigmoidSchedule(0.18, 0.88, mean=0.30)
WRONG = [
    ({"candidate_batch_size": 1}, "candidate_batch_size"),
    ({"candidate_batch_size": 16.0}, "candidate_batch_size"),
    ({"candidate_batch_size": True}, "candidate_batch_size"),
    ({"candidate_batch_size": None}, "candidate_batch_size"),
    ({"start_epoch": -1}, "start_epoch"),
    ({"start_epoch": None}, "start_epoch"),
    ({"selection": FirstFeature}, "selection"),
    ({"selection": "uniform"}, "selection"),
    ({"epochs": 0, "keep_ratio": SCHEDULE}, "epochs"),
    ({"epochs": 2.5}, "epochs"),
    ({"keep_ratio": SCHEDULE}, "epochs"),
    ({"keep_ratio": lambda progress: 0.5}, "epochs"),
    ({"keep_ratio": 0.0}, "keep_ratio"),
    ({"keep_ratio": 1.5}, "keep_ratio"),
    ({"keep_ratio": float("nan")}, "keep_ratio"),
    ({"keep_ratio": "0.3"}, "keep_ratio"),
    ({"keep_ratio": True}, "keep_ratio"),
    ({"keep_ratio": lambda progress: 2 * progress, "epochs": 3}, "keep_ratio"),
    ({"selection": "gstds"}, "selection"),
    ({"selection": GSTDS}, "selection"),
    ({"selection": NeedsLogits()}, "selection"),
    ({"selection": NeedsLabels()}, "selection"),
    ({"sampler": 3}, "sampler"),
    ({"sampler": Endless()}, "sampler"),
    ({"sampler": DistributedSampler(range(64), 2, 0), "num_replicas": 2}, "num_replicas"),
    ({"shuffle": 1}, "shuffle"),
    ({"reshuffle": "yes"}, "reshuffle"),
    ({"drop_last": None}, "drop_last"),
    ({"seed": 1.5}, "seed"),
    ({"seed": None}, "seed"),
    ({"seed": False}, "seed"),
    ({"num_replicas": 0}, "num_replicas"),
    ({"num_replicas": 5}, "num_replicas"),
    ({"rank": -1}, "rank"),
    ({"rank": 2, "num_replicas": 2}, "rank"),
    ({"rank": 1}, "rank"),
    ({"emit": "grow"}, "emit"),
    ({"emit": "constant"}, "batch_size"),
    ({"emit": "constant", "batch_size": 0}, "batch_size"),
    ({"emit": "constant", "batch_size": 65}, "batch_size"),
    ({"emit": "constant", "batch_size": 10, "multiple_of": 4}, "batch_size"),
    ({"batch_size": 8}, "batch_size"),
    ({"emit": "constant", "batch_size": 8, "sampler": WeightedRandomSampler(torch.ones(64), 64)}, "emit"),
    ({"emit": "constant", "batch_size": 8, "sampler": ClassBalancedSampler(np.arange(64) % 2)}, "emit"),
    ({"multiple_of": 0}, "multiple_of"),
    ({"multiple_of": 32}, "min_keep"),
    ({"min_keep": 17}, "min_keep"),
    ({"min_keep": 0}, "min_keep"),
    ({"lookahead": -1}, "lookahead"),
    ({"lookahead": True}, "lookahead"),
    ({"backend": "fast"}, "backend"),
    ({"dataset": TensorDataset(torch.zeros(63))}, "dataset"),
    ({"dataset": Stream()}, "dataset"),
    ({"dataset": object()}, "dataset"),
]


@pytest.mark.parametrize(("options", "argument"), WRONG, ids=lambda value: re.sub(r" at 0x\w+", "", str(value))[:60])
def test_refused_by_the_constructor_in_one_sentence(options, argument):
    valid = {"candidate_batch_size": 16, "keep_ratio": 0.5, "selection": FirstFeature()}
    with pytest.raises(ArgumentError) as caught:
        SpectralBatchSampler(STORE, **{**valid, **options})
    message = str(caught.value)
    assert re.match(rf"{argument}\b.* must be .+, got .+\. .+\.$", message), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("labels", "instead"), [(None, r"Uniform\(\)"), (np.arange(64) % 3, r"PlausibleEven\(\), which needs")]
)
def test_a_selection_by_loss_is_refused_without_losses(labels, instead):
    store = ReferenceStore.from_arrays(np.ones((64, 3)), labels=labels)
    with pytest.raises(ArgumentError, match=rf"^selection must be one that does without losses.* selection={instead}"):
        SpectralBatchSampler(store, candidate_batch_size=16, keep_ratio=0.5, selection=LossWeighted())
    assert len(SpectralBatchSampler(np.ones((64, 3)), 16, keep_ratio=0.5, selection=SALN())) == 4


@pytest.mark.parametrize(("labels", "name"), [(None, "uniform"), (np.arange(64) % 3, "plausible-even")])
def test_the_default_selection_is_what_the_study_recommends_and_says_so(labels, name, caplog):
    with caplog.at_level(logging.INFO, logger="spectral_sampler"):
        sampler = SpectralBatchSampler(ReferenceStore.from_arrays(STORE.features, labels=labels), 16)
    assert sampler.selection.name == name
    assert set(sampler.keep_ratios()) == {0.3}, "a constant that needs no epochs"
    assert [record.message.split(":")[0] for record in caplog.records] == ["selection"]
    assert type(sampler.selection).__name__ in caplog.text


def test_all_but_the_first_two_arguments_are_named():
    with pytest.raises(TypeError, match="positional"):
        SpectralBatchSampler(STORE, 16, 25)


@pytest.mark.parametrize("options", [{"candidate_batch_size": 65}, {"candidate_batch_size": 65, "drop_last": False}])
def test_fewer_samples_than_candidates_train_with_a_warning(options, caplog):
    sampler = SpectralBatchSampler(STORE, keep_ratio=0.5, selection=FirstFeature(), **options)
    assert [len(rows) for rows in sampler] == [32]
    assert "candidate_batch_size is 65, and there are 64 samples" in caplog.text
    few = SpectralBatchSampler(STORE, 16, keep_ratio=0.5, selection=FirstFeature(), sampler=range(10))
    assert [len(rows) for rows in few] == [5]


class Foreign:
    """Has the parts of a selection, and is derived from nothing."""

    name, needs = "foreign", frozenset()

    def __init__(self):
        self.seen = 0

    def score(self, store, indices, *, backend):
        return None

    def select(self, batch, budget):
        return Choice(np.arange(budget), np.zeros(budget, dtype=np.int8))

    def trained(self, batch, choice):
        self.seen += len(choice.positions)


def test_an_object_with_the_parts_of_a_selection_will_do():
    policy = Foreign()
    sampler = SpectralBatchSampler(STORE, 16, keep_ratio=1.0, selection=policy)
    pickle.loads(pickle.dumps(sampler))
    assert len(list(sampler)) == 4
    assert policy.seen == 64, "one that learns is asked about batches that are kept whole, too"


@pytest.mark.parametrize("store", ["path", None, {"features": 1}])
def test_the_store_is_a_store_or_features(store):
    with pytest.raises(ArgumentError, match=r"^store must be a ReferenceStore, or features"):
        SpectralBatchSampler(store)


def test_faulty_features_are_named_by_row():
    features = np.ones((64, 3), dtype=np.float32)
    features[[3, 9]] = np.inf
    with pytest.raises(ArgumentError, match="rows 3, 9"):
        SpectralBatchSampler(features, keep_ratio=0.5, selection=SALN())


def test_a_backend_asked_for_by_name_does_not_fall_back():
    with pytest.raises(BackendUnavailable, match='"cupy" cannot be used'):
        SpectralBatchSampler(STORE, candidate_batch_size=16, keep_ratio=0.5, backend="cupy")


def test_whole_numbers_of_numpy_and_torch_are_whole_numbers():
    sampler = SpectralBatchSampler(
        STORE, np.int64(16), epochs=np.int32(3), seed=torch.tensor(5), selection=FirstFeature(), lookahead=np.uint8(2)
    )
    assert len(list(sampler)) == 4
    assert all(type(value) in {int, str, bool, type(None)} for value in sampler.state_dict()["settings"].values())


@pytest.mark.parametrize("order", [[64, *range(63)], [-1, *range(63)]])
def test_an_order_out_of_range_is_a_named_error(order):
    sampler = SpectralBatchSampler(STORE, 16, keep_ratio=0.5, selection=FirstFeature(), sampler=order)
    with pytest.raises(ArgumentError, match=r"^sampler must be one that yields indices from 0 to 63"):
        next(iter(sampler))


@pytest.mark.parametrize("mask", [list, tuple, np.array, torch.tensor])
def test_a_mask_is_not_an_order(mask):
    given = mask([True, False] * 60)
    with pytest.raises(ArgumentError, match=r"^sampler must be one that yields indices, got a mask\. .*flatnonzero"):
        SpectralBatchSampler(make_store(120), 16, sampler=given)
    assert len(list(SpectralBatchSampler(make_store(120), 16, sampler=np.flatnonzero(given)))) == 3


def test_a_sampler_of_a_single_rank_shards_nothing():
    orders = [DistributedSampler(range(120), num_replicas=1, rank=0) for _ in range(2)]  # one in each process
    ranks = [
        SpectralBatchSampler(make_store(120), 10, sampler=order, num_replicas=2, rank=rank)
        for rank, order in enumerate(orders)
    ]
    lists = [[index for batch in sampler for index in batch] for sampler in ranks]
    assert len(lists[0]) == len(lists[1]) > 0
    assert not set(lists[0]) & set(lists[1])


@pytest.mark.parametrize("order", [[], SubsetRandomSampler([])])
def test_an_order_without_indices_is_refused_as_such(order):
    with pytest.raises(ArgumentError, match=r"^sampler must be one that yields an index, got length 0"):
        SpectralBatchSampler(make_store(120), 16, sampler=order)


def test_an_order_that_belies_its_length_is_a_named_error():
    class Short(SequentialSampler):
        def __len__(self):
            return 60

    sampler = SpectralBatchSampler(STORE, 16, keep_ratio=0.5, selection=FirstFeature(), sampler=Short(range(64)))
    with pytest.raises(ArgumentError, match=r"as many indices as its length says \(60\), got 64"):
        next(iter(sampler))


@pytest.mark.parametrize("epoch", [-1, 1.0, True, None, "1"])
def test_set_epoch_takes_whole_numbers(epoch):
    sampler = SpectralBatchSampler(STORE, 16, keep_ratio=0.5, selection=FirstFeature())
    with pytest.raises(ArgumentError, match=r"^epoch must be a whole number"):
        sampler.set_epoch(epoch)


def test_selection_at_refuses_batches_that_do_not_exist():
    sampler = SpectralBatchSampler(STORE, 16, keep_ratio=0.5, selection=FirstFeature())
    with pytest.raises(ArgumentError, match=r"^batch must be below 4, got 4"):
        sampler.selection_at(0, 4)

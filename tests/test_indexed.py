"""Indexed: every sample with its index, whatever its form and however it is read."""

import collections
import copy
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from spectral_sampler import ArgumentError, Indexed


class Named(NamedTuple):
    image: Any
    label: Any


DATA = TensorDataset(torch.arange(12.0), torch.arange(12) % 5)


class Columns:
    """Reads as Hugging Face data sets do: a list of indices gives a dict of columns, `__getitems__` a list of dicts."""

    column_names = ("text", "label")

    def __init__(self):
        self.calls = []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.calls.append(index)
        if isinstance(index, list):
            return {"text": [f"t{row}" for row in index], "label": [row % 3 for row in index]}
        return {"text": f"t{index}", "label": index % 3}

    def __getitems__(self, indices):
        columns = self[indices]
        return [{name: column[place] for name, column in columns.items()} for place in range(len(indices))]


class WholeBatches(Columns):
    def __getitems__(self, indices):
        return self[indices]


def same(batch):
    return batch


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([(10, 20), (30, 40)], (30, 40, 1)),
        ([[10, 20], [30, 40]], (30, 40, 1)),
        ([Named(10, 20), Named(30, 40)], (30, 40, 1)),
        ([{"image": 10}, {"image": 30}], {"image": 30, "index": 1}),
        ([collections.UserDict(image=10), collections.UserDict(image=30)], {"image": 30, "index": 1}),
        ([10, 30], (30, 1)),
        (["a", "b"], ("b", 1)),
    ],
    ids=["tuple", "list", "named tuple", "dict", "mapping", "lone", "text"],
)
def test_every_form_of_sample_gets_its_index(samples, expected):
    indexed = Indexed(samples)
    for read in (
        indexed[1],
        indexed[-1],
        indexed[np.int64(1)],
        indexed[torch.tensor(1)],
        indexed.__getitems__([0, 1])[1],
    ):
        assert read == expected
        assert type(read) is type(expected)
    assert len(indexed) == 2
    with pytest.raises(IndexError):
        indexed[2]
    with pytest.raises(TypeError):
        indexed[0:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_collates_the_indices(workers):
    loader = DataLoader(Indexed(DATA), batch_sampler=[[3, 1], [11, 0, 5]], num_workers=workers)
    for (values, labels, indices), expected in zip(loader, ([3, 1], [11, 0, 5]), strict=True):
        assert indices.tolist() == expected == values.tolist()
        assert labels.tolist() == [row % 5 for row in expected]
        assert indices.dtype == torch.int64


def test_a_batch_is_read_in_one_call():
    data = Columns()
    batch = next(iter(DataLoader(Indexed(data), batch_sampler=[[4, 2]])))
    assert {name: list(column) for name, column in batch.items()} == {
        "text": ["t4", "t2"],
        "label": [1, 2],
        "index": [4, 2],
    }
    assert data.calls == [[4, 2]]


@pytest.mark.parametrize("data", [Columns(), WholeBatches()], ids=["by a list of indices", "by __getitems__"])
def test_columns_get_one_more(data):
    indexed = Indexed(data, key="row")
    batches = [indexed[[4, 9]], indexed[[4, -1]]]
    if isinstance(data, WholeBatches):
        batches += list(DataLoader(indexed, batch_sampler=[[4, 9]], collate_fn=same))
    for batch in batches:
        assert batch["label"][0] == 1
        assert batch["row"].tolist() == [4, 9]


def test_a_key_that_is_taken_is_refused():
    with pytest.raises(ArgumentError, match=r"^key must be a key that no sample has, got 'label'\. Pass another"):
        Indexed(Columns(), key="label")[0]
    with pytest.raises(ArgumentError, match=r"^key must be "):
        Indexed(WholeBatches(), key="label").__getitems__([0])


def test_subsets_inside_and_outside():
    rows = [7, 3, 5]
    assert [int(sample[-1]) for sample in Indexed(Subset(DATA, rows)).__getitems__([2, 0])] == [2, 0]
    assert [float(sample[0]) for sample in Indexed(Subset(DATA, rows)).__getitems__([2, 0])] == [5.0, 7.0]
    assert [int(sample[-1]) for sample in Subset(Indexed(DATA), rows).__getitems__([2, 0])] == [5, 7]
    assert Subset(Indexed(Columns()), rows)[[1, 2]]["index"].tolist() == [3, 5]


def test_other_attributes_are_the_data_sets():
    data = Columns()
    data.targets = [1, 2]
    indexed = Indexed(data)
    assert indexed.column_names == ("text", "label")
    assert indexed.targets is data.targets
    with pytest.raises(AttributeError, match="missing"):
        indexed.missing  # noqa: B018


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_it_can_be_copied_and_pickled(again):
    indexed = again(Indexed(DATA, key="row"))
    assert indexed.key == "row"
    assert [float(value) for value in indexed[3]] == [3.0, 3.0, 3.0]
    bare = Indexed.__new__(Indexed)
    with pytest.raises(AttributeError, match="dataset"):
        bare.dataset  # noqa: B018


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))

    def __len__(self):
        return 3


@pytest.mark.parametrize("data", [Stream(), iter([1]), {1, 2}, None])
def test_what_has_no_indices_is_refused(data):
    with pytest.raises(ArgumentError, match=r"^dataset must be map-style"):
        Indexed(data)

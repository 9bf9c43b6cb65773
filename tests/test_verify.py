"""A store knows its data set: another split, order or transform is refused, an augmented or renumbered one is not."""

import logging
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from spectral_sampler import curate
from spectral_sampler.errors import ArgumentError
from spectral_sampler.extraction import extract
from spectral_sampler.indexed import Indexed
from spectral_sampler.sampler import SpectralBatchSampler
from spectral_sampler.store import ReferenceStore
from spectral_sampler.store.verification import check_labels

ROWS, CLASSES = 240, 4
OTHER = (
    r"^dataset must be the one that the store was made of, got labels that differ from the store's in \d+ of {} samples"
)


def data(seed=0, rows=ROWS):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    return TensorDataset(torch.randn(rows, 6, generator=generator), labels)


def a_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def features(rows=ROWS):
    return np.random.default_rng(0).normal(size=(rows, 5)).astype("f4")


def store_of(labels):
    return ReferenceStore.from_arrays(features(len(labels)), labels=labels)


class Decoded(Dataset):
    """Samples that have to be read: labels are in no attribute. Draws from every generator, keeps what it opened."""

    def __init__(self, labels, label=lambda value: value, sample=None):
        self._rows = {index: int(value) for index, value in enumerate(labels)}
        self.label, self.file, self.sample = label, None, sample

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        READ.append(index)
        self.file = self.file or object()
        random.random(), np.random.rand(), torch.rand(1)
        pair = torch.randn(6), self.label(self._rows[index])
        return pair if self.sample is None else self.sample(*pair)


READ = []


@pytest.fixture(autouse=True)
def _nothing_read():
    READ.clear()


def uses(store, dataset):
    """What has the data set at hand."""
    yield lambda: store.verify(dataset)
    yield lambda: SpectralBatchSampler(store, 16, dataset=dataset)
    yield lambda: curate(DataLoader(dataset, batch_size=16), store)
    yield lambda: curate(DataLoader(dataset, batch_size=16), store, with_indices=True)
    yield lambda: curate(DataLoader(Indexed(dataset), batch_size=16), store)


def accepted(store, dataset):
    for use in uses(store, dataset):
        use()


def refused(store, dataset, compared):
    for use in uses(store, dataset):
        with pytest.raises(ArgumentError, match=OTHER.format(compared)) as caught:
            use()
        assert "from_arrays(store.features, store.losses, labels)" in str(caught.value)


def split(dataset, seed):
    return random_split(dataset, [0.5, 0.5], generator=torch.Generator().manual_seed(seed))[0]


@pytest.mark.parametrize("extracted", [False, True])
def test_another_random_split_of_the_same_length_is_refused(tmp_path, extracted):
    one, other = split(data(), 0), split(data(), 1)
    labels = [int(one[index][1]) for index in range(len(one))]
    store = extract(a_model(), one, tmp_path) if extracted else store_of(labels)
    accepted(store, one)
    refused(store, other, 120)
    refused(store, data(seed=5, rows=120), 120)
    if extracted:
        refused(ReferenceStore.open(tmp_path), other, 120)


def test_one_label_among_all_that_are_at_hand_is_enough():
    dataset = data()
    store = store_of(dataset.tensors[1])
    dataset = TensorDataset(dataset.tensors[0], dataset.tensors[1].clone())
    dataset.tensors[1][101] = (dataset.tensors[1][101] + 1) % CLASSES
    with pytest.raises(ArgumentError, match="in 1 of 240 samples"):
        store.verify(dataset)
    corrected = ReferenceStore.from_arrays(store.features, store.losses, dataset.tensors[1])  # what the error says
    accepted(corrected, dataset)


def test_labels_that_must_be_read_are_compared_for_a_few_samples():
    labels = data().tensors[1]
    accepted(store_of(labels), Decoded(labels))
    other = Decoded(data(seed=1).tensors[1])
    with pytest.raises(ArgumentError, match=OTHER.format(64)):
        store_of(labels).verify(other)
    READ.clear()
    with pytest.raises(ArgumentError, match=r"in \d of [1-8] samples compared"):
        SpectralBatchSampler(store_of(labels), 16, dataset=other)
    assert 1 <= len(READ) <= 8


def test_reading_leaves_generators_and_the_data_set_alone():
    labels = data().tensors[1]
    inner = Decoded(labels)
    dataset = Subset(inner, range(ROWS))
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    SpectralBatchSampler(store_of(labels), 16, dataset=dataset)
    assert READ
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert inner.file is None, "a file that is open here would be shared by forked workers"


def test_a_constructor_reads_nothing_where_labels_are_at_hand_or_none_are_stored():
    labels = data().tensors[1]
    at_hand = Decoded(labels)
    at_hand.targets = labels.tolist()
    SpectralBatchSampler(store_of(labels), 16, dataset=at_hand)
    SpectralBatchSampler(ReferenceStore.from_arrays(features()), 16, dataset=Decoded(labels))
    assert READ == []


def test_labels_kept_are_those_delivered_or_do_not_count():
    """An attribute that is not what ``__getitem__`` returns is no reason to refuse; nor one to accept."""
    labels = data().tensors[1]
    shifted = (labels + 1) % CLASSES
    dataset = Decoded(labels, label=lambda value: (value + 1) % CLASSES)
    dataset.targets = labels.tolist()
    accepted(store_of(shifted), dataset)
    dataset.target_transform = dataset.label
    for use in uses(store_of(labels), dataset):
        with pytest.raises(ArgumentError, match="labels that differ"):
            use()


def test_an_index_in_the_place_of_a_label_is_none(caplog):
    labels = data().tensors[1]
    numbered = TensorDataset(data().tensors[0], torch.arange(ROWS))
    accepted(store_of(labels), numbered)
    lengths = TensorDataset(data().tensors[0], torch.arange(ROWS) % 7)
    with pytest.raises(ArgumentError, match=r"set dataset\.targets = labels"):
        store_of(labels).verify(lengths)
    lengths.targets = labels
    accepted(store_of(labels), lengths)


def raising(*_):
    raise OSError("no such file")


@pytest.mark.parametrize(
    "sample",
    [raising, lambda x, y: x, lambda x, y: (x, torch.tensor([0.2, 0.8])), lambda x, y: {"image": x}],
)  # fmt: skip
def test_labels_that_cannot_be_had_are_passed_over_with_a_line(sample, caplog):
    labels = data().tensors[1]
    with caplog.at_level(logging.INFO, "spectral_sampler"):
        accepted(store_of(labels), Decoded(labels, sample=sample))
    assert "labels are not compared" in caplog.text
    assert "only the length" in caplog.text


def test_mappings_with_a_label():
    labels = data().tensors[1]
    dataset = Decoded(labels, sample=lambda x, y: {"pixel_values": x, "labels": torch.tensor(y)})
    accepted(store_of(labels), dataset)
    with pytest.raises(ArgumentError, match="labels that differ"):
        store_of(data(seed=1).tensors[1]).verify(dataset)


def test_augmented_samples_are_compared_by_their_labels_alone(tmp_path, caplog):
    plain = data()
    store = extract(a_model(), plain, tmp_path)
    augmented = Decoded(plain.tensors[1])
    with caplog.at_level(logging.INFO, "spectral_sampler"):
        accepted(store, augmented)
    assert "another at every reading: only length and 64 labels were compared" in caplog.text
    with pytest.raises(ArgumentError, match="labels that differ"):
        store.verify(Decoded(data(seed=1).tensors[1]))


def test_other_samples_under_the_same_labels_are_seen(tmp_path):
    plain = data()
    store = extract(a_model(), plain, tmp_path)
    assert store.verify(plain) is store
    assert ReferenceStore.open(tmp_path).verify(Indexed(plain)).fingerprint == store.fingerprint
    scaled = TensorDataset(2 * plain.tensors[0], plain.tensors[1])
    with pytest.raises(
        ArgumentError, match=r"got samples that differ from those read then\. Is it another split, order"
    ):
        store.verify(scaled)
    SpectralBatchSampler(store, 16, dataset=scaled)  # trained on with another transform: nothing against it
    blank = extract(a_model(), [plain[index][0] for index in range(ROWS)], tmp_path / "blank", loss=None)
    with pytest.raises(ArgumentError, match="samples that differ"):
        blank.verify([sample * 2 for sample in plain.tensors[0]])


def test_labels_that_went_through_a_split_may_be_numbered_otherwise(tmp_path):
    plain = data()
    store = extract(a_model(), plain, tmp_path, split=lambda batch: (batch[0], batch[1] // 2))
    accepted(store, plain)
    for use in uses(store, data(seed=1)):
        with pytest.raises(ArgumentError, match="labels that differ"):
            use()
    columns = TensorDataset(*plain.tensors, torch.arange(ROWS))  # the last one says nothing: it is a number of rows
    other = TensorDataset(*data(seed=1).tensors, torch.arange(ROWS))
    chosen = extract(a_model(), columns, tmp_path / "c", split=lambda batch: (batch[0], batch[1]))
    chosen.verify(columns)
    with pytest.raises(ArgumentError, match="labels that differ"):
        SpectralBatchSampler(chosen, 16, dataset=other)


def test_a_split_that_makes_labels_of_something_else_is_known_by_all_that_is_at_hand(tmp_path):
    plain = data()
    store = extract(a_model(), plain, tmp_path, split=lambda batch: (batch[0], (batch[0][:, 0] > 0).long()))
    accepted(store, plain)


def test_only_the_length(caplog):
    bare = ReferenceStore.from_arrays(features())
    with caplog.at_level(logging.WARNING, "spectral_sampler"):
        assert bare.verify(data()) is bare
    assert "only the length of the data set could be compared" in caplog.text
    with pytest.raises(ArgumentError, match=r"as long as the reference store \(240 rows\), got 239 samples"):
        bare.verify(data(rows=239))

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(ArgumentError, match="dataset must be map-style"):
        bare.verify(Stream())


def test_how_many_labels_were_compared():
    labels = data().tensors[1]
    assert check_labels(store_of(labels), data()) == ROWS
    assert check_labels(store_of(labels), Decoded(labels), thorough=True) == 64
    assert check_labels(ReferenceStore.from_arrays(features()), data()) == 0


@pytest.mark.parametrize("classes", [4, 30, ROWS])
def test_labels_that_split_renumbers_are_right_however_many_classes(tmp_path, classes):
    labels = torch.arange(ROWS) % classes
    dataset, model = Decoded(labels, sample=lambda _, label: (torch.full((6,), float(label)), label)), a_model()
    store = extract(model, dataset, tmp_path, split=lambda batch: (batch[0], batch[1] + 1), loss=None, progress=False)
    assert store.labels.tolist() == (labels + 1).tolist()
    accepted(store, dataset)
    for at_hand in (dataset, TensorDataset(torch.zeros(ROWS, 6), labels)):
        SpectralBatchSampler(store, 16, dataset=at_hand)
    if classes < ROWS:  # of which classes became which, 64 samples of 30 classes tell enough
        with pytest.raises(ArgumentError, match=OTHER.format(64)):
            store.verify(Decoded(data(seed=1).tensors[1], sample=dataset.sample))


def test_a_loader_is_no_data_set():
    loader = DataLoader(data(), batch_size=1)
    for use in (store_of(data().tensors[1]).verify, lambda it: SpectralBatchSampler(features(), 16, dataset=it)):
        with pytest.raises(ArgumentError, match=r"^dataset must be map-style .*, got DataLoader\. .*loader\.dataset"):
            use(loader)

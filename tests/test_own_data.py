"""Anybody's data, learner and reference: read rightly, or refused in one sentence."""

import dataclasses
import logging
import os
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_sampler import ReferenceStore
from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.experiment import Cell, Comparison, Places, Settings, compare, run_cell
from spectral_sampler.experiment.cell import _accuracies, load
from spectral_sampler.experiment.corruption import Corruption, corrupt
from spectral_sampler.experiment.learner import Trace
from spectral_sampler.experiment.networks import WordBag, network_for, weights_digest
from spectral_sampler.experiment.own.arrays import checked_inputs
from spectral_sampler.experiment.own.words import VOCABULARY, word_rows
from spectral_sampler.experiment.reference import prepare_features, reference_for
from spectral_sampler.experiment.samples import DatasetSamples, ImageSamples, TensorSamples, TextSamples
from spectral_sampler.extraction import SmallCNN, SmallMLP

ROWS = 120


def blobs(rows=ROWS, classes=3, width=4, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    return generator.normal(size=(rows, width)) + 3.0 * labels[:, None], labels


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def places(tmp_path):
    return Places(cache=tmp_path / "cache")


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def quick(data, **changes):
    return Settings.of(data, **{"epochs": 2, "candidate_batch_size": 8, "schedule": "constant", **changes})


def rows_of(part):
    return [row.numpy().tobytes() for row in part.inputs]


# ---- arrays -------------------------------------------------------------------------------------------------------


def test_a_table_without_a_test_part_gives_up_a_stratified_fifth_and_says_so(tmp_path, places, caplog):
    x, y = blobs(150)
    with caplog.at_level(logging.INFO, "spectral_sampler"):
        task = load(quick(npz(tmp_path / "iris.npz", x=x, y=y)), places)
    assert "iris has no test part: a stratified fifth, 30 of 150 rows, is it." in caplog.messages
    assert (len(task.train), len(task.held_out), len(task.test)) == (96, 24, 30)
    assert np.bincount(task.test.labels).tolist() == [10, 10, 10]
    parts = [rows_of(part) for part in (task.train, task.held_out, task.test)]
    assert len(set().union(*parts)) == 150
    assert np.array_equal(task.train.labels, y[task.rows])
    learnt = np.concatenate([task.rows, task.held_out_rows])
    expected = (x - x[learnt].mean(0)) / x[learnt].std(0)
    assert np.allclose(task.train.inputs.numpy(), expected[task.rows], atol=1e-5), "standardised, not by test rows"


def test_small_data_runs_with_its_defaults(tmp_path, places):
    x, y = blobs(150)
    settings = Settings.of(npz(tmp_path / "iris.npz", x=x, y=np.array(["a", "b", "c"])[y]))
    assert settings.candidate_batch_size <= 96 / 8
    cell = run_cell(Cell(settings, "plausible-even", 0, curve=False), places)
    assert cell["test_accuracy"] > 0.8
    assert load(settings, places).classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((30, 8, 10), np.uint8, (1, 8, 10)),
        ((30, 8, 10, 3), np.uint8, (3, 8, 10)),
        ((30, 3, 8, 10), np.uint8, (3, 8, 10)),
        ((30, 12, 32, 40), np.float64, (12, 32, 40)),
        ((30, 8, 8, 4), np.float32, (4, 8, 8)),
        ((30, 1, 5, 7), np.int64, (1, 5, 7)),
        ((30, 28, 28, 1), np.uint8, (1, 28, 28)),
    ],
)
def test_images_in_any_order_of_axes_go_through_a_small_network(tmp_path, places, shape, dtype, expected):
    x = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    settings = quick(npz(tmp_path / "x.npz", x=x, y=np.arange(30) % 2))
    task = load(settings, places)
    assert task.train[0][0].shape == expected
    network = network_for(task, settings, 0)
    assert isinstance(network, SmallCNN)
    assert network(task.train.gather([0, 1])[0]).shape == (2, 2)
    everything = torch.cat([part.gather(range(len(part)))[0] for part in (task.train, task.held_out)])
    assert float(everything.mean()) == pytest.approx(0, abs=1e-3)
    assert float(everything.std(correction=0)) == pytest.approx(1, abs=1e-3)
    if len(shape) == 4:
        order = (0, 3, 1, 2) if shape[1:] != expected else (0, 1, 2, 3)
        pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(order)[task.rows]).astype(np.float64))
        seen = task.train.gather(range(len(task.train)))[0].double()
        assert torch.corrcoef(torch.stack([pixels.flatten(), seen.flatten()]))[0, 1] > 0.9999


def test_channels_that_cannot_be_told_are_refused():
    with pytest.raises(ArgumentError, match=r"x must be \(M, C, H, W\) or \(M, H, W, C\), got shape \(5, 8, 8, 8\)"):
        checked_inputs("x", np.zeros((5, 8, 8, 8)))


def test_encoders_read_pixels_as_they_are_and_refuse_other_numbers(tmp_path, places):
    pixels = np.random.default_rng(0).random((40, 8, 8))
    y = np.arange(40) % 2
    inside = load(quick(npz(tmp_path / "a.npz", x=pixels, y=y)), places)
    assert 0 <= float(inside.train.inputs.min()) < float(inside.train.inputs.max()) <= 1
    settings = quick(npz(tmp_path / "b.npz", x=9 * pixels, y=y), reference="resnet50-random")
    with pytest.raises(ArgumentError, match="reference must be one that reads these images, got 'resnet50-random'"):
        prepare_features(settings, load(settings, places), places.cache)


def test_texts_need_no_download(tmp_path, places):
    generator = np.random.default_rng(0)
    words = [["good", "fine", "great"], ["bad", "poor", "sad"]]
    texts = [" ".join(generator.choice(words[row % 2], 5)) for row in range(200)]
    settings = quick(npz(tmp_path / "t.npz", x=np.array(texts), y=np.array(["up", "down"])[np.arange(200) % 2]))
    task = load(settings, places)
    assert isinstance(task.train, TextSamples)
    assert task.classes == ("down", "up")
    assert [task.train.texts[0], task.train.labels[0]] == [texts[task.rows[0]], 1 - task.rows[0] % 2]
    assert isinstance(network_for(task, settings, 0), WordBag)
    assert run_cell(Cell(settings, "gstds", 0, curve=False), places)["test_accuracy"] > 0.9


def test_words_are_numbered_alike_in_every_process_and_padding_changes_nothing():
    rows = word_rows(["A cat.", "a  CAT .", "", "a dog"])
    assert rows[0].tolist() == rows[1].tolist()
    assert rows[2].tolist() == [0, 0, 0]
    assert rows[0, 1] != rows[3, 1]
    assert word_rows(["cat"])[0, 0] == 1 + 0x9E5E43A8 % (VOCABULARY - 1)  # the word's CRC-32
    network = WordBag(VOCABULARY, 2).eval()
    assert torch.allclose(network(rows[3:]), network(rows[3:, :2]))
    assert torch.isfinite(network(rows)).all()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros((30, 2))}, "bad must be arrays with y, got x"),
        ({"a": np.zeros(3)}, "bad must be arrays with x, got a"),
        ({"x": np.zeros((30, 2)), "y": np.arange(29) % 2}, "y must be of length 30, as the samples, got 29"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) % 2, "z": np.zeros(1)}, "got z"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) % 2, "x_test": np.zeros((3, 2))}, "y_test beside x_test"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) % 2, "x_test": np.zeros((3, 3)), "y_test": np.zeros(3, int)},
         r"x_test must be of the training part's kind and shape \(table, \(2,\) a sample\)"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) % 2, "x_test": np.zeros((3, 2)), "y_test": np.full(3, 7)},
         r"y must be one of the training part's classes \(0, 1\), got 7 in 3 rows"),
        ({"x": np.zeros(30), "y": np.arange(30) % 2}, r"x must be .* got shape \(30,\)\. Use \.reshape\(-1, 1\)"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) / 2}, r"got float64\. Use \.astype\('int64'\)"),
        ({"x": np.zeros((30, 2)), "y": np.eye(2)[np.arange(30) % 2].astype(int)}, r"Take \.argmax\(1\)"),
        ({"x": np.zeros((30, 2)), "y": (np.arange(30) % 2)[:, None]}, r"Take \.reshape\(-1\)"),
        ({"x": np.zeros((30, 2)), "y": np.zeros(30, int)}, "y must be of two classes at least, got 1 in 30 rows"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30)}, "y must be classes with several rows each, got 30 different"),
        ({"x": np.zeros((30, 2)), "y": np.where(np.arange(30) < 3, -1, np.arange(30) % 2)},
         "y must be numbers of at least 0, got -1 in 3 of them"),
        ({"x": np.zeros((10, 2)), "y": np.arange(10) % 2}, "data must be of at least 20 training rows, got 10"),
        ({"x": np.full((30, 2), np.nan), "y": np.arange(30) % 2}, "x must be finite, got NaN or infinity in row 0 and"),
        ({"x": np.full((30, 2), 1e300), "y": np.arange(30) % 2}, "x must be finite"),
        ({"x": np.zeros((30, 2), complex), "y": np.arange(30) % 2}, "got dtype complex128"),
        ({"x": np.array([b"a"] * 30), "y": np.arange(30) % 2}, r"\.astype\(str\) for texts"),
        ({"x": np.array(["a"] * 30, dtype=object), "y": np.arange(30) % 2}, "x in bad.npz must be .* Python"),
        ({"x": np.zeros((30, 2)), "y": np.array(["a", ""] * 15)}, "got nothing in row 1 and 14 more"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) % 2, "x_test": np.zeros((0, 2)), "y_test": np.zeros(0, int)},
         r"x_test must be of one row at least, got shape \(0, 2\)"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) % 2, "losses": np.zeros(30)}, "losses must be beside features"),
        ({"x": np.zeros((30, 2)), "y": np.arange(30) % 2, "features": np.zeros((29, 2))},
         r"features must be \(30, d\), one row for every row of x, got shape \(29, 2\)"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_data_set_are_refused(tmp_path, places, arrays, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        load(quick(npz(tmp_path / "bad.npz", **arrays)), places)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x04N.", b"x,y\n1,2\n"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ArgumentError, match=r"data must be a file that np\.savez wrote"):
        Settings.of(str(tmp_path / "a.npz"))


def test_labels_with_gaps_are_numbered_and_minus_one_is_a_class_beside_one(tmp_path, places, caplog):
    x, y = blobs(60, 2)
    with caplog.at_level(logging.INFO, "spectral_sampler"):
        task = load(quick(npz(tmp_path / "a.npz", x=x, y=2 * y - 1)), places)
    assert task.classes == ("-1", "1")
    assert np.array_equal(task.train.labels, y[task.rows])
    assert "y are numbered from 0: -1 is 0, 1 is 1." in caplog.messages


# ---- folders ------------------------------------------------------------------------------------------------------


def pictures(folder, counts, side=12, ending="png"):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            tint = 80 if label == "cat" else 0
            pixels = generator.integers(tint, 100 + tint, (side, side, 3), dtype=np.uint8)
            image.fromarray(pixels).save(folder / label / f"{number:02d}.{ending}")


@pytest.mark.parametrize("test", ["test", "val", "valid"])
def test_a_folder_with_splits(tmp_path, places, test):
    pictures(tmp_path / "pets" / "train", {"cat": 20, "dog": 20})
    pictures(tmp_path / "pets" / test, {"dog": 6})  # were classes numbered by folder, dogs would be 0 here
    settings = quick(str(tmp_path / "pets"))
    task = load(settings, places)
    assert (len(task.train), len(task.held_out), len(task.test)) == (32, 8, 6)
    assert task.classes == ("cat", "dog")
    assert set(task.test.labels) == {1}
    assert isinstance(task.train, TensorSamples)
    assert task.train.inputs.dtype == torch.uint8, "small pictures stay in memory, as pixels"
    assert task.train.inputs.shape[1:] == (3, 12, 12)
    assert run_cell(Cell(settings, "uniform", 0), places)["test_accuracy"] >= 0


def test_a_folder_without_splits_and_one_with_all_three(tmp_path, places):
    pictures(tmp_path / "flat", {"cat": 20, "dog": 30})
    task = load(quick(str(tmp_path / "flat")), places)
    assert np.bincount(task.test.labels).tolist() == [4, 6]
    for split, count in (("train", 20), ("val", 5), ("test", 7)):
        pictures(tmp_path / "three" / split, {"cat": count, "dog": count})
    task = load(quick(str(tmp_path / "three")), places)
    assert (len(task.test), len(task.validation)) == (14, 10)
    with pytest.raises(ArgumentError, match="validation must be left out for data with a validation part"):
        quick(str(tmp_path / "three"), validation=0.1)
    stated = load(quick(str(tmp_path / "three"), test_split="val"), places)
    assert (len(stated.test), stated.validation) == (10, None)
    assert stated.version != task.version, "another test part is another content"


def test_a_class_may_be_called_train(tmp_path, places):
    pictures(tmp_path / "a", {"car": 20, "train": 20})
    assert load(quick(tmp_path / "a"), places).classes == ("car", "train")


def test_row_i_is_sample_i_of_an_image_folder_with_folders_and_links_inside(tmp_path, places):
    folders = pytest.importorskip("torchvision.datasets")
    pictures(tmp_path / "a", {"cat": 15, "dog": 15, "cat/B": 3, "cat/.hidden": 2})
    pictures(tmp_path / "other", {"cat": 4})
    (tmp_path / "a" / "dog" / "07.PNG").write_bytes((tmp_path / "a" / "dog" / "00.png").read_bytes())
    (tmp_path / "a" / "dog" / "00.gif").write_bytes(b"not read by an ImageFolder either")
    (tmp_path / "a" / "dog" / "link").symlink_to(tmp_path / "other" / "cat")
    task, known = load(quick(tmp_path / "a"), places), folders.ImageFolder(tmp_path / "a")
    assert task.total == len(known)
    for row, picture in zip(task.rows, task.train.inputs, strict=True):
        assert np.array_equal(picture.permute(1, 2, 0), known[row][0])


def test_a_folder_whose_name_is_no_text_is_shown_as_its_bytes(tmp_path, places):
    pictures(tmp_path / "a", {"cat": 15, os.fsdecode(b"\xff"): 15})
    task = load(quick(tmp_path / "a"), places)
    assert task.classes == ("cat", "\\udcff")
    assert np.bincount(task.test.labels).tolist() == [3, 3]


def grey(mode):
    """A picture of more than 8 bits, whose values PIL clips when it makes colours of them."""
    image, values = pytest.importorskip("PIL.Image"), np.arange(144).reshape(12, 12) * 400
    return image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pictures_of_more_than_eight_bits_are_refused(tmp_path, places, mode):
    pictures(tmp_path / "a", {"cat": 15, "dog": 15})
    grey(mode).save(tmp_path / "a" / "cat" / "00.tif")
    with pytest.raises(ArgumentError, match=f"pictures of 8 bits a channel, got .*00.tif of PIL's mode {mode}. Scale"):
        load(quick(tmp_path / "a"), places)


def test_a_picture_too_large_to_be_decoded_is_named(tmp_path, places, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    pictures(tmp_path / "a", {"cat": 15, "dog": 15})
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ArgumentError, match=r"readable pictures, got .*00.png .*exceeds limit"):
        load(quick(tmp_path / "a"), places)


def test_photographs_are_augmented_and_go_through_a_residual_network(tmp_path, places):
    pytest.importorskip("torchvision")
    pictures(tmp_path / "a", {"cat": 15, "dog": 15}, side=50, ending="jpg")
    settings = quick(str(tmp_path / "a"), reference="untrained")
    assert settings.image_size == 64
    task = load(settings, places)
    assert isinstance(task.train, ImageSamples)
    torch.manual_seed(0)
    assert not torch.equal(task.train[0][0], task.train[0][0])
    plain = task.train.plain()
    assert torch.equal(plain[0][0], plain[0][0])
    assert torch.equal(task.test[0][0], task.test[0][0])
    assert type(network_for(task, settings, 0)).__name__ == "ResNet"


@pytest.mark.parametrize(
    ("make", "changes", "sentence"),
    [
        (lambda folder: (folder / "train" / "cat").mkdir(parents=True), {}, "none in .*cat. Remove that folder"),
        (lambda folder: folder.mkdir(), {}, "data must be a folder of folders, one for each class"),
        (lambda folder: [pictures(folder / part, {"cat": 20, "dog": 20}) for part in ("Train", "Test")], {},
         "data must be a folder with train and test, or of classes, got Test, Train"),
        (lambda folder: [pictures(folder, {part: 20}) for part in ("train", "test")], {},
         "or of classes, got test, train in .*a. The training pictures belong into train/CLASS/…, not into train/."),
        (lambda folder: [pictures(folder / part, {"cat": 20, "dog": 20}) for part in ("train", "holdout")], {},
         r"test-split must be a folder beside train \(holdout\), got ''"),
        (lambda folder: pictures(folder / "train", {"cat": 20, "dog": 20}), {"test_split": "check"},
         "test-split must be a folder beside train .*got 'check'"),
        (lambda folder: pictures(folder, {"cat": 20, "dog": 20}), {"test_split": "test"}, "test-split must be left"),
        (lambda folder: pictures(folder, {"cat": 20, "dog": 20}), {"label_column": "y"},
         "label-column must be left out for data of the form folder"),
        (lambda folder: [pictures(folder / "train", {"cat": 20, "dog": 20}), pictures(folder / "test", {"cow": 3})], {},
         r"class folders must be one of the training part's classes \(cat, dog\), got 'cow' in 3 rows"),
        (lambda folder: [pictures(folder, {"cat": 20, "dog": 20}), (folder / "cat" / "00.png").write_bytes(b"no")], {},
         "data must be a folder of readable pictures, got .*00.png"),
    ],
)  # fmt: skip
def test_folders_that_are_no_data_set_are_refused(tmp_path, places, make, changes, sentence):
    make(tmp_path / "a")
    with pytest.raises(ArgumentError, match=sentence):
        load(quick(str(tmp_path / "a"), **changes), places)


# ---- tables -------------------------------------------------------------------------------------------------------


def write_csv(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_a_table_of_numbers(tmp_path, places, caplog):
    x, y = blobs(60, 2, 2)
    lines = [
        "width,name,label,height",
        *(f"{a},n{i},{'AB'[k]},{b}" for i, ((a, b), k) in enumerate(zip(x, y, strict=True))),
    ]
    with caplog.at_level(logging.INFO, "spectral_sampler"):
        task = load(quick(write_csv(tmp_path / "a.csv", lines)), places)
    assert "Columns that are not numbers are left out: name." in caplog.messages
    assert "Columns taken as features: width, height." in caplog.messages
    assert task.train.inputs.shape == (len(task.rows), 2)
    assert task.classes == ("A", "B")
    learnt = np.concatenate([task.rows, task.held_out_rows])
    assert np.allclose(task.train.inputs, ((x - x[learnt].mean(0)) / x[learnt].std(0))[task.rows], atol=1e-5)


@pytest.mark.parametrize("name", ["", "id", "index", "Unnamed: 0"])
def test_row_numbers_are_no_features(tmp_path, places, caplog, name):
    x, y = blobs(60, 2, 1)
    order = np.random.default_rng(0).permutation(60)
    lines = [f"{name},a,label", *(f"{order[i]},{a},{k}" for i, ((a,), k) in enumerate(zip(x, y, strict=True)))]
    assert load(quick(write_csv(tmp_path / "a.csv", lines)), places).train.inputs.shape[1] == 1
    assert f"Columns that number the rows are left out: {name or repr('')}." in caplog.messages
    kept = [lines[0], *("7" + line[line.index(",") :] for line in lines[1:])]
    assert load(quick(write_csv(tmp_path / "b.csv", kept)), places).train.inputs.shape[1] == 2, "a name is not enough"
    only = [f"{name},review,label", *(f"{row},words,{row % 2}" for row in range(40))]
    with pytest.raises(ArgumentError, match="a column of texts called 'text' or columns of numbers"):
        quick(write_csv(tmp_path / "c.csv", only))


def test_the_row_numbers_of_a_parquet_file_are_no_features(tmp_path, places):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": np.arange(60) % 7, "label": np.arange(60) % 2}, index=np.arange(60)[::-1])
    frame.to_parquet(tmp_path / "a.parquet")
    assert load(quick(tmp_path / "a.parquet"), places).train.inputs.shape[1] == 1


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        (("1_2", "12", "3"), ("12", "1_2", "3")),
        (("01", "1", "3"), ("01", "1", "3")),
        (("+1", "1", "3"), ("+1", "1", "3")),
        (("10", " 2", "3"), ("2", "3", "10")),
    ],
)
def test_labels_are_told_apart_as_they_are_written(tmp_path, places, written, classes):
    lines = ["a,label", *(f"{row % 7},{written[row % 3]}" for row in range(60))]
    assert load(quick(write_csv(tmp_path / "a.csv", lines)), places).classes == classes


def test_what_is_left_out_beside_a_text_is_said(tmp_path, caplog):
    quick(write_csv(tmp_path / "a.csv", ["text,age,label", *(f"word,{row},{row % 2}" for row in range(40))]))
    assert "Columns that are not the text are left out: age." in caplog.messages


def test_numbers_as_parquet_has_them(tmp_path, places):
    pandas, arrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    values = np.arange(60) % 7
    frame = pandas.DataFrame({"a": [Decimal(int(value)) / 4 for value in values], "b": values, "label": values % 2})
    frame.to_parquet(tmp_path / "a.parquet")
    assert arrow.parquet.read_schema(tmp_path / "a.parquet").field("a").type.precision
    inputs = load(quick(tmp_path / "a.parquet"), places).train.inputs
    assert torch.allclose(inputs[:, 0], inputs[:, 1])
    frame.assign(a=frame["b"].astype(str)).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ArgumentError, match=r"column 'a' must be a number in every row, got '0' in row 0, and 60 such"):
        quick(tmp_path / "b.parquet")


def test_a_table_of_texts_with_a_split(tmp_path, places):
    lines = ["text,label,split"]
    lines += [
        f'"it is {"good" if row % 2 else "bad, really"}",{row % 2},{"TEST" if row < 12 else "train"}'
        for row in range(72)
    ]
    task = load(quick(write_csv(tmp_path / "a.csv", lines)), places)
    assert (len(task.train) + len(task.held_out), len(task.test), task.total) == (60, 12, 60)
    assert task.test.texts[:2] == ["it is bad, really", "it is good"]
    assert task.test.labels.tolist() == [0, 1] * 6


def test_the_value_of_the_split_that_tests_can_be_stated(tmp_path, places):
    parts = ["train"] * 40 + ["test"] * 8 + ["dev"] * 6
    lines = ["a,label,split", *(f"{row},{row % 2},{part}" for row, part in enumerate(parts))]
    path = write_csv(tmp_path / "a.csv", lines)
    with pytest.raises(ArgumentError, match="column 'split' must be train, test or validation in every row, got 'dev'"):
        quick(path)
    task = load(quick(path, test_split="dev"), places)
    assert (len(task.train) + len(task.held_out), len(task.test), task.validation) == (40, 6, None)
    with pytest.raises(ArgumentError, match=r"column 'split' must be .*got 'dev'"):
        quick(path, test_split="late")


def test_a_table_of_texts_is_read_by_the_column_that_is_named(tmp_path, places):
    lines = ["text,body,label", *(f"same,{'good' if row % 2 else 'bad'} thing,{row % 2}" for row in range(40))]
    path = write_csv(tmp_path / "a.csv", lines)
    assert set(load(quick(path), places).train.texts) == {"same"}
    named = quick(path, text_column="body")
    assert set(load(named, places).train.texts) == {"good thing", "bad thing"}
    assert named.content != quick(path).content


def test_a_second_table_tests_and_its_columns_may_stand_otherwise(tmp_path, places, monkeypatch):
    write_csv(tmp_path / "a.csv", ["u,v,kind", *(f"{row},{row % 5},{'ab'[row % 2]}" for row in range(40))])
    write_csv(tmp_path / "b.csv", ["kind,v,u", *(f"{'ab'[row % 2]},{row % 5},{row}" for row in range(10))])
    monkeypatch.chdir(tmp_path)
    settings = quick("a.csv", label_column="kind", test_data="b.csv")
    assert Path(settings.data).is_absolute()
    assert Path(settings.test_data).is_absolute()
    monkeypatch.chdir("/")
    task = load(settings, places)
    assert len(task.test) == 10
    assert task.classes == ("a", "b")
    same = [row for row in task.rows.tolist() if row < 10]
    places_of = [task.rows.tolist().index(row) for row in same]
    assert same
    assert torch.equal(task.train.inputs[places_of], task.test.inputs[same])


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_csv_and_parquet_say_the_same(tmp_path, places, name):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    x, y = blobs(60, 3, 2)
    frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "label": np.array(["u", "v", "w"])[y]})
    path = tmp_path / name
    frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
    task = load(quick(str(path)), places)
    assert task.classes == ("u", "v", "w")
    assert np.array_equal(task.train.labels, y[task.rows])
    learnt = np.concatenate([task.rows, task.held_out_rows])
    assert np.allclose(task.train.inputs, ((x - x[learnt].mean(0)) / x[learnt].std(0))[task.rows], atol=1e-5)


TABLE = ["a,b,label", *(f"{row},{row % 7},{row % 2}" for row in range(40))]


@pytest.mark.parametrize(
    ("lines", "changes", "sentence"),
    [
        (
            TABLE,
            {"label_column": "kind"},
            "label-column must be a column of the table, got 'kind' where .* has a, b, label",
        ),
        (TABLE, {"text_column": "body"}, "text-column must be a column of the table, got 'body' where there are a, b"),
        (TABLE, {"test_split": "val"}, "test-split must be left out for a table without a column 'split'"),
        (TABLE, {"image_size": 32}, "image-size must be left out for data that is no pictures"),
        (TABLE, {"test_data": "none.csv"}, "test-data must be a file that exists"),
        ([*TABLE, "1,2"], {}, "data must be a table of 3 columns, got 2 fields in line 42"),
        ([*TABLE, ",2,1"], {}, "column 'a' must be a number in every row, got nothing, .* in 1 rows .*row 40"),
        ([*TABLE, "n/a,2,1"], {}, "column 'a' must be a number in every row, got 'n/a' in row 40, and 1 such in all"),
        (TABLE, {"text_column": "text"}, "text-column must be a column of the table, got 'text'"),
        (TABLE, {"text_column": "a"}, "text-column must be a column of texts in every row, got 0 in row 0"),
        ([*TABLE, "1,2,"], {}, "label-column must be filled in every row, got nothing in row 40"),
        (["a,label", *(f"{row},{row / 2}" for row in range(40))], {}, "label-column must be .*got float64"),
        (
            ["name,label", *(f"x,{row % 2}" for row in range(40))],
            {},
            "data must be a table with a column of texts called",
        ),
        (["a,label,split", *(f"1,{row % 2},maybe" for row in range(40))], {}, "column 'split' must be .* got 'maybe'"),
        (
            ["a,label,split", *(f"1,{row % 2},train" for row in range(40))],
            {},
            "column 'split' must be test in some rows",
        ),
        (["a,a,label", *(f"1,2,{row % 2}" for row in range(40))], {}, "Columns need different names"),
        (["a,b,label"], {}, "and 0 rows. Is it the right file"),
    ],
)
def test_tables_that_are_no_data_set_are_refused(tmp_path, places, lines, changes, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        load(quick(write_csv(tmp_path / "a.csv", lines), **changes), places)


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,label\n\xff\xfe,1\n")
    with pytest.raises(ArgumentError, match="Save it as CSV in UTF-8"):
        Settings.of(str(tmp_path / "a.csv"))
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(ArgumentError, match="data must be a readable Parquet file"):
        Settings.of(str(tmp_path / "a.parquet"))


def test_parquet_without_its_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"spectral-sampler\[tables\]"):
        Settings.of(str(tmp_path / "a.parquet"))


# ---- functions ----------------------------------------------------------------------------------------------------

MODULE = """
import numpy as np, torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

def blobs(rows, seed=0):
    g = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    return g.normal(size=(rows, 4)) + 3.0 * y[:, None], y

def arrays(): return blobs(90), blobs(30, 1)
def tensors():
    return tuple(TensorDataset(*map(torch.as_tensor, blobs(rows, rows))) for rows in (90, 30))
def frames():
    import pandas
    (x, y), (a, b) = arrays()
    frame = [pandas.DataFrame(part, columns=list("abcd")) for part in (x, a)]
    return (frame[0], pandas.Series(y).map({0: "u", 1: "v", 2: "w"})), (frame[1], ["uvw"[k] for k in b])
def words():
    import pandas
    texts, labels = zip(*rows_of_texts())
    return (pandas.Series(texts), pandas.Series(labels)), (["word1", "word0"], ["yes", "no"])
def rows_of_texts(): return [(f"word{k % 2} and {k}", ["no", "yes"][k % 2]) for k in range(80)]
def ragged_lists(): return ([[1, 2], [1]] * 20, [0, 1] * 20), ([[1, 2]], [0])
class Torn(list):
    def __getitem__(self, row): return {}["no such key"]
def torn(): return Torn([1] * 40), Torn([1] * 4)
def mapping():
    train, test = tensors()
    return {"train": Subset(train, range(60)), "test": test, "classes": ["red", "green", "blue"]}
def keys():
    (x, y), (a, b) = arrays()
    return {"x": x, "y": y, "x_test": a, "y_test": b, "features": x, "losses": np.ones(len(x))}

class Images(Dataset):
    def __init__(self, rows, noise, seed=0, side=6):
        self.pixels = torch.rand(rows, 1, side, side, generator=torch.Generator().manual_seed(seed))
        self.targets, self.noise = [row % 2 for row in range(rows)], noise
        self.pixels += torch.tensor(self.targets)[:, None, None, None]
    def __len__(self): return len(self.targets)
    def __getitem__(self, row):
        return self.pixels[row] + self.noise * torch.rand(1), self.targets[row]

def augmented(): return {"train": Images(80, 1.0), "test": Images(20, 0, 1), "reference": Images(80, 0)}
def random_train(): return Images(80, 1.0), Images(20, 0, 1)
def random_test(): return Images(80, 0), Images(20, 1.0, 1)
def other_twin(): return {"train": Images(80, 1.0), "test": Images(20, 0, 1), "reference": Images(79, 0)}
def small_twin(): return {"train": Images(80, 1.0), "test": Images(20, 0, 1), "reference": Images(80, 0, side=5)}
class Shifted(Images):
    def __getitem__(self, row): return super().__getitem__(row)[0], 1 - self.targets[row]
def shifted_twin(): return {"train": Images(80, 1.0), "test": Images(20, 0, 1), "reference": Shifted(80, 0)}
def shifted(): return Shifted(80, 0), Shifted(20, 0, 1)
def other_shape(): return Images(80, 0), Images(20, 0, 1, side=5)
def texts():
    return [(f"word{k % 2} and {k}", ["no", "yes"][k % 2]) for k in range(80)], [("word1", "yes"), ("word0", "no")]
def rows():
    return [{"text": f"word{k % 2}", "label": k % 2} for k in range(80)], [{"text": "word1", "label": 1}] * 4
class Stream(IterableDataset):
    def __iter__(self): return iter([])
def stream(): return Stream(), Stream()
def single(): return tensors()[0]
def one_part(): return blobs(90)
def four(): return (*blobs(90), *blobs(30))
def nothing(): return None
def unlabelled(): return [torch.zeros(3)] * 40, [torch.zeros(3)] * 4
def ragged(): return [(torch.zeros(2 + k % 2), k % 2) for k in range(40)], [(torch.zeros(2), 0)] * 4
def one_hot(): return [(torch.zeros(2), torch.eye(2)[k % 2]) for k in range(40)], [(torch.zeros(2), 0)] * 4
def regression(): return [(torch.zeros(2), k / 3) for k in range(40)], [(torch.zeros(2), 0)] * 4
def dicts(): return [{"a": 1, "b": 2}] * 40, [{"a": 1, "b": 2}] * 4
def odd_key(): return {"train": tensors()[0], "tset": tensors()[1]}
def empty(): return [], []
def needs(folder): return arrays()
def fails(): raise OSError("no such disk")
def leaves(): raise SystemExit(0)
def half():
    (x, y), (a, b) = arrays()
    return (torch.tensor(x).bfloat16(), torch.tensor(y)), (torch.tensor(a).bfloat16(), torch.tensor(b))
def sparse(): return tuple((torch.tensor(x).to_sparse(), y) for x, y in arrays())
def sparse_samples(): return tuple([(torch.tensor(x).to_sparse(), 0)] * 20 for x, y in arrays())
def masked(): return tuple((np.ma.masked_less(x, 0), y) for x, y in arrays())
def channels_last():
    return tuple([(torch.full((9, 9, 3), k % 2, dtype=torch.uint8), k % 2) for k in range(rows)] for rows in (60, 4))
def unseeded():
    return (np.random.default_rng().normal(size=(60, 2)), np.arange(60) % 2), (np.zeros((4, 2)), np.arange(4) % 2)
number = 3

class Net(torch.nn.Module):
    def __init__(self, classes=3, width=4):
        super().__init__()
        first, last = torch.nn.Linear(width, 16), torch.nn.Linear(16, classes)
        self.layers = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Dropout(.1), last)
    def forward(self, x): return self.layers(x.flatten(1).float())
shared = Net()
def net(): return Net()
def same_net(): return shared
def wide_net(): return Net(10)
def other_net(): return Net(3, 9)
def no_net(): return "net"
class Dressed(Net):
    def forward(self, x): return {"logits": super().forward(x)}
def dressed(): return Dressed()
class Aux(Net):
    def forward(self, x): return (super().forward(x),) * 2 if self.training else super().forward(x)
def aux_net(): return Aux()
def frozen_net(): return Net().requires_grad_(False)
class Overflowing(Net):
    def forward(self, x): return super().forward(x) * float("nan")
def overflowing(): return Overflowing()
class Half(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones((), dtype=torch.bfloat16))
def half_net(): return Half()
def conv_net():
    return torch.nn.Sequential(torch.nn.Unflatten(1, (4, 1, 1)), torch.nn.Conv2d(4, 3, 1), torch.nn.Flatten())

def encoder():
    from spectral_sampler.extraction import Encoder
    class Squares(Encoder):
        def forward(self, x): return torch.cat([x.flatten(1), x.flatten(1) ** 2 + .1], 1)
    return Squares()
def teacher():
    torch.manual_seed(1)
    return Net().eval()
"""


@pytest.fixture
def own(here):
    (here / "own_module.py").write_text(MODULE)
    return "own_module"


@pytest.mark.parametrize(
    ("function", "rows", "classes"),
    [
        ("arrays", (72, 18, 30), ("0", "1", "2")),
        ("tensors", (72, 18, 30), ("0", "1", "2")),
        ("half", (72, 18, 30), ("0", "1", "2")),
        ("mapping", (48, 12, 30), ("red", "green", "blue")),
        ("keys", (90, 0, 30), ("0", "1", "2")),
        ("texts", (64, 16, 2), ("no", "yes")),
        ("rows", (64, 16, 4), ("0", "1")),
        ("frames", (72, 18, 30), ("u", "v", "w")),
        ("words", (64, 16, 2), ("no", "yes")),
    ],
)
def test_functions_return_data_sets_arrays_or_a_dict(own, places, function, rows, classes):
    settings = quick(f"{own}:{function}", epochs=8)
    task = load(settings, places)
    assert tuple(map(len, (task.train, task.held_out, task.test))) == rows
    assert task.classes == classes
    cell = run_cell(Cell(settings, "plausible-even", 0, curve=False), places)
    assert cell["test_accuracy"] > 0.6


def test_an_augmented_part_is_trained_on_and_its_twin_is_what_a_reference_sees(own, places):
    settings = quick(f"{own}:augmented")
    task = load(settings, places)
    assert isinstance(task.train, DatasetSamples)
    torch.manual_seed(0)
    assert not torch.equal(task.train[3][0], task.train[3][0])
    plain = task.train.plain()
    assert torch.equal(plain[3][0], plain[3][0])
    assert 0 <= float((task.train[3][0] - plain[3][0]).min()) <= 1, "the same sample"
    noisy = task.train.subset(np.array([5, 5]), np.array([1, 0]))
    assert (int(noisy[0][1]), int(noisy.plain()[1][1])) == (1, 0)
    assert torch.equal(noisy.plain()[0][0], plain[5][0])
    both, last = task.train.joined(task.held_out), len(task.train) + len(task.held_out) - 1
    assert not torch.equal(both[last][0], both[last][0]), "held-out rows are trained on as the others"
    assert torch.equal(both.plain()[last][0], task.held_out.plain()[len(task.held_out) - 1][0])
    assert [int(both[row][1]) for row in (0, last)] == [int(task.train.labels[0]), int(task.held_out.labels[-1])]
    for policy in ("gstds", "gradient-norm", "all-labelled"):
        cells = [run_cell(Cell(settings, policy, 0, curve=False), places) for _ in range(2)]
        assert cells[0]["test_accuracy"] == cells[1]["test_accuracy"], "augmentation is seeded"
        assert cells[0]["curve"] == cells[1]["curve"]


def test_labels_are_those_of_the_samples_where_an_attribute_says_otherwise(own, places):
    task = load(quick(f"{own}:shifted"), places)
    assert np.array_equal(task.train.labels, 1 - task.rows % 2)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (
            "random_train",
            "the part 'train' must be without random augmentation.*'reference': the training samples without",
        ),
        ("random_test", "the part 'test' must be without random augmentation, got samples that differ"),
        ("other_twin", "the part 'reference' must be the training samples in their order.*got 79 for 80 samples"),
        ("small_twin", "the part 'reference' must be of tensors, of the same shape"),
        ("shifted_twin", "the part 'reference' must be .*got another label in sample 0"),
        (
            "other_shape",
            r"the part 'test' must be of the training part's kind and shape \(tensors, \(1, 6, 6\) a sample\)",
        ),
        ("stream", "the part 'train' must be a map-style data set, got Stream"),
        ("single", "data must be a function that returns a training and a test part, got TensorDataset"),
        ("one_part", r"got two arrays, which are one part \(x, y\)"),
        ("four", "got tuple of 4 from"),
        ("nothing", "got NoneType from"),
        ("unlabelled", r"the part 'train' must be a data set of \(input, label\), got a sample of type Tensor"),
        ("ragged", r"the part 'train' must be a data set of inputs of one shape, got \(3,\) float32 in sample 1"),
        ("one_hot", r"Take \.argmax\(1\)"),
        ("regression", r"the part 'train' must be one class number or name per row, got float64"),
        ("ragged_lists", "x must be an array, got rows of different lengths"),
        ("torn", "the part 'train' must be a data set that can be read, got an error in sample 0. KeyError"),
        ("dicts", "got a sample with the keys a, b"),
        ("odd_key", "data must be a function that returns a dict with train, test, .*got 'tset'"),
        ("empty", "the part 'train' must be a data set with samples, got none"),
        ("needs", "data must be a function without arguments, .*folder"),
        ("fails", "Calling it failed with OSError: no such disk"),
        ("leaves", "Calling it failed with SystemExit: 0"),
        ("sparse", r"data must be a dense tensor of numbers, got torch.sparse_coo torch.float64\. NumPy cannot"),
        ("sparse_samples", "data must be a dense tensor of numbers, got torch.sparse_coo"),
        ("masked", "x must be an array without a mask, got masked values. Fill in what is missing."),
        ("number", "data must be module:function, got .* number is of type int"),
        ("nowhere", "own_module has no nowhere; it has .*Images"),
    ],
)
def test_functions_that_return_something_else_are_refused(own, places, function, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        load(quick(f"{own}:{function}"), places)


def test_modules_that_cannot_be_imported(here):
    (here / "broken.py").write_text("import not_there_at_all\n")
    (here / "wrong.py").write_text("1 / 0\n")
    with pytest.raises(ArgumentError, match=r"There is no module nowhere; it is looked for in"):
        Settings.of("nowhere:f")
    with pytest.raises(ArgumentError, match=r"Importing broken failed: No module named 'not_there_at_all'"):
        Settings.of("broken:f")
    with pytest.raises(ArgumentError, match=r"Importing wrong failed with ZeroDivisionError: division by zero"):
        Settings.of("wrong:f")


@pytest.mark.parametrize("data", ["mnist", "no/such/folder", "a.npz", "a.txt", "module:", ":function", "a b:c"])
def test_what_is_no_data_at_all(here, data):
    (here / "a.txt").write_text("")
    with pytest.raises(ArgumentError, match=r"data must be one of digits, .*FILE\.npz.* or module:function, got"):
        Settings.of(data)


# ---- content, keys, processes -------------------------------------------------------------------------------------


def test_changed_data_is_refused_under_old_settings_and_reuses_nothing_under_new_ones(tmp_path, places):
    x, y = blobs()
    path = npz(tmp_path / "a.npz", x=x, y=y)
    before = quick(path)
    task = load(before, places)
    rows = corrupt(task.train.labels, Corruption(), 3, 0)
    old = reference_for(before, task, rows, 0, places.cache).store
    npz(tmp_path / "a.npz", x=-x, y=y)
    after = quick(path)
    assert before.content != after.content
    assert Cell(before, "gstds", 0).key != Cell(after, "gstds", 0).key
    changed = load(after, places)
    assert not torch.equal(changed.train.inputs, task.train.inputs)
    new = reference_for(after, changed, rows, 0, places.cache).store
    assert not np.array_equal(old.losses, new.losses)
    assert len(list((tmp_path / "cache" / "references").glob("*.npz"))) == 2
    stale = dataclasses.replace(before, train_size=50)  # not yet read in this process
    with pytest.raises(ArgumentError, match="data must be the same as when the settings were made, got content"):
        load(stale, places)


def test_one_changed_label_or_picture_is_another_content(tmp_path):
    x, y = blobs()
    first = quick(npz(tmp_path / "a.npz", x=x, y=y)).content
    y[5] = (y[5] + 1) % 3
    assert quick(npz(tmp_path / "a.npz", x=x, y=y)).content != first
    pictures(tmp_path / "p", {"cat": 12, "dog": 12})
    first = quick(str(tmp_path / "p")).content
    (tmp_path / "p" / "dog" / "03.png").write_bytes((tmp_path / "p" / "cat" / "03.png").read_bytes())
    assert quick(str(tmp_path / "p")).content != first


def test_a_function_that_draws_its_data_anew_is_refused(own, places):
    settings = quick(f"{own}:unseeded")
    quick(f"{own}:unseeded")  # as in another process
    with pytest.raises(ArgumentError, match="or a function draws it anew at every call: fix its seed"):
        load(settings, places)


@pytest.mark.slow
def test_a_comparison_of_a_functions_data_and_learner_in_fresh_processes(own, here, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    settings = quick(f"{own}:arrays", learner=f"{own}:net", optimizer="sgd")
    comparison = Comparison(settings, [], [0], here / "out", Places(cache=here / "cache"), 1, curves=False)
    results = compare(comparison)
    assert Settings(**results["settings"]) == settings
    assert results["rows"] == {"train": 72, "held_out": 18, "test": 30}
    alone = run_cell(Cell(settings, "uniform", 0, curve=False), Places(cache=here / "cache"))
    found = next(cell for cell in results["cells"] if cell["policy"] == "uniform")
    for name in ("key", "initial_weights", "curve", "train_accuracy", "test_balanced_accuracy"):
        assert found[name] == alone[name]


def test_twenty_rows_are_enough_to_run(tmp_path, places):
    x, y = blobs(20, 2)
    settings = Settings.of(npz(tmp_path / "a.npz", x=x, y=y))
    for policy in ("full", "uniform", "gstds", "plausible-learnable"):
        assert run_cell(Cell(settings, policy, 0, curve=False), places)["samples"] > 0


def test_settings_of_ones_own_data_are_made_by_looking_at_it(tmp_path):
    x, y = blobs()
    path = npz(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(ArgumentError, match=r"data must be one of .* in settings without content.*Settings\.of looks"):
        Settings(data=path).checked()


def test_options_that_say_nothing_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="label-column must be left out for data of the form built in"):
        Settings.of("digits", label_column="y")
    x, y = blobs()
    path = npz(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(ArgumentError, match="data-root must be left out for data of one's own"):
        load(quick(path), Places(root=tmp_path))
    with pytest.raises(ArgumentError, match=r"momentum must be left out, got 0\.5"):
        quick(path, momentum=0.5)
    with pytest.raises(ArgumentError, match="train-size must be at least 1, got 0"):
        quick(path, train_size=0)


def test_records_of_earlier_settings_are_what_they_were():
    record = Settings.of("digits").record()
    assert len(record) == 20
    assert "learner" not in record
    changed = Settings.of("digits", optimizer="sgd")
    assert changed.record()["optimizer"] == "sgd"
    assert Settings(**changed.record()) == changed
    assert changed.key() != Settings.of("digits").key()


# ---- learners -----------------------------------------------------------------------------------------------------


def test_a_learner_of_ones_own_is_seeded_and_begins_anew_every_time(own, places):
    settings = quick(f"{own}:arrays", learner=f"{own}:net")
    task = load(settings, places)
    state = torch.get_rng_state()
    digests = [weights_digest(network_for(task, settings, seed)) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert digests[0] == digests[1] != digests[2]
    cells = [run_cell(Cell(quick(f"{own}:arrays", learner=f"{own}:same_net"), "uniform", 0), places) for _ in range(2)]
    assert cells[0]["initial_weights"] == cells[1]["initial_weights"]
    assert cells[0]["curve"] == cells[1]["curve"]


@pytest.mark.parametrize(
    ("learner", "sentence"),
    [
        ("wide_net", r"learner must be one that returns logits \(B, 3\).*got \(2, 10\) for 2 samples from"),
        ("other_net", r"learner must be .*which fails on inputs \(2, 4\) torch.float32\. RuntimeError"),
        ("no_net", "learner must be a function that returns a torch.nn.Module, got str"),
        ("dressed", r"learner must be one that returns logits \(B, 3\).*got dict"),
        ("nowhere", "own_module has no nowhere"),
        ("aux_net", r"learner must be one that returns logits \(B, 3\).*got tuple in training for 2 samples from"),
        ("frozen_net", "learner must be one with something to learn, got own_module:frozen_net"),
        ("leaves", "Calling it failed with SystemExit: 0"),
    ],
)
def test_learners_that_do_not_fit_are_refused(own, places, learner, sentence):
    settings = quick(f"{own}:arrays", learner=f"{own}:{learner}")
    with pytest.raises(ArgumentError, match=sentence):
        run_cell(Cell(settings, "uniform", 0), places)


def test_losses_that_are_not_finite_are_said_to_be_the_learners(own, places):
    settings = quick(f"{own}:arrays", learner=f"{own}:overflowing")
    for _ in range(2):  # and are not kept in the cache
        with pytest.raises(ArgumentError, match="reference must be one whose losses are finite, got held-out with NaN"):
            run_cell(Cell(settings, "uniform", 0), places)


def test_a_learner_may_hold_bfloat16(own, places):
    settings = quick(f"{own}:arrays", learner=f"{own}:half_net")
    assert run_cell(Cell(settings, "uniform", 0), places)["steps"] > 0


def test_the_default_learner_refuses_channels_that_come_last(own, places):
    settings = quick(f"{own}:channels_last")
    with pytest.raises(ArgumentError, match=r"got none for samples of shape \(9, 9, 3\). .* permute them, or pass"):
        network_for(load(settings, places), settings, 0)


def test_learners_that_cannot_be(own, places):
    with pytest.raises(ArgumentError, match="learner must be module:function or resnet18, got 'vgg'"):
        quick(f"{own}:arrays", learner="vgg")
    with pytest.raises(ArgumentError, match="pretrained must be left out with a learner"):
        quick(f"{own}:arrays", learner=f"{own}:net", pretrained=True)
    with pytest.raises(ArgumentError, match=r"learner must be one that reads these samples, got resnet18 for .*\(4,\)"):
        run_cell(Cell(quick(f"{own}:arrays", learner="resnet18"), "uniform", 0), places)
    settings = quick(f"{own}:arrays", learner=f"{own}:conv_net")
    with pytest.raises(ArgumentError, match=r"learner must be one whose last layer is an nn\.Linear.*reference="):
        run_cell(Cell(settings, "uniform", 0), places)


def test_the_default_learner_of_a_table_is_a_small_network(own, places):
    settings = quick(f"{own}:arrays")
    assert isinstance(network_for(load(settings, places), settings, 0), SmallMLP)


# ---- references ---------------------------------------------------------------------------------------------------


def test_what_came_with_the_data_is_the_reference(own, places):
    settings = quick(f"{own}:keys")
    assert settings.reference == "given"
    task = load(settings, places)
    rows = corrupt(task.train.labels, Corruption(duplicate=0.5), 3, 0)
    store = reference_for(settings, task, rows, 0, places.cache).store
    assert np.allclose(store.features, task.given[0][task.rows][rows.rows])
    assert set(store.losses.tolist()) == {1.0}
    noisy = dataclasses.replace(settings, label_noise=0.2)
    flipped = corrupt(task.train.labels, noisy.corruption, 3, 0)
    with pytest.raises(ArgumentError, match="reference must be without losses where labels are changed"):
        reference_for(noisy, task, flipped, 0, places.cache)
    with pytest.raises(ArgumentError, match="reference must be one that predicts classes, for the Bayesian selection"):
        run_cell(Cell(settings, "bayesian", 0), places)
    plain = quick(f"{own}:arrays", reference="given")
    with pytest.raises(ArgumentError, match="reference must be another one for data without features, got 'given'"):
        run_cell(Cell(plain, "uniform", 0), places)


def test_given_features_without_losses_get_those_of_a_head_on_held_out_rows(tmp_path, places):
    x, y = blobs()
    settings = quick(npz(tmp_path / "a.npz", x=x, y=y, features=np.concatenate([x, np.zeros((ROWS, 2))], 1)))
    task = load(settings, places)
    assert len(task.held_out) > 0
    noisy = corrupt(task.train.labels, Corruption(label_noise=0.2), 3, 0)
    reference = reference_for(dataclasses.replace(settings, label_noise=0.2), task, noisy, 0, places.cache)
    assert reference.store.width == 6
    assert reference.record["accuracy_on_clean_training_rows"] > 0.7
    assert reference.logits.shape == (len(task.train), 3)


def test_a_store_is_a_reference_if_its_rows_are_the_datas(tmp_path, places):
    x, y = blobs()
    path = npz(tmp_path / "a.npz", x=x, y=y, x_test=x[:30], y_test=y[:30])
    losses = np.arange(ROWS, dtype=np.float32)
    ReferenceStore.from_arrays(x, losses, y).save(tmp_path / "right")
    settings = quick(path, reference=str(tmp_path / "right"))
    task = load(settings, places)
    assert len(task.held_out) == 0
    assert len(task.train) == ROWS
    store = reference_for(settings, task, corrupt(y, Corruption(), 3, 0), 0, places.cache).store
    assert np.array_equal(store.losses, losses)
    fewer = quick(path, reference=str(tmp_path / "right"), train_size=50)
    part = load(fewer, places)
    store = reference_for(fewer, part, corrupt(part.train.labels, Corruption(), 3, 0), 0, places.cache).store
    assert np.array_equal(store.losses, losses[part.rows])
    ReferenceStore.from_arrays(x, losses, np.roll(y, 1)).save(tmp_path / "other")
    ReferenceStore.from_arrays(x[:50], losses[:50], y[:50]).save(tmp_path / "short")
    for name, sentence in (
        ("other", r"got other labels in 120 of 120 rows"),
        ("short", r"a store of 120 rows.*got 50"),
    ):
        wrong = quick(path, reference=str(tmp_path / name))
        with pytest.raises(ArgumentError, match=f"reference must be .*{sentence}"):
            prepare_features(wrong, load(wrong, places), places.cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError):
        load(quick(path, reference=str(tmp_path / "empty")), places)


def test_another_store_in_the_same_place_is_another_reference(tmp_path, places):
    x, y = blobs()
    path = npz(tmp_path / "a.npz", x=x, y=y)
    ReferenceStore.from_arrays(x, np.ones(ROWS), y).save(tmp_path / "a")
    before = quick(path, reference=tmp_path / "a")
    ReferenceStore.from_arrays(x, 2 * np.ones(ROWS), y).save(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    assert Cell(before, "gstds", 0).key != Cell(quick(path, reference=tmp_path / "a"), "gstds", 0).key
    with pytest.raises(ArgumentError, match="reference must be the same as when the settings were made"):
        load(before, places)


def test_a_store_of_a_built_in_data_set_is_a_reference(tmp_path, places):
    pytest.importorskip("sklearn")
    task = load(Settings.of("digits", train_size=100), places)
    features = task.train.inputs.flatten(1) + 1.0
    ReferenceStore.from_arrays(features, np.ones(100), task.train.labels).save(tmp_path / "a")
    settings = quick("digits", train_size=100, reference=tmp_path / "a")
    found = reference_for(settings, task, corrupt(task.train.labels, Corruption(), 10, 0), 0, places.cache)
    assert torch.equal(torch.from_numpy(found.store.features), features)
    with pytest.raises(ArgumentError, match=r"reference must be a store of 101 with losses.*got 100"):
        run_cell(Cell(quick("digits", train_size=101, reference=tmp_path / "a"), "uniform", 0), places)


def test_a_store_of_the_rows_that_are_trained_on_fits_too(tmp_path, places):
    x, y = blobs()
    path = npz(tmp_path / "a.npz", x=x, y=y)
    task = load(quick(path), places)
    rows = corrupt(task.train.labels, Corruption(), 3, 0)
    store = reference_for(quick(path), task, rows, 0, places.cache).store.save(tmp_path / "extracted")
    settings = quick(path, reference=str(tmp_path / "extracted"))
    again = load(settings, places)
    assert np.array_equal(again.rows, task.rows)
    found = reference_for(settings, again, rows, 0, places.cache)
    assert np.array_equal(found.store.losses, store.losses)
    assert found.record["accuracy_on_clean_training_rows"] is None


def test_a_store_without_losses_gets_a_head_and_one_without_labels_a_warning(tmp_path, places, caplog):
    x, y = blobs()
    ReferenceStore.from_arrays(x).save(tmp_path / "features")
    settings = quick(npz(tmp_path / "a.npz", x=x, y=y), reference=str(tmp_path / "features"))
    assert (
        run_cell(Cell(settings, "gstds", 0, curve=False), places)["reference"]["accuracy_on_clean_training_rows"] > 0.7
    )
    assert any("whether its rows are those of the data could not be compared" in text for text in caplog.messages)


def test_an_encoder_and_a_classifier_of_ones_own(own, places):
    settings = quick(f"{own}:arrays", reference=f"{own}:encoder")
    task = load(settings, places)
    rows = corrupt(task.train.labels, Corruption(), 3, 0)
    found = reference_for(settings, task, rows, 0, places.cache)
    assert found.store.width == 8
    assert found.record["accuracy_on_clean_training_rows"] > 0.7, "of a head trained on held-out rows"
    settings = quick(f"{own}:arrays", reference=f"{own}:teacher", label_noise=0.2)
    noisy = corrupt(task.train.labels, settings.corruption, 3, 0)
    found = reference_for(settings, task, noisy, 0, places.cache)
    module = sys.modules[own].teacher()
    inputs, _ = task.train.gather(noisy.rows.tolist())
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(module(inputs), torch.from_numpy(noisy.labels), reduction="none")
        features = module.layers[:3](inputs)
    assert np.allclose(found.store.losses, losses, atol=1e-5)
    assert np.allclose(found.store.features, features, atol=1e-5)


def test_references_that_cannot_be(own, places):
    for reference, sentence in (
        ("lite1", "reference must be one of held-out, .* or the folder of a store, got 'lite1'"),
        (f"{own}:no_net", "reference must be a function that returns a torch.nn.Module, got str"),
        (f"{own}:nowhere", "reference must be module:function that can be imported"),
        ("minilm", "reference must be one that reads these images, got 'minilm'"),
        ("lite0", "reference must be one that reads these images, got 'lite0'"),
    ):
        with pytest.raises(ArgumentError, match=sentence):
            run_cell(Cell(quick(f"{own}:arrays", reference=reference), "uniform", 0), places)


def test_rows_of_zeros_in_a_reference_are_as_much_like_one_row_as_another(tmp_path, places, caplog):
    x, y = blobs()
    features = np.abs(x)
    features[:3] = 0.0
    settings = quick(npz(tmp_path / "a.npz", x=x, y=y, features=features, losses=np.ones(ROWS)))
    cell = run_cell(Cell(settings, "gstds", 0, curve=False), places)
    assert cell["samples"] > 0
    assert any("zero" in text and "rows 0" in text for text in caplog.messages)


# ---- what is measured ---------------------------------------------------------------------------------------------


def test_accuracies_of_all_parts(tmp_path, places):
    x, y = blobs(300)
    y[y == 2] = np.where(np.arange(100) < 90, 0, 2)  # a rare class
    settings = quick(npz(tmp_path / "a.npz", x=x, y=y), validation=0.25, epochs=1)
    task = load(settings, places)
    assert (len(task.train), len(task.validation), len(task.held_out), len(task.test)) == (144, 48, 48, 60)
    assert len({*rows_of(task.train), *rows_of(task.validation), *rows_of(task.held_out), *rows_of(task.test)}) == 300
    assert np.array_equal(task.train.labels, y[task.rows])
    cell = run_cell(Cell(settings, "uniform", 0, curve=False), places)
    assert 0 < cell["validation_accuracy"] <= 1
    assert 0 < cell["train_accuracy"] <= 1
    assert cell["test_balanced_accuracy"] < cell["test_accuracy"], "the rare class is not learnt in one epoch"
    assert (
        run_cell(Cell(dataclasses.replace(settings, validation=0.0), "uniform", 0), places)["validation_accuracy"]
        is None
    )


class Constant(torch.nn.Module):
    """Says class 0, whatever it sees."""

    def forward(self, inputs):
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(inputs), 3)


def test_each_accuracy_is_of_its_own_rows_and_labels(tmp_path, places):
    x, y = blobs(150)
    test = np.repeat([0, 1, 2], [6, 3, 1])
    settings = quick(npz(tmp_path / "a.npz", x=x, y=y, x_test=x[:10], y_test=test), validation=0.2)
    task = load(settings, places)
    rows = np.arange(len(task.train))
    train = task.train.subset(rows, np.where(rows < 30, 0, 1))  # labels that the learner saw
    counts = np.zeros((2, len(rows)), dtype=np.int64)
    counts[0, 20:40] = 1
    found = _accuracies(Constant(), task, train, Trace([], counts, {}, {}))
    assert found["train_accuracy"] == 0.5, "rows 20 to 39 were trained on, ten of them as class 0"
    assert found["validation_accuracy"] == (task.validation.labels == 0).mean()
    assert found["test_balanced_accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_optimizers_and_schedules_are_what_they_are_called(optimizer, schedule, own, places, monkeypatch):
    seen = []
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    step = kinds[optimizer].step

    def spy(self, *arguments, **options):
        seen.append(self.param_groups[0]["lr"])
        assert type(self) is kinds[optimizer]
        assert self.param_groups[0].get("momentum", 0.7) == 0.7
        return step(self, *arguments, **options)

    monkeypatch.setattr(kinds[optimizer], "step", spy)
    changes = {"momentum": 0.7} if optimizer == "sgd" else {}
    settings = quick(f"{own}:keys", optimizer=optimizer, learning_rate_schedule=schedule, learning_rate=0.01, **changes)
    run_cell(Cell(settings, "uniform", 0, curve=False), places)
    assert len(seen) == 22  # two epochs of eleven batches of eight
    if schedule == "constant":
        assert set(seen) == {0.01}
    elif schedule == "step":
        assert seen == pytest.approx([0.01] * 11 + [0.001] * 6 + [0.0001] * 5)
    else:
        assert seen[0] < max(seen) == 0.01
        assert seen[-1] < 0.001


def test_optimizers_bring_their_defaults_and_unknown_ones_are_refused():
    assert Settings.of("digits", optimizer="sgd").weight_decay == 5e-4
    assert Settings.of("digits", optimizer="sgd", weight_decay=0.0, learning_rate=0.5).learning_rate == 0.5
    assert Settings.of("digits", optimizer="adam").weight_decay == 0.0
    for changes, sentence in (
        ({"optimizer": "lion"}, "optimizer must be one of adamw, adam, sgd, got 'lion'"),
        ({"learning_rate_schedule": "linear"}, "learning-rate-schedule must be one of cosine, constant, step"),
        ({"optimizer": "sgd", "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, "weight-decay must be at least 0"),
        ({"validation": 0.9}, r"validation must be in \[0, 0.5\]"),
        ({"image_size": 2}, "image-size must be at least 8 pixels"),
    ):
        with pytest.raises(ArgumentError, match=sentence):
            Settings.of("digits", **changes)

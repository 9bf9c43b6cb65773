"""Data sets that are uneven or wrong by nature, read from files of installed packages."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import data as data_module
from spectral_sampler.experiment.corruption import Corruption, corrupt
from spectral_sampler.experiment.data import Source, load_task
from spectral_sampler.experiment.diamonds import CUTS, diamonds
from spectral_sampler.experiment.opinions import LEVELS, levels, opinions
from spectral_sampler.experiment.packaged import package_file
from spectral_sampler.experiment.wordnet import FIELDS, fields
from spectral_sampler.optional import MissingPackage

HEADER = ("carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z")


def installed(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"the package {package} is absent")


def tokens(texts):
    """Stands for the tokenizer."""
    return torch.zeros(len(texts), 2, dtype=torch.int64)


def stones(count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (round(0.2 + generator.random(), 2), CUTS[number % 5], "DEFGHIJ"[number % 7], ("IF", "SI1", "I1")[number % 3],
         round(60 + generator.normal(), 1), 57, int(300 + 9000 * generator.random()), 4.1 + number, 4.2, 2.5 + number)
        for number in range(count)
    ]  # fmt: skip


def write_stones(folder, lines):
    with (folder / "diamonds.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows([HEADER, *lines])


def test_stones_are_standardised_and_each_is_there_once(tmp_path):
    lines = stones(40)
    write_stones(tmp_path, [*lines, lines[3], lines[3]])
    found = diamonds(tmp_path)
    assert found.inputs.shape == (40, 9)
    assert found.labels.tolist() == [number % 5 for number in range(40)]
    for column, values in ((0, np.log([line[0] for line in lines])), (1, [line[4] for line in lines]),
                           (3, np.log([line[6] for line in lines])),
                           (7, ["JIHGFED".index(line[2]) for line in lines])):  # fmt: skip
        assert found.inputs[:, column] == pytest.approx((values - np.mean(values)) / np.std(values), abs=1e-5)
    assert found.inputs[0, 8] > found.inputs[1, 8] > found.inputs[2, 8]  # IF is better than SI1, and that than I1
    write_stones(tmp_path, stones(40, seed=1))
    assert diamonds(tmp_path).version != found.version


def test_a_constant_column_and_an_unknown_grade_are_no_numbers(tmp_path):
    write_stones(tmp_path, stones(40))
    assert (diamonds(tmp_path).inputs[:, 2] == 0).all()  # all tables are 57
    lines = stones(10)
    write_stones(tmp_path, [*lines, (*lines[0][:1], "Superb", *lines[0][2:])])
    with pytest.raises(ArgumentError, match=r"data-root must be a folder with ggplot2's diamonds.csv"):
        diamonds(tmp_path)
    for content in ("word\t1.0\n", "word\t1.0\t0.5\t[1, 2]\n"):
        (tmp_path / "vader_lexicon.txt").write_text(content)
        with pytest.raises(ArgumentError, match=r"data-root must be a folder with VADER's vader_lexicon.txt"):
            opinions(tmp_path)


def test_levels_have_their_bounds_on_the_outer_side():
    ratings = np.array([-4.0, -1.5, -1.4, -0.1, 0.1, 1.4, 1.5, 4.0])
    assert levels(ratings).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert levels(-ratings).tolist() == [3, 3, 2, 2, 1, 1, 0, 0]


def write_lexicon(folder, rated):
    lines = [f"{word}\t{np.mean(r):.1f}\t{np.std(r):.5f}\t{json.dumps(r)}" for word, r in rated]
    (folder / "vader_lexicon.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_learner_hears_one_of_those_who_took_sides(tmp_path):
    generator = np.random.default_rng(0)
    rated = [(f"w{'abcdefghij'[n % 10]}{'abcdefghij'[n // 10 % 10]}{'x' * (n // 100)}",
              generator.integers(-4, 5, 10).tolist()) for n in range(300)]  # fmt: skip
    rated += [("sure", [3] * 10), (":-)", [2] * 10), ("even", [1, -1] + [0] * 8), ("one", [0] * 9 + [-1])]
    write_lexicon(tmp_path, [*rated, ("sure", [-3] * 10)])
    found = opinions(tmp_path)
    kept = {word: ratings for word, ratings in rated if sum(ratings) and word.isalpha()}
    assert found.words == list(kept)
    assert "sure" in found.words
    assert not {":-)", "even"} & set(found.words)
    heard = {word: LEVELS[label] for word, label in zip(found.words, found.said, strict=True)}
    assert (heard["sure"], heard["one"]) == ("very positive", "negative")
    for word, said, agreed in zip(found.words, found.said, found.agreed, strict=True):
        ratings = np.array(kept[word], dtype=float)
        assert said in levels(ratings[ratings != 0])
        assert agreed == levels(np.array([ratings.mean()]))[0]
    assert np.array_equal(opinions(tmp_path).said, found.said)


def test_files_that_are_absent_are_said_with_what_to_install(tmp_path):
    for name, file in (("diamonds", "diamonds.csv"), ("opinions", "vader_lexicon.txt")):
        with pytest.raises(ArgumentError, match=rf"data-root must be a folder with {file}.*spectral-sampler\[data\]"):
            load_task(name, Source(root=tmp_path))
    with pytest.raises(ArgumentError, match=r"data\.verb.*wordnet-base"):
        load_task("wordnet-fields", Source(root=tmp_path))
    with pytest.raises(MissingPackage, match=r"no_such_thing.*pip install 'spectral-sampler\[data\]'"):
        package_file(None, "no_such_thing", "table.csv")


VERBS = """  1 This software and database is being provided to you
00000100 29 v 01 sneeze 0 000 01 + 02 00 | exhale spasmodically; "he sneezed"
00000200 43 v 01 rain 0 001 @ 00000300 v 0000 01 + 01 00 | precipitate as rain
00000300 43 v 01 fall 0 000 01 + 01 00 | said twice
00000400 38 v 01 fly 0 000 01 + 01 00 | said twice
00000500 38 v 01 walk 0 000 01 + 01 00 | use one's feet to advance
"""


def test_fields_are_the_lexicographers_files(tmp_path):
    (tmp_path / "data.verb").write_text(VERBS)
    texts, labels = fields(tmp_path)
    assert texts == ["exhale spasmodically", "precipitate as rain", "use one's feet to advance"]
    assert [FIELDS[label] for label in labels] == ["body", "weather", "motion"]


@pytest.mark.skipif(not Path("/usr/share/wordnet/data.verb").is_file(), reason="Debian package wordnet-base is absent")
def test_wordnet_fields_are_uneven_in_every_part(monkeypatch):
    monkeypatch.setattr(data_module, "token_rows", tokens)
    task = load_task("wordnet-fields", Source())
    assert (len(task.train), len(task.held_out), len(task.classes)) == (7000, 2703, 15)
    for part in task[1:4]:
        counts = np.bincount(part.labels, minlength=15)
        assert counts.max() / counts.min() > 20
        assert counts.argmin() == FIELDS.index("weather")
        assert counts.min() > 10
    texts = [set(part.texts) for part in task[1:4]]
    assert len(set.union(*texts)) == sum(map(len, texts))
    with pytest.raises(ArgumentError, match="train-size must be from 1 to"):
        load_task("wordnet-fields", Source(train_size=20_000))


@installed("plotnine")
def test_diamonds_parts():
    task = load_task("diamonds", Source())
    assert [len(part) for part in task[1:4]] == [12_000, 10_758, 13_448]
    for part in task[1:4]:
        counts = np.bincount(part.labels)
        assert len(counts) == 5
        assert 12 < counts.max() / counts.min() < 15
        assert part.inputs.shape[1] == 9
        assert bool(torch.isfinite(part.inputs).all())
    rows = [set(map(bytes, np.c_[part.inputs.numpy(), part.labels.astype(np.float32)])) for part in task[1:4]]
    assert len(set.union(*rows)) == 36_206


@installed("vaderSentiment")
def test_opinions_parts_and_what_is_wrong_in_them(monkeypatch):
    monkeypatch.setattr(data_module, "token_rows", tokens)
    task = load_task("opinions", Source())
    assert (len(task.train), len(task.held_out)) == (3966, 1441)
    words = [set(part.texts) for part in task[1:4]]
    assert len(set.union(*words)) == sum(map(len, words))
    agreed = opinions(None)
    level = dict(zip(agreed.words, agreed.agreed, strict=True))
    assert [level[word] for word in task.test.texts] == task.test.labels.tolist()  # a clean test
    assert [level[word] for word in task.train.texts] == task.known.truth.tolist()
    found = corrupt(task.train.labels, Corruption(), 4, 0, task.known)
    assert np.array_equal(found.wrong, task.train.labels != task.known.truth)
    assert 0.3 < found.wrong.mean() < 0.4
    assert found.record(4)["wrong_labels"] == found.wrong.sum()
    off = np.abs(task.train.labels - task.known.truth)[found.wrong]
    assert (off == 1).mean() > 0.8, "mostly to the next level"
    part = load_task("opinions", Source(validation=0.1))
    assert len(part.known.truth) == len(part.train) == 3569
    assert [level[word] for word in part.train.texts] == part.known.truth.tolist()

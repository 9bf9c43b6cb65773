"""Noise between look-alikes, and classes that cannot be told apart: exact, seeded, recorded."""

import dataclasses

import numpy as np
import pytest
import torch

from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import Settings
from spectral_sampler.experiment.cell import Cell, Places, load, run_cell
from spectral_sampler.experiment.confusions import _left_out, confusions, partners, with_partners
from spectral_sampler.experiment.corruption import Corruption, Known, corrupt, corrupt_held_out
from spectral_sampler.experiment.overlap import ceiling, overlapping
from spectral_sampler.experiment.samples import Task, TensorSamples, TextSamples

CLASSES = 6
LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(CLASSES), [200, 160, 120, 90, 60, 31]))
PARTNERS = Known(partners=np.array([1, 0, 3, 4, 2, 0]))


def look_alikes(rows=400, seed=0):
    """Features of four classes on a line: 0 and 1 are neighbours, so are 2 and 3; 1 and 2 are far apart."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 4
    centres = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 9, 0], [0, 9, 1.5]])
    return centres[labels] + generator.normal(size=(rows, 3)), labels


def synthetic(classes=5, rows=(500, 300, 400)):
    """A task whose inputs tell the class: one-hot, so that Bayes' classifier is an argmax."""
    parts = []
    for seed, count in enumerate(rows):
        labels = np.random.default_rng(seed).integers(0, classes, count)
        parts.append(TensorSamples(torch.eye(classes)[torch.from_numpy(labels)], labels))
    return Task("synthetic", parts[0], parts[1], parts[2], tuple("abcde"[:classes]), "v")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 1 / 3])
def test_the_same_share_of_every_class_becomes_its_look_alike(share):
    found = corrupt(LABELS, Corruption(confusion_noise=share), CLASSES, 3, PARTNERS)
    for label, partner in enumerate(PARTNERS.partners):
        was = found.labels[label == LABELS]
        assert (was == partner).sum() == round(share * len(was))
        assert set(was[was != label]) <= {partner}
    assert np.array_equal(found.wrong, found.labels != LABELS)
    assert np.array_equal(found.rows, np.arange(len(LABELS)))


def test_confused_rows_are_seeded_and_the_held_out_ones_are_others():
    noise = Corruption(confusion_noise=0.2)
    first, again, other = (corrupt(LABELS, noise, CLASSES, seed, PARTNERS).wrong for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    held_out = corrupt_held_out(LABELS, noise, CLASSES, 0, PARTNERS)
    assert (held_out != LABELS).sum() == first.sum()
    assert not np.array_equal(held_out != LABELS, first)
    changed = held_out != LABELS
    assert np.array_equal(held_out[changed], PARTNERS.partners[LABELS[changed]])


def test_two_kinds_of_noise_add_up_and_copies_come_last():
    both = Corruption(label_noise=0.3, confusion_noise=0.2)
    confused = corrupt(LABELS, both._replace(label_noise=0.0), CLASSES, 0, PARTNERS)
    found = corrupt(LABELS, both, CLASSES, 0, PARTNERS)
    assert found.wrong.sum() == confused.wrong.sum() + round(0.3 * len(LABELS))
    assert np.array_equal(found.labels[confused.wrong], confused.labels[confused.wrong])  # nobody is changed twice
    copied = corrupt(LABELS, both._replace(imbalance=5.0, duplicate=0.5), CLASSES, 0, PARTNERS)
    assert np.array_equal(copied.wrong, copied.labels != LABELS[copied.rows])
    for row in np.unique(copied.rows)[:50]:
        assert len(set(copied.labels[copied.rows == row])) == 1
    uneven = corrupt(LABELS, Corruption(confusion_noise=0.2, imbalance=5.0), CLASSES, 0, PARTNERS)
    for label in range(CLASSES):
        kept = LABELS[uneven.rows] == label
        assert uneven.wrong[kept].sum() == round(0.2 * kept.sum())


def test_noise_among_all_classes_is_what_it_was_before_there_was_another():
    """Old results stay: rows and labels do not hang on what was added beside them."""
    generator = np.random.default_rng([7, 1])
    chosen = generator.choice(len(LABELS), size=round(0.2 * len(LABELS)), replace=False)
    expected = LABELS.copy()
    expected[chosen] = (LABELS[chosen] + generator.integers(1, CLASSES, size=len(chosen))) % CLASSES
    assert np.array_equal(corrupt(LABELS, Corruption(0.2), CLASSES, 7).labels, expected)
    plain = Settings.of("digits", label_noise=0.2)
    assert not {"confusion_noise", "overlap"} & set(plain.record())
    keys = {plain.key()} | {Settings.of("digits", label_noise=0.2, **{name: 0.2}).key()
                            for name in ("confusion_noise", "overlap")}  # fmt: skip
    assert len(keys) == 3
    assert Settings.of("digits", confusion_noise=0.2).record()["confusion_noise"] == 0.2


def test_what_is_no_share_is_refused_and_noise_without_partners_too():
    for corruption, sentence in (
        (Corruption(confusion_noise=1.0), r"confusion-noise must be in \[0, 1\), got 1.0"),
        (Corruption(confusion_noise=float("nan")), "confusion-noise"),
        (Corruption(label_noise=0.6, confusion_noise=0.4), r"label-noise must be below 1 - confusion-noise \(0.4\)"),
    ):
        with pytest.raises(ArgumentError, match=sentence):
            corruption.checked()
    with pytest.raises(ArgumentError, match=r"overlap must be in \[0, 1\], got 1.5"):
        Settings.of("digits", overlap=1.5)
    with pytest.raises(ArgumentError, match=r"overlap must be 0, or enough to split one of 5 classes, got 0\.05"):
        overlapping(synthetic(), 0.05)
    with pytest.raises(ArgumentError, match="confusion-noise must be 0 where no partners of the classes are known"):
        corrupt(LABELS, Corruption(confusion_noise=0.2), CLASSES, 0)


@pytest.mark.parametrize("width", [3, 60])  # more rows than numbers, and fewer
def test_each_row_is_predicted_by_ridge_regression_on_all_others(width):
    generator = np.random.default_rng(1)
    features = generator.normal(size=(24, width))
    features -= features.mean(0)
    labels = np.arange(24) % 3
    targets = np.eye(3)[labels]
    predicted = _left_out(features, targets)
    largest = np.linalg.eigvalsh(features.T @ features).max()
    errors = []
    for penalty in 10.0 ** np.arange(-5, 2) * largest:
        expected = np.empty_like(targets)
        for row in range(24):
            kept = np.arange(24) != row
            design = np.column_stack([features[kept], np.ones(23)])
            ridge = np.diag([penalty] * width + [0.0])  # the intercept is free
            weights = np.linalg.solve(design.T @ design + ridge, design.T @ targets[kept])
            expected[row] = np.append(features[row], 1.0) @ weights
        errors.append((((expected - targets) ** 2).sum(), expected))
    assert predicted == pytest.approx(min(errors, key=lambda item: item[0])[1], abs=1e-8)


def test_neighbours_are_taken_for_each_other():
    features, labels = look_alikes()
    told = confusions(features, labels, 4)
    assert told.sum(1) == pytest.approx(np.ones(4))
    assert told.argmax(1).tolist() == [0, 1, 2, 3]
    pairs = partners(told)
    assert pairs.classes.tolist() == [1, 0, 3, 2]
    assert pairs.shares == pytest.approx([told[0, 1], told[1, 0], told[2, 3], told[3, 2]])
    scaled = confusions(features * [1e3, 1.0, 1e-3] + 5.0, labels, 4)
    assert scaled == pytest.approx(told, abs=1e-9)  # units do not matter


def test_no_class_is_a_partner_because_it_is_frequent():
    """Class 1 is rare and nearer to class 0 than class 2, which is not."""
    labels = np.repeat([0, 1, 2], [600, 60, 1300])
    centres = np.array([[0.0, 0.0], [1.2, 0.0], [0.0, 2.5]])
    features = centres[labels] + np.random.default_rng(0).normal(size=(len(labels), 2))
    told = confusions(features, labels, 3)
    assert partners(told).classes[:2].tolist() == [1, 0]
    assert told[0, 1] > 1.3 * told[0, 2]


def test_partners_are_of_another_origin_and_a_class_of_one_row_is_refused():
    told = np.array([[0.6, 0.1, 0.3], [0.2, 0.5, 0.3], [0.5, 0.1, 0.4]])
    assert partners(told).classes.tolist() == [2, 2, 0]
    assert partners(told, np.array([0, 1, 0])).classes.tolist() == [1, 2, 1]
    features, labels = look_alikes()
    few = np.append(np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[:1])
    with pytest.raises(ArgumentError, match=r"confusion-noise must be 0 where a class .* got 1 of class 2"):
        confusions(features[few], labels[few], 4)


def test_every_part_of_overlapping_classes_is_halved_and_nothing_is_wrong_by_it():
    before = synthetic()
    after = overlapping(before, 0.4)
    assert len(after.classes) == 7
    assert len(set(after.classes)) == 7
    assert after.version != before.version
    split = np.flatnonzero(np.bincount(after.known.origins) == 2)
    assert len(split) == 2
    for part in ("train", "held_out", "test"):
        was, now = getattr(before, part).labels, getattr(after, part).labels
        assert np.array_equal(after.known.origins[now], was)
        for label in split:
            halves = np.bincount(now[was == label], minlength=7)
            other = np.flatnonzero(after.known.origins == label)
            assert sorted(halves[other]) == [(was == label).sum() // 2, ((was == label).sum() + 1) // 2]
    again = overlapping(before, 0.4)
    assert np.array_equal(again.test.labels, after.test.labels)
    found = corrupt(after.train.labels, Corruption(), 7, 0, after.known)
    assert not found.wrong.any()
    noisy = corrupt(after.train.labels, Corruption(label_noise=0.3), 7, 0, after.known)
    assert noisy.wrong.sum() == round(0.3 * 500) == (noisy.labels != after.train.labels).sum()  # never its twin


def test_the_ceiling_is_what_bayes_classifier_reaches():
    before, share = synthetic(), 0.4
    after = overlapping(before, share)
    recorded = dict(after.known.facts)["ceiling"]
    counts = np.bincount(after.train.labels, minlength=7)
    best = np.array([max(np.flatnonzero(after.known.origins == c), key=lambda label: counts[label]) for c in range(5)])
    truth = after.test.labels
    reached = (best[before.test.labels] == truth).mean()
    assert recorded["test_accuracy"] - 2.5 / len(truth) < reached <= recorded["test_accuracy"]  # odd classes: one row
    recalls = [(best[before.test.labels] == truth)[truth == label].mean() for label in range(7)]
    assert np.mean(recalls) == pytest.approx(recorded["test_balanced_accuracy"]) == pytest.approx(5 / 7)
    chance = np.random.default_rng(0).integers(0, 2, (4000, len(truth))).astype(bool)  # a coin for every row instead
    other = np.array([np.flatnonzero(after.known.origins == c)[-1] for c in range(5)])
    guessed = np.where(chance, best[before.test.labels], other[before.test.labels])
    assert (guessed == truth).mean() == pytest.approx(recorded["test_accuracy"], abs=3e-3)
    assert ceiling(np.array([0, 0, 1, 2]), np.array([0, 1, 0])) == {
        "test_accuracy": 0.75,
        "test_balanced_accuracy": 2 / 3,
    }


def test_natural_mistakes_count_as_wrong_and_a_split_does_not():
    truth = np.array([0, 0, 1, 1, 2, 2])
    labels = np.array([0, 1, 1, 1, 2, 0])
    assert corrupt(labels, Corruption(), 3, 0, Known(truth=truth)).wrong.tolist() == [0, 1, 0, 0, 0, 1]
    copied = corrupt(labels, Corruption(duplicate=0.5), 3, 0, Known(truth=truth))
    assert np.array_equal(copied.wrong, (labels != truth)[copied.rows])
    halves = Known(truth=truth, origins=np.array([0, 1, 2, 0]))
    assert corrupt(np.array([3, 1, 1, 3, 2, 0]), Corruption(), 4, 0, halves).wrong.tolist() == [0, 1, 0, 1, 0, 1]


def test_validation_is_cut_before_the_split_and_the_truth_with_it():
    pytest.importorskip("sklearn")
    task = load(Settings.of("digits", overlap=0.3, validation=0.1), Places())
    assert len(task.classes) == 13
    assert set(np.unique(task.validation.labels)) > {10, 11, 12}


def test_texts_without_an_encoder_are_judged_by_their_tokens():
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    topics = [[2, 3, 4, 9], [4, 5, 6, 9], [11, 12, 13, 9]]  # 0 and 1 share a word, 2 shares none but that of all
    tokens = torch.tensor([[*generator.choice(topics[label], 5).tolist(), 0, 0] for label in labels])
    part = TextSamples(tokens, labels, ["-"] * 300)
    task = Task("texts", part, part, part, ("a", "b", "c"), "v")
    found = with_partners(Settings.of("digits"), task, None)  # whose reference, held-out, gives no features
    assert found.known.partners[:2].tolist() == [1, 0]
    assert [pair[:2] for pair in dict(found.known.facts)["taken_for"]][:2] == [[0, 1], [1, 0]]


def test_a_training_records_pairs_ceiling_and_shares(tmp_path):
    pytest.importorskip("sklearn")
    settings = Settings.of("digits", train_size=320, epochs=1, confusion_noise=0.2, overlap=0.2)
    result = run_cell(Cell(settings, "uniform", 0, curve=False), Places(cache=tmp_path))
    found = result["corruption"]
    assert 0.17 <= found["wrong_labels"] / found["rows"] <= 0.22
    assert [pair[0] for pair in found["taken_for"]] == list(range(12))
    origins = load(settings, Places(cache=tmp_path)).known.origins
    for label, partner, share in found["taken_for"]:
        assert origins[label] != origins[partner]
        assert 0 < share < 0.5
    assert result["test_accuracy"] <= found["ceiling"]["test_accuracy"] < 0.95
    assert len(found["indistinguishable"]) == 2
    assert result["reference"]["wrong_label_auc"] > 0.4
    plain = run_cell(Cell(dataclasses.replace(settings, confusion_noise=0.0, overlap=0.0), "uniform", 0, curve=False),
                     Places(cache=tmp_path))  # fmt: skip
    assert set(plain["corruption"]) == {"rows", "wrong_labels", "copies", "rows_per_class"}
    assert plain["key"] != result["key"]


def test_features_of_an_encoder_say_who_looks_alike_where_there_is_one(monkeypatch):
    features, labels = look_alikes(200)
    part = TensorSamples(torch.zeros(200, 2), labels)
    task = Task("synthetic", part, part, part, tuple("abcd"), "v")
    module = "spectral_sampler.experiment.confusions.held_out_features"
    monkeypatch.setattr(module, lambda settings, found, cache: features)
    assert with_partners(Settings.of("digits"), task, None).known.partners.tolist() == [1, 0, 3, 2]

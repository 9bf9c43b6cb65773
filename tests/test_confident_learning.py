"""Confident learning by hand: thresholds, the joint, who is pruned; and the probabilities it starts from."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from spectral_sampler.experiment.controls.confident_learning import confident_joint, label_issues, thresholds
from spectral_sampler.experiment.controls.probe import FOLDS, cross_validated

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
FIRST = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.3, 0.2, 0.1])
TWO = np.stack([FIRST, 1 - FIRST], axis=1)


def test_the_joint_of_two_classes_by_hand():
    # t_0 = (.9 + .8 + .7 + .2) / 4 = .65, t_1 = (.4 + .7 + .8 + .9) / 4 = .7
    assert thresholds(TWO, LABELS) == pytest.approx([0.65, 0.7])
    counts, calibrated = confident_joint(TWO, LABELS)
    # Labelled 0: rows 0, 1, 2 are above t_0, row 3 above t_1. Labelled 1: 5, 6, 7 above t_1, row 4 above neither.
    assert counts.tolist() == [[3, 1], [0, 3]]
    assert calibrated == pytest.approx(np.array([[3.0, 1.0], [0.0, 4.0]]))
    assert np.flatnonzero(label_issues(TWO, LABELS)).tolist() == [3]


def test_the_joint_of_three_classes_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    probabilities = np.array(
        [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.1, 0.9, 0.0], [0.5, 0.4, 0.1], [0.0, 0.2, 0.8],
         [0.5, 0.1, 0.4]]
    )  # fmt: skip
    # t = (1.5 / 3, 1.3 / 2, 1.2 / 2); above them: 0 | 0 | 1 | 1 | 0 | 2 | 0
    assert thresholds(probabilities, labels) == pytest.approx([0.5, 0.65, 0.6])
    counts, calibrated = confident_joint(probabilities, labels)
    assert counts.tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 1]]
    assert calibrated.sum(axis=1) == pytest.approx([3, 2, 2])
    assert np.flatnonzero(label_issues(probabilities, labels)).tolist() == [2, 4, 6]


def test_of_two_classes_above_their_thresholds_the_likelier_counts():
    labels = np.array([0, 0, 1, 1, 2])
    probabilities = np.array(
        [[0.3, 0.1, 0.6], [0.3, 0.1, 0.6], [0.1, 0.2, 0.7], [0.0, 0.2, 0.8], [0.35, 0.25, 0.4]]
    )  # fmt: skip
    # t = (.3, .2, .4): row 4 is above all three; rows 0 and 1 above 0 and 2; rows 2 and 3 above 1 and 2.
    assert confident_joint(probabilities, labels)[0].tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 1]]


def test_the_most_margin_goes_first_and_no_more_than_the_joint_has():
    labels = np.repeat([0, 1], 10)
    first = np.array([0.9] * 6 + [0.45, 0.40, 0.05, 0.02] + [0.1] * 10)
    probabilities = np.stack([first, 1 - first], axis=1)
    # t_0 = .632, t_1 = .9: rows 8 and 9 alone count as of class 1, so 10 · 2 / 8 = 2.5, which rounds to the even 2.
    counts, calibrated = confident_joint(probabilities, labels)
    assert counts.tolist() == [[6, 2], [0, 10]]
    assert calibrated[0, 1] == 2.5
    assert np.flatnonzero(label_issues(probabilities, labels)).tolist() == [8, 9]


def test_a_label_that_is_predicted_is_no_issue_and_a_class_keeps_a_row():
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.55, 0.1, 0.1, 0.3, 0.3, 0.3])
    found = label_issues(np.stack([first, 1 - first], axis=1), labels)
    assert not found[0], "predicted as it is labelled"
    nothing = np.array([0.2, 0.1, 0.1, 0.0, 0.0, 0.0])  # class 0 is nowhere predicted
    found = label_issues(np.stack([nothing, 1 - nothing], axis=1), labels)
    assert not found[0], "the likeliest of its class stays"
    assert not found[3:].any()


def test_a_class_of_fewer_rows_than_folds_is_not_judged():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 4], [40, 40, 3, 1])  # and nobody is of class 3
    features = np.eye(5)[labels] + 0.1 * generator.normal(size=(84, 5))
    found = cross_validated(features, labels, 5)
    assert found.probabilities.shape == (84, 5)
    assert np.isfinite(found.probabilities).all()
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(84))
    assert found.probabilities[:, 3].max() < 1e-6
    assert thresholds(found.probabilities, labels, FOLDS)[2:].tolist() == [np.inf] * 3
    issues = label_issues(found.probabilities, labels, FOLDS)
    assert not issues[80:].any()
    assert issues[:80].mean() < 0.1


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_are_of_rows_that_were_left_out(classes):
    generator = np.random.default_rng(classes)
    labels = generator.integers(classes, size=300)
    noise = generator.normal(size=(300, 200))  # so many columns that a fit knows its own rows by heart
    found = cross_validated(noise, labels, classes, seed=1)
    right = (found.probabilities.argmax(axis=1) == labels).mean()
    assert right < 1 / classes + 4 * np.sqrt(1 / classes / 300), "no better than chance"
    told = cross_validated(np.eye(classes)[labels] + 0.3 * noise[:, :classes], labels, classes, seed=1)
    assert (told.probabilities.argmax(axis=1) == labels).mean() > 0.9
    assert found.inverse_penalty < told.inverse_penalty, "noise is shrunk"
    assert told.flops > 0


def test_wrong_labels_are_found():
    generator = np.random.default_rng(3)
    truth = generator.integers(5, size=1000)
    labels = np.where(generator.random(1000) < 0.2, (truth + generator.integers(1, 5, size=1000)) % 5, truth)
    features = np.eye(5)[truth] + 0.25 * generator.normal(size=(1000, 5))
    issues = label_issues(cross_validated(features, labels, 5).probabilities, labels, FOLDS)
    wrong = labels != truth
    assert (issues & wrong).sum() / wrong.sum() > 0.85
    assert (issues & wrong).sum() / issues.sum() > 0.85

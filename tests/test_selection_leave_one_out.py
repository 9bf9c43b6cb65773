"""The closed form of a probe's leave-one-out scores against fitting it anew without each sample."""

from typing import NamedTuple

import numpy as np
import pytest

from spectral_sampler.estimates import leave_one_out as module


class Found(NamedTuple):
    scores: np.ndarray
    margins: np.ndarray
    penalty: float


def ask(features, rows, labels):
    """Scores (M, C) of all rows, and the margin of the best other class over the label."""
    probe = module.leave_one_out(features, rows, labels, int(labels.max()) + 1)
    scores = np.concatenate([scores for _, scores in probe.scores(np.arange(len(labels)))])
    return Found(scores, margins(scores, labels), probe.penalty)


def leave_one_out(features, labels):
    """Of all rows."""
    return ask(features, np.arange(len(labels)), labels)


def problem(rows=60, width=7, classes=4, seed=0, imbalance=1.0):
    generator = np.random.default_rng(seed)
    shares = imbalance ** (-np.arange(classes) / (classes - 1))
    labels = np.append(
        np.arange(classes).repeat(2), generator.choice(classes, rows - 2 * classes, p=shares / sum(shares))
    )
    return generator.normal(size=(rows, width)) + np.eye(classes, width)[labels], labels


def fitted_anew(features, labels, penalty):
    """Scores (M, C) of sample i from a weighted ridge regression on all the others."""
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    counts = np.bincount(labels)
    weights = np.sqrt(counts.max() / counts[labels])
    weights *= len(rows) / weights.sum()
    rows = rows - weights @ rows / len(rows)
    scale = np.linalg.eigvalsh((rows * weights[:, None]).T @ rows).max()
    augmented = np.hstack([rows, np.ones((len(rows), 1))])  # the intercept is not penalised
    penalties = np.diag([penalty * scale] * rows.shape[1] + [0.0])
    targets, scores = np.eye(len(counts))[labels], []
    for left_out in range(len(rows)):
        rest = np.arange(len(rows)) != left_out
        part, weight = augmented[rest], weights[rest, None]
        solution = np.linalg.solve(part.T @ (weight * part) + penalties, part.T @ (weight * targets[rest]))
        scores.append(augmented[left_out] @ solution)
    return np.array(scores)


@pytest.mark.parametrize("imbalance", [1.0, 10.0])
@pytest.mark.parametrize(("rows", "width", "classes"), [(60, 7, 4), (40, 90, 3), (90, 3, 2)])
def test_it_is_as_if_every_sample_had_been_left_out(monkeypatch, rows, width, classes, imbalance):
    features, labels = problem(rows, width, classes, imbalance=imbalance)
    monkeypatch.setattr(module, "_BLOCK", 17)
    found = leave_one_out(features, labels)
    counts = np.bincount(labels)
    weights, errors = np.sqrt(1.0 / counts[labels]), {}
    for penalty in module._PENALTIES:
        scores = fitted_anew(features, labels, penalty)
        errors[penalty] = weights @ ((scores - np.eye(classes)[labels]) ** 2).sum(1)
    assert found.penalty == min(errors, key=errors.get)
    scores = fitted_anew(features, labels, found.penalty)
    assert found.margins == pytest.approx(margins(scores, labels), abs=1e-3 if width > rows else 2e-5)
    assert found.scores == pytest.approx(scores, abs=1e-3 if width > rows else 2e-5)
    unlike = margins(fitted_anew(features, labels, found.penalty * 10), labels)
    assert np.abs(unlike - found.margins).max() > 5e-3, "another penalty is another probe"


def margins(scores, classes):
    return np.array([max(np.delete(row, one)) - row[one] for row, one in zip(scores, classes, strict=True)])


def test_a_sample_does_not_vouch_for_itself():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(80, 200)), generator.integers(0, 2, 80)
    found = leave_one_out(features, labels)
    assert abs(np.mean(found.margins < 0) - 0.5) < 0.2, "more dimensions than samples, and nothing to learn"
    copied = leave_one_out(np.repeat(features, 2, axis=0), np.repeat(labels, 2))
    assert np.mean(copied.margins < 0) > 0.95, "a copy does"


def test_only_the_rows_that_are_named_take_part():
    features, labels = problem(80)
    rows = np.setdiff1d(np.arange(80), [20, 30, 31])
    found = ask(features, rows, labels[rows])
    assert np.array_equal(found.margins, leave_one_out(features[rows], labels[rows]).margins)
    assert not np.array_equal(found.margins, leave_one_out(features, labels).margins[rows])


@pytest.mark.parametrize("labels", [np.arange(240) % 4, np.arange(240) // 60])
def test_some_rows_stand_for_all_whatever_the_order_of_the_labels(monkeypatch, labels):
    features = np.random.default_rng(3).normal(size=(240, 5)) + 3 * np.eye(4, 5)[labels]
    everything = leave_one_out(features, labels)
    monkeypatch.setattr(module, "_JUDGES", 60)
    found = leave_one_out(features, labels)
    judges, errors = module.some(240, 60), {}
    assert len(set(labels[judges])) == 4
    for penalty in module._PENALTIES:
        scores = fitted_anew(features, labels, penalty)
        errors[penalty] = ((scores - np.eye(4)[labels])[judges] ** 2).sum()
    assert found.penalty == min(errors, key=errors.get)
    assert found.penalty <= 10 * everything.penalty


def test_half_precision_does_not_overflow():
    features, labels = problem(300, 12, 5)
    large = (1e3 * features).astype(np.float16)  # the sum of squares is beyond 65,504
    assert leave_one_out(large, labels).margins == pytest.approx(leave_one_out(features, labels).margins, abs=1e-2)


def test_scale_dtype_and_blocks_do_not_matter():
    features, labels = problem(300, 12, 5)
    found = leave_one_out(features, labels)
    for other in (1e-30 * features, 1e30 * features, features.astype(np.float32), features.astype(np.float16)):
        again = leave_one_out(other, labels)
        assert again.margins == pytest.approx(found.margins, abs=1e-2)


@pytest.mark.parametrize("features", [np.zeros((6, 3)), np.ones((6, 3)), np.eye(6)])
def test_degenerate_features_have_scores(features):
    found = leave_one_out(features, np.array([0, 0, 0, 1, 1, 2]))
    assert np.isfinite(found.margins).all()
    assert np.isfinite(found.scores).all()


def test_rings_are_told_apart_and_lines_are_left_linear():
    generator = np.random.default_rng(0)
    labels, angle = np.arange(600) % 3, generator.uniform(0, 2 * np.pi, 600)
    rings = (labels + 1 + 0.1 * generator.normal(size=600))[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    features, classes = problem(300, 12, 5)
    for rows, names, linear in ((rings, labels, False), (3 * np.eye(5, 12)[classes] + features, classes, True)):
        every = np.arange(len(names))
        found = module.most_telling(rows, every, names, int(names.max()) + 1)
        scores = np.concatenate([scores for _, scores in found.scores(every)])
        assert np.mean(scores.argmax(axis=1) == names) > 0.95
        plain = module.leave_one_out(rows, every, names, int(names.max()) + 1)
        assert found.error <= plain.error
        assert linear or np.mean(leave_one_out(rows, names).margins < 0) < 0.5

"""The estimate of label noise against labels whose noise is known."""

import numpy as np
import pytest

from spectral_sampler.estimates.label_noise import estimate


def flipped(truth, noise, classes, generator):
    labels = truth.copy()
    rows = generator.choice(len(truth), round(noise * len(truth)), replace=False)
    labels[rows] = (labels[rows] + generator.integers(1, classes, len(rows))) % classes
    return labels


def clusters(classes, each, width, spread, noise=0.0, seed=0):
    """Features around a centre for each class, labels of which a share is wrong, and which."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(classes), each)
    centres = generator.normal(size=(classes, width)) / np.sqrt(width)
    features = centres[truth] + spread * generator.normal(size=(len(truth), width)) / np.sqrt(width)
    labels = flipped(truth, noise, classes, generator)
    return features, labels, labels != truth


PLENTY, HARD, SCARCE, TWO = (10, 200, 40, 1.5), (10, 200, 40, 3.0), (100, 10, 384, 3.5), (2, 500, 20, 2.0)
"""(classes, rows of each, width, spread); a probe is right about 97, 67, 75 and 90 times in 100."""
KINDS = pytest.mark.parametrize("kind", [PLENTY, HARD, SCARCE, TWO])


@KINDS
def test_right_labels_are_believed_however_hard(kind):
    features, labels, _ = clusters(*kind)
    found = estimate(features, labels)
    assert found.informative
    assert found.share < 0.02
    assert found.suspects().mean() < 0.02
    assert (found.accuracy > 0.95) == (kind is PLENTY)


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.35])
@KINDS
def test_wrong_labels_are_counted_and_found(kind, noise):
    features, labels, wrong = clusters(*kind, noise)
    found = estimate(features, labels)
    assert found.share == pytest.approx(noise, abs=0.08 if kind is SCARCE else 0.05)
    suspects = found.suspects()
    assert wrong[suspects].mean() > (0.85 if kind is PLENTY else 0.45)
    assert wrong[~suspects].mean() < 0.55 * noise


def test_a_share_may_be_given():
    features, labels, wrong = clusters(*PLENTY, 0.2)
    found = estimate(features, labels)
    assert not found.suspects(0.0).any()
    tenth = found.suspects(0.1)
    assert tenth.sum() == 200
    assert set(np.flatnonzero(tenth)) <= set(np.flatnonzero(found.suspects())), "the most doubtful first"
    assert wrong[tenth].mean() > 0.97
    assert found.suspects(0.99).sum() == np.count_nonzero(found.doubts > 0), "no label that is predicted"


def test_features_that_know_nothing_accuse_nobody():
    generator, informative = np.random.default_rng(0), 0
    for _ in range(20):
        found = estimate(generator.normal(size=(500, 20)), generator.integers(0, 10, 500))
        informative += found.informative
        assert found.informative or not found.suspects().any()
    assert informative <= 1
    for _ in range(20):  # a fifth of these are right a little more often than the more frequent of two classes
        assert not estimate(generator.normal(size=(100, 6)), generator.integers(0, 2, 100)).informative
    assert found.suspects(0.1).sum() == 50, "unless it is asked for"


def test_classes_that_are_not_judged_do_not_make_the_others_look_informative():
    generator = np.random.default_rng(0)
    sizes = np.round(300 / np.arange(1, 201)).astype(int)  # two thirds of the classes have fewer than five samples
    labels = np.repeat(np.arange(200), sizes)
    for _ in range(3):
        found = estimate(generator.normal(size=(len(labels), 16)), labels)
        assert not found.informative
        assert not found.suspects().any()


def test_a_class_of_five_is_judged_and_one_of_four_is_not():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [40, 40, 5, 4])
    features = np.eye(4)[labels] + 0.1 * generator.normal(size=(89, 4))
    found = estimate(features, labels)
    assert np.isfinite(found.doubts[labels == 2]).all()
    assert np.isneginf(found.doubts[labels == 3]).all()
    assert found.accuracy == np.mean(found.doubts[labels != 3] < 0)


def test_more_dimensions_than_samples():
    features, labels, wrong = clusters(2, 20, 500, 0.3, 0.1)
    found = estimate(features, labels)
    assert found.informative
    assert found.suspects().sum() == pytest.approx(4, abs=2)
    assert wrong[found.suspects()].mean() > 0.6


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_rare_classes_are_not_taken_for_mistakes(noise):
    generator = np.random.default_rng(1)
    sizes = np.maximum(1, np.round(40 * 100 ** (-np.arange(100) / 99))).astype(int)
    truth = np.repeat(np.arange(100), sizes)
    centres = generator.normal(size=(100, 384)) / np.sqrt(384)
    features = centres[truth] + 2.5 * generator.normal(size=(len(truth), 384)) / np.sqrt(384)
    labels = flipped(truth, noise, 100, generator)
    found = estimate(features, labels)
    assert found.informative
    assert found.share == pytest.approx(noise, abs=0.09)  # a third of the classes are not judged
    few = np.bincount(labels, minlength=100)[labels] < 5
    assert few.sum() > 50
    assert np.isneginf(found.doubts[few]).all(), "too little is known of such a class"
    accused, counts = found.suspects(), np.bincount(labels, minlength=100)[labels]
    right = labels == truth
    assert accused[right & (counts >= 10)].mean() < 0.02
    assert accused[right & (counts >= 5) & (counts < 10)].mean() < (0.02 if noise == 0.0 else 0.4), "as the text warns"


def test_copies_do_not_vouch_for_each_other():
    features, labels, wrong = clusters(*PLENTY, 0.2)
    rows = np.random.default_rng(1).permutation(np.arange(2000).repeat(2))
    found = estimate(features[rows], labels[rows])
    once = estimate(features, labels)
    assert found.share == pytest.approx(once.share, abs=0.01)
    assert found.suspects()[wrong[rows]].mean() > 0.8
    uneven = np.append(
        np.arange(2000), np.flatnonzero(~wrong).repeat(5)
    )  # right labels have six copies, wrong ones one
    accused = estimate(features[uneven], labels[uneven]).suspects()
    assert accused[~wrong[uneven]].mean() < 0.05
    assert accused[wrong[uneven]].mean() > 0.8
    others = labels.copy()
    others[:1000] = (others[:1000] + np.random.default_rng(2).integers(1, 10, 1000)) % 10
    found = estimate(np.tile(features, (2, 1)), np.append(labels, others))
    assert found.share > once.share + 0.1, "two labels for the same thing are no copies"


def test_the_names_of_classes_do_not_matter():
    features, labels, _ = clusters(*PLENTY, 0.2)
    first, second = estimate(features, labels), estimate(features, labels * 1000 - 7)
    assert first.share == second.share
    assert np.array_equal(first.doubts, second.doubts)


@pytest.mark.parametrize("labels", [[3, 3, 3], [0, 1, 2], [0, 0, 1]])
def test_any_labels_have_an_answer(labels):
    found = estimate(np.eye(3) + 0.1, np.array(labels))
    assert 0.0 <= found.share <= 1.0
    assert not found.informative
    assert not found.suspects().any()


def separable(classes, each, wrong, seed=0):
    """Classes that nobody mixes up, each of whose wrong labels are all of the next one; and which are wrong."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(classes), each)
    features = np.eye(classes, 16)[truth] + 0.1 * generator.normal(size=(len(truth), 16))
    chosen = generator.choice(len(truth), round(wrong * len(truth)), replace=False)
    labels = truth.copy()
    labels[chosen] = (labels[chosen] + 1) % classes
    return features, labels, labels != truth


@pytest.mark.parametrize("share", [0.14, 0.2, 0.33])
@pytest.mark.parametrize("classes", [3, 10])
def test_wrong_labels_that_are_all_of_one_other_class(classes, share):
    features, labels, wrong = separable(classes, 200, share)
    found = estimate(features, labels)
    suspects = found.suspects()
    assert found.share == pytest.approx(share, abs=0.04)
    assert wrong[suspects].mean() > 0.9
    assert suspects[wrong].mean() > 0.9
    assert found.joint.sum() == pytest.approx(1.0)
    assert 1.0 - np.trace(found.joint) == pytest.approx(found.share, abs=1e-6)
    beside = np.arange(classes), (np.arange(classes) + 1) % classes
    assert found.joint[beside].sum() == pytest.approx(share, abs=0.05), "who is taken for whom, not only how many"
    given = found.suspects(share)
    assert wrong[given].mean() > 0.9


@pytest.mark.parametrize("kind", ["pairs", "one way", "cycle"])
def test_noise_between_classes_that_are_alike(kind):
    generator = np.random.default_rng(5)
    features, truth, _ = clusters(*PLENTY, seed=3)
    labels, rows = truth.copy(), generator.random(len(truth)) < 0.2
    new = {"pairs": truth ^ 1, "one way": truth & ~1, "cycle": (truth + 1) % 10}[kind]
    labels[rows] = new[rows]
    wrong = labels != truth
    found = estimate(features, labels)
    suspects = found.suspects()
    assert found.share == pytest.approx(wrong.mean(), abs=0.04)
    assert wrong[suspects].mean() > 0.8
    assert suspects[wrong].mean() > 0.8


def overlap(classes, accuracy_like, generator):
    centres = accuracy_like * np.eye(classes, 8)
    labels = np.repeat(np.arange(classes), 400)
    return centres[labels] + generator.normal(size=(len(labels), 8)), labels


def rings(generator):
    labels, angle = np.arange(1200) % 3, generator.uniform(0, 2 * np.pi, 1200)
    radius = labels + 1 + 0.1 * generator.normal(size=1200)
    return radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]), labels


def moons(generator):
    labels, angle = np.arange(1200) % 2, generator.uniform(0, np.pi, 1200)
    points = np.column_stack([np.cos(angle), np.sin(angle)])
    points = np.where(labels[:, None] == 1, np.array([1.0, 0.5]) - points, points)
    return points + 0.2 * generator.normal(size=points.shape), labels


def levels(generator):
    labels = np.repeat(np.arange(6), 250)
    return np.column_stack([labels + 0.8 * generator.normal(size=1500), generator.normal(size=(1500, 4))]), labels


CLEAN = {
    "rings": rings, "moons": moons, "levels": levels,
    **{f"overlap {c} {a}": lambda g, c=c, a=a: overlap(c, a, g) for c in (2, 4) for a in (1.0, 1.5, 2.5)},
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_classes_that_overlap_bend_or_lie_on_a_line_keep_their_right_labels(name):
    for seed in range(2):
        features, labels = CLEAN[name](np.random.default_rng(seed))
        assert estimate(features, labels).suspects().mean() <= 0.03


@pytest.mark.parametrize("name", ["rings", "moons"])
def test_noise_is_found_in_bent_classes(name):
    features, truth = CLEAN[name](np.random.default_rng(1))
    labels = flipped(truth, 0.2, int(truth.max()) + 1, np.random.default_rng(2))
    wrong, suspects = labels != truth, estimate(features, labels).suspects()
    assert wrong[suspects].mean() > 0.85
    assert suspects[wrong].mean() > 0.85


def test_the_order_of_rows_and_the_names_of_classes_do_not_matter():
    features, labels, _ = separable(4, 100, 0.2)
    found, order = estimate(features, labels), np.random.default_rng(0).permutation(len(labels))
    turned = estimate(features[order], 7 - 2 * labels[order])
    assert turned.share == pytest.approx(found.share, abs=1e-4)
    assert turned.doubts == pytest.approx(found.doubts[order], rel=0.01, abs=0.05)
    assert turned.joint == pytest.approx(found.joint[::-1, ::-1], abs=1e-4)


@pytest.mark.parametrize("noise", [0.35, 0.6])
def test_every_class_keeps_a_core_of_its_labels_and_it_is_said_where_that_was_needed(noise):
    features, labels, wrong = clusters(*SCARCE, noise)
    found = estimate(features, labels)
    suspects = found.suspects()
    kept = np.bincount(labels[~suspects], minlength=100) / np.bincount(labels, minlength=100)
    assert kept.min() >= (1 - max(0.5, found.share)) / 2
    assert np.count_nonzero(suspects & wrong) > 1.5 * np.count_nonzero(suspects & ~wrong)
    assert found.unclear > 0
    assert estimate(*clusters(*PLENTY, 0.35)[:2]).unclear == 0


def test_what_noise_between_classes_must_reach_to_be_seen():
    plenty = estimate(*clusters(*PLENTY)[:2]).unseen
    scarce = estimate(*clusters(*SCARCE)[:2]).unseen
    assert 0.0 < plenty < 0.02
    assert 0.15 < scarce < 0.4, "two of ten rows of a class that one other took come by chance"


def test_suspects_are_as_many_as_the_estimated_share_at_most():
    for noise in (0.05, 0.2, 0.6):
        features, labels, wrong = clusters(*HARD, noise)
        found = estimate(features, labels)
        suspects = found.suspects()
        assert 0 < suspects.sum() <= round(found.share * len(labels))
        assert found.doubts[suspects].min() > 0
        assert found.doubts[suspects].min() >= found.doubts[~suspects].max(), "the most doubtful ones"
        assert wrong[suspects].mean() > 0.65

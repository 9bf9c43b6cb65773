"""The estimate of label noise against losses whose noise is known."""

import math

import numpy as np
import pytest

from spectral_sampler.selection.label_noise import estimate

ROWS, CLASSES = 20_000, 10


def losses_of(noise, *, sure, aware=0.0, seed=0):
    """Losses of a calibrated model under labels of which a share is wrong; ``aware``: the noise that it allows for.

    The model's probability for the right class is Beta(sure, 1); the rest is spread over the other classes unevenly.
    """
    generator = np.random.default_rng(seed)
    right = generator.beta(sure, 1.0, ROWS)
    others = generator.dirichlet(np.full(CLASSES - 1, 0.3), ROWS) * (1 - right)[:, None]
    chances = np.concatenate([right[:, None], others], axis=1)
    truth = (generator.random((ROWS, 1)) > np.cumsum(chances, axis=1)).sum(1).clip(max=CLASSES - 1)
    wrong = generator.random(ROWS) < noise
    labels = np.where(wrong, (truth + generator.integers(1, CLASSES, ROWS)) % CLASSES, truth)
    stated = (1 - aware) * chances + aware * (1 - chances) / (CLASSES - 1)
    return -np.log(np.maximum(stated[np.arange(ROWS), labels], 1e-30)), wrong


@pytest.mark.parametrize("sure", [2.0, 10.0, 50.0])
def test_right_labels_are_believed_however_hard(sure):
    losses, _ = losses_of(0.0, sure=sure)
    found = estimate(losses, CLASSES)
    assert found.informative
    assert found.guess == pytest.approx(math.log(10))
    assert found.doubt < 0.5
    if sure >= 10:
        assert found.share < 0.02


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("aware", [False, True])
def test_wrong_labels_are_counted_whether_the_model_allows_for_them_or_not(noise, aware):
    losses, wrong = losses_of(noise, sure=20.0, aware=noise if aware else 0.0)
    found = estimate(losses, CLASSES)
    assert found.informative == (aware or noise < 0.3)  # a sure model is wrong at a high price
    assert found.share == pytest.approx(noise, rel=0.25)
    actual = wrong[losses > found.guess].mean()
    assert found.doubt == pytest.approx(actual, abs=0.2)
    assert found.doubt > 0.5


def test_a_model_that_is_never_sure_of_right_labels_does_not_doubt_them():
    losses, _ = losses_of(0.0, sure=50.0)
    unsure = np.minimum(losses, 2.0) + 0.3  # temperature, label smoothing, too few epochs
    found = estimate(unsure, CLASSES)
    suspects = np.mean(unsure > found.guess)
    assert found.share > 2 * suspects
    assert found.doubt == pytest.approx(suspects / found.share)


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0])
def test_a_model_that_only_guesses_is_not_informative(spread):
    generator = np.random.default_rng(1)
    logits = spread * generator.normal(size=(ROWS, CLASSES))
    labels = generator.integers(0, CLASSES, ROWS)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(ROWS), labels]
    assert not estimate(losses, CLASSES).informative
    logits[np.arange(ROWS), labels] += 0.5  # and one that knows a little is
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(ROWS), labels]
    assert estimate(losses, CLASSES).informative


@pytest.mark.parametrize("losses", [[0.0], [0.0, 0.0, 0.0], [1e30, 0.1], [800.0] * 5, [-0.5, 3.0, 0.2]])
def test_any_losses_have_an_answer(losses):
    found = estimate(np.array(losses, dtype=np.float32), 3)
    assert 0.0 <= found.share <= 1.0
    assert 0.0 <= found.doubt <= 1.0
    assert not estimate(np.array(losses), 1).informative, "one class says nothing"

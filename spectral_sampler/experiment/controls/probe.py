"""A logistic regression on the reference's features: what it says of rows that it was not fitted to."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from spectral_sampler import draws
from spectral_sampler.experiment.data import default_cache
from spectral_sampler.experiment.kept import kept_arrays
from spectral_sampler.experiment.policy import Finished, Material
from spectral_sampler.experiment.reference import features_of_test
from spectral_sampler.experiment.samples import TensorSamples
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FOLDS", "OutOfSample", "cross_validated", "linear_probe", "out_of_sample"]

FOLDS = 5
"""As in cleanlab."""
_INVERSE_PENALTIES = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C, for rows of unit length
_STREAM = 0x464F4C44
_ABSENT = -30.0  # logit of a class that no row was labelled with


class OutOfSample(NamedTuple):
    """What the probes say of rows that they were not fitted to."""

    probabilities: NDArray[np.float64]
    """(M, C)"""
    inverse_penalty: float
    """scikit-learn's C, the one of least out-of-sample cross-entropy on the labels seen."""
    flops: float
    """Of all fits: two products with the features an iteration."""


def _unit(features: NDArray[Any]) -> NDArray[np.float32]:
    rows = np.asarray(features, dtype=np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny))


def _fitted(
    rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int, inverse_penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Weights (C, d), intercepts (C,), and the FLOPs that they cost; a class without a row is never predicted."""
    weights, intercepts = np.zeros((classes, rows.shape[1])), np.full(classes, _ABSENT)
    names = np.unique(labels)
    if len(names) == 1:
        intercepts[names] = 0.0
        return weights, intercepts, 0.0
    model = optional("sklearn.linear_model").LogisticRegression(C=inverse_penalty, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an end before convergence, which regularises a little more
        model.fit(rows, labels)
    two = len(names) == 2  # for which scikit-learn has the logit of the second class alone
    weights[names] = np.concatenate([np.zeros_like(model.coef_), model.coef_]) if two else model.coef_
    intercepts[names] = np.concatenate([np.zeros(1), model.intercept_]) if two else model.intercept_
    return weights, intercepts, 4.0 * rows.size * len(model.coef_) * float(model.n_iter_.max())


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def cross_validated(features: NDArray[Any], labels: NDArray[np.int64], classes: int, seed: int = 0) -> OutOfSample:
    """Probabilities of every row's classes from a multinomial logistic regression on the other folds.

    Five folds, classes spread evenly over them; features are scaled to unit length. The penalty is the one of least
    cross-entropy on the first fold, penalties falling until it rises. Where the fits of a fold miss a class, for want
    of rows, they give it next to no probability.

    Args:
        features: (M, d), finite, M ≥ 2.
        labels: (M,) in [0, ``classes``).
        seed: of the folds.
    """
    rows = _unit(features)
    order = np.lexsort((draws.uniforms(seed, 0, 0, np.arange(len(labels)), _STREAM), labels))
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    probabilities, flops = np.empty((len(labels), classes)), 0.0

    def likelihood(fold: int, inverse_penalty: float) -> float:
        nonlocal flops
        out = folds == fold
        weights, intercepts, cost = _fitted(rows[~out], labels[~out], classes, inverse_penalty)
        probabilities[out] = found = _softmax(rows[out] @ weights.T + intercepts)
        flops += cost
        return float(np.log(np.maximum(found[np.arange(len(found)), labels[out]], np.finfo(np.float64).tiny)).mean())

    best, highest = _INVERSE_PENALTIES[0], -np.inf
    for inverse_penalty in _INVERSE_PENALTIES:
        if (reached := likelihood(0, inverse_penalty)) <= highest:
            break
        best, highest = inverse_penalty, reached
    for fold in np.unique(folds).tolist():
        likelihood(fold, best)
    return OutOfSample(probabilities, best, flops)


def out_of_sample(material: Material) -> OutOfSample:
    """`cross_validated` for the training rows, once for all policies of a seed: it is kept in the cache."""
    store, classes = material.reference.store, len(material.task.classes)
    path = (material.cache or default_cache()) / "probes" / f"{store.fingerprint}-{classes}-seed{material.seed}.npz"
    labels = material.train.labels
    found = kept_arrays(path, lambda: cross_validated(store.features, labels, classes, material.seed)._asdict())
    return OutOfSample(found["probabilities"], float(found["inverse_penalty"]), float(found["flops"]))


def linear_probe(material: Material) -> Finished:
    """The regression on all training rows with the labels that the learner sees, to be judged on the test rows'
    features; its penalty is the cross-validated one, and nothing of the test part is looked at.

    Raises:
        ArgumentError: a reference that knows no features of the test rows.
    """
    classes, store = len(material.task.classes), material.reference.store
    chosen = out_of_sample(material)
    rows, labels = _unit(store.features), material.train.labels
    tested = features_of_test(material.settings, material.task, material.corrupted, material.seed, material.cache)
    weights, intercepts, flops = _fitted(rows, labels, classes, chosen.inverse_penalty)
    network = nn.Linear(rows.shape[1], classes)
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(weights))
        network.bias.copy_(torch.from_numpy(intercepts))
    parts = (TensorSamples(torch.from_numpy(rows), labels),
             TensorSamples(torch.from_numpy(_unit(tested)), material.task.test.labels))  # fmt: skip
    record = {"probe_flops": chosen.flops + flops, "inverse_penalty": chosen.inverse_penalty}
    return Finished(network, *parts, record)

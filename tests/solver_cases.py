"""Graphs every backend must solve: (name, group, builder(seed) -> features (N, d), what must come out)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Builder = Callable[[int], np.ndarray]


class Expectation(NamedTuple):
    """What is known of a case beyond the checks that hold for all (`solver_checks`)."""

    degenerate: bool | None = None  # None: decided by the true gap
    indefinite: bool | None = None
    group: Callable[[int], np.ndarray] | None = None  # (N,) bool: the rows that must be positive, and no others
    order: Callable[[int], np.ndarray] | None = None  # (N,) numbers the vector must be monotone in
    same_bits_as: Builder | None = None  # features with exactly the same unit rows


class Case(NamedTuple):
    """One line of the table."""

    name: str
    group: str
    builder: Builder
    expectation: Expectation


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 20250704])


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)


def post_relu(seed: int, size: int = 48, width: int = 96) -> np.ndarray:
    rng = _rng(seed)
    factors = rng.normal(size=(size, 12)) @ rng.normal(size=(12, width)) / 3
    return _float32(np.maximum(factors + 0.3 * rng.normal(size=(size, width)), 0) + 1e-3)


def sentences(seed: int, size: int = 48, width: int = 96) -> np.ndarray:
    rng = _rng(seed)
    decay = 1 / np.sqrt(1 + np.arange(width))
    return _float32(rng.normal(size=(size, width)) * decay + 0.4 * rng.normal(size=width) * decay)


def counts(seed: int, size: int = 48, width: int = 200) -> np.ndarray:
    rng = _rng(seed)
    features = rng.poisson(rng.random((size, 1)) * 3 * rng.random(width) ** 6, size=(size, width))
    features[:, 0] += 1
    return _float32(features)


def gaussian(size: int, width: int) -> Builder:
    return lambda seed: _float32(_rng(seed).normal(size=(size, width)))


def positive(size: int, width: int) -> Builder:
    return lambda seed: _float32(_rng(seed).random((size, width)) + 0.05)


def centred(seed: int) -> np.ndarray:
    features = post_relu(seed)
    return features - features.mean(axis=0)


def antipodal(seed: int) -> np.ndarray:
    half = _rng(seed).normal(size=(20, 16))
    return _float32(np.concatenate((half, -half)))


# --- degenerate ---


def identical(seed: int) -> np.ndarray:
    return _float32(np.tile(_rng(seed).normal(size=(1, 9)), (24, 1)))


def identical_scaled(seed: int) -> np.ndarray:
    return _float32(identical(seed) * 2.0 ** _rng(seed + 1).integers(-20, 20, size=(24, 1)))


def orthonormal(seed: int) -> np.ndarray:
    return _float32(np.eye(16)[_rng(seed).permutation(16)])


def orthonormal_rotated(seed: int) -> np.ndarray:
    return _float32(np.linalg.qr(_rng(seed).normal(size=(16, 16)))[0])


def star(seed: int) -> np.ndarray:
    leaves = np.eye(16)
    return _float32(np.concatenate((leaves.sum(axis=0, keepdims=True), leaves))[_rng(seed).permutation(17)])


def simplex(seed: int) -> np.ndarray:
    return _float32((np.eye(12) - 1 / 12)[_rng(seed).permutation(12)])


def circle(seed: int) -> np.ndarray:
    angle = 2 * np.pi * _rng(seed).permutation(20) / 20
    return _float32(np.stack((np.cos(angle), np.sin(angle)), axis=1))


def four_cliques(seed: int) -> np.ndarray:
    return _float32(np.eye(4)[_rng(seed).permutation(np.repeat(np.arange(4), 6))])


# --- disconnected and nearly so ---


def small_group(sizes: tuple[int, int]) -> Callable[[int], np.ndarray]:
    return lambda seed: _rng(seed).permutation(np.repeat([True, False], sizes))


def two_cliques(seed: int) -> np.ndarray:
    return _float32(np.eye(2)[small_group((7, 20))(seed).astype(int)])


def two_blocks(cosine: float, sizes: tuple[int, int] = (9, 20)) -> Builder:
    """Blocks on disjoint columns; one row of each shares a column, so that their cosine is ``cosine``."""

    def build(seed: int) -> np.ndarray:
        rng = _rng(seed + 77)
        inside = small_group(sizes)(seed)
        features = np.zeros((sum(sizes), 25))
        features[inside, :12] = rng.random((sizes[0], 12)) + 0.2
        features[~inside, 12:24] = rng.random((sizes[1], 12)) + 0.2
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        for block in (inside, ~inside):
            features[np.flatnonzero(block)[0], 24] = np.sqrt(cosine)
        return _float32(features)

    return build


def isolated_row(seed: int) -> np.ndarray:
    features = np.zeros((25, 13))
    features[:, :12] = _rng(seed).random((25, 12)) + 0.1
    features[single_row(25)(seed)] = np.eye(13)[12]
    return _float32(features)


def single_row(size: int) -> Callable[[int], np.ndarray]:
    return lambda seed: np.arange(size) == _rng(seed + 5).integers(size)


# --- near-degenerate ---


def three_blocks(cosine: float) -> Builder:
    """λ2 = λ3 = 0 but for two links between the blocks, one thrice the other: (λ3 − λ2) / ‖L‖ is about 0.03 of it."""

    def build(seed: int) -> np.ndarray:
        rng = _rng(seed)
        features = np.zeros((30, 5))
        features[np.arange(30), np.arange(30) // 10] = 1.0
        features[[0, 10], 3] = np.sqrt(cosine)
        features[[11, 20], 4] = np.sqrt(3 * cosine)
        return _float32(features[rng.permutation(30)] * 2.0 ** rng.integers(-3, 4, size=(30, 1)))

    return build


def rank_one(noise: float) -> Builder:
    def build(seed: int) -> np.ndarray:
        rng = _rng(seed)
        return _float32(1 + rng.random(40) + noise * rng.normal(size=(32, 40)))

    return build


def repeated_rows(seed: int) -> np.ndarray:
    rng = _rng(seed)
    return _float32((rng.random((5, 30)) + 0.01)[rng.integers(0, 5, size=40)])


# --- structured ---


def arc_angles(seed: int) -> np.ndarray:
    return np.pi / 2 * (_rng(seed).permutation(28) + 0.5) / 28


def arc(seed: int) -> np.ndarray:
    return _float32(np.stack((np.cos(arc_angles(seed)), np.sin(arc_angles(seed))), axis=1))


def outlier(seed: int) -> np.ndarray:
    rng = _rng(seed)
    features = rng.random((30, 24)) * 0.4 + 1
    features[single_row(30)(seed)] = np.where(np.arange(24) < 3, 3.0, 0.01)
    return _float32(features)


def two_clusters(seed: int) -> np.ndarray:
    rng = _rng(seed)
    centres = np.stack((np.arange(20) < 10, np.arange(20) >= 8)).astype(float)
    return _float32(centres[small_group((10, 22))(seed).astype(int)] + 0.15 * rng.random((32, 20)))


# --- scale: powers of two leave the unit rows as they are, to the last bit ---


def rescaled(exponent: Callable[[np.random.Generator, int], np.ndarray], base: Builder = post_relu) -> Builder:
    def build(seed: int) -> np.ndarray:
        features = base(seed)
        return _float32(features.astype(np.float64) * 2.0 ** exponent(_rng(seed + 9), len(features))[:, None])

    return build


def coarse(seed: int) -> np.ndarray:
    """Post-ReLU features in steps of 2⁻⁶, which a subnormal number can hold exactly."""
    return _float32(np.round(post_relu(seed) * 64 + 1) / 64)


def half_precision(seed: int) -> np.ndarray:
    features = post_relu(seed)
    return (features / features.max() * 6e4).astype(np.float16)  # their squares overflow float16


def giant_entry(seed: int) -> np.ndarray:
    features = post_relu(seed)
    features[single_row(48)(seed), 5] = 1e20
    return features


def giant_column(seed: int) -> np.ndarray:
    features = post_relu(seed)
    features[:, 5] = 300 + 20 * _rng(seed).random(48)
    return _float32(features)


_DEGENERATE = Expectation(degenerate=True)
_INDEFINITE = Expectation(indefinite=True)

CASES: list[Case] = [
    Case("identical rows", "degenerate", identical, _DEGENERATE),
    Case("identical directions", "degenerate", identical_scaled, _DEGENERATE),
    Case("orthonormal", "degenerate", orthonormal, _DEGENERATE),
    Case("orthonormal rotated", "degenerate", orthonormal_rotated, _DEGENERATE),
    Case("star", "degenerate", star, _DEGENERATE),
    Case("simplex", "degenerate", simplex, Expectation(degenerate=True, indefinite=True)),
    Case("circle", "degenerate", circle, Expectation(degenerate=True, indefinite=True)),
    Case("four cliques", "degenerate", four_cliques, _DEGENERATE),
    Case("two cliques", "disconnected", two_cliques, Expectation(False, False, small_group((7, 20)))),
    Case("two blocks", "disconnected", two_blocks(0.0), Expectation(False, False, small_group((9, 20)))),
    Case("isolated row", "disconnected", isolated_row, Expectation(False, False, single_row(25))),
    *(
        Case(f"link {cosine:g}", "disconnected", two_blocks(cosine), Expectation(False, False, small_group((9, 20))))
        for cosine in (1e-3, 1e-5, 1e-7)
    ),
    Case("gaussian d=32", "signed", gaussian(48, 32), _INDEFINITE),
    Case("gaussian d=4096", "signed", gaussian(40, 4096), _INDEFINITE),
    Case("centred", "signed", centred, _INDEFINITE),
    Case("antipodal", "signed", antipodal, _INDEFINITE),
    Case("gap 1e-3", "near-degenerate", three_blocks(4e-2), Expectation(False, False)),
    Case("gap 1e-5", "near-degenerate", three_blocks(3.4e-4), Expectation(False, False)),
    Case("gap 1e-7", "near-degenerate", three_blocks(3.4e-6), Expectation(True, False)),
    *(Case(f"rank one + {noise:g}", "near-degenerate", rank_one(noise), Expectation()) for noise in (1e-2, 1e-4, 1e-6)),
    Case("repeated rows", "near-degenerate", repeated_rows, Expectation(indefinite=False)),
    Case("arc", "structured", arc, Expectation(False, False, order=arc_angles)),
    Case("outlier", "structured", outlier, Expectation(False, False, single_row(30))),
    Case("two clusters", "structured", two_clusters, Expectation(False, False, small_group((10, 22)))),
    Case("rows × 2^100", "scale", rescaled(lambda r, n: np.full(n, 100)), Expectation(same_bits_as=post_relu)),
    Case("rows × 2^-100", "scale", rescaled(lambda r, n: np.full(n, -100)), Expectation(same_bits_as=post_relu)),
    Case("rows mixed", "scale", rescaled(lambda r, n: r.integers(-83, 84, n)), Expectation(same_bits_as=post_relu)),
    Case("rows subnormal", "scale", rescaled(lambda r, n: np.full(n, -140), coarse), Expectation(same_bits_as=coarse)),
    Case("rows × 1e30", "scale", lambda seed: post_relu(seed) * np.float32(1e30), Expectation()),
    Case("rows × 1e-30", "scale", lambda seed: post_relu(seed) * np.float32(1e-30), Expectation()),
    Case("half precision", "scale", half_precision, Expectation()),
    Case("giant entry", "scale", giant_entry, Expectation()),
    Case("giant column", "scale", giant_column, Expectation()),
    Case("N=2", "shape", positive(2, 5), Expectation(degenerate=False)),
    Case("N=2 signed", "shape", gaussian(2, 5), Expectation(degenerate=False)),
    Case("N=3", "shape", positive(3, 4), Expectation()),
    Case("d=1", "shape", positive(17, 1), _DEGENERATE),
    Case("d=1 signed", "shape", gaussian(17, 1), Expectation()),
    *(
        Case(f"{kind.__name__} {size}×{width}", "shape", kind(size, width), Expectation())
        for size, width in ((63, 7), (65, 33), (127, 129), (129, 1), (255, 511), (257, 3))
        for kind in (positive, gaussian)
    ),
    Case("post-ReLU", "realistic", post_relu, Expectation(False, False)),
    Case("sentences", "realistic", sentences, Expectation(False)),
    Case("counts", "realistic", counts, Expectation(False, False)),
]


def fuzzed(rng: np.random.Generator, size: int, width: int) -> np.ndarray:
    """Features of a random kind: signed, positive, sparse, of low rank, repeated, clustered, ternary, near-parallel."""
    features = rng.normal(size=(size, width))
    kind = rng.integers(8)
    if kind == 1:
        features = np.abs(features)
    elif kind == 2:
        features = np.where(rng.random((size, width)) < 0.2, np.abs(features), 0)
    elif kind == 3:
        features = rng.normal(size=(size, 2)) @ rng.normal(size=(2, width))
    elif kind == 4:
        features = features[rng.integers(0, max(1, size // 3), size=size)]
    elif kind == 5:
        features = 3 * features[rng.integers(0, min(3, size), size=size)] + 0.1 * features
    elif kind == 6:
        features = rng.integers(-1, 2, size=(size, width)).astype(float)
    elif kind == 7:
        features = 1 + 10.0 ** -rng.integers(0, 6) * features
    features = features * 10.0 ** rng.choice([0, 0, 0, 12, -12], size=(size, 1))
    features[~features.any(axis=1), 0] = 1.0
    return _float32(features)

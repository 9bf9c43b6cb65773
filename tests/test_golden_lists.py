"""The index lists of selections that the store alone decides, pinned: they may not change by accident any more."""

import hashlib

import numpy as np
import pytest

from spectral_sampler import (
    GSTDS,
    SALN,
    LossWeighted,
    PlausibleEven,
    ReferenceStore,
    SigmoidSchedule,
    SpectralBatchSampler,
    SpectralStrata,
    Uniform,
)

# Integers, so that no generator of NumPy's and no rounding is part of it.
ROWS = np.arange(600)
FEATURES = ((ROWS[:, None] ** 2 * np.array([7, 11, 13, 17, 19, 23]) + ROWS[:, None] * 977) % 10007 + 1).astype(
    np.float32
)
STORE = ReferenceStore.from_arrays(FEATURES, losses=(ROWS * 37 % 59 + 1) / 16, labels=ROWS * 31 % 7)
LARGE = ReferenceStore.from_arrays((np.arange(20000)[:, None] % 97 + 1).astype(np.float32))

GOLDEN = {
    "uniform": (lambda: {"selection": Uniform()}, "24dba96ccd7cea45"),
    "loss-weighted": (lambda: {"selection": LossWeighted()}, "8393ebbdb8e75224"),
    "saln": (lambda: {"selection": SALN()}, "e13ce6c8a2579d32"),
    "gstds": (
        lambda: {"selection": GSTDS(), "keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.3), "epochs": 4},
        "476ada064f929f49",
    ),
    "strata": (lambda: {"selection": SpectralStrata()}, "1eca364575ed4701"),
    "plausible-even": (lambda: {"selection": PlausibleEven(balance=1, label_noise=0)}, "1c4166453a0b28b5"),
    "sequential": (lambda: {"selection": Uniform(), "shuffle": False}, "e117d81af38f665e"),
    "fixed": (lambda: {"selection": Uniform(), "reshuffle": False}, "74d5da1e7b4e8ab7"),
    "constant": (lambda: {"selection": Uniform(), "emit": "constant", "batch_size": 16}, "dee6ac96faef116c"),
    "tail": (lambda: {"selection": Uniform(), "drop_last": False, "multiple_of": 4}, "f963662fb48fe0af"),
    "large": (lambda: {"store": LARGE, "selection": Uniform(), "seed": 5}, "6e3ad2aec0c7cd72"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_lists_are_pinned(name):
    options, digest = GOLDEN[name][0](), GOLDEN[name][1]
    sampler = SpectralBatchSampler(options.pop("store", STORE), 64, **options)
    lists = [rows for _ in range(2) for rows in sampler]
    assert hashlib.sha256(repr(lists).encode()).hexdigest()[:16] == digest, lists[0]

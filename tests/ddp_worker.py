"""One rank of tests/test_ddp.py, and what one process makes of the same training."""

import itertools
import traceback

import numpy as np
import torch

from spectral_sampler import (
    EL2N,
    GSTDS,
    JEST,
    SALN,
    BanditSchedule,
    Chain,
    DivBS,
    GradientNorm,
    Guarded,
    Herding,
    InfoBatch,
    KCentre,
    Leverage,
    LossWeighted,
    MellowAIMD,
    Mix,
    PlateauSchedule,
    PlausibleEven,
    PlausibleLearnable,
    ReferenceStore,
    RHOLoss,
    SensitivitySampling,
    SeTa,
    SpectralBatchSampler,
    SpectralStrata,
    Uniform,
)
from spectral_sampler.gathering import gathered

SAMPLES, EPOCHS = 512, 3
_RANDOM = np.random.default_rng(7)
_LABELS = np.arange(SAMPLES) % 4
_FEATURES = _RANDOM.normal(size=(SAMPLES, 8)).astype(np.float32) + 3 * np.eye(8, dtype=np.float32)[_LABELS]
STORE = ReferenceStore.from_arrays(_FEATURES, losses=_RANDOM.gamma(0.5, size=SAMPLES), labels=_LABELS)
DIFFICULTY = _RANDOM.gamma(2.0, size=SAMPLES)
_LOGITS = torch.from_numpy(_RANDOM.normal(size=(SAMPLES, 4)))


def learner(indices):
    return _LOGITS[indices], torch.from_numpy(_FEATURES[indices])


RUNS = {
    "uniform": lambda: {"selection": Uniform()},
    "saln": lambda: {"selection": SALN()},
    "gstds": lambda: {"selection": GSTDS()},
    "spectral-strata": lambda: {"selection": SpectralStrata()},
    "loss-weighted": lambda: {"selection": LossWeighted()},
    "plausible-even": lambda: {"selection": PlausibleEven()},
    "plausible-learnable": lambda: {"selection": PlausibleLearnable()},
    "rho-loss": lambda: {"selection": RHOLoss()},
    "jest": lambda: {"selection": JEST(temperature=0.5)},
    "jest-joint": lambda: {"selection": JEST(joint=True), "learner": learner},
    "gradient-norm": lambda: {"selection": GradientNorm(gate=False), "learner": learner},
    "divbs": lambda: {"selection": DivBS(), "learner": learner},
    "el2n": lambda: {"selection": EL2N(0.1), "learner": learner},
    "k-centre": lambda: {"selection": KCentre()},
    "herding": lambda: {"selection": Herding()},
    "leverage": lambda: {"selection": Leverage()},
    "infobatch": lambda: {"selection": InfoBatch()},
    "seta": lambda: {"selection": SeTa()},
    "sensitivity": lambda: {"selection": SensitivitySampling(8)},
    "sensitivity-learner": lambda: {"selection": SensitivitySampling(8, losses="learner")},
    "mellow-aimd": lambda: {"selection": RHOLoss(), "keep_ratio": MellowAIMD(decrease=0.05)},
    "guarded": lambda: {"selection": Guarded(RHOLoss(), level=0.5)},  # acts at once
    "guarded-tried": lambda: {"selection": Guarded(SALN(), level=1e-9)},
    "plateau": lambda: {"selection": Uniform(), "keep_ratio": PlateauSchedule(periods=6)},  # 8 batches each
    "bandit": lambda: {"selection": Uniform(), "keep_ratio": BanditSchedule(periods=6)},
    "hybrid": lambda: {"selection": Mix(Chain(SALN(), LossWeighted(), share=0.8), RHOLoss(), share=0.4)},
}
"""What a run adds to the defaults. `BayesianSelection`, `UDS`, `Forgetting`, and `GradientNorm` with its gate, are not
here: they learn from this rank's batches alone."""


def losses_of(indices, seen, epoch):
    """A learner that learns what it sees: a function of the sample, how often it was seen, and the epoch."""
    return torch.from_numpy(DIFFICULTY[indices] / (1 + seen[indices]) + 0.01 * epoch).float()


def play(name, together, *, num_replicas=1, rank=0, gather=None):
    """Trains ``together`` batches a step and observes their losses in one call: a list of steps, each a list of
    (epoch, indices, weights, mean learnability of the batch)."""
    options = {"candidate_batch_size": 32, "epochs": EPOCHS, "keep_ratio": 0.5, "seed": 5, **RUNS[name]()}
    sampler = SpectralBatchSampler(STORE, num_replicas=num_replicas, rank=rank, **options)
    seen, told = np.zeros(SAMPLES, dtype=np.int64), []
    for epoch in range(EPOCHS):
        batches = iter(sampler)
        while step := [(batch, sampler.weights_for(batch).tolist()) for batch in itertools.islice(batches, together)]:
            indices = np.concatenate([batch for batch, _ in step])
            losses = losses_of(indices, seen, epoch)
            gains = np.split(losses.numpy() - STORE.losses[indices], np.cumsum([len(batch) for batch, _ in step])[:-1])
            told.append([(epoch, *pair, float(gain.mean())) for pair, gain in zip(step, gains, strict=True)])
            sampler.observe(torch.from_numpy(indices), losses, gather=gather)
            trained = indices if num_replicas == 1 else gathered(indices, losses, capacity=32)[0]
            np.add.at(seen, trained, 1)
    return told


def found(rank, ranks):
    results = {}
    for name in RUNS:
        try:
            results[name] = play(name, 1, num_replicas=ranks, rank=rank)
        except Exception:  # noqa: BLE001, PERF203 - told to the parent
            results[name] = traceback.format_exc()
    results["alone"] = play("plausible-learnable", 1, num_replicas=ranks, rank=rank, gather=False)
    return results

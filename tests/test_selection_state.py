"""One save-and-restore harness for every selection: saved anywhere, it goes on as if nothing had happened."""

import io

import numpy as np
import pytest
import torch

from spectral_sampler import GSTDS, SALN, LossWeighted, Mix, ReferenceStore, SpectralBatchSampler, Uniform, draws
from spectral_sampler.selection import (
    EL2N,
    JEST,
    UDS,
    BayesianSelection,
    DivBS,
    Forgetting,
    GradientNorm,
    Guarded,
    Herding,
    InfoBatch,
    KCentre,
    Leverage,
    OnlineSelection,
    PlausibleEven,
    PlausibleLearnable,
    RHOLoss,
    SensitivitySampling,
    SeTa,
    SpectralStrata,
)
from spectral_sampler.selection.protocol import EpochRequest

M, N, C, D = 200, 24, 4, 5
generator = np.random.default_rng(0)
STORE = ReferenceStore.from_arrays(
    generator.normal(size=(M, 8)).astype(np.float32),
    losses=generator.exponential(size=M),
    labels=generator.integers(C, size=M),
)
ZERO_SHOT = generator.normal(size=(M, C))

SELECTIONS = {
    "gstds": GSTDS,
    "saln": SALN,
    "uniform": Uniform,
    "loss-weighted": LossWeighted,
    "rho-loss": RHOLoss,
    "rho-boltzmann": lambda: RHOLoss(temperature=0.5),
    "jest": JEST,
    "jest-joint": lambda: JEST(joint=True),
    "bayesian": lambda: BayesianSelection(ZERO_SHOT, alpha=0.9, samples=12, prior_precision=0.01, momentum=0.8),
    "gradient-norm": lambda: GradientNorm(momentum=0.7),
    "infobatch": InfoBatch,
    "seta": lambda: SeTa(0.1),
    "divbs": DivBS,
    "el2n": lambda: EL2N(0.1),
    "forgetting": Forgetting,
    "k-centre": KCentre,
    "herding": Herding,
    "leverage": Leverage,
    "uds": lambda: UDS(memory=40),
    "sensitivity": lambda: SensitivitySampling(6),
    "sensitivity-learner": lambda: SensitivitySampling(6, losses="learner"),
    "plausible-even": PlausibleEven,
    "guarded": lambda: Guarded(SensitivitySampling(6)),
    "plausible-learnable": PlausibleLearnable,
    "spectral-strata": SpectralStrata,
}


def call(online, step):
    """What a training loop does; ever more labels are met with certainty, so that gradient norm's gate opens on the
    way."""
    rng = np.random.default_rng(step)
    logits = (0.3 + step) * rng.normal(size=(N, C))
    labels = np.where(rng.random(N) < 0.95, logits.argmax(1), rng.integers(C, size=N))
    return online(indices=rng.permutation(M)[:N], logits=logits, labels=labels, features=rng.normal(size=(N, D)))


PROPOSING = [name for name, make in SELECTIONS.items() if make().proposes]


def propose(selection, epoch, losses, memo=None):
    return selection.propose(EpochRequest(STORE, draws.permutation(0, epoch, M), 5, 40, losses, 0, epoch, memo=memo))


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("stop", [0, 1, 7])
@pytest.mark.parametrize("name", [name for name in SELECTIONS if name not in PROPOSING])
def test_round_trip(name, stop):
    online = OnlineSelection(SELECTIONS[name](), 0.4, store=STORE)
    for step in range(stop):
        call(online, step)
    state = through_a_file(online.state_dict())
    resumed = OnlineSelection(SELECTIONS[name](), 0.4, store=STORE)
    call(resumed, 99)  # what it did before is overwritten
    resumed.load_state_dict(state)
    for step in range(stop, 12):
        assert call(resumed, step).tolist() == call(online, step).tolist(), step
        assert resumed.weights.tolist() == online.weights.tolist()
    assert resumed.statistics() == online.statistics()


@pytest.mark.parametrize("name", PROPOSING)
def test_a_memo_repeats_what_is_offered_whatever_was_observed_since(name):
    generator = np.random.default_rng(1)
    for epoch in range(3):
        before, since = generator.exponential(size=(2, M))
        offered = propose(SELECTIONS[name](), epoch, before)
        memo = None if offered.memo is None else through_a_file(offered.memo)
        for losses in (since, np.full(M, np.nan)):
            again = propose(SELECTIONS[name](), epoch, losses, memo)
            assert again.batches.tolist() == offered.batches.tolist()
            assert np.array_equal(again.weights, offered.weights)
        if memo is not None:
            assert propose(SELECTIONS[name](), epoch, since).batches.tolist() != offered.batches.tolist()


def test_the_harness_sees_a_forgotten_state():
    """Selections that lose what they have learnt do not pass."""
    for name in ("bayesian", "gradient-norm", "uds", "forgetting"):
        online = OnlineSelection(SELECTIONS[name](), 0.4, store=STORE)
        resumed = OnlineSelection(SELECTIONS[name](), 0.4, store=STORE)
        for step in range(7):
            call(online, step)
        resumed.load_state_dict({**online.state_dict(), "policy": SELECTIONS[name]().state_dict()})
        assert any(call(resumed, s).tolist() != call(online, s).tolist() for s in range(7, 12)), name


def trained(selection):
    sampler = SpectralBatchSampler(STORE, N, selection=selection, epochs=2)
    for batch in sampler:
        sampler.observe(batch, np.ones(len(batch)))


@pytest.mark.parametrize("make", [Forgetting, lambda: Guarded(SALN()), lambda: Mix(Forgetting(), Uniform())])
def test_what_learnt_in_another_sampler_says_so(make, caplog):
    """As a loop over seeds does that makes its selection outside: every training after the first would know it."""
    selection = make()
    SpectralBatchSampler(STORE, N, selection=selection, epochs=2)
    trained(selection)
    assert "learnt in another sampler" not in caplog.text, "looked at, not taught"
    SpectralBatchSampler(STORE, N, selection=selection, epochs=2)
    assert f"{selection.name} learnt in another sampler and goes on from there" in caplog.text


@pytest.mark.parametrize("make", [Uniform, KCentre, lambda: Mix(SALN(), Uniform())])
def test_what_learns_nothing_serves_any_number_of_samplers(make, caplog):
    selection = make()
    trained(selection)
    trained(selection)
    assert "learnt in another" not in caplog.text

"""What a training loop reports, and what it gets back: exact in every loop, through every loader, after resuming."""

import io
import logging

import numpy as np
import pytest
import torch
from sampler_cases import make_store
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from spectral_sampler import (
    EL2N,
    GSTDS,
    JEST,
    SALN,
    UDS,
    ArgumentError,
    BayesianSelection,
    DivBS,
    Forgetting,
    GradientNorm,
    Herding,
    InfoBatch,
    KCentre,
    Leverage,
    LossWeighted,
    MellowAIMD,
    PlateauSchedule,
    PlausibleEven,
    PlausibleLearnable,
    ReferenceStore,
    RHOLoss,
    SensitivitySampling,
    SeTa,
    SigmoidSchedule,
    SpectralBatchSampler,
    SpectralStrata,
    Uniform,
    gathering,
)
from spectral_sampler.sampler import run
from spectral_sampler.sampler.deliveries import Deliveries

M, N, C = 240, 24, 3
BASE = make_store(M)
LABELS = np.random.default_rng(1).integers(C, size=M)
STORE = ReferenceStore.from_arrays(BASE.features, losses=BASE.losses, labels=LABELS)
INPUTS = torch.from_numpy(STORE.features.astype(np.float32))
DATA = TensorDataset(INPUTS, torch.from_numpy(LABELS), torch.arange(M))
ZERO_SHOT = np.random.default_rng(2).normal(size=(M, C))


def make(selection, **options):
    return SpectralBatchSampler(
        STORE, **{"candidate_batch_size": N, "keep_ratio": 0.5, "selection": selection, **options}
    )


def losses_of(rows, step):
    """Losses that say which sample and which step they are of."""
    return 1.0 + ((np.asarray(rows) * 37 + step * 11) % 101) / 50


# observe_next


@pytest.mark.parametrize(("workers", "options"), [(0, {}), (2, {}), (2, {"prefetch_factor": 4}), (1, {})])
def test_observe_next_takes_the_losses_of_the_batch_in_training(workers, options):
    """Choices depend on when a loader pulls, so the table is compared with what each loop itself trained on."""
    sampler = make(RHOLoss())
    known = np.full(M, np.nan)
    step = 0
    for _ in range(3):
        for _, _, rows in DataLoader(DATA, batch_sampler=sampler, num_workers=workers, **options):
            values = losses_of(rows, step)
            sampler.observe_next(torch.from_numpy(values))
            known[rows.numpy()] = values
            step += 1
    table = sampler.state_dict(full=True)["losses"]["losses"].numpy()
    assert np.array_equal(table, known, equal_nan=True)
    assert step == 30


def test_observe_next_is_observe_of_the_right_indices():
    by_order, by_index = make(PlausibleLearnable()), make(PlausibleLearnable())
    for epoch in range(3):
        for step, (one, other) in enumerate(zip(by_order, by_index, strict=True)):
            assert one == other
            by_order.observe_next(losses_of(one, step + 10 * epoch))
            by_index.observe(other, losses_of(other, step + 10 * epoch))
    assert by_order.state_dict()["observed"] == by_index.state_dict()["observed"]


def test_observe_next_refuses_what_is_no_batch():
    sampler = make(RHOLoss())
    with pytest.raises(ArgumentError, match=r"^observe_next must be called once for every batch .* got no batch"):
        sampler.observe_next([1.0])
    rows = next(iter(sampler))
    with pytest.raises(ArgumentError, match=rf"^losses must be one loss for each of the {len(rows)} samples"):
        sampler.observe_next(np.ones(len(rows) - 1))
    sampler.observe_next(np.ones(len(rows)))
    with pytest.raises(ArgumentError, match="no batch"):
        sampler.observe_next(np.ones(len(rows)))


def test_a_batch_reported_by_its_indices_is_not_the_next_one():
    sampler = make(RHOLoss())
    iterator = iter(sampler)
    first, second, third = (next(iterator) for _ in range(3))
    sampler.observe(first, losses_of(first, 0))
    sampler.observe_next(losses_of(second, 1))
    sampler.observe(third, losses_of(third, 2))
    table = sampler.state_dict(full=True)["losses"]["losses"].numpy()
    for step, rows in enumerate((first, second, third)):
        assert np.array_equal(table[rows], losses_of(rows, step))
    with pytest.raises(ArgumentError, match="no batch"):
        sampler.observe_next([1.0])


def test_what_a_loader_read_ahead_and_never_trained_on_is_not_the_next_batch():
    sampler = make(RHOLoss())
    for number, (_, _, rows) in enumerate(DataLoader(DATA, batch_sampler=sampler, num_workers=2)):
        sampler.observe_next(losses_of(rows, number))
        if number == 2:
            break
    for _, _, rows in DataLoader(DATA, batch_sampler=sampler):
        sampler.observe_next(losses_of(rows, 7))
        break
    table = sampler.state_dict(full=True)["losses"]["losses"].numpy()
    assert np.array_equal(table[rows], losses_of(rows, 7))


def test_the_next_batch_after_loading_is_one_that_goes_out_afterwards():
    sampler = make(RHOLoss())
    held = iter(sampler)  # a loader that was not let go
    [next(held) for _ in range(3)]
    sampler.load_state_dict(sampler.state_dict(full=True))
    rows = next(iter(sampler))
    sampler.observe_next(losses_of(rows, 3))
    table = sampler.state_dict(full=True)["losses"]["losses"].numpy()
    assert np.array_equal(np.flatnonzero(~np.isnan(table)), np.sort(rows))
    held.close()


def test_thousands_of_batches_without_a_report_are_said_and_not_guessed():
    sampler = SpectralBatchSampler(np.ones((3000, 2)), 2, keep_ratio=0.5, min_keep=1, selection=Uniform())
    rows = list(sampler)
    assert len(rows) == 1500
    with pytest.raises(ArgumentError, match="476 batches that were not reported"):
        sampler.observe_next([1.0])
    sampler.observe(rows[3], [1.0])


# weights


def trained_weights(sampler, workers):
    """Every batch of two epochs with the weights asked for when it is in training."""
    found = []
    for _ in range(2):
        for _, _, rows in DataLoader(DATA, batch_sampler=sampler, num_workers=workers):
            found.append((rows.tolist(), sampler.weights_for(rows).tolist()))
    return found


def logits_of(indices):
    return torch.from_numpy(np.random.default_rng(5).normal(size=(M, C)) * 3)[indices]


@pytest.mark.parametrize(
    "options",
    [
        {"emit": "constant", "batch_size": 12, "keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.3), "epochs": 5},
        {"sampler": RandomSampler(range(M), replacement=True, num_samples=M)},
        {},
    ],
    ids=["constant", "replacement", "plain"],
)
def test_weights_are_those_of_the_batch_in_training_however_far_the_loader_reads_ahead(options):
    def fresh():
        return make(GradientNorm(gate=False), learner=logits_of, **options)

    found = trained_weights(fresh(), 0)
    assert trained_weights(fresh(), 2) == found
    own = fresh()
    direct = [(rows, own.weights_for(rows).tolist()) for _ in range(2) for rows in own]
    assert direct == found
    assert max(max(weights) - min(weights) for _, weights in found) > 0.1


def test_a_batch_that_goes_out_again_has_the_weights_of_its_turn():
    first, other, deliveries = np.array([3, 1]), np.array([2, 0]), Deliveries()
    for rows, weight in ((first, 1.0), (other, 2.0), (first, 3.0)):
        deliveries.add(rows, np.full(2, weight))
    found = [deliveries.weights_of(rows)[0] for rows in (first, first, other, first, other)]
    assert found == [1.0, 1.0, 2.0, 3.0, 2.0]


def test_parts_and_sums_of_batches_have_weights_where_they_have_one():
    sampler = make(GradientNorm(gate=False), learner=logits_of)
    iterator = iter(sampler)
    first, second = next(iterator), next(iterator)
    apart = sampler.weights_for(first).tolist(), sampler.weights_for(second).tolist()
    assert sampler.weights_for(first[:5]).tolist() == apart[0][:5]
    assert sampler.weights_for(first + second).tolist() == apart[0] + apart[1]
    other = min(set(range(M)) - set(first) - set(second))
    with pytest.raises(ArgumentError, match=rf"^indices must be those of one batch .* sample {other}, which did not"):
        sampler.weights_for([first[0], other])
    again = make(GradientNorm(gate=False), learner=logits_of, sampler=RandomSampler(range(M), replacement=True))
    batches = list(again)
    flat = np.concatenate(batches)
    counts = np.bincount(flat, minlength=M)
    with pytest.raises(ArgumentError, match="several weights"):
        again.weights_for(np.flatnonzero(counts > 1))


# resuming


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(INPUTS.shape[1], C, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(np.random.default_rng(3).normal(size=self.head.weight.shape)))

    def forward(self, inputs):
        return self.head(inputs)


def learning(selection):
    return lambda: {"selection": selection(), "learner": Net(), "dataset": DATA}


RUNS = {
    "uniform": lambda: {"selection": Uniform()},
    "saln": lambda: {"selection": SALN()},
    "gstds": lambda: {"selection": GSTDS()},
    "loss-weighted": lambda: {"selection": LossWeighted()},
    "strata": lambda: {"selection": SpectralStrata()},
    "plausible-even": lambda: {"selection": PlausibleEven()},
    "plausible-learnable": lambda: {"selection": PlausibleLearnable()},
    "rho": lambda: {"selection": RHOLoss()},
    "rho-sampled": lambda: {"selection": RHOLoss(0.5)},
    "jest": lambda: {"selection": JEST()},
    "infobatch": lambda: {"selection": InfoBatch(), "keep_ratio": 1.0},
    "sensitivity": lambda: {"selection": SensitivitySampling(6)},
    "sensitivity-learner": lambda: {"selection": SensitivitySampling(6, losses="learner")},
    "seta": lambda: {"selection": SeTa(), "keep_ratio": 1.0},
    "forgetting": lambda: {"selection": Forgetting()},
    "k-centre": lambda: {"selection": KCentre()},
    "herding": lambda: {"selection": Herding()},
    "leverage": lambda: {"selection": Leverage()},
    "gradient-norm": learning(GradientNorm),
    "divbs": learning(DivBS),
    "uds": learning(lambda: UDS(memory=30)),
    "el2n": learning(EL2N),
    "forgetting-looking": learning(Forgetting),
    "bayesian": learning(lambda: BayesianSelection(ZERO_SHOT, samples=8)),
    "jest-joint": learning(lambda: JEST(joint=True)),
    "sigmoid": lambda: {"selection": RHOLoss(), "keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.4), "epochs": 4},
    "aimd": lambda: {"selection": RHOLoss(), "keep_ratio": MellowAIMD(window=2), "epochs": 4},
    "plateau": lambda: {"selection": JEST(), "keep_ratio": PlateauSchedule(periods=9), "epochs": 4},
    "constant": lambda: {"selection": RHOLoss(), "emit": "constant", "batch_size": 8},
    "fixed": lambda: {"selection": PlausibleLearnable(), "reshuffle": False},
}


def through_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def loop(sampler, first_step, epochs):
    """Trains to the end of ``epochs``; yields (state before the batch, rows)."""
    step = first_step
    while sampler.epoch < epochs:
        iterator = iter(sampler)
        while True:
            state = sampler.state_dict(full=True)
            rows = next(iterator, None)
            if rows is None:
                break
            yield step, state, rows
            sampler.observe_next(losses_of(rows, step))
            step += 1


@pytest.mark.parametrize("name", RUNS)
def test_a_full_state_resumes_exactly_at_every_batch(name):
    reference = [(step, through_disk(state), rows) for step, state, rows in loop(make(**RUNS[name]()), 0, 3)]
    lists = [rows for _, _, rows in reference]
    assert len(lists) == 30
    for step, state, _ in reference[::3] + reference[9:12] + reference[-1:]:
        resumed = make(**RUNS[name]())
        resumed.load_state_dict(state)
        assert [rows for _, _, rows in loop(resumed, step, 3)] == lists[step:], f"from batch {step}"


def test_the_small_state_says_what_it_lacks(caplog):
    sampler = make(PlausibleLearnable())
    for step, rows in enumerate(sampler):
        sampler.observe_next(losses_of(rows, step))
    small, full = sampler.state_dict(), sampler.state_dict(full=True)
    assert (small["full"], full["full"]) == (False, True)
    assert small == {name: full[name] for name in small} | {"full": False}
    assert full["losses"]["losses"].shape == full["losses"]["ages"].shape == (M,)
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        make(PlausibleLearnable()).load_state_dict(full)
        assert caplog.records == []
        make(PlausibleLearnable()).load_state_dict(small)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "state_dict(full=True)" in caplog.text
        make(PlausibleEven()).load_state_dict(make(PlausibleEven()).state_dict())
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 beside torch 2.14
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["infobatch", "seta", "sensitivity-learner", "plausible-learnable", "aimd"])
def test_a_loader_that_keeps_count_resumes_exactly_after_a_full_state(name, workers, caplog):
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")

    def load(sampler):
        return module.StatefulDataLoader(DATA, batch_sampler=sampler, num_workers=workers)

    sampler = make(**RUNS[name]())
    loader = load(sampler)
    lists, states = [], []
    for _ in range(2):
        for _, _, rows in loader:
            lists.append(rows.tolist())
            if len(lists) in {14, 17} and workers == 0:
                sampler.observe_next(losses_of(rows, len(lists)))
                states.append((len(lists), sampler.state_dict(full=True), loader.state_dict()))
            elif workers == 0 or len(lists) <= 10:  # what workers read ahead was chosen by what was known then
                sampler.observe_next(losses_of(rows, len(lists)))
            elif len(lists) in {14, 17}:
                states.append((len(lists), sampler.state_dict(full=True), loader.state_dict()))
    assert len(states) == 2
    for step, full, own in states:
        resumed = make(**RUNS[name]())
        again = load(resumed)
        resumed.load_state_dict(through_disk(full))
        again.load_state_dict(own)
        rest = []
        for _, _, rows in again:
            rest.append(rows.tolist())
            if workers == 0:
                resumed.observe_next(losses_of(rows, step + len(rest)))
        assert rest == lists[step:20], step
    assert "goes on without" not in caplog.text


@pytest.mark.parametrize("name", ["infobatch", "seta", "sensitivity-learner"])
def test_a_state_saved_again_before_the_next_batch_has_all_of_it(name):
    steps = list(loop(make(**RUNS[name]()), 0, 3))
    first = make(**RUNS[name]())
    first.load_state_dict(through_disk(steps[14][1]))
    second = make(**RUNS[name]())
    second.load_state_dict(through_disk(first.state_dict(full=True)))
    assert [rows for _, _, rows in loop(second, 14, 3)] == [rows for _, _, rows in steps[14:]]


def test_an_epoch_s_proposal_outlives_its_own_small_state_and_looks(caplog):
    sampler = make(SensitivitySampling(6, losses="learner"))
    for step, rows in enumerate(sampler):
        sampler.observe_next(losses_of(rows, step))
    iterator = iter(sampler)
    done = [next(iterator) for _ in range(3)]
    small = sampler.state_dict()
    for epoch in (2, 3, 4):
        sampler.selection_at(epoch, 0)
    rows = next(iterator)
    assert sampler.weights_for(rows).std() > 0
    sampler.observe(range(M), losses_of(range(M), 5))
    sampler.load_state_dict(small)
    rest = list(sampler)
    assert rest[0] == rows
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        for policy in (SensitivitySampling(6), SensitivitySampling(6, losses="learner")):
            make(policy).load_state_dict(make(policy).state_dict(batches_consumed=4, epoch=0))
    said = [record.message for record in caplog.records]
    assert len(said) == 1, "nothing is known of a proposal that followed losses; the other follows from the store"
    assert "goes on without" in said[0]
    assert len(done) + len(rest) == 10


@pytest.mark.parametrize("part", ["full", "observed", "losses", "delivered", "learnt", "proposals"])
def test_a_state_that_lost_a_part_is_refused_and_nothing_is_lost(part):
    state = make(RHOLoss()).state_dict(full=True)
    del state[part]
    sampler = make(RHOLoss())
    sampler.observe(range(M), losses_of(range(M), 1))
    before = sampler.state_dict()
    if part == "full":
        state = {name: value for name, value in state.items() if name in before}
    with pytest.raises(ArgumentError, match=rf"^state must be whole, got one without {part}\."):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == before


def test_the_clock_of_a_state_leaves_out_what_was_read_ahead():
    sampler = make(RHOLoss())
    iterator = iter(sampler)
    for _ in range(6):
        next(iterator)
    assert sampler.state_dict(batches_consumed=2, full=True)["delivered"] == 2
    assert sampler.state_dict(full=True)["delivered"] == 6


def test_a_learnt_state_that_is_missing_is_pointed_out(caplog):
    sampler = make(**RUNS["gradient-norm"]())
    list(sampler)
    with caplog.at_level(logging.WARNING, logger="spectral_sampler"):
        make(**RUNS["gradient-norm"]()).load_state_dict(sampler.state_dict())
    assert "gradient-norm goes on without" in caplog.text
    caplog.clear()
    resumed = make(**RUNS["gradient-norm"]())
    resumed.load_state_dict(sampler.state_dict(full=True))
    iter(resumed).load_state_dict(iter(sampler).state_dict())
    assert "goes on without" not in caplog.text, "a loader's own state follows the full one"


# epochs


def test_a_loop_that_resumes_without_set_epoch_says_where_it_starts(caplog):
    schedule = {"keep_ratio": SigmoidSchedule(0.18, 0.88, mean=0.4), "epochs": 5}
    reference = make(GSTDS(), **schedule)
    lists = [list(reference) for _ in range(4)]
    resumed = make(GSTDS(), start_epoch=3, **schedule)
    with caplog.at_level(logging.INFO, logger="spectral_sampler"):
        assert list(resumed) == lists[3]
    lines = [record.message for record in caplog.records if record.message.startswith("epoch")]
    samples = sum(map(len, lists[3]))
    assert len(lines) == 1
    assert lines[0].startswith("epoch 3 of 5: keep ratio 0.")
    assert f"{samples} samples in 10 batches" in lines[0]
    resumed.load_state_dict(reference.state_dict())
    assert resumed.epoch == 4


# silence


def test_a_selection_that_listens_and_hears_nothing_says_so_once(caplog):
    for selection, options in ((RHOLoss(), {}), (Uniform(), {"keep_ratio": MellowAIMD()})):
        caplog.clear()
        sampler = make(selection, **options)
        for _ in range(4):
            list(sampler)
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1, warnings
        assert "heard of 0 of the" in warnings[0]
        assert "observe_next" in warnings[0]


@pytest.mark.parametrize("heard", [1.0, 0.5])
def test_a_rank_that_hears_of_its_own_samples_alone_says_so(heard, caplog):
    sampler = make(RHOLoss(), num_replicas=2)
    for _ in range(3):
        for rows in sampler:
            other = [(row + 1) % M for row in rows] if heard == 1.0 else []
            sampler.observe(rows + other, np.ones(len(rows + other)))
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (heard < 1.0)
    assert all("on every rank" in message for message in warnings)


def test_a_selection_with_a_learner_needs_no_reports(caplog):
    sampler = make(GradientNorm(), learner=logits_of)
    [list(sampler) for _ in range(2)]
    loss_by_learner = make(RHOLoss(), learner=logits_of)
    [list(loss_by_learner) for _ in range(2)]
    assert not sampler.listens
    assert not loss_by_learner.listens
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_reports_of_any_form_are_one():
    forms = [
        lambda rows, values: (rows, values),
        lambda rows, values: (np.array(rows), np.array(values)),
        lambda rows, values: (torch.tensor(rows, dtype=torch.int32), torch.tensor(values, requires_grad=True)),
        lambda rows, values: (torch.tensor(rows).reshape(2, -1), torch.tensor(values).reshape(-1, 1)),
    ]
    digests = set()
    for form in forms:
        sampler = make(RHOLoss())
        sampler.observe(*form([3, 1, 7, 5], [0.5, 0.25, 1.0, 2.0]))
        digests.add(sampler.state_dict()["observed"])
    assert len(digests) == 1
    empty = make(RHOLoss())
    empty.observe([], [])
    assert empty.statistics()["spectral/observed_share"] == 0.0


def test_describe_says_what_will_happen():
    text = make(RHOLoss(), keep_ratio=0.25).describe()
    for part in ("RHOLoss(temperature=None)", "240 samples, offered 24 at a time", "10 an epoch", "observe_next"):
        assert part in text
    assert "60 samples in 10 batches" in text
    assert "to report   nothing" in make(Uniform()).describe()


class OnDevice:
    """Stands in for a CUDA tensor."""

    is_cuda = True

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)


@pytest.fixture
def waits(monkeypatch):
    """Losses are on a device; how many the host waited for at a time."""
    found = []

    def fetching(rows, values):
        copied = values.values.double().clone().numpy()
        return lambda: found.append(len(copied)) or (rows.numpy(), copied)

    monkeypatch.setattr(gathering, "pairs", lambda rows, values: (torch.as_tensor(rows), OnDevice(values)))
    monkeypatch.setattr(run, "_fetching", fetching)
    return found


def test_reporting_does_not_wait_for_a_device_and_choosing_does(waits, monkeypatch):
    sampler, plain = make(RHOLoss()), make(RHOLoss())
    losses = torch.from_numpy(losses_of(range(M), 0))
    given = losses.clone()
    sampler.observe(range(M), losses)
    losses.zero_()  # the loop goes on with its own
    assert waits == []
    iterator = iter(sampler)
    rows = next(iterator)
    assert waits == [M]
    following = next(iterator)
    for batch in (rows, following):
        sampler.observe_next(torch.ones(len(batch)))
    assert waits == [M], "not even for the next batch in order"
    assert sampler.statistics()["spectral/observed_share"] == 1.0
    assert waits == [M, len(rows), len(following)]
    monkeypatch.undo()
    plain.observe(range(M), given)
    assert next(iter(plain)) == rows


def test_what_nobody_asks_for_is_fetched_from_time_to_time(waits):
    idle = make(Uniform())
    for _ in range(200):
        idle.observe([0], torch.ones(1))
    assert 100 < len(waits) < 200
    assert idle.statistics()["spectral/observed_share"] == 1 / M
    assert len(waits) == 200


def test_reports_on_a_device_say_that_a_pass_was_trained_on(waits):
    sampler = make(Uniform())
    lists = [list(make(Uniform(), start_epoch=epoch)) for epoch in range(2)]
    for rows in sampler:
        sampler.observe(rows, torch.ones(len(rows)))
        break
    assert list(sampler) == lists[1]


def test_an_epoch_left_twice_is_said_aloud(caplog):
    sampler = make(Uniform())
    with caplog.at_level(logging.INFO, logger="spectral_sampler"):
        for _ in range(3):
            next(iter(sampler))
        said = [(record.levelname, record.message) for record in caplog.records if "starts over" in record.message]
    assert [level for level, _ in said] == ["INFO", "WARNING", "INFO"]
    assert "sampler.set_epoch(1)" in said[1][1]

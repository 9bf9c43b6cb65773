"""Where a sampler solves: a named device, "auto" that moves once, and how many batches at a time.

No GPU is needed: what torch would say of one is replaced, and what is solved "there" is solved here."""

import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, epochs_of

from spectral_sampler import SALN, ReferenceStore, SpectralBatchSampler, curate, ops, placement, preference
from spectral_sampler.errors import ArgumentError, BackendUnavailable
from spectral_sampler.kernels import device_store, nvidia

N = 16
FEATURES = np.random.default_rng(0).random((40 * N, 8), dtype=np.float32)
ROW = preference.Row("Card", "host", None, None, 1, ("triton", "native"), "2027-01-01, Card")


class Machine:
    """Two cards of 20 multiprocessors, the second one current; who asked for them, and what was solved there."""

    def __init__(self, monkeypatch):
        self.asked, self.solved = [], []
        reason, here = ops.unusable_reason, threading.main_thread()
        monkeypatch.setattr(ops, "in_use", lambda: True)
        monkeypatch.setattr(preference, "table", lambda: (ROW, ROW._replace(device="cpu", order=("native",))))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(
            ops, "unusable_reason", lambda name, device=None: None if name == "triton" else reason(name, device)
        )

        def gpu_of(device):
            self.asked.append(device)
            assert threading.current_thread() is here, "a current device means something in the consumer's thread only"
            return nvidia.Gpu(torch.device("cuda", 1 if device.index is None else device.index), "Card", 20)

        solved = self.solved

        class Rows(device_store.DeviceRows):
            def __init__(self, features, device):
                super().__init__(features, "cpu")
                self.named = device

            def solve(self, indices, solver):
                solved.append((self.named, len(indices)))
                return super().solve(indices, solver)

        monkeypatch.setattr(nvidia, "gpu_of", gpu_of)
        monkeypatch.setattr(device_store, "DeviceRows", Rows)


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def make(features=FEATURES, **options):
    store = ReferenceStore.from_arrays(features)  # a new one each time, which no device has a copy of
    return SpectralBatchSampler(store, **{"candidate_batch_size": N, "keep_ratio": 0.5, "selection": SALN(), **options})


EXPECTED = epochs_of(make(), 3)


def said(caplog):
    return [record.getMessage() for record in caplog.records if "from here on" in record.getMessage()]


def test_large_graphs_move_at_once_and_say_so_once(machine, monkeypatch, caplog):
    monkeypatch.setattr(preference, "LARGE", N)
    assert epochs_of(make(), 3) == EXPECTED
    assert {device for device, _ in machine.solved} == {torch.device("cuda", 1)}
    assert sum(members for _, members in machine.solved) == 3 * 40
    assert len(said(caplog)) == 1
    assert "solves on cuda:1 from here on: N = 16 is long for a CPU and triton was faster" in said(caplog)[0]


@pytest.mark.parametrize(("tolerated", "moves"), [(-1.0, True), (float("inf"), False)])
def test_small_graphs_move_once_training_waits_and_the_lists_stay(machine, monkeypatch, caplog, tolerated, moves):
    monkeypatch.setattr(placement, "_WAITING", tolerated)
    monkeypatch.setattr(placement, "_LOOKAHEAD", 4)
    sampler = make()
    assert list(sampler) == EXPECTED[0]
    there = [members for _, members in machine.solved]
    assert (0 < sum(there) < 40) if moves else not there
    assert max(there, default=10) == 10, "a quarter of the epoch at a time, from there on"
    assert epochs_of(sampler, 2) == EXPECTED[1:]
    assert len(said(caplog)) == moves
    assert all("training waits for the CPU" in line for line in said(caplog))


def test_only_waiting_that_lasts_moves(machine, monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(placement, "time", clock)
    where = make(lookahead=4)._placement

    def train(waits):
        moved = []
        for wait in waits:
            clock.now += 1.0 + wait
            moved.append(where.delivered(wait))
        return any(moved)

    late, prompt, first = [0.2] * 4, [0.1] * 4, [100.0]
    where.begin()
    assert not train([*first, *late, *late, *prompt, *late, *late])
    where.begin()
    assert not train([*first, *prompt, *late, *late]), "the first batch of a pass is always waited for"
    where.begin()
    assert train([*first, *late])
    assert not train([*late] * 9), "once"


@pytest.mark.parametrize("change", [{"measured": None}, {"device": "Other"}, {"order": ("native", "triton")}])
def test_without_a_measurement_that_says_so_auto_stays(machine, monkeypatch, change):
    monkeypatch.setattr(preference, "LARGE", N)
    monkeypatch.setattr(preference, "table", lambda: (ROW._replace(**change),))
    assert list(make()) == EXPECTED[0]
    assert not machine.solved


def test_auto_does_not_ask_for_a_device_where_the_process_uses_none(machine, monkeypatch):
    monkeypatch.setattr(preference, "LARGE", N)
    monkeypatch.setattr(ops, "in_use", lambda: False)
    assert list(make()) == EXPECTED[0]
    assert not machine.asked


def test_a_selection_that_solves_no_cosine_graph_moves_nothing(machine, monkeypatch, caplog):
    monkeypatch.setattr(placement, "_WAITING", -1.0)
    monkeypatch.setattr(preference, "LARGE", N)
    for selection in (FirstFeature(), SALN(similarity="rbf")):
        list(make(selection=selection))
    assert not machine.solved
    assert not said(caplog)


@pytest.mark.parametrize(("device", "index"), [("cuda:0", 0), ("cuda", 1), (torch.device("cuda", 1), 1)])
def test_a_named_device_is_taken_whatever_the_table_says(machine, caplog, device, index):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(40 * N)), batch_size=N)
    curated = curate(loader, FEATURES, keep_ratio=0.5, selection=SALN(), shuffle=True, seed=0, device=device)
    assert list(curated.batch_sampler) == EXPECTED[0]
    assert {where for where, _ in machine.solved} == {torch.device("cuda", index)}
    assert not said(caplog), "nobody moved"


def test_a_look_at_one_batch_is_solved_there_too(machine):
    sampler = make(device="cuda")
    sampler.selection_at(0, 0)
    assert machine.solved == [(torch.device("cuda", 1), 1)]


def test_the_host_may_be_named(machine, monkeypatch):
    monkeypatch.setattr(preference, "LARGE", N)
    assert list(make(device="cpu")) == EXPECTED[0]
    assert not machine.solved


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "gpu"}, 'device must be "cpu", "cuda" or one such as "cuda:1", got \'gpu\'.'),
        ({"device": "mps"}, 'device must be "cpu", "cuda" or one such as "cuda:1", got \'mps\'.'),
        ({"device": 1}, 'device must be "cpu", "cuda" or one such as "cuda:1", got 1.'),
        ({"device": "cuda:2"}, "device must be one of the CUDA devices that torch sees (2), got 'cuda:2'."),
        (
            {"device": "cuda:1", "backend": "native"},
            "device must be of type cpu with backend=\"native\", got 'cuda:1'.",
        ),
    ],
)
@pytest.mark.usefixtures("machine")
def test_a_device_that_cannot_be_meant_is_refused_in_one_sentence(options, sentence):
    with pytest.raises(ArgumentError) as caught:
        make(**options)
    assert str(caught.value).startswith(sentence)


def test_a_backend_that_cannot_run_is_refused_before_its_device_is_looked_at():
    with pytest.raises(BackendUnavailable, match='"cupy" cannot be used'):
        make(backend="cupy", device="cuda:7")


@pytest.mark.parametrize(
    ("asked", "batches", "expected"), [(None, 400, 40), (None, 100, 25), (None, 20, 16), (3, 400, 3), (0, 400, 0)]
)
def test_look_ahead_on_a_gpu_is_two_batches_a_multiprocessor_and_a_quarter_of_the_epoch(
    machine, asked, batches, expected
):
    sampler = make(np.ones((2 * batches, 3)), candidate_batch_size=2, device="cuda", lookahead=asked)
    assert sampler._placement.lookahead == (16 if asked is None else asked)
    sampler._placement.begin()
    assert sampler._placement.lookahead == expected


def test_a_copy_for_another_process_knows_no_device(machine):
    sampler = make(device="cuda")
    list(sampler)
    again = pickle.loads(pickle.dumps(sampler))
    assert again._placement.lookahead == 16
    assert list(again) == EXPECTED[1]
    assert len(machine.asked) == 2

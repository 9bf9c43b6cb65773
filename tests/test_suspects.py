"""Suspected labels: said, asked for, computed once and kept beside the store; and the known limits."""

import json
import logging
import os
import pickle
import sys

import numpy as np
import pytest
from processes import context

from spectral_sampler import PlausibleEven, PlausibleLearnable, ReferenceStore, label_noise, suspects
from spectral_sampler.errors import ArgumentError
from spectral_sampler.estimates import label_noise as module
from spectral_sampler.estimates import leave_one_out as probe
from spectral_sampler.estimates import progress
from spectral_sampler.selection import CandidateBatch
from spectral_sampler.store import atomic, derived

FIRST = np.arange(60)[None]
NAME = "derived-label-noise"


def make(noise=0.1, rows=600, seed=0, unlabelled=0):
    generator = np.random.default_rng(seed)
    truth = np.arange(rows) % 3
    labels = truth.copy()
    wrong = generator.choice(rows, round(noise * rows), replace=False)
    labels[wrong] = (labels[wrong] + generator.integers(1, 3, len(wrong))) % 3
    labels[:unlabelled] = -1
    return ReferenceStore.from_arrays(np.eye(3)[truth] + 0.1 * generator.random((rows, 3)), labels=labels)


def refuse(*_):
    raise AssertionError("computed")


def lines(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "spectral_sampler"]


# Said


def test_the_share_is_said_once_for_a_store_and_a_share(caplog):
    caplog.set_level(logging.INFO)
    store = make(0.1)
    policy = PlausibleEven()
    assert policy.facts(store) == {}
    for selection in (policy, PlausibleEven(balance=0), PlausibleLearnable()):
        selection.score(store, FIRST, backend="auto")
    count = suspects(store).sum()
    ((level, text),) = lines(caplog)
    assert level == "WARNING"
    share = f"{100 * count / 600:.1f} %"
    assert text.startswith(f"label noise: {share} of the labels are suspected ({count} of 600 rows; a probe predicts ")
    assert text.endswith("see suspects(store), or pass label_noise=0")
    assert policy.facts(store) == {"suspect_share": count / 600}
    caplog.clear()
    PlausibleEven(label_noise=0.2).score(store, FIRST, backend="auto")
    PlausibleEven(label_noise=0).score(store, FIRST, backend="auto")
    ((level, text),) = lines(caplog)
    assert level == "INFO", "it was asked for"
    assert PlausibleEven(label_noise=0).facts(store) == {"suspect_share": 0.0}
    assert PlausibleEven(label_noise=0.3).facts(store) == {}
    PlausibleEven().score(make(0.1, seed=1), FIRST, backend="auto")
    PlausibleEven().score(make(0.0), FIRST, backend="auto")
    assert [level for level, _ in lines(caplog)] == ["INFO", "WARNING", "INFO"]


def test_facts_and_no_label_noise_compute_nothing(monkeypatch):
    store = make()
    monkeypatch.setattr(module, "estimate", refuse)
    policy = PlausibleEven(label_noise=0)
    scores = policy.score(store, FIRST, backend="auto")
    assert (scores.values > -1.0).all()
    assert not suspects(store, 0).any()
    assert PlausibleEven().facts(store) == {}
    with pytest.raises(AssertionError, match="computed"):
        PlausibleEven(label_noise=0.1).score(store, FIRST, backend="auto")


# Asked for


def test_suspects_are_those_that_are_not_drawn():
    store = make()
    found, noise = suspects(store), label_noise(store)
    assert noise is label_noise(store)
    assert 0.07 < noise.share < 0.17
    assert noise.informative
    assert noise.accuracy == pytest.approx(0.9, abs=0.03)
    assert np.array_equal(found, noise.suspects())
    for share in (None, 0.05):
        values = PlausibleEven(label_noise=share).score(store, np.arange(600)[None], backend="auto").values[0]
        assert np.array_equal(values < -1e5, suspects(store, share))
    assert suspects(store, 0.05).sum() == 30


def test_refusals():
    store = ReferenceStore.from_arrays(np.eye(4))
    for ask in (label_noise, suspects, lambda store: suspects(store, 0)):
        with pytest.raises(ArgumentError, match=r"^store must be a reference store with labels, got one without"):
            ask(store)
    with pytest.raises(ArgumentError, match=r"^share must be a number in \[0, 1\), got 1"):
        suspects(make(), 1)


# Kept beside the store


@pytest.fixture
def path(tmp_path):
    make().save(tmp_path / "store")
    return tmp_path / "store"


def kept_files(path):
    return sorted(name.name for name in path.iterdir() if name.name.startswith(NAME))


def test_a_store_opened_again_does_not_compute(path, monkeypatch):
    assert kept_files(path) == []
    first = label_noise(ReferenceStore.open(path))
    assert len(kept_files(path)) == 5
    monkeypatch.setattr(module, "estimate", refuse)
    store = ReferenceStore.open(path, verify=True)
    again = label_noise(store)
    assert (again.share, again.accuracy, again.informative) == (first.share, first.accuracy, first.informative)
    assert type(again.informative) is bool
    assert np.array_equal(again.doubts, first.doubts)
    assert np.array_equal(again.joint, first.joint)
    assert first.joint.shape == (3, 3)
    assert np.array_equal(suspects(store), first.suspects())
    assert np.array_equal(suspects(pickle.loads(pickle.dumps(store))), first.suspects())
    with pytest.raises(AssertionError, match="computed"):
        label_noise(make())


def count_suspects(path, kept, answers):
    if kept:
        module.estimate = refuse
    answers.put(int(suspects(ReferenceStore.open(path)).sum()))


def test_several_processes_at_once_and_one_after_them(path):
    answers = context().SimpleQueue()
    found = []
    for kept in ([False, False], [True]):
        running = [context().Process(target=count_suspects, args=(path, each, answers)) for each in kept]
        for process in running:
            process.start()
        for process in running:
            process.join()
            assert process.exitcode == 0
            found.append(answers.get())
    assert found == [suspects(make()).sum()] * 3
    assert len(kept_files(path)) == 5
    assert not list(path.glob(f"{atomic.TEMPORARY}*"))


def first_of(path, key):
    (found,) = path.glob(f"{NAME}-{key}-*.npy")
    return found


def truncate(path):
    target = first_of(path, "doubts")
    target.write_bytes(target.read_bytes()[:-8])


def change_a_byte(path):
    target = first_of(path, "numbers")
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)


def remove(path):
    first_of(path, "first").unlink()


def link(path):
    target = path / f"{NAME}.json"
    target.rename(path / "elsewhere")
    target.symlink_to(target)


def make_pipe(path):
    (path / f"{NAME}.json").unlink()
    os.mkfifo(path / f"{NAME}.json")


def with_json(change):
    def damage(path):
        target = path / f"{NAME}.json"
        target.write_text(change(target.read_text()))

    return damage


def edited(**values):
    return with_json(lambda text: json.dumps({**json.loads(text), **values}))


DAMAGE = {
    "truncated": truncate, "changed": change_a_byte, "missing": remove, "link": link, "pipe": make_pipe,
    "cut": with_json(lambda text: text[:40]), "empty": with_json(lambda text: ""), "list": with_json(lambda text: "[]"),
    "deep": with_json(lambda text: "[" * 100000), "null": with_json(lambda text: "null"),
    "numbers": edited(sha256={"numbers": [1], "joint": [], "doubts": 1, "first": None}), "foreign": edited(store=None),
    "outside": edited(sha256={"numbers": ["../" * 9], "joint": [], "doubts": [], "first": []}),
    "version": edited(version=0), "other store": edited(store="0" * 64),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_foreign_and_stale_files_are_not_trusted(path, damage, monkeypatch, caplog):
    expected = label_noise(ReferenceStore.open(path))
    DAMAGE[damage](path)
    with monkeypatch.context() as patched:
        patched.setattr(module, "estimate", refuse)
        with pytest.raises(AssertionError, match="computed"):
            label_noise(ReferenceStore.open(path))
    caplog.set_level(logging.INFO)
    assert np.array_equal(label_noise(ReferenceStore.open(path)).doubts, expected.doubts)
    said = [record for record in caplog.records if "is damaged and computed again" in record.getMessage()]
    assert len(said) == (damage not in {"pipe", "foreign", "version", "other store"}), (
        "one line, none where nothing is kept of it"
    )
    monkeypatch.setattr(module, "estimate", refuse)
    assert label_noise(ReferenceStore.open(path)).share == expected.share, "it was kept again"
    assert len(kept_files(path)) == 5


def test_another_store_at_the_same_path_and_another_version(path, monkeypatch):
    label_noise(ReferenceStore.open(path))
    make(0.3).save(path)
    assert label_noise(ReferenceStore.open(path)).share > 0.25
    assert len(kept_files(path)) == 5, "files of the old one are removed"
    monkeypatch.setattr(module, "_VERSION", module._VERSION + 1)
    monkeypatch.setattr(module, "estimate", refuse)
    with pytest.raises(AssertionError, match="computed"):
        label_noise(ReferenceStore.open(path))


@pytest.mark.parametrize("name", ["ENOSPC", "EROFS", "EACCES", "EIO"])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_where_nothing_can_be_kept_it_is_computed_again(path, name, call, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    stage, calls = atomic.stage, []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(getattr(__import__("errno"), name), name)
        return stage(*arguments)

    before = sorted(path.iterdir())
    monkeypatch.setattr(atomic, "stage", fails)
    expected = label_noise(make()).share
    for _ in range(2):
        calls.clear()
        caplog.clear()
        assert label_noise(ReferenceStore.open(path)).share == expected
        (record,) = caplog.records
        assert "is not kept, so the next process computes it again" in record.getMessage()
        assert sorted(path.iterdir()) == before


def test_an_interrupt_at_any_moment_leaves_nothing_that_is_believed(path, monkeypatch):
    expected = label_noise(make()).share
    fsync, before = os.fsync, sorted(path.iterdir())
    for number in range(1, 8):
        calls = []

        def interrupted(descriptor, calls=calls, number=number):
            calls.append(descriptor)
            if len(calls) == number:
                raise KeyboardInterrupt
            fsync(descriptor)

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                label_noise(ReferenceStore.open(path))
        assert not list(path.glob(f"{atomic.TEMPORARY}*"))
        store = ReferenceStore.open(path, verify=True)
        assert (derived.kept(store, NAME, module._VERSION, {"numbers": ("float64", (5,))}) is None) == (number < 7)
    assert label_noise(ReferenceStore.open(path)).share == expected
    assert set(before) < set(path.iterdir())


# While it computes


@pytest.mark.parametrize(
    ("terminal", "patience", "shown"), [(True, 0.0, True), (True, 60.0, False), (False, 0.0, False)]
)
def test_a_bar_is_drawn_on_a_terminal_if_it_takes_long(terminal, patience, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(progress, "_PATIENCE", patience)
    monkeypatch.setattr(probe, "_BLOCK", 50)
    expected = label_noise(make())
    assert ("label noise" in capsys.readouterr().err) == shown
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert np.array_equal(label_noise(make()).doubts, expected.doubts)


# Cases


def test_unlabelled_rows_take_no_part():
    store = make(unlabelled=150)
    noise, labels = label_noise(store), store.labels
    assert np.isneginf(noise.doubts[:150]).all()
    rest = module.estimate(store.features[150:], labels[150:])
    assert (noise.share, noise.accuracy) == (rest.share, rest.accuracy)
    assert np.array_equal(noise.doubts[150:], rest.doubts)
    assert not noise.suspects(0.9)[:150].any()
    assert noise.suspects(0.04).sum() == 18, "of the labelled"
    everything = module.estimate(store.features, np.where(labels == -1, 9, labels))
    assert everything.share > noise.share + 0.1, "as a class they would be one that nothing predicts"


def test_unlabelled_rows_are_drawn_between_the_labelled_and_suspects():
    store = make(unlabelled=150)
    indices = np.arange(100, 300)
    accused = suspects(store)[indices]
    scores = PlausibleEven().score(store, indices[None], backend="auto").values[0]
    assert scores[50:][~accused[50:]].max() < 1.0, "no class of theirs makes the others rare"
    chosen = set()
    for epoch in range(20):
        batch = CandidateBatch(indices, scores, seed=1, epoch=epoch)
        believed = int((~accused).sum()) - 50
        choice = PlausibleEven().select(batch, believed + 5)
        assert (choice.positions[:believed] >= 50).all()
        assert (choice.positions[believed:] < 50).all()
        assert choice.weights is None
        assert choice.zero_weight_draws == 0
        chosen |= set(choice.positions[believed:].tolist())
        whole = PlausibleEven().select(batch, 200)
        assert whole.weights.tolist() == [1.0] * (believed + 50) + [0.0] * accused.sum()
        assert whole.zero_weight_draws == accused.sum() > 0
    assert len(chosen) > 40, "they take turns"


def test_minus_one_and_one_are_two_classes():
    store = make(0.0)
    signs = np.where(store.labels == 0, -1, 1)
    binary = ReferenceStore.from_arrays(store.features, labels=signs)
    noise = label_noise(binary)
    assert np.isfinite(noise.doubts).all()
    assert noise.accuracy == 1.0
    values = PlausibleEven(balance=1).score(binary, np.arange(6)[None], backend="auto").values[0]
    assert values == pytest.approx(np.log([2, 1, 1, 2, 1, 1]))


def test_rarity_counts_the_rows_that_are_believed():
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [400, 400, 100])
    labels = truth.copy()
    labels[:200] = 2  # two thirds of class 2 are in truth of class 0
    store = ReferenceStore.from_arrays(np.eye(3)[truth] + 0.1 * generator.random((900, 3)), labels=labels)
    believed = np.bincount(labels[~suspects(store, 0.25)])
    policy = PlausibleEven(balance=1, label_noise=0.25)
    scores = policy.score(store, np.array([[250, 500, 850]]), backend="auto").values[0]
    assert scores == pytest.approx(np.log(believed.max() / believed))
    assert believed[2] < 200


def test_a_class_of_few_is_believed_whatever_it_looks_like():
    store = make(0.0)
    labels = store.labels.copy()
    labels[[1, 2, 4, 5]] = 7  # four rows that look like two other classes
    four = ReferenceStore.from_arrays(store.features, labels=labels)
    assert not suspects(four, 0.5)[[1, 2, 4, 5]].any()
    labels[7] = 7
    five = ReferenceStore.from_arrays(store.features, labels=labels)
    assert suspects(five, 0.5)[[1, 2, 4, 5, 7]].sum() == 5


def test_overlapping_levels_are_not_taken_for_noise(caplog):
    generator = np.random.default_rng(0)
    level = np.repeat(np.arange(5), 400)  # every label is right
    features = np.column_stack([level + generator.normal(size=2000), generator.normal(size=(2000, 8))])
    store = ReferenceStore.from_arrays(features, labels=level)
    caplog.set_level(logging.INFO)
    PlausibleEven().score(store, FIRST, backend="auto")
    assert suspects(store).mean() < 0.03
    ((name, _),) = lines(caplog)
    assert name == "INFO"


def test_small_classes_of_several_clusters_are_believed():
    for seed in range(8):  # every label is right
        generator = np.random.default_rng(seed)
        cluster = np.append(np.zeros(1000, dtype=int), 1 + generator.integers(0, 4, 400))
        features = 2 * generator.normal(size=(5, 2))[cluster] + 0.6 * generator.normal(size=(1400, 2))
        store = ReferenceStore.from_arrays(features, labels=cluster > 0)
        assert suspects(store)[1000:].mean() < 0.1


# What the evidence does not tell


def test_few_samples_of_a_class_and_classes_that_hardly_can_be_told_are_said_once(caplog, tmp_path):
    caplog.set_level(logging.INFO)
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(60), 10)
    centres = generator.normal(size=(60, 384))
    features = centres[truth] + 2.5 * generator.normal(size=(600, 384))
    labels = np.where(generator.random(600) < 0.5, (truth + generator.integers(1, 60, 600)) % 60, truth)
    ReferenceStore.from_arrays(features.astype(np.float32), labels=labels).save(tmp_path / "store")
    said = []
    for _ in range(2):  # computed, then read
        caplog.clear()
        store = ReferenceStore.open(tmp_path / "store")
        first, second = label_noise(store), label_noise(store)
        assert first is second
        said.append([line for line in lines(caplog) if "label noise: " in line[1]])
        assert first.unclear > 0
        assert first.unseen > 0.1
    assert said[0] == said[1]
    (level, text), (other, few) = said[0]
    assert (level, other) == ("WARNING", "INFO")
    assert text.startswith(f"label noise: most labels of {first.unclear} classes look wrong")
    assert f"up to about {100 * first.unseen:.0f} % of their class" in few
    caplog.clear()
    label_noise(make(0.1))
    assert lines(caplog) == []


def test_labels_corrected_in_memory_have_evidence_of_their_own(path):
    """Which is not taken for that of the labels on disk, nor theirs for it."""
    on_disk = suspects(make())
    corrected = ReferenceStore.open(path)
    corrected.labels[:] = np.arange(600) % 3
    assert label_noise(corrected).share < 0.01
    assert np.array_equal(suspects(ReferenceStore.open(path)), on_disk)
    again = ReferenceStore.open(path)
    again.labels[:] = corrected.labels
    assert label_noise(again).share < 0.01

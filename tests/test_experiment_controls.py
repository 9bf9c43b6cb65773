"""The simple means: as many samples in as many steps as a selection, and exactly the rows they say."""

import dataclasses
import json
import logging
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")

from processes import quick_comparisons

from spectral_sampler import PlausibleEven, ReferenceStore, suspects
from spectral_sampler.class_balanced import balanced_order, passes
from spectral_sampler.cli import main
from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import (
    CONTROLS,
    Cell,
    Comparison,
    Places,
    Policy,
    Settings,
    compare,
    register,
    run_cell,
)
from spectral_sampler.experiment import cell as cells
from spectral_sampler.experiment import policies as named
from spectral_sampler.experiment.budgets import budgets, even_sizes
from spectral_sampler.experiment.controls import small, with_held_out
from spectral_sampler.experiment.corruption import Corrupted, corrupt_held_out
from spectral_sampler.experiment.policies import (
    ALL_LABELLED,
    CEILINGS,
    FULL,
    FULL_EQUAL_COMPUTE,
    PROBE,
    controls_for,
    policy_named,
)
from spectral_sampler.experiment.policy import Material
from spectral_sampler.experiment.reference import Reference
from spectral_sampler.experiment.samples import DatasetSamples, ImageSamples, Task, TensorSamples, TextSamples
from spectral_sampler.experiment.shuffles import Listed, Passes

EQUAL = [name for name in (*CONTROLS, *CEILINGS) if name not in {FULL, FULL_EQUAL_COMPUTE, PROBE}]
CLEANING = [name for name in EQUAL if name.startswith(("clean", "confident", "oracle"))]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return Places(cache=tmp_path_factory.mktemp("cache"))


# ---- the orders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stop"), [(7, 7), (7, 45), (1, 5), (30, 11)])
def test_after_any_number_of_places_all_were_there_equally_often(size, stop):
    order = passes(3, size, 0, stop)
    for end in range(1, stop + 1):
        counts = np.bincount(order[:end], minlength=size)
        assert counts.max() - counts.min() <= 1
    for start in (0, 4, stop):
        assert passes(3, size, start, stop).tolist() == order[start:].tolist(), "a function of the place"
    if stop > 20 and size > 1:
        assert order[:7].tolist() != order[7:14].tolist(), "every pass is another shuffle"
        assert passes(4, size, 0, stop).tolist() != order.tolist()


@pytest.mark.parametrize("count", [1, 50, 333])
def test_classes_come_equally_often_and_inside_a_class_rows(count):
    labels = np.repeat([0, 2, 5], [40, 9, 1])
    rows = np.arange(100, 150)
    order = balanced_order(1, rows, labels, 0, count)
    for end in range(1, count + 1, 13):
        counts = np.bincount(labels[order[:end] - 100], minlength=6)[[0, 2, 5]]
        assert counts.max() - counts.min() <= 1
    for label in (0, 2, 5):
        times = np.bincount(order - 100, minlength=50)[labels == label]
        assert times.max() - times.min() <= 1


def test_sizes_are_even_and_add_up():
    for total, steps in [(100, 7), (7, 7), (5, 7), (1234, 100)]:
        sizes = even_sizes(total, steps)
        assert (len(sizes), sizes.sum()) == (steps, total)
        assert sizes.max() - sizes.min() <= 1


def test_lists_are_dealt_out_to_epochs():
    batches = Listed(np.arange(10), np.array([3, 2, 3, 2]), epochs=2)
    assert len(batches) == 2
    assert list(batches) == [[0, 1, 2], [3, 4]]
    batches.set_epoch(1)
    assert list(batches) == [[5, 6, 7], [8, 9]]
    with pytest.raises(IndexError, match="lists for 2 epochs, and epoch 2"):
        batches.set_epoch(2)


def test_the_candidates_of_rows_left_in_are_as_many_as_of_all():
    order = Passes(np.array([2, 3, 5]), 7, seed=0)
    seen = []
    for epoch in range(6):
        order.set_epoch(epoch)
        assert len(list(order)) == len(order) == 7
        seen += list(order)
    assert np.bincount(seen)[[2, 3, 5]].tolist() == [14, 14, 14]


# ---- trainings ----------------------------------------------------------------------------------------------------

SETTINGS = [
    Settings.of("digits", epochs=3, train_size=330, label_noise=0.3, reference_epochs=3),
    Settings.of("digits", epochs=4, train_size=200, label_noise=0.2, imbalance=20.0, candidate_batch_size=12,
                schedule="constant", keep_ratio=0.45, reference_epochs=3),
    Settings.of("digits", epochs=2, train_size=150, label_noise=0.1, duplicate=0.4, candidate_batch_size=50,
                keep_ratio=0.2, keep_min=0.1, schedule="linear", reference_epochs=3),
]  # fmt: skip


@pytest.fixture(scope="module", params=SETTINGS, ids=["sigmoid", "uneven", "copies"])
def settings(request):
    return request.param


@pytest.fixture(scope="module")
def trained(settings, places):
    """Results of all controls, with how often each row was trained on, and its corruption."""
    found, fit, seen = {}, cells.fit, []

    def watched(network, samples, *arguments):
        trace = fit(network, samples, *arguments)
        seen[:] = trace.selected.sum(0), samples.labels
        return trace

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "fit", watched)
        for policy in (*EQUAL, ALL_LABELLED, "plausible-even"):
            found[policy] = run_cell(Cell(settings, policy, 5, curve=False), places), *seen
    return found


@pytest.fixture(scope="module")
def corrupted(settings, places):
    return cells.corrupt(cells.load(settings, places).train.labels, settings.corruption, 10, 5)


def test_every_control_sees_as_many_samples_in_as_many_steps_from_the_same_weights(trained, settings, corrupted):
    rows = len(corrupted.rows)
    expected = budgets(settings, rows)
    for result, times, _ in trained.values():
        assert result["samples"] == times.sum() == expected.sum()
        assert result["steps"] == len(expected)
        assert result["passes"] == pytest.approx(expected.sum() / len(times))
    assert {len(times) for _, times, _ in trained.values()} == {rows, rows + 400}
    assert len({result["initial_weights"] for result, *_ in trained.values()}) == 1


def left_in(trained, policy, corrupted, settings, places):
    if policy.startswith("oracle"):
        return ~corrupted.wrong
    if policy.startswith("clean-once"):
        task = cells.load(settings, places)
        return ~suspects(cells.reference_for(settings, task, corrupted, 5, places.cache).store)
    if policy.startswith("confident"):
        times = [trained[name][1] for name in ("confident-learning", "confident-learning-balanced")]
        return times[0] + times[1] > 0
    return np.ones(len(corrupted.rows), dtype=bool)


@pytest.mark.parametrize("policy", EQUAL)
def test_who_is_shown_and_how_often(policy, trained, corrupted, settings, places):
    result, times, labels = trained[policy]
    kept = left_in(trained, policy, corrupted, settings, places)
    if policy in CLEANING:
        assert not times[~kept].any(), "what is left out is never shown"
        told = result["left_out"]
        assert told["share"] == told["rows"] / len(kept)
        if not policy.startswith("confident"):  # of which few samples may leave out others by chance
            assert told["rows"] == (~kept).sum()
            right = (~kept & corrupted.wrong).sum()
            assert told["recall"] == right / corrupted.wrong.sum()
            assert told["precision"] == right / (~kept).sum()
    else:
        assert "left_out" not in result
    if policy.startswith("oracle"):
        assert result["wrong_label_share"] == 0.0
    if policy.endswith("balanced"):
        present = np.unique(labels[kept])
        counts = np.bincount(labels, weights=times, minlength=10)[present]
        assert counts.max() - counts.min() <= 1
        groups = [kept & (labels == label) for label in present]
    else:
        groups = [kept] if policy != "uniform" else []
    for group in groups:
        if not policy.startswith("confident"):
            assert times[group].max() - times[group].min() <= 1


def test_all_labelled_rows_are_shown_alike_with_the_labels_that_the_reference_saw(trained, corrupted, settings, places):
    result, times, labels = trained[ALL_LABELLED]
    held_out = cells.load(settings, places).held_out
    told = corrupt_held_out(held_out.labels, settings.corruption, 10, 5)
    assert labels.tolist() == [*corrupted.labels, *told]
    assert (told != held_out.labels).any()
    assert times.max() - times.min() <= 1
    wrong = np.append(corrupted.wrong, told != held_out.labels)
    assert result["wrong_label_share"] == pytest.approx(times @ wrong / times.sum())
    assert result["corruption"] == trained["small"][0]["corruption"]


def test_samples_that_are_read_one_by_one_are_joined():
    inputs = torch.arange(12, dtype=torch.uint8).reshape(6, 2)
    source = [(row, 0) for row in inputs]  # of both, as they are parts of one data set
    plain = TensorSamples(inputs[:3].float() / 255, np.array([0, 1, 2]))
    one = DatasetSamples(source, np.array([4, 0, 1]), np.array([0, 1, 2]), plain)
    both = one.joined(DatasetSamples(source, np.array([5]), np.array([7]), plain.subset(np.array([0]), np.array([7]))))
    assert [(255 * row).round().tolist() for row, _ in map(both.__getitem__, range(4))] == [
        [8, 9],
        [0, 1],
        [2, 3],
        [10, 11],
    ]
    assert [int(label) for _, label in map(both.__getitem__, range(4))] == both.labels.tolist() == [0, 1, 2, 7]
    assert both.plain().inputs.tolist() == [*plain.inputs.tolist(), plain.inputs[0].tolist()]
    images = ImageSamples(source, np.array([3, 2]), np.array([1, 0]), lambda image: image + 100, lambda image: image)
    images = images.joined(ImageSamples(source, np.array([1]), np.array([4]), None, None))
    assert [images[row][0].tolist() for row in range(3)] == [[106, 107], [104, 105], [102, 103]]
    assert images.plain()[2][0].tolist() == [2, 3]
    assert images.labels.tolist() == [1, 0, 4]
    texts = TextSamples(inputs[:2], np.array([1, 2]), ["one", "two"], 9)
    texts = texts.joined(texts.subset(np.array([1])))
    assert (texts.texts, texts.labels.tolist(), texts.vocabulary) == (["one", "two", "two"], [1, 2, 2], 9)


def test_without_wrong_labels_the_ceiling_is_ordinary_training(places):
    clean = Settings.of("digits", epochs=2, train_size=150, reference_epochs=3)
    ceiling, small = (run_cell(Cell(clean, policy, 0), places) for policy in ("oracle", "small"))
    own = ("policy", "key", "seconds", "clock", "total_seconds", "left_out")
    assert {k: v for k, v in ceiling.items() if k not in own} == {k: v for k, v in small.items() if k not in own}
    assert ceiling["left_out"] == {"rows": 0, "share": 0.0, "precision": None, "recall": None}


def test_a_probe_reads_the_test_rows_and_trains_nothing(settings, places):
    result = run_cell(Cell(settings, PROBE, 5), places)
    assert (result["samples"], result["steps"], result["passes"], result["learner_flops"]) == (0, 0, 0.0, 0.0)
    assert result["probe_flops"] > 0
    assert result["test_accuracy"] > 0.5, "chance is 0.1"
    assert result["wrong_label_share"] == result["corruption"]["wrong_labels"] / result["corruption"]["rows"]
    assert result["curve"][-1]["test_accuracy"] == result["test_accuracy"]


def material(labels, features, tested=None, wrong=None):
    """Of features alone; what the test rows' are is for `monkeypatch` to say."""
    rows = np.arange(len(labels))
    samples = TensorSamples(torch.from_numpy(features.astype(np.float32)), labels)
    test = samples if tested is None else TensorSamples(torch.zeros(len(tested), 1), tested)
    corrupted = Corrupted(rows, labels, np.zeros(len(labels), dtype=bool) if wrong is None else wrong)
    reference = Reference(ReferenceStore.from_arrays(features, labels=labels), {}, np.zeros((len(labels), 0)))
    settings = Settings.of("digits", epochs=2, candidate_batch_size=10)
    task = Task("blobs", samples, samples, test, ("a", "b", "c"))
    return Material(settings, 0, task, corrupted, samples, reference, torch.nn.Linear(features.shape[1], 3))


def test_a_probe_beats_nothing_on_noise(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    labels, tested = generator.integers(3, size=300), generator.integers(3, size=600)
    noise, more = generator.normal(size=(300, 20)), generator.normal(size=(600, 20))
    for signal, low, high in ((0.0, 0.25, 0.42), (3.0, 0.9, 1.01)):
        rows, others = (part + signal * np.eye(20)[of] for part, of in ((noise, labels), (more, tested)))
        monkeypatch.setattr(
            "spectral_sampler.experiment.controls.probe.features_of_test", lambda *_, others=others: others
        )
        made = policy_named(PROBE).finished(material(labels, rows, tested)._replace(cache=tmp_path))
        assert low < cells.evaluate(made.network, made.test)[0] < high


def test_a_selection_over_the_rows_that_are_left(tmp_path):
    generator = np.random.default_rng(0)
    labels, wrong = np.arange(60) % 3, generator.random(60) < 0.3
    given = material(labels, generator.normal(size=(60, 4)), wrong=wrong)
    policy = Policy(lambda: PlausibleEven(label_noise=0.0), left_out=lambda known: known.corrupted.wrong)
    batches = policy.batches(policy, given, policy.rows(given))
    lists = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        lists += list(batches)
    assert [len(indices) for indices in lists] == budgets(given.settings, 60).tolist()
    assert not wrong[np.concatenate(lists)].any()
    everyone = dataclasses.replace(policy, left_out=lambda known: np.ones(60, dtype=bool))
    with pytest.raises(ArgumentError, match="left_out must be false for a training row, got true for all of them"):
        everyone.rows(given)


def test_rows_are_added_to_controls_alone_and_where_there_are_any():
    for known in ({}, {"batches": small, "left_out": lambda known: known.corrupted.wrong}):
        with pytest.raises(ArgumentError, match="extended must be None with left_out, and with candidate batches"):
            Policy(extended=with_held_out, **known)
    given = material(np.arange(60) % 3, np.eye(60, 4) + 1.0)
    none = given.task._replace(held_out=given.train.subset(np.arange(0)))
    with pytest.raises(ArgumentError, match="reference must be one trained on held-out rows, for all-labelled"):
        with_held_out(given._replace(task=none))
    more = with_held_out(given)
    assert len(more.train) == len(more.corrupted.rows) == 120
    assert more.budgets.tolist() == given.budgets.tolist()


# ---- comparisons --------------------------------------------------------------------------------------------------


def test_ceilings_are_there_where_labels_are_wrong_and_the_probe_where_it_can_be(tmp_path, caplog):
    clean = Settings.of("digits")
    assert controls_for(clean) == CONTROLS
    assert controls_for(dataclasses.replace(clean, label_noise=0.1)) == (*CONTROLS, *CEILINGS)
    assert controls_for(dataclasses.replace(clean, imbalance=10.0)) == CONTROLS
    with caplog.at_level(logging.WARNING, "spectral_sampler.experiment"):
        found = controls_for(dataclasses.replace(clean, reference="given"))
    assert found == tuple(name for name in CONTROLS if name != PROBE)
    assert caplog.messages == ["The probe is left out: the reference given has no features of the test rows."]


def test_features_that_came_with_the_data_leave_the_probe_out_and_refuse_it(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 3
    x = generator.normal(size=(200, 4)) + 2.0 * labels[:, None]
    np.savez(tmp_path / "own.npz", x=x, y=labels, features=x, x_test=x[:50], y_test=labels[:50])
    settings = Settings.of(str(tmp_path / "own.npz"), epochs=2, schedule="constant")
    assert settings.reference == "given"
    comparison = Comparison(settings, [], [0], tmp_path / "out", Places(cache=tmp_path / "cache"), 1, curves=False)
    with quick_comparisons():
        results = compare(comparison)
    assert results["policies"] == [name for name in CONTROLS if name != PROBE]
    equal = {cell["samples"] for cell in results["cells"] if cell["policy"] in EQUAL}
    assert len(equal) == 1
    rule = "reference must be one that has features of the test rows, for the probe"
    with quick_comparisons(), pytest.raises(ArgumentError, match=rule):
        compare(comparison._replace(policies=[PROBE], out=tmp_path / "other"))


def test_a_short_list_of_controls_is_asked_for(tmp_path, places):
    settings = Settings.of("digits", epochs=1, train_size=128, schedule="constant", reference_epochs=3)
    with quick_comparisons():
        results = compare(Comparison(settings, ["saln"], [0], tmp_path, places, 1, curves=False, controls=["small"]))
    assert results["policies"] == ["small", "saln"]


PLUGIN = """
import numpy as np
from spectral_sampler import Uniform
from spectral_sampler.experiment import Policy, register
from spectral_sampler.experiment.controls import small

def even(material):
    return material.train.labels % 2 == 1

class Mine(Uniform):
    name = "mine"

register("mine", Mine)
register("even-once", Policy(left_out=even, batches=small))
register("even-mine", Policy(Mine, left_out=even))
"""


def test_a_plugin_adds_policies(tmp_path, capsys, monkeypatch, places):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    for table in ("POLICIES", "_NAMED"):
        monkeypatch.setattr(named, table, dict(getattr(named, table)))
    (tmp_path / "plugin_of_this_test.py").write_text(PLUGIN)
    words = ["compare", "--train-size", "128", "--seeds", "1", "--schedule", "constant", "--no-curves", "--epochs", "1",
             "--jobs", "1", "--policies", "mine,even-once,even-mine", "--plugin", "plugin_of_this_test", "--json",
             "--out", str(tmp_path / "out"), "--cache", str(places.cache)]  # fmt: skip
    with quick_comparisons():  # as fresh as spawned ones
        assert main(words) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["policies"] == [*CONTROLS, "mine", "even-once", "even-mine"]
    found = {cell["policy"]: cell for cell in results["cells"]}
    assert len({found[name]["samples"] for name in ("uniform", "mine", "even-once", "even-mine")}) == 1
    for name in ("even-once", "even-mine"):
        assert sum(found[name]["selected_per_class"][-1][1::2]) == 0
        assert found[name]["left_out"]["rows"] > 50
    assert sum(found["mine"]["selected_per_class"][-1][1::2]) > 0


def test_a_policy_is_registered_once(monkeypatch):
    for table in ("POLICIES", "_NAMED"):
        monkeypatch.setattr(named, table, dict(getattr(named, table)))
    mine = Policy(PlausibleEven)
    register("mine", mine)
    register("mine", mine)
    assert policy_named("mine") is mine
    for taken in ("mine", "small", "gstds"):
        with pytest.raises(ArgumentError, match="name must be new"):
            register(taken, Policy())
    keys = {Cell(SETTINGS[0], name, 0).key for name in ("mine", "small", "plausible-even")}
    assert len(keys) == 3

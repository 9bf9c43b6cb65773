"""The pilot: what it says, from what it says it, and whether it was right where full runs are known."""

import json
import shlex

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("scipy")

from benchmarks import pilot_record
from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import Places, Settings
from spectral_sampler.experiment.cell import load
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.page import write_page
from spectral_sampler.experiment.piloting.conduct import _train, pilot
from spectral_sampler.experiment.piloting.cost import Cost
from spectral_sampler.experiment.piloting.facts import _wants_balance, facts_of
from spectral_sampler.experiment.piloting.forecast import against_full, against_uniform, differences
from spectral_sampler.experiment.piloting.plan import Plan, Room, comparison_samples, plan_for, reference_rows
from spectral_sampler.experiment.piloting.pool import gather, lesson
from spectral_sampler.experiment.piloting.run import Short
from spectral_sampler.experiment.piloting.verdict import SELECTIONS, conclude, selections
from spectral_sampler.experiment.report import read_json, write_json
from spectral_sampler.experiment.samples import TensorSamples
from spectral_sampler.store import ReferenceStore

NOISY = Settings.of("digits", label_noise=0.2)
PLAN = Plan(300, 150, Short(48, 3, 8), 2, 200)
FACTS = {
    "rows": 1000, "classes": 10, "label_noise": 0.0, "suspected": 0, "imbalance": 1.0, "copies": 0,
    "features_informative": True,
}  # fmt: skip
CHEAP = Cost(1.0, 1.0, 0.001, 0.01, 1e-5, 1000, 64_000)


def untimed(value):
    """A result without what the clock put into it."""
    if isinstance(value, dict):
        clocked = {"seconds", "processor_seconds", "cost", "circumstances", "reason", "verdict", "advice"}
        return {name: untimed(part) for name, part in value.items() if name not in clocked}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def records(uniform, even, learnable, full):
    """Short trainings with these accuracies, one a seed."""
    runs = {"uniform": uniform, "plausible-even": even, "plausible-learnable": learnable, "full": full}
    return [
        {"policy": policy, "seed": seed, "test_accuracy": accuracy}
        for policy, accuracies in runs.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def concluded(facts=FACTS, cost=CHEAP, settings=NOISY, **accuracies):
    return conclude(settings, facts, records(**accuracies), cost)


@pytest.fixture(scope="module")
def noisy():
    state = torch.random.get_rng_state(), torch.get_num_threads()
    result = pilot(NOISY, plan=PLAN, jobs=1, command="spectral-sampler pilot")
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert torch.get_num_threads() == state[1]
    return result


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return gather(
        Settings.of("digits", duplicate=0.5), load(NOISY, Places()), tmp_path_factory.mktemp("pool"), 400, 100
    )


def test_the_result_says_everything_in_plain_values(noisy, tmp_path):
    write_json(tmp_path / "pilot.json", noisy)
    assert read_json(tmp_path / "pilot.json") == noisy
    assert noisy["verdict"] in {"yes", "no", "undecided"}
    assert noisy["reason"].endswith(".")
    assert noisy["keep_ratio"] == 0.3
    assert set(noisy["proposed"]) == {"selection", "recommended", "keep_ratio", "code"}
    assert [line["against"] for line in noisy["expected"][:2]] == ["uniform", "full"]
    for line in noisy["expected"]:
        assert line["low"] < line["points"] < line["high"]
        seconds = line["seconds"]
        assert seconds["total"] == pytest.approx(
            seconds["extraction"] + seconds["selection"] + seconds["training"], abs=0.01
        )
    assert noisy["expected"][1]["seconds"]["against_total"] >= noisy["expected"][0]["seconds"]["against_total"]
    assert noisy["settings"] == NOISY.record()
    assert noisy["circumstances"]["command"] == "spectral-sampler pilot"
    runs = noisy["measured"]["runs"]
    assert [(run["policy"], run["seed"]) for run in runs] == [
        (policy, seed) for seed in (0, 1) for policy in ("full", "uniform", "plausible-even", "plausible-learnable")
    ]
    assert noisy["measured"]["learner_flops"] == sum(run["learner_flops"] for run in runs)


def test_a_plan_makes_it_a_function_of_its_arguments(noisy):
    assert untimed(pilot(NOISY, plan=PLAN, jobs=1)) == untimed(noisy)


def test_policies_of_a_seed_see_as_many_samples_and_judges(noisy):
    for seed in (0, 1):
        full, *others = [run for run in noisy["measured"]["runs"] if run["seed"] == seed]
        assert len({run["samples"] for run in others}) == 1
        assert others[0]["samples"] == pytest.approx(0.3 * full["samples"], rel=0.15)
        assert len({run["judges"] for run in (full, *others)}) == 1


def test_suspects_are_wrong_labels_and_look_like_the_right_ones(noisy):
    task = load(NOISY, Places())
    seen = corrupt(task.train.labels, NOISY.corruption, 10, 0)
    truth = dict(zip(seen.rows.tolist(), task.train.labels[seen.rows].tolist(), strict=True))
    wrong = dict(zip(seen.rows.tolist(), seen.wrong.tolist(), strict=True))
    suspects = noisy["examples"]["suspects"]
    assert 20 <= len(suspects) <= 24
    assert np.mean([wrong[suspect["row"]] for suspect in suspects]) > 0.9
    assert np.mean([str(truth[suspect["row"]]) == suspect["looks_like"] for suspect in suspects]) > 0.7
    assert 0.1 < noisy["data"]["label_noise"] < 0.3
    assert noisy["data"]["suspected"] == round(noisy["data"]["suspected_share"] * noisy["data"]["rows"])


def test_kept_and_left_rows_are_training_rows_and_disjoint(noisy):
    kept, left = noisy["examples"]["kept"], noisy["examples"]["left"]
    assert kept
    assert not set(kept) & set(left)
    assert set(kept) | set(left) <= set(range(800))


def test_of_the_test_part_only_the_shares_of_classes_are_used(noisy, monkeypatch):
    task = load(NOISY, Places())
    order = np.random.default_rng(0).permutation(len(task.test))
    blank = TensorSamples(torch.zeros_like(task.test.inputs), task.test.labels[order])
    monkeypatch.setattr("spectral_sampler.experiment.piloting.conduct.load", lambda *_: task._replace(test=blank))
    assert untimed(pilot(NOISY, plan=PLAN, jobs=1)) == untimed(noisy)


def test_judges_are_rows_that_nobody_learnt_from_and_no_copies_of_these(pool):
    taught = lesson(pool, 100, 3, 1000)
    learnt = pool.store.features[taught.rows]
    inputs = {row.numpy().tobytes() for row in pool.samples.inputs[torch.from_numpy(taught.rows)]}
    judges = [row.numpy().tobytes() for part in taught.judges for row in part.inputs]
    assert len(learnt) == 100
    assert len(judges) == len(taught.weights) > 150
    assert not inputs & set(judges)
    reserved = {row.numpy().tobytes() for row in pool.reserved.inputs}
    assert not reserved & {row.numpy().tobytes() for row in pool.samples.inputs}


def test_judges_count_as_their_classes_do_in_the_test_part(pool):
    wanted = np.arange(1.0, 11.0) / 55.0
    taught = lesson(pool._replace(wanted=wanted), 100, 0, 200)
    labels = np.concatenate([part.labels for part in taught.judges])
    assert len(labels) == 200
    np.testing.assert_allclose(np.bincount(labels, taught.weights, 10), wanted)


def test_reserved_rows_are_as_wrong_as_all_others(tmp_path):
    task = load(NOISY, Places())
    found = gather(Settings.of("digits", label_noise=0.5), task, tmp_path, 100, 60)
    clean = {
        row.numpy().tobytes(): label for row, label in zip(task.held_out.inputs, task.held_out.labels, strict=True)
    }
    wrong = [clean[row.numpy().tobytes()] != label for row, label in
             zip(found.reserved.inputs, found.reserved.labels, strict=True)]  # fmt: skip
    assert np.mean(wrong) == pytest.approx(0.5, abs=0.01)


def test_copies_and_uneven_and_overlapping_classes_are_found(pool):
    generator = np.random.default_rng(0)
    centres = np.eye(6)[[0, 0, 1, 2]] * 8.0  # the first two classes are one
    labels = np.repeat(np.arange(4), [80, 80, 80, 20])
    features = (centres[labels] + generator.normal(size=(260, 6))).astype(np.float32)
    features[161:171] = features[160]
    store = ReferenceStore.from_arrays(features, labels=labels)
    first = np.arange(260)
    first[161:171] = 160
    drawn = pool._replace(
        task=pool.task._replace(classes=("a", "b", "c", "d")), rows=np.arange(260), store=store, copies=first,
        samples=TensorSamples(torch.zeros(260, 1), labels), wanted=np.full(4, 0.25),
    )  # fmt: skip
    found = facts_of(drawn).record
    assert found["copies"] == 10
    assert found["imbalance"] == 4.0
    assert found["rows_per_class"] == [80, 80, 80, 20]
    assert found["overlap"][0]["classes"] == ["a", "b"]
    assert min(found["overlap"][0]["shares"]) > 0.2


@pytest.mark.slow
def test_it_keeps_to_its_share_of_the_comparison():
    found = pilot(Settings.of("digits", train_size=400), budget=1e4, share=0.03, jobs=1)
    assert 0.02 < found["measured"]["share_of_comparison"] <= 0.03
    assert found["measured"]["plan"]["pool"] == 400


@pytest.mark.parametrize(
    ("counts", "wanted", "balance"),
    [([100, 100], [0.9, 0.1], False), ([400, 100], [0.5, 0.5], True), ([400, 100], [0.8, 0.2], False),
     ([400, 100, 0], [0.55, 0.45, 0.0], True), ([400, 0], [0.5, 0.5], False)],
)  # fmt: skip
def test_balance_is_proposed_where_the_test_is_even_and_the_training_is_not(counts, wanted, balance):
    assert _wants_balance(np.array(counts), np.array(wanted)) is balance
    facts = {**FACTS, "imbalance": 4.0 if balance else 1.0, "balance": balance}
    names = selections(facts)
    assert names == tuple(f"{name}-balanced" if balance else name for name in ("plausible-even", "plausible-learnable"))
    runs = [{**run, "policy": dict(zip(SELECTIONS, names, strict=True)).get(run["policy"], run["policy"])} for run in
            records(learnable=[0.6, 0.62, 0.59, 0.62], even=[0.6] * 4, **GAINS)]  # fmt: skip
    found = conclude(NOISY, {**facts, "label_noise": 0.2, "suspected": 200}, runs, CHEAP)
    assert found["proposed"]["recommended"] == names[1]
    if found["proposed"]["selection"] == names[1]:
        assert ("selection=PlausibleLearnable(balance=1)" in found["proposed"]["code"]) is balance


def test_what_a_comparison_sees_is_five_seeds_of_three_policies():
    settings = Settings.of("digits", schedule="constant", epochs=10)
    assert comparison_samples(settings, 800) == pytest.approx(5 * 10 * 768 * 1.6, rel=0.01)


@pytest.mark.parametrize(
    ("rows", "classes", "samples"), [(800, 10, 9600), (1020, 102, 16_000), (12_000, 10, 57_000), (60, 3, 2000)]
)
def test_plans_fit_into_their_room(rows, classes, samples):
    short, seeds = plan_for(NOISY, Room(samples, rows, rows, classes), 2, 0.3)
    assert short.rows * short.epochs * seeds * 1.9 <= samples
    assert short.rows <= rows // 2
    assert 8 <= short.candidate_batch_size <= min(64, short.rows)


def test_a_room_too_small_is_refused():
    with pytest.raises(
        ArgumentError, match=r"^budget must be enough for trainings on 16 rows, got .*Give it more time"
    ):
        plan_for(NOISY, Room(50, 800, 800, 10), 2, 0.3)


def test_reference_rows_shrink_with_the_time_there_is():
    tried = (128, 1.0)  # 256 rows a second
    assert reference_rows(5000, 800, 1e9, tried, encodes=True) == (5000, 800)
    pool_rows, held_out = reference_rows(5000, 800, 4.0, tried, encodes=True)
    assert pool_rows + held_out <= 1100
    assert min(pool_rows, held_out) >= 128
    assert reference_rows(5000, 10_000, 0.0, tried, encodes=False) == (5000, 128)
    assert reference_rows(5000, 10_000, 1e9, tried, encodes=False) == (5000, 10_000)


class Spent:
    """A clock that has run out."""

    def left(self):
        return -1.0


def test_without_time_it_stops_after_a_seed_and_does_not_say_yes(pool):
    said = []
    runs = _train(pool, PLAN._replace(seeds=5), Spent(), said.append)
    assert {run.record["seed"] for run in runs} == {0}
    assert said[-1] == "The budget ends after 1 of 5 seeds."
    noisy = {**FACTS, "label_noise": 0.5, "suspected": 500}
    found = concluded(noisy, uniform=[0.3], even=[0.8], learnable=[0.9], full=[0.3])
    assert found["verdict"] != "yes"
    write_less = json.dumps(found, allow_nan=False)
    assert "NaN" not in write_less


GAINS = {"uniform": [0.5, 0.52, 0.48, 0.51], "full": [0.52, 0.55, 0.5, 0.53]}


def test_yes_where_short_trainings_and_the_data_agree():
    found = concluded(
        {**FACTS, "label_noise": 0.2, "suspected": 200},
        learnable=[0.6, 0.62, 0.59, 0.62], even=[0.6, 0.6, 0.6, 0.6], **GAINS,
    )  # fmt: skip
    assert found["verdict"] == "yes"
    assert found["proposed"]["selection"] == "plausible-learnable"
    assert found["proposed"]["code"].endswith("selection=PlausibleLearnable())")
    assert found["expected"][0]["low"] > 0
    assert any("suspected" in sentence for sentence in found["advice"])


def test_the_selection_that_asks_nothing_of_the_loop_where_it_is_clearly_ahead():
    noisy = {**FACTS, "label_noise": 0.2, "suspected": 200}
    found = concluded(noisy, even=[0.6, 0.62, 0.59, 0.62], learnable=[0.5, 0.53, 0.48, 0.5], **GAINS)
    assert found["proposed"]["recommended"] == "plausible-even"


def test_no_where_there_is_nothing_to_select_by():
    found = concluded(learnable=[0.5, 0.52, 0.49, 0.5], even=[0.5, 0.52, 0.48, 0.51], **GAINS)
    assert found["verdict"] == "no"
    assert found["proposed"]["selection"] == "uniform"
    assert "nothing to select by" in found["reason"]


def test_no_yes_on_a_gain_that_seeds_do_not_agree_about():
    noisy = {**FACTS, "label_noise": 0.1, "suspected": 100}
    found = concluded(noisy, learnable=[0.3, 0.8, 0.35, 0.75], even=[0.5, 0.5, 0.5, 0.5], **GAINS)
    assert found["expected"][0]["low"] <= 0
    assert found["verdict"] == "undecided"


def test_no_where_uniform_wins():
    noisy = {**FACTS, "label_noise": 0.02, "suspected": 20}
    found = concluded(noisy, learnable=[0.2, 0.22, 0.19, 0.2], even=[0.2, 0.2, 0.2, 0.2], **GAINS)
    assert found["expected"][0]["points"] < 0
    assert found["verdict"] == "no"


def test_a_reference_that_costs_more_than_it_saves_is_no_reason_for_yes():
    dear = CHEAP._replace(extraction=1e4)
    noisy = {**FACTS, "label_noise": 0.15, "suspected": 150}
    found = concluded(noisy, dear, learnable=[0.52, 0.55, 0.51, 0.54], even=[0.5] * 4, uniform=[0.3, 0.32, 0.3, 0.31],
                      full=[0.62, 0.65, 0.61, 0.65])  # fmt: skip
    assert found["expected"][0]["low"] > 0
    assert found["verdict"] != "yes"


def test_a_larger_ratio_is_proposed_where_the_loss_to_full_training_is_too_large():
    uneven = {**FACTS, "imbalance": 5.0}
    found = concluded(uneven, learnable=[0.4, 0.42, 0.39, 0.4], even=[0.4] * 4, uniform=[0.4, 0.42, 0.38, 0.41],
                      full=[0.6, 0.63, 0.6, 0.62])  # fmt: skip
    ratio = found["proposed"]["keep_ratio"]
    assert ratio in {0.5, 0.7, 1.0}
    assert found["expected"][1]["points"] < -1.0
    if ratio < 1.0:
        assert [line["keep_ratio"] for line in found["expected"]] == [0.3, 0.3, ratio, ratio]
        assert found["expected"][3]["points"] >= -1.0


def test_wrong_labels_of_the_judges_are_undone():
    accuracy = np.array([0.6, 0.8])
    shown = accuracy * 0.8 + (1.0 - accuracy) * 0.2 / 9.0
    found = differences(records([shown[0]], [0.0], [shown[1]], [0.0]), "plausible-learnable", "uniform", 0.2, 10)
    np.testing.assert_allclose(found, [20.0])


def test_one_seed_tells_nothing_beyond_the_facts():
    facts = {**FACTS, "label_noise": 0.2}
    for forecast in (against_uniform, against_full):
        assert forecast([50.0], facts) == forecast([-50.0], facts)
    assert against_uniform([50.0], facts).low < 0.0


def test_intervals_widen_where_seeds_disagree():
    facts = {**FACTS, "label_noise": 0.2}
    narrow, wide = (against_uniform(np.array([8.0 - by, 8.0, 8.0 + by]), facts) for by in (0.5, 12.0))
    assert wide.high - wide.low > narrow.high - narrow.low


def test_costs_grow_with_rows_steps_and_samples(pool):
    per_step, per_sample, candidate = 0.002, 0.0005, 1e-4
    made = [
        {"policy": policy, "steps": 40, "samples": 40 * batch, "candidate_batch_size": 10,
         "seconds": {"training": 40 * (per_step + per_sample * batch), "data": 0.0, "selection": 400 * candidate}}
        for policy, batch in (("full", 10), ("uniform", 3), ("plausible-even", 3), ("plausible-learnable", 3))
    ]  # fmt: skip
    settings = Settings.of("digits", epochs=10)
    cost = Cost.of(settings, pool._replace(rows_in_all=1600), made, 2.0, 1.0)  # four times the pool
    assert (cost.extraction, cost.judging) == (8.0, 4.0)
    assert (cost.step, cost.sample, cost.candidate) == pytest.approx((per_step, per_sample, candidate))
    assert (cost.steps, cost.candidates) == (250, 16_000)
    seconds = cost.seconds(0.3, 1.0)
    assert seconds["training"] == pytest.approx(250 * per_step + 4800 * per_sample)
    assert seconds["against_total"] == pytest.approx(250 * per_step + 16_000 * per_sample)
    assert seconds["total"] == pytest.approx(8.0 + 4.0 + 1.6 + seconds["training"])


@pytest.mark.parametrize(
    ("changes", "argument"),
    [({"budget": 0.0}, "budget"), ({"budget": float("nan")}, "budget"), ({"share": 0.0}, "share"),
     ({"share": 1.5}, "share"), ({"jobs": 0}, "jobs")],
)  # fmt: skip
def test_arguments_that_cannot_be(changes, argument):
    with pytest.raises(ArgumentError, match=f"^{argument} must be"):
        pilot(NOISY, **changes)


def test_a_budget_too_short_for_anything_gets_one_seed_and_says_so():
    found = pilot(Settings.of("digits", train_size=200), budget=0.01, jobs=1)
    assert {run["seed"] for run in found["measured"]["runs"]} == {0}
    assert found["verdict"] != "yes"
    assert found["advice"][-1].startswith("There was time for 1 of ")


@pytest.mark.parametrize(("rows", "argument"), [(20, "data"), (48, "candidate-batch-size")])
def test_data_too_small_for_a_pilot(rows, argument):
    with pytest.raises(ArgumentError, match=f"^{argument} must be"):
        pilot(Settings.of("digits", train_size=rows), plan=PLAN)


@pytest.mark.slow
def test_small_data_get_the_least_that_tells_anything(pool):
    settings = Settings.of("digits", train_size=80, candidate_batch_size=16, epochs=10)
    found = pilot(settings, budget=1e4, share=0.001, jobs=1)
    assert {run["seed"] for run in found["measured"]["runs"]} >= {0, 1, 2}
    assert all(run["rows"] >= 16 and run["samples"] >= 16 for run in found["measured"]["runs"])


def test_a_keep_ratio_of_one_selects_nothing():
    with pytest.raises(ArgumentError, match=r"^keep-ratio must be"):
        pilot(Settings.of("digits", schedule="constant", keep_ratio=1.0))


# The committed record


@pytest.fixture(scope="module")
def record():
    return read_json(pilot_record.RESULT)


def test_on_data_it_was_not_tuned_on_it_was_right(record):
    untuned = [line for line in record["pairs"] if not line["tuned_on"]]
    assert {f"{line['data']}-{line['fault']}" for line in untuned} == {
        name for name in pilot_record.PAIRS if not name.startswith(pilot_record.TUNED)
    }
    clear = [line for line in untuned if line["uniform"]["clear"]]
    assert sum(line["uniform"]["right_sign"] for line in clear) >= 0.9 * len(clear)
    for line in record["pairs"]:
        assert line["share"] <= 0.05
        points, half = line["uniform"]["shown"]
        assert not (line["verdict"] == "yes" and points < -half)


def test_its_intervals_hold_what_full_runs_showed(record):
    untuned = [line for line in record["pairs"] if not line["tuned_on"]]
    for other in ("uniform", "full"):
        assert np.mean([line[other]["covered"] for line in untuned]) >= 0.8


def test_the_record_is_what_the_pilot_makes_of_its_trainings_and_the_study(record):
    for line in record["pairs"]:
        name = f"{line['data']}-{line['fault']}"
        kept = record["runs"][name]
        measured = {**kept, "learner_flops": line["learner_flops"], "plan": line["plan"],
                    "processor_seconds": line["processor_seconds"]}  # fmt: skip
        found = {"settings": kept["settings"], "data": kept["data"], "measured": measured}
        assert pilot_record.pair(name, pilot_record.concluded(found)) == line
        assert sum(run["learner_flops"] for run in kept["runs"]) == line["learner_flops"]
        command = pilot_record.RUNS[name].partition(" --seeds")[0]
        assert f"--data {kept['settings']['data']}" in shlex.join(shlex.split(command))
    assert record["summary"]["untuned"] == pilot_record.summary(
        [line for line in record["pairs"] if not line["tuned_on"]]
    )


def test_rows_are_those_of_the_file_and_the_page_shows_them(tmp_path):
    """Every seventh label is wrong; which row of the file that is, the pilot and its page say."""
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=400)
    inputs = np.eye(3)[labels].repeat(4, axis=1) + 0.3 * generator.random((400, 12))
    told = np.where(np.arange(400) % 7 == 0, (labels + 1 + generator.integers(2, size=400)) % 3, labels)
    np.savez(tmp_path / "data.npz", x=inputs, y=told, x_test=inputs[:60], y_test=labels[:60])
    settings, places = Settings.of(str(tmp_path / "data.npz")), Places(cache=tmp_path / "cache")
    found = pilot(settings, places, plan=Plan(None, None, Short(60, 2, 8), 2, 50))
    rows = [entry["row"] for entry in found["examples"]["suspects"]]
    assert len(rows) == 24
    assert [row % 7 for row in rows] == [0] * 24
    page = write_page(tmp_path / "index.html", found, places).read_text(encoding="utf-8")
    shown = ((inputs[rows[0]] - inputs.mean(0)) / inputs.std(0)).astype(np.float32)[:6]
    assert " · ".join(f"{value:.3g}" for value in shown.tolist()) in page
    assert f"row {rows[0]}" in page

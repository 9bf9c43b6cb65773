"""The table's comparison with the strongest control, what trainings cost, and what they are drawn against."""

import math
import statistics

import numpy as np
import pytest

pytest.importorskip("scipy")

from comparison_cases import cell

from spectral_sampler.experiment.outcomes import not_compared, standings
from spectral_sampler.experiment.policies import CONTROLS
from spectral_sampler.experiment.report import (
    STRONGEST,
    cost_note,
    costs,
    footnote,
    headline,
    leader,
    pays,
    rows,
    strongest,
    table,
    verdict,
    write_json,
)

T_975_2 = 4.302652729911275  # Student's t, two degrees of freedom, from a printed table
ACCURACIES = {
    "full": [0.90, 0.92, 0.91],
    "uniform": [0.85, 0.88, 0.86],
    "small": [0.86, 0.89, 0.865],
    "clean-once": [0.88, 0.90, 0.889],
    "oracle": [0.93, 0.94, 0.935],
    "probe": [0.80, 0.81, 0.82],
    "plausible-even": [0.892, 0.912, 0.90],
    "saln": [0.86, 0.87, 0.85],
}


def _cells(accuracies: dict[str, list[float]] | None = None, jobs: int | None = 1, **fields: float) -> list[dict]:
    found = []
    for policy, values in (accuracies or ACCURACIES).items():
        for seed, accuracy in enumerate(values):
            made = {**cell("full" if policy == "full" else "uniform", 0), "policy": policy, "seed": seed,
                    "test_accuracy": accuracy, "test_balanced_accuracy": accuracy - 0.1, "steps": 30,
                    "looking_flops": 2e9 if policy == "saln" else 0.0,
                    "reference_flops": 1e9 if policy in {"saln", "plausible-even", "clean-once"} else 0.0,
                    "clock": {"seconds": [1.0, 2.0, 3.0 + seed], "jobs": jobs}, **fields}  # fmt: skip
            if policy == "probe":
                curve = [{**made["curve"][-1], "samples": 0, "step": 0, "test_accuracy": accuracy}]
                made |= {"samples": 0, "learner_flops": 0.0, "probe_flops": 4e6, "curve": curve, "clock": {}}
            found.append(made)
    return found


def test_another_number_of_samples_is_said():
    found = _cells()
    said = "Not the same number of samples: saln 200, uniform 600."
    assert "Not the same number" not in verdict(rows(found, list(ACCURACIES)))
    for entry in found:
        entry["samples"] = 200 if entry["policy"] == "saln" else 600
    lines = rows(found, list(ACCURACIES))
    assert said in verdict(lines).splitlines()
    assert "Not the same number" not in verdict([line._replace(equal_flops=1e9) for line in lines])


def _results(cells: list[dict]) -> dict:
    policies = list(dict.fromkeys(entry["policy"] for entry in cells))
    return {"settings": {"data": "digits", "epochs": 3, "schedule": "sigmoid"}, "policies": policies,
            "seeds": [0, 1, 2], "classes": ["cat", "dog"], "keep_ratios": [0.2, 0.4], "cells": cells}  # fmt: skip


def _lines(cells: list[dict]):
    return rows(cells, _results(cells)["policies"])


def test_the_controls_to_beat_are_those_that_need_no_selection():
    assert set(STRONGEST) == {
        "uniform", "small", "balanced", "clean-once", "clean-once-balanced", "confident-learning",
        "confident-learning-balanced",
    }  # fmt: skip
    assert set(STRONGEST) < set(CONTROLS)


def test_the_margin_is_paired_with_the_best_control_by_mean():
    lines = {line.policy: line for line in _lines(_cells())}
    assert strongest(list(lines.values())) == "clean-once"
    for policy, line in lines.items():
        if policy == "clean-once":
            assert line.margin is None
            continue
        paired = [a - b for a, b in zip(ACCURACIES[policy], ACCURACIES["clean-once"], strict=True)]
        assert line.margin.mean == pytest.approx(statistics.mean(paired))
        assert line.margin.half_width == pytest.approx(T_975_2 * statistics.stdev(paired) / math.sqrt(3))
        assert line.balanced.mean == pytest.approx(line.accuracy.mean - 0.1)
    fewer = [entry for entry in _cells() if (entry["policy"], entry["seed"]) != ("clean-once", 1)]
    found = {line.policy: line for line in _lines(fewer)}["plausible-even"]
    assert found.margin.mean == pytest.approx((0.012 + 0.011) / 2), "over the seeds that both have"
    assert strongest([line for name, line in lines.items() if name in {"full", "oracle", "saln"}]) is None


def test_the_headline_and_the_verdict_are_in_terms_of_it():
    lines = _lines(_cells())
    assert leader(lines).policy == "plausible-even"
    assert pays(lines)
    assert headline(lines).startswith(
        "plausible-even beats clean-once, the strongest control, here: +1.17 ± 0.14 points."
    )
    said = verdict(lines).splitlines()
    assert said[0].startswith("plausible-even (+3.80 ± ")
    assert (
        "plausible-even (+1.17 ± 0.14 points) beats clean-once, the strongest control, at the same number of"
        in "".join(said)
    )
    assert any(line.startswith("saln (-2.97 ± ") and "loses to clean-once, the strongest" in line for line in said)
    assert "conservative" in verdict(lines)
    assert "conservative" in footnote(lines)
    assert "the best of 3 controls" in footnote(lines)
    assert "The ceiling: oracle, which knows the true labels, reaches 93.50 ± 1.24 %." in said
    level = _lines(_cells({**ACCURACIES, "plausible-even": [0.879, 0.902, 0.888]}))
    assert not pays(level)
    assert headline(level).startswith("No selection clearly beats clean-once, the strongest control, here (best: ")
    assert "plausible-even" in next(
        line for line in verdict(level).splitlines() if line.startswith("Not decided by these seeds against clean-once")
    )


def test_beating_uniform_alone_does_not_pay():
    accuracies = {**ACCURACIES, "plausible-even": [0.87, 0.90, 0.88]}
    lines = _lines(_cells(accuracies))
    assert {line.policy: line for line in lines}["plausible-even"].difference.clear_of_zero
    assert not pays(lines)
    without = {name: values for name, values in accuracies.items() if name not in {"small", "clean-once"}}
    assert pays(_lines(_cells(without))), "where nothing stronger was compared"
    assert "minus\nstrongest" not in table(_lines(_cells(without)))
    uniform = {**without, "small": [0.84, 0.87, 0.85]}
    assert "No control is stronger than uniform here." in verdict(_lines(_cells(uniform)))
    assert "No control is stronger" not in verdict(_lines(_cells(without)))


def test_a_probe_that_beats_every_training_is_named():
    assert "probe" not in headline(_lines(_cells()))
    assert "A linear probe on the reference features alone reaches 81.0 %; the best training (full)" in verdict(
        _lines(_cells())
    )
    better = _lines(_cells({**ACCURACIES, "probe": [0.96, 0.97, 0.965]}))
    told = (
        "A linear probe on the reference features alone reaches 96.5 %: train that (the best training, full: 91.0 %)."
    )
    assert headline(better).endswith(told)
    assert verdict(better).endswith(told)
    assert leader(better).policy == "plausible-even", "a probe is no selection, nor is an oracle"
    alone = _lines(_cells({"uniform": [0.8, 0.81, 0.8], "probe": [0.9, 0.91, 0.9]}))
    assert "train that" in headline(alone)
    uncertain = _lines(_cells({**ACCURACIES, "probe": [0.85, 0.99, 0.95]}))
    assert "train that" not in headline(uncertain)


def test_the_tables_fit_a_terminal_and_line_up():
    values = {"confident-learning-balanced": [0.889, 0.999, 0.94], **ACCURACIES}
    cells = _cells(values, wrong_label_share=0.2)
    for entry in cells:
        entry["samples"] *= 1 + 99 * (entry["policy"] == "full")
    lines = _lines(cells)
    for text, notes in ((table(lines), 1), (costs(lines), 2)):
        drawn = text.splitlines()[:-notes]
        assert len({len(line) for line in drawn}) == 1
        assert len(drawn[0]) <= 120
        assert len(drawn) == 3 + len(values)
    assert "wrong" in table(lines).splitlines()[0]


def test_costs_add_up_and_seconds_are_shown_of_trainings_that_ran_alone():
    titles, alone = costs(_lines(_cells())).splitlines()[0].split(), costs(_lines(_cells()))
    assert titles[-4:] == ["selection", "data", "training", "together"]
    saln = next(line for line in alone.splitlines() if line.startswith("saln "))
    assert saln.split()[1:6] == ["300", "0.30", "2.00", "1.00", "3.30"]
    assert [float(part) for part in saln.split()[6:]] == [1.0, 0.5, 2.0, 3.5]
    for jobs in (2, None):
        shared = costs(_lines(_cells(jobs=jobs)))
        assert "No seconds" in shared
        assert "selection" not in shared.splitlines()[0]
        assert all(row["seconds"] is None for row in standings(_lines(_cells(jobs=jobs))))
    mixed = _cells()
    mixed[4]["clock"]["jobs"] = 2
    assert "No seconds" in cost_note(_lines(mixed)), "one training that shared the machine is enough"
    old = [{name: value for name, value in entry.items() if name != "reference_flops"} for entry in _cells()]
    assert "Older trainings did not count the reference." in cost_note(_lines(old))
    ready = _cells(reference={"name": "given"})
    assert "counts as 0" in cost_note(_lines(ready))
    assert "counts as 0" not in cost_note(_lines(_cells(reference={"name": "held-out"})))


def test_the_same_table_in_plain_values(tmp_path):
    lines = _lines(_cells())
    found = {row["policy"]: row for row in standings(lines)}
    assert list(found) == list(ACCURACIES)
    even = found["plausible-even"]
    assert even["minus_strongest"]["mean"] == pytest.approx(0.0116667, abs=1e-6)
    assert even["balanced_accuracy"]["mean"] == pytest.approx(statistics.mean(ACCURACIES["plausible-even"]) - 0.1)
    assert even["strongest"] == "clean-once"
    assert found["clean-once"]["minus_strongest"] is None
    assert (found["saln"]["learner_flops"], found["saln"]["looking_flops"], found["saln"]["reference_flops"]) == (
        pytest.approx(3e8), 2e9, 1e9,
    )  # fmt: skip
    single = standings(_lines([entry for entry in _cells() if entry["seed"] == 0]))
    write_json(tmp_path / "table.json", single)  # refuses NaN
    assert single[1]["accuracy"] == {"mean": 0.85, "half_width": None}


def test_who_is_not_compared_has_a_sentence_and_no_line():
    cells = _cells()
    for entry in cells:
        if entry["policy"] == "saln" and entry["seed"] != 1:
            entry["not_compared"] = f"its reference alone takes {entry['seed'] + 2} of 1 GFLOP"
    assert not_compared(cells) == ["saln is left out (seeds 0, 2): its reference alone takes 2 of 1 GFLOP."]
    assert {line.policy: line.seeds for line in _lines(cells)}["saln"] == 1
    everything = [{**entry, "not_compared": "x"} if entry["policy"] == "saln" else entry for entry in cells]
    assert "saln" not in table(_lines(everything))
    assert not_compared(_cells()) == []


def test_at_equal_flops_the_words_say_so():
    lines = _lines(_cells(equal_flops=5e9))
    assert "of full" not in table(lines)
    assert "at the same FLOPs" in verdict(lines)
    assert "all of them give" not in headline(lines)
    assert "Training on everything" not in verdict(lines)


def test_accuracy_is_drawn_against_all_that_was_counted():
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    results = _results(_cells())
    assert figures.axes_of(results) == ["samples", "flops", "seconds"]
    drawn = {
        name: {line.get_label(): line for line in figures.accuracy_figure(results, against=name).axes[0].get_lines()}
        for name in figures.axes_of(results)
    }
    assert all(list(lines) == list(ACCURACIES) for lines in drawn.values())
    flops = drawn["flops"]["saln"].get_xdata()
    assert flops == pytest.approx([1 + 0.1 + 2 / 3, 1 + 0.2 + 4 / 3, 1 + 0.3 + 2.0])
    assert drawn["flops"]["uniform"].get_xdata() == pytest.approx([0.1, 0.2, 0.3])
    assert drawn["seconds"]["saln"].get_xdata() == pytest.approx([1.0, 2.0, 4.0])
    assert drawn["samples"]["saln"].get_xdata().tolist() == [100, 200, 300]
    level = drawn["flops"]["probe"]
    assert level.get_ydata() == pytest.approx([81.0, 81.0])
    assert figures.axes_of(_results(_cells(jobs=2))) == ["samples", "flops"]
    old = [{name: value for name, value in entry.items() if name != "reference_flops"} for entry in _cells(jobs=None)]
    assert figures.axes_of(_results(old)) == ["samples"]


def test_differences_are_drawn_to_the_strongest_control():
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    axes = figures.difference_figure(_results(_cells())).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [name for name in reversed(ACCURACIES) if name != "clean-once"]
    places = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
    assert places[names.index("plausible-even")] == pytest.approx(1.16667, abs=1e-4)
    assert axes.get_xlabel() == "points above or below clean-once"


def test_classes_at_equal_flops_are_shares_of_what_was_offered():
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    cells = _cells(steps=12, corruption={"rows_per_class": [60, 40], "rows": 100})
    results = _results(cells)
    results["settings"] |= {"equal": "flops", "candidate_batch_size": 25}
    cells[-1]["selected_per_class"] = [[75, 75], [75, 75]]  # a training of few steps: a checkpoint less
    selected, offered = figures.class_counts(results, "saln")
    assert offered == pytest.approx([60, 40]), "three epochs of twelve batches of 25 at three checkpoints"
    assert selected.sum(0) == pytest.approx([150, 150])
    assert selected[0] == pytest.approx([100 / 3, 100 / 3])


def test_curves_of_unequal_length_meet_at_their_end():
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment import figures

    cells = _cells()
    for entry in cells:
        if (entry["policy"], entry["seed"]) == ("saln", 2):
            entry["curve"], entry["clock"] = entry["curve"][1:], {"seconds": [2.0, 5.0], "jobs": 1}
    lines = figures.accuracy_figure(_results(cells)).axes[0].get_lines()
    assert np.asarray(lines[-1].get_xdata()).tolist() == [200, 300]


def test_the_page_has_every_picture_and_the_strongest_control(tmp_path):
    pytest.importorskip("matplotlib")
    from spectral_sampler.experiment.page import write_page

    cells = _cells()
    for entry in cells:
        if entry["policy"] == "saln" and entry["seed"] == 2:
            entry["not_compared"] = "it <costs> too much"
    text = write_page(tmp_path / "index.html", _results(cells)).read_text()
    for expected in ("minus strongest, points", "balanced accuracy, %", "reference, GFLOP", "together, s",
                     "Accuracy against samples trained on", "Accuracy against GFLOP", "Accuracy against seconds",
                     "saln is left out (seed 2): it &lt;costs&gt; too much.",
                     "plausible-even beats clean-once, the strongest control, here"):  # fmt: skip
        assert expected in text
    shared = write_page(tmp_path / "index.html", _results(_cells(jobs=2))).read_text()
    assert "Accuracy against seconds" not in shared
    assert "together, s" not in shared
    assert "did not each have the machine to themselves" in shared
    both = write_page(tmp_path / "both.html", [("a", _results(_cells())), ("b", _results(_cells()))]).read_text()
    assert "best minus strongest control" in both
    assert "clean-once 88.97 ± " in both

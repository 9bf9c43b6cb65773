"""Every table in the documents is the one its committed file gives, and every committed comparison is complete."""

import re
import shlex

import pytest

from benchmarks import arena, results, study, tables
from spectral_sampler.cli.options import settings
from spectral_sampler.cli.program import parser
from spectral_sampler.experiment import policies
from spectral_sampler.experiment.policies import chosen_policies

CONTROLS = {"full", "full-equal-compute", "uniform", "loss-weighted"}
COMPARED = sorted(path.stem for path in arena.ARENA.glob("*.json"))  # a table is refused where one of its files lacks
PRUNING = {"full", "full-equal-compute", "infobatch", "seta", "probe"}  # infobatch and seta on top of the keep ratio
ADAPTIVE = ("schedule-mellow-aimd", "schedule-aggressive-aimd", "schedule-plateau")  # they follow the policy's losses


@pytest.mark.parametrize("document", results.DOCUMENTS, ids=lambda path: path.name)
def test_tables_agree_with_the_committed_files(document):
    text = document.read_text(encoding="utf-8")
    assert re.search(r"<!-- (results|ablation|standing|reliability|scale): [\w,@-]+ -->", text)
    assert tables.rendered(text) == text, "run python -m benchmarks.results --tables"


@pytest.mark.parametrize("name", results.RUNS)
def test_committed_results_are_complete(name):
    result = tables.read_json(tables.RESULTS / name / "results.json")
    assert set(result["policies"]) >= CONTROLS
    assert len(result["seeds"]) >= 3
    done = {(cell["policy"], cell["seed"]) for cell in result["cells"]}
    assert done == {(policy, seed) for policy in result["policies"] for seed in result["seeds"]}
    assert re.fullmatch(r"[0-9a-f]{7,40}.*", result["circumstances"]["commit"])
    curated = [cell for cell in result["cells"] if cell["policy"] not in PRUNING]
    assert len({cell["samples"] for cell in curated}) == 1, "equal samples"
    for seed in result["seeds"]:
        weights = {cell["initial_weights"] for cell in result["cells"] if cell["seed"] == seed}
        assert len(weights) == 1, "equal initial weights"


def assert_complete(path, command, controls):
    """The file is what the command makes: settings, policies and seeds, equal samples, clean commits."""
    result, arguments = tables.read_json(path), parser().parse_args(shlex.split(command))
    assert result["circumstances"]["command"] == f"spectral-sampler {command}"
    assert result["settings"] == settings(arguments).record()
    asked = chosen_policies(arguments.policies.split(","), controls)
    assert [name for name in result["policies"] if name in asked] == list(asked), "controls may have come later"
    assert result["seeds"] == list(range(arguments.seeds))
    done = [(cell["policy"], cell["seed"]) for cell in result["cells"]]
    assert sorted(done) == sorted((policy, seed) for policy in result["policies"] for seed in result["seeds"])
    for cell in result["cells"]:
        assert re.fullmatch(r"[0-9a-f]{12}", cell["commit"]), "every training ran at a clean commit"
    return result


def assert_equal_samples(result):
    for seed in result["seeds"]:
        at_seed = [cell for cell in result["cells"] if cell["seed"] == seed and cell["policy"] not in PRUNING]
        assert len({cell["samples"] for cell in at_seed}) == 1, "equal samples"


@pytest.mark.parametrize("name", study.RUNS)
def test_the_study_is_complete(name):
    result = assert_complete(study.STUDY / f"{name}.json", study.RUNS[name], ())
    assert len(result["seeds"]) == study.SEEDS
    if name not in ADAPTIVE:
        assert_equal_samples(result)


def test_the_documents_have_an_arena():
    assert COMPARED
    assert set(COMPARED) <= set(arena.RUNS)


@pytest.mark.parametrize("name", COMPARED)
def test_what_the_arena_has_is_complete(name):
    result = assert_complete(arena.ARENA / f"{name}.json", arena.RUNS[name], policies.CONTROLS)
    assert set(result["policies"]) >= set(policies.CONTROLS)
    if not name.endswith("-flops"):
        assert_equal_samples(result)


@pytest.mark.parametrize("kind", ["arena", "standing", "ablation"])
def test_a_wrong_number_is_seen(kind):
    text = next(
        text for text in (path.read_text(encoding="utf-8") for path in reversed(results.DOCUMENTS))
        if f"<!-- {kind}: " in text
    )  # fmt: skip
    start = text.index(f"<!-- {kind}: ")
    altered = text[:start] + re.sub(r"\d\.\d\d ±", "9.99 ±", text[start:], count=1)
    assert altered != text
    assert tables.rendered(altered) != altered


def test_bold_marks_intervals_clear_of_zero():
    cells = [
        {"policy": policy, "seed": seed, "test_accuracy": accuracy, "samples": 10, "learner_flops": 1.0,
         "seconds": {"selection": 0.0, "data": 0.0, "training": 0.0}, "wrong_label_share": 0.0}
        for policy, values in {"full": (0.9, 0.9), "uniform": (0.8, 0.81), "a": (0.9, 0.91), "b": (0.7, 0.9)}.items()
        for seed, accuracy in enumerate(values)
    ]  # fmt: skip
    lines = {line.policy: line for line in tables.rows(cells, ["full", "uniform", "a", "b"])}
    entries = {policy: tables._entry(line) for policy, line in lines.items()}
    assert entries["uniform"].startswith("80.50 ±")
    assert entries["a"] == "**+10.00 ± 0.00**"
    assert entries["b"].startswith("-0.50 ±")
    assert tables._entry(None) == ""

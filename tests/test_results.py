"""Every table in the documents is the one its committed file gives."""

import re

import pytest

from benchmarks import results


@pytest.mark.parametrize("document", results.DOCUMENTS, ids=lambda path: path.name)
def test_tables_agree_with_the_committed_files(document):
    text = document.read_text(encoding="utf-8")
    assert re.search(r"<!-- results: [\w-]+ -->", text)
    assert results.rendered(text) == text, "run python -m benchmarks.results --tables"


@pytest.mark.parametrize("name", results.RUNS)
def test_committed_results_are_complete(name):
    result = results.read_json(results.RESULTS / name / "results.json")
    controls = {"full", "full-equal-compute", "uniform", "loss-weighted"}
    assert controls <= set(result["policies"])
    assert len(result["seeds"]) >= 3
    done = {(cell["policy"], cell["seed"]) for cell in result["cells"]}
    assert done == {(policy, seed) for policy in result["policies"] for seed in result["seeds"]}
    assert re.fullmatch(r"[0-9a-f]{7,40}.*", result["circumstances"]["commit"])
    fewer = {"full", "full-equal-compute", "infobatch"}  # InfoBatch prunes on top of the keep ratio
    curated = [cell for cell in result["cells"] if cell["policy"] not in fewer]
    assert len({cell["samples"] for cell in curated}) == 1, "equal samples"
    for seed in result["seeds"]:
        weights = {cell["initial_weights"] for cell in result["cells"] if cell["seed"] == seed}
        assert len(weights) == 1, "equal initial weights"


def test_a_wrong_number_is_seen():
    text = results.DOCUMENTS[1].read_text(encoding="utf-8")
    altered = re.sub(r"\| uniform \| \d\d\.\d\d", "| uniform | 99.99", text, count=1)
    assert altered != text
    assert results.rendered(altered) != altered

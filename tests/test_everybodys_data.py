"""``pilot`` and ``compare`` from the command line, on data as people have them: pictures, arrays, texts, a function."""

import csv
import json
import sys

import numpy as np
import pytest

from spectral_sampler.cli import main
from spectral_sampler.experiment import CONTROLS

for package in ("sklearn", "scipy", "tqdm", "matplotlib", "PIL"):
    pytest.importorskip(package)

ROWS, TESTED = 160, 40
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
WORDS = [["red", "rose", "fire"], ["green", "grass", "leaf"], ["blue", "sea", "sky"]]


def labels_of(rows, seed):
    return np.random.default_rng(seed).integers(3, size=rows)


def pictures(folder):
    from PIL import Image

    for part, rows in (("train", ROWS), ("test", TESTED)):
        for row, label in enumerate(labels_of(rows, rows)):
            place = folder / "pictures" / part / "rgb"[label]
            place.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(row).integers(-40, 40, size=(12, 12, 3))
            Image.fromarray(np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)).save(place / f"{row}.png")
    return folder / "pictures"


def arrays(folder):
    parts = {}
    for name, rows in (("", ROWS), ("_test", TESTED)):
        labels = labels_of(rows, rows)
        noise = np.random.default_rng(rows).normal(size=(rows, 6))
        parts |= {f"x{name}": np.eye(3)[labels].repeat(2, axis=1) + 0.4 * noise, f"y{name}": labels}
    np.savez(folder / "arrays.npz", **parts)
    return folder / "arrays.npz"


def texts(folder):
    generator = np.random.default_rng(0)
    with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "text"])
        for label in labels_of(ROWS + TESTED, 5):
            words = [*generator.choice(WORDS[label], 3), *generator.choice(["a", "the", "very", "so, they say"], 3)]
            writer.writerow([["red", "green", "blue"][label], " ".join(generator.permutation(words))])
    return folder / "texts.csv"


MODULE = """
import numpy as np, torch
from torch import nn
from torch.utils.data import TensorDataset

def part(rows):
    generator = torch.Generator().manual_seed(rows)
    labels = torch.randint(3, (rows,), generator=generator)
    inputs = torch.eye(3)[labels].repeat_interleave(2, 1) + 0.4 * torch.randn(rows, 6, generator=generator)
    return TensorDataset(inputs, labels)

def datasets():
    return part(160), part(40)

def network():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
"""


def function(folder):
    (folder / "ours_of_this_test.py").write_text(MODULE, encoding="utf-8")
    return "ours_of_this_test:datasets"


KINDS = {"pictures": pictures, "arrays": arrays, "texts": texts, "function": function}


@pytest.fixture(params=KINDS)
def words(request, tmp_path, monkeypatch):
    """``--data`` and what belongs to it, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ours_of_this_test", raising=False)
    made = ["--data", str(KINDS[request.param](tmp_path)), "--cache", str(tmp_path / "cache")]
    if request.param == "function":
        made += ["--learner", "ours_of_this_test:network", "--lr", "0.02"]
    return [*made, "--reference", "held-out", "--out", str(tmp_path / "out")]


@pytest.mark.slow
def test_a_pilot_answers(words, capsys, tmp_path):
    assert main(["pilot", *words, "--label-noise", "0.2", "--budget", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] in {"yes", "no", "undecided"}
    assert {entry["against"] for entry in found["expected"]} == {"uniform", "full"}
    for entry in found["expected"]:
        assert entry["low"] <= entry["points"] <= entry["high"]
        assert entry["seconds"]["total"] >= entry["seconds"]["extraction"] > 0
    assert found["data"]["classes"] == 3
    assert 0.05 < found["data"]["label_noise"] < 0.5
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Suspected wrong labels" in page
    assert json.loads((tmp_path / "out" / "pilot.json").read_text(encoding="utf-8")) == found


@pytest.mark.slow
def test_a_comparison_runs(words, capsys, tmp_path):
    options = ["--policies", "plausible-even", "--seeds", "2", "--epochs", "4", "--jobs", "1", "--json"]
    assert main(["compare", *words, *options]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["policies"] == [*CONTROLS, "plausible-even"]
    full = [cell["test_accuracy"] for cell in results["cells"] if cell["policy"] == "full"]
    assert min(full) > 0.6, "the learner learns what there is"
    assert len(results["classes"]) == 3
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "plausible-even" in page
    assert main(["compare", *words, *options]) == 1
    assert "out must be an empty folder" in capsys.readouterr().err

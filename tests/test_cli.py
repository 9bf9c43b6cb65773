"""The command: its errors are one sentence, its demo runs."""

import json
import subprocess
import sys

import pytest

import spectral_sampler
from spectral_sampler import ReferenceStore
from spectral_sampler.cli import main


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"spectral-sampler {spectral_sampler.__version__}\n"
    assert main([]) == 2
    assert "compare" in capsys.readouterr().out


def test_explain_names_the_backends(capsys):
    assert main(["explain"]) == 0
    assert "eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "--data", "mnist"], "data must be one of digits,"),
        (["compare", "--seeds", "0"], "seeds must be at least 1, got 0."),
        (["compare", "--jobs", "0"], "jobs must be at least 1, got 0."),
        (["compare", "--policies", "uniform,magic"], "policies must be names out of"),
        (["compare", "--keep-ratio", "0.95"], "mean must be between min (0.18) and max (0.88)"),
        (["compare", "--schedule", "cosine"], "schedule must be one of constant, sigmoid"),
        (["compare", "--label-noise", "2"], "label-noise must be in [0, 1), got 2.0."),
        (["compare", "--plugin", "no_such_module"], "No module named 'no_such_module'"),
        (["extract", "--data", "mnist", "--out", "x"], "data must be one of digits,"),
    ],
)
def test_errors_are_one_sentence_and_status_1(capsys, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"spectral-sampler: {sentence}")
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_needs_nothing_heavy():
    code = (
        "import sys\nfrom spectral_sampler.cli import main\nmain([])\n"
        "heavy = {'sklearn', 'matplotlib', 'torchvision', 'scipy'}\nprint('heavy:', sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.endswith("heavy: []\n")


def test_extract_writes_a_store(tmp_path, capsys):
    pytest.importorskip("sklearn")
    words = ["extract", "--data", "digits", "--train-size", "100", "--cache", str(tmp_path / "cache")]
    assert main([*words, "--out", str(tmp_path / "store")]) == 0
    assert "100 rows of 64 features" in capsys.readouterr().out
    store = ReferenceStore.open(tmp_path / "store")
    assert len(store) == 100
    assert store.losses is not None
    assert store.labels is not None


@pytest.mark.slow
def test_quick_demo_from_the_command_line(tmp_path):
    for package in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "spectral_sampler", "demo", "--quick", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"full", "full-equal-compute", "uniform", "loss-weighted"} < set(results["policies"])
    assert results["policies"][-4:] == ["saln", "gstds", "plausible-even", "plausible-learnable"]
    full = [cell["test_accuracy"] for cell in results["cells"] if cell["policy"] == "full"]
    assert sum(full) / len(full) > 0.93
    for name in ("accuracy", "keep-ratio", "classes-gstds", "batch-gstds", "classes-saln", "batch-saln"):
        assert f"{name}.png" in run.stdout
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert "uniform selection" in run.stdout

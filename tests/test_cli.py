"""The command: its errors are one sentence, nothing of anybody's is overwritten, its demo runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import python, quick_comparisons

import spectral_sampler
from spectral_sampler import ReferenceStore
from spectral_sampler.cli import main
from spectral_sampler.experiment import CONTROLS, Settings


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"spectral-sampler {spectral_sampler.__version__}\n"
    assert main([]) == 2
    helped = capsys.readouterr().out
    for command in ("compare", "demo", "extract", "pilot", "inspect", "verify", "simulate", "doctor", "explain"):
        assert f"    {command} " in helped


def test_explain_names_the_backends(capsys):
    assert main(["explain"]) == 0
    assert "eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "--data", "mnist"], "data must be one of digits,"),
        (["compare", "--seeds", "0"], "seeds must be at least 1, got 0."),
        (["compare", "--jobs", "0"], "jobs must be at least 1, got 0."),
        (["pilot", "--jobs", "0"], "jobs must be at least 1, got 0."),
        (["pilot", "--data", "mnist"], "data must be one of digits,"),
        (["compare", "--policies", "uniform,magic"], "policies must be names out of"),
        (["compare", "--keep-ratio", "0.95"], "mean must be between min (0.18) and max (0.88)"),
        (["compare", "--schedule", "cosine"], "schedule must be one of constant, sigmoid"),
        (["compare", "--label-noise", "2"], "label-noise must be in [0, 1), got 2.0."),
        (["compare", "--plugin", "no_such_module"], "No module named 'no_such_module'"),
        (["compare", "--out", "/proc/nowhere"], "out must be a folder that can be written, got /proc/nowhere."),
        (["extract", "--data", "mnist", "--out", "x"], "data must be one of digits,"),
        (["inspect", "nowhere"], "nowhere holds no readable manifest.json"),
        (["verify", "nowhere"], "nowhere holds no readable manifest.json"),
        (["simulate", "nowhere"], "nowhere holds no readable manifest.json"),
        (["simulate", "nowhere", "--batches", "0"], "batches must be at least 1, got 0."),
        (["simulate", "nowhere", "--selection", "magic"], "selection must be one of uniform,"),
        (["simulate", "nowhere", "--step-seconds", "nan"], "step-seconds must be positive, got nan."),
        (["simulate", "nowhere", "--step-seconds", "-1"], "step-seconds must be positive, got -1.0."),
        (["simulate", "nowhere", "--keep-max", ".9"], "keep-min must be left out with --keep-max for a constant ratio"),
        (["extract", "--data", "digits", "--out", "."], "out must be the name of a folder for the store alone, got ."),
        (["extract", "--data", "digits", "--out", "/"], "out must be the name of a folder for the store alone, got /"),
        (["extract", "--data", "digits", "--out", "x", "--image-size", "32"], "image-size must be left out for data"),
        (["compare", "--reference-epochs", "0"], "reference-epochs must be at least 1, got 0."),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_errors_are_one_sentence_and_status_1(capsys, words, sentence, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, *form]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"spectral-sampler: {sentence}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_help_needs_nothing_heavy():
    code = (
        "import sys\nfrom spectral_sampler.cli import main\nmain([])\n"
        "heavy = {'sklearn', 'matplotlib', 'torchvision', 'scipy', 'pandas', 'pyarrow', 'lightning', 'transformers'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    assert python(code).stdout.endswith("heavy: []\n")


@pytest.fixture
def quick():
    with quick_comparisons():
        yield


@pytest.fixture
def store(tmp_path):
    """Two groups of rows, whose labels are the groups, but for every eleventh."""
    groups = np.arange(300) % 2
    generator = np.random.default_rng(0)
    features = np.eye(2)[groups].repeat(4, axis=1) + 0.2 * generator.random((300, 8))
    labels = np.where(np.arange(300) % 11 == 0, 1 - groups, groups)
    made = ReferenceStore.from_arrays(features, generator.random(300), labels)
    return made.save(tmp_path / "store")


def answered(capsys, *words):
    """(status, JSON on stdout, lines on stderr)."""
    status = main([*map(str, words), "--json"])
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return status, json.loads(captured.out), captured.err.splitlines()


def test_inspect_says_what_a_store_holds(store, capsys):
    assert main(["inspect", str(store.path), "--suspects", "5"]) == 0
    said = capsys.readouterr().out
    assert f"300 rows of 8 float32 features, {(300 * 8 * 4 + 300 * 4 + 300 * 8) / 1e6:.1f} MB" in said
    assert "2 classes of 150 to 150 rows" in said
    assert "28 labels are not believed" in said
    status, facts, _ = answered(capsys, "inspect", store.path, "--suspects", 28)
    assert status == 0
    assert facts["fingerprint"] == store.fingerprint
    assert sorted(facts["suspects"]["rows"]) == list(range(0, 300, 11))
    assert facts["losses"]["median"] == pytest.approx(np.median(store.losses))


def test_rows_without_a_label_are_no_class(tmp_path, capsys):
    features = np.random.default_rng(0).random((30, 4))
    ReferenceStore.from_arrays(features, labels=np.arange(30) % 4 - 1).save(tmp_path / "some")
    ReferenceStore.from_arrays(features).save(tmp_path / "none")
    found = {"classes": 3, "fewest": 7, "most": 8, "unlabelled": 8}
    assert answered(capsys, "inspect", tmp_path / "some")[1]["labels"] == found
    assert main(["inspect", str(tmp_path / "none"), "--suspects", "3"]) == 1
    assert "suspects must be left out for a store without labels, got 3." in capsys.readouterr().err


def test_verify_compares_every_row_that_the_store_has(tmp_path, capsys):
    generator, labels = np.random.default_rng(0), np.arange(100) % 2
    x = generator.random((100, 4))
    np.savez(tmp_path / "a.npz", x=x, y=labels)
    ReferenceStore.from_arrays(x, labels=labels).save(tmp_path / "right")
    words = ["--data", tmp_path / "a.npz"]
    assert answered(capsys, "verify", tmp_path / "right", *words)[1]["compared"] == "labels"
    for row in range(0, 100, 10):  # some are tested on, some held out
        wrong = labels.copy()
        wrong[row] = 1 - wrong[row]
        ReferenceStore.from_arrays(x, labels=wrong).save(tmp_path / f"wrong{row}")
        assert main(["verify", str(tmp_path / f"wrong{row}"), *map(str, words)]) == 1
        assert "got other labels in 1 of 100 rows" in capsys.readouterr().err


def test_verify_reads_every_byte(store, capsys):
    status, facts, said = answered(capsys, "verify", store.path)
    assert (status, facts["compared"]) == (0, None)
    assert said == [f"{store.path}: all 300 rows are as they were written."]
    file = store.path / "features.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main(["verify", str(store.path)]) == 1
    assert "was changed after it was written" in capsys.readouterr().err


def test_simulate_delivers_what_the_sampler_would(store, capsys):
    words = ("simulate", store.path, "--candidate-batch-size", 30, "--selection", "gstds", "--batches", 4)
    status, facts, said = answered(capsys, *words, "--step-seconds", 1e6, "--seed", 3, "--epochs", 2)
    assert status == 0
    sampler = spectral_sampler.SpectralBatchSampler(store, 30, selection=spectral_sampler.GSTDS(), seed=3, epochs=2)
    assert "\n".join(said) == sampler.describe()
    assert facts["chosen"]["samples"] == sum(map(len, list(sampler)[:4]))
    assert (facts["batches_per_epoch"], facts["batch_sizes"]) == (10, [9])
    assert facts["pays"] is True
    assert answered(capsys, *words, "--step-seconds", 1e-12)[1]["pays"] is False
    scheduled = answered(
        capsys, "simulate", store.path, "--candidate-batch-size", 30, "--schedule", "sigmoid", "--epochs", 5
    )
    assert len(scheduled[1]["batch_sizes"]) > 3


def test_doctor_passes_here_and_names_what_fails(store, capsys, monkeypatch):
    status, facts, _ = answered(capsys, "doctor", "--path", store.path.parent)
    assert (status, facts["ok"]) == (0, True)
    assert {"solver eager", "sampler", "store"} <= facts["checks"].keys()
    assert facts["versions"]["torch"] in spectral_sampler.cli.doctor.metadata.version("torch")
    assert not [path for path in store.path.parent.iterdir() if path != store.path], "nothing is left behind"
    monkeypatch.setattr(spectral_sampler.cli.doctor, "_sampling", lambda: 1 / 0)
    assert main(["doctor", "--path", "/proc/nowhere"]) == 1
    said = capsys.readouterr().out
    assert "BAD sampler: ZeroDivisionError" in said
    assert "BAD store: FileNotFoundError" in said
    assert "2 of " in said.splitlines()[-1]
    assert said.endswith("checks failed: sampler, store\n")


def test_doctor_sees_a_solver_that_is_wrong(monkeypatch):
    from spectral_sampler.cli import doctor

    right = spectral_sampler.fiedler_vector
    wrong = lambda rows, backend: right(rows + 0.1 * rows.roll(1, 0), backend=backend)  # noqa: E731
    assert doctor._tried(lambda: doctor._solver("eager"))[0]
    monkeypatch.setattr(spectral_sampler, "fiedler_vector", wrong)
    good, what = doctor._tried(lambda: doctor._solver("eager"))
    assert not good
    assert "is off by an angle of" in what


EXTRACT = ["extract", "--data", "digits", "--train-size", "100"]


def test_extract_writes_a_store_that_knows_its_source(tmp_path, capsys):
    pytest.importorskip("sklearn")
    words = [*EXTRACT, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "store")]
    assert main(words) == 0
    assert "100 rows of 64 features" in capsys.readouterr().out
    store = ReferenceStore.open(tmp_path / "store")
    assert len(store) == 100
    assert store.losses is not None
    assert store.labels is not None
    assert store.source["data"] == "digits"
    assert store.source["command"].startswith("spectral-sampler extract --data digits")
    assert main([*words, "--seed", "0"]) == 0, "the same content may be written again"
    capsys.readouterr()
    assert main([*words, "--seed", "1"]) == 1
    assert "holds another store" in capsys.readouterr().err
    assert ReferenceStore.open(tmp_path / "store").fingerprint == store.fingerprint
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    assert ReferenceStore.open(tmp_path / "store").fingerprint != store.fingerprint


def test_a_seed_is_no_negative_number(tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert main([*EXTRACT, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "store"), "--seed", "-1"]) == 1
    assert capsys.readouterr().err.startswith("spectral-sampler: seed must be at least 0, got -1. ")


@pytest.mark.parametrize(("encoding", "form"), [("ascii", []), ("utf-8", ["--json"])])
def test_names_that_no_terminal_can_show_are_written(tmp_path, encoding, form):
    pytest.importorskip("PIL")
    pytest.importorskip("torchvision")
    image = pytest.importorskip("PIL.Image")
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/data\xfe"))
    for name in (os.fsdecode(b"\xff"), "ü"):
        (data / name).mkdir(parents=True)
        for number in range(15):
            image.new("RGB", (8, 8), (number, 0, 0)).save(data / name / f"{number}.png")
    command = [sys.executable, "-m", "spectral_sampler", "extract", "--data", str(data), "--reference", "held-out",
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "ü"), *form]  # fmt: skip
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run(command, capture_output=True, timeout=120, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["path"].endswith("ü") if form else b" rows of " in run.stdout


COMPARE = ["compare", "--train-size", "128", "--seeds", "1", "--schedule", "constant", "--no-curves", "--jobs", "1",
           "--policies", "uniform"]  # fmt: skip


def test_a_comparison_never_replaces_another_one_unasked(tmp_path, capsys, quick):
    for package in ("sklearn", "scipy", "tqdm"):
        pytest.importorskip(package)
    out = tmp_path / "out"
    words = [*COMPARE, "--out", str(out), "--cache", str(tmp_path / "cache")]
    status, results, _ = answered(capsys, *words, "--epochs", 1)
    assert status == 0
    assert [cell["seed"] for cell in results["cells"]] == [0] * len(CONTROLS)
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    assert main([*words, "--epochs", "1"]) == 1
    assert "out must be an empty folder, got" in capsys.readouterr().err
    assert main([*words, "--epochs", "2", "--resume"]) == 1
    assert "They differ in epochs" in capsys.readouterr().err
    (out / "settings.json").unlink()  # as it was before there was one
    assert main([*words, "--epochs", "2", "--resume"]) == 1
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == {
        path: text for path, text in before.items() if path.name != "settings.json"
    }
    assert main([*words, "--epochs", "2", "--overwrite", "--first-seed", "7"]) == 0
    assert {path.name for path in (out / "cells").iterdir()} == {f"{policy}-seed7.json" for policy in CONTROLS}, (
        "nothing of the other one stays beside it"
    )


def test_a_plugin_is_found_in_the_current_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "my_plugin.py").write_text("raise RuntimeError('it was imported')\n")
    assert main([*COMPARE, "--plugin", "my_plugin"]) == 1
    assert capsys.readouterr().err == "spectral-sampler: it was imported\n"


def test_a_reader_that_has_read_enough_ends_it_quietly():
    command = f"{sys.executable} -m spectral_sampler explain | true; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert (run.stdout, run.stderr) == ("1\n", "")


@pytest.mark.parametrize("name", ["index.html", "results.json"])
def test_a_comparison_replaces_no_file_of_somebodys_unasked(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    for form in ([], ["--resume"]):
        assert main([*COMPARE, "--out", str(tmp_path), "--epochs", "1", *form]) == 1
        assert f"out must be an empty folder, got {tmp_path} with {name}." in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(SystemExit):
        main([*COMPARE, "--out", str(tmp_path), "--resume", "--overwrite"])


@pytest.mark.slow
def test_what_ends_a_comparison_is_one_sentence(tmp_path):
    """Of the worker processes too, which write to the same file."""
    for package in ("sklearn", "scipy", "tqdm"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "spectral_sampler", *COMPARE, "--out", str(tmp_path / "out"), "--epochs", "2",
               "--cache", str(tmp_path / "cache"), "--learning-rate", "1e30", "--optimizer", "sgd"]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 1
    sentence = "spectral-sampler: learning-rate must be one at which training does not"
    assert sentence in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("magic", "device must be one that torch can use here, got 'magic'. Expected one of cpu"),
        ("meta:9:9", "device must be one that torch can use here, got 'meta:9:9'."),
    ],
)
def test_a_device_that_torch_cannot_use_is_one_sentence(tmp_path, capsys, quick, device, sentence):
    for package in ("sklearn", "scipy", "tqdm"):
        pytest.importorskip(package)
    places = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main([*COMPARE, *places, "--epochs", "2", "--device", device]) == 1
    said = capsys.readouterr().err
    assert f"spectral-sampler: {sentence}" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.slow
def test_in_a_file_a_long_comparison_is_seen_to_go_on_and_ctrl_c_ends_it(tmp_path):
    for package in ("sklearn", "scipy", "tqdm"):
        pytest.importorskip(package)
    words = [*COMPARE, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--epochs", "500"]
    code = (
        "import signal, sys\n"
        "from spectral_sampler.experiment import progress\nprogress._FIRST = progress._EVERY = 0.2\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's job in the background ignores it
        "from spectral_sampler.cli import main\n"
        f"if __name__ == '__main__':\n    sys.exit(main({words!r}))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, str(script)], stdout=file, stderr=file, start_new_session=True)
        try:
            while "to go" not in log.read_text().partition("trainings after")[2] and process.poll() is None:
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: the workers too
            assert process.wait() == 130
        finally:  # where it went on
            process.kill()
    said = log.read_text()
    assert f"0 of {len(CONTROLS)} trainings after" in said
    assert said.endswith("spectral-sampler: interrupted; finished trainings are kept, go on with --resume\n")
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["pilot", "demo"])
def test_somebodys_page_is_left_alone(tmp_path, capsys, command):
    (tmp_path / "index.html").write_text("somebody's")
    assert main([command, "--out", str(tmp_path)]) == 1
    assert "out must be a folder without a page of something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("command", ["pilot", "demo", "extract"])
def test_what_cannot_be_written_is_said_before_anything_is_computed(capsys, command):
    assert main([command, *(["--data", "digits"] if command == "extract" else []), "--out", "/proc/nowhere/there"]) == 1
    assert "out must be a folder that can be written" in capsys.readouterr().err


def test_results_without_their_trainings_are_gone_on_with_and_nothing_else_is(tmp_path, capsys, quick):
    for package in ("sklearn", "scipy", "tqdm"):
        pytest.importorskip(package)
    words = [*COMPARE, "--out", str(tmp_path), "--cache", str(tmp_path / "cache"), "--epochs", "1", "--resume"]
    for text in ("[1, 2]", '{"settings": 3}', "text"):
        (tmp_path / "results.json").write_text(text)
        assert main(words) == 1
        assert "with results.json. Pass another one, or replace it by --overwrite." in capsys.readouterr().err
    made = Settings.of("digits", train_size=128, schedule="constant", epochs=1).record()
    (tmp_path / "results.json").write_text(json.dumps({"settings": {**made, "epochs": 3}}))
    assert main(words) == 1
    assert "They differ in epochs" in capsys.readouterr().err
    (tmp_path / "results.json").write_text(json.dumps({"settings": made}))
    assert main(words) == 0


@pytest.mark.slow
def test_quick_demo_from_the_command_line(tmp_path):
    for package in ("sklearn", "matplotlib", "tqdm", "PIL"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "spectral_sampler", "demo", "--quick", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr
    wrong = {}
    for name in ("clean-labels", "wrong-labels"):
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert {"full", "full-equal-compute", "uniform", "small", "clean-once"} < set(results["policies"])
        assert len(results["seeds"]) >= 5
        full = [cell["test_accuracy"] for cell in results["cells"] if cell["policy"] == "full"]
        assert sum(full) / len(full) > 0.88
        wrong[name] = sum(cell["corruption"]["wrong_labels"] for cell in results["cells"])
    assert wrong["clean-labels"] == 0 < wrong["wrong-labels"]
    assert run.stdout.count("Means over 5 seeds") == 2
    assert run.stdout.count("the strongest control, here") == 2
    assert run.stdout.splitlines()[-1] == f"Page: {tmp_path / 'index.html'}"
    assert max(float(number) for number in re.findall(r"± (\d+\.\d+)", run.stdout)) <= 25.0
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") > 60
    assert 100_000 < len(page) < 3_000_000

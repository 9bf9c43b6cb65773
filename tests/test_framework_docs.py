"""docs/frameworks.md and start.md show what examples do and what tests of the frameworks passed; both are generated."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import framework_matrix

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "tiny.py")


DOCUMENTS = [framework_matrix.DOCUMENT, framework_matrix.START]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_document_is_what_the_generator_writes(document):
    text = document.read_text(encoding="utf-8")
    assert framework_matrix.generated(text) == text, "run python -m benchmarks.framework_matrix"


def test_the_generator_notices_an_edited_block_and_an_edited_matrix():
    text = framework_matrix.DOCUMENT.read_text(encoding="utf-8")
    edits = {"prepare_data_loader(loader, add_dist_sampler=False)": "prepare_data_loader(loader)", "| 1, 2 ": "| 2 "}
    for old, new in edits.items():
        assert old in text
        assert framework_matrix.generated(text.replace(old, new)) == text
    with pytest.raises(ValueError, match="no part"):
        framework_matrix.example("ddp.py#nothing")


def test_every_example_is_shown_and_no_code_stands_there_twice():
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    shown = re.findall(r"^<!-- \[example: (.+?)#", text, re.MULTILINE)
    assert sorted(shown) == [path.name for path in EXAMPLES]
    assert text.count("```python") == len(shown), "a block that no test runs"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_marks_what_selection_adds(path):
    source = path.read_text(encoding="utf-8")
    if path.stem != "plausible_learnable":
        assert source.count("# selection") >= 4
    assert re.search(r"^(torchrun|python) ", source, re.MULTILINE), "it says how it is run"


@pytest.mark.parametrize("file", framework_matrix.RESULTS, ids=lambda file: file.stem)
def test_nothing_in_the_matrix_failed(file):
    """Each framework passed the same properties on all its numbers of processes."""
    found = json.loads(file.read_text(encoding="utf-8"))["frameworks"]
    alone = {"timm", "ray"} if file.stem == "older" else set()  # no torchvision there
    assert set(found) == set(framework_matrix.TITLES) - alone
    absent = {"timm": {"resume within an epoch"}}
    absent["ray"] = {"resume within an epoch", "persistent workers", "accumulation"}
    for name, row in found.items():
        expected = set(framework_matrix.PROPERTIES) - absent.get(name, set())
        assert row["passed"].keys() == {"raw": {"1"}, "ray": {"2"}}.get(name, {"1", "2"})
        assert all(set(passed) == expected for passed in row["passed"].values()), name


def run(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, *command],
        capture_output=True, text=True, timeout=240, cwd=folder, check=False, env=environment,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.slow
def test_the_whole_script_runs_and_hears_of_its_losses(tmp_path):
    out = run(tmp_path, str(ROOT / "examples" / "plausible_learnable.py"), "--epochs", "3")
    shares = [float(line) for line in out.split()]
    assert len(shares) == 3
    assert 0.2 < shares[0] < shares[1] < shares[2]
    assert (tmp_path / "example-run" / "store").is_dir()


@pytest.mark.slow
def test_torchrun_runs_the_example_of_several_ranks(tmp_path):
    torch = pytest.importorskip("torch")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    example = [str(ROOT / "examples" / "ddp.py"), "--epochs", "2", "--selection", "plausible-learnable"]
    run(tmp_path, *launcher, *example)
    state = torch.load(tmp_path / "example-run" / "checkpoint.pt", weights_only=True)["sampler"]
    assert state["epoch"] == 1
    known = int(state["losses"]["losses"].isfinite().sum())
    assert known > 0.4 * 1797, "more than one rank of two trains on: losses are gathered"
    run(tmp_path, *launcher, *example, "--resume")


@pytest.mark.slow
def test_the_curated_mnist_script_learns_from_files_that_are_there(tmp_path):
    """Files as torchvision keeps them: bars whose place is the class, on 28 by 28 pixels."""
    pytest.importorskip("torchvision")
    np = pytest.importorskip("numpy")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, rows in (("train", 1800), ("t10k", 1000)):
        labels = generator.integers(10, size=rows).astype(np.uint8)
        images = generator.integers(60, size=(rows, 28, 28)).astype(np.uint8)
        images[np.arange(rows), 2 + 2 * labels] = 255
        header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            b"\x00\x00\x08\x01" + rows.to_bytes(4, "big") + labels.tobytes()
        )
    out = run(tmp_path, str(ROOT / "examples" / "mnist.py"), "--epochs", "2")
    first, second = (
        re.match(r"epoch (\d): trained on (\d+) of 1500, (\d+) of 1000 right", line) for line in out.splitlines()
    )
    assert first[1] + second[1] == "12"
    assert 0.25 * 1500 < int(second[2]) < 0.31 * 1500
    assert int(second[3]) > 900

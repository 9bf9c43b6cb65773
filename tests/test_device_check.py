"""The device check without a device: its parts to their end, and what a crash, a limit or a missing device costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import python

from benchmarks.device_check import report, runner, session, table, truth
from benchmarks.device_check.parts.profile import kernels
from spectral_sampler.fiedler import fiedler_rows

ROOT = Path(__file__).parent.parent


def command(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.device_check", *arguments, "--out", str(out)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def summary(out: Path) -> dict[str, dict]:
    return {part["part"]: part for part in json.loads((out / "summary.json").read_text())["parts"]}


def rows(out: Path, part: str) -> list[dict]:
    found = [json.loads(line) for line in (out / session.ROWS).read_text().splitlines()]
    return [row for row in found if row["part"] == part]


@pytest.fixture
def plant(monkeypatch, tmp_path):
    """Makes the device check consist of these parts: name → (source of ``run``'s body, limit in seconds)."""

    def make(**parts: tuple[str, float]) -> None:
        planted = {}
        for name, (body, limit) in parts.items():
            source = f"import os, signal, time\ndef run(session):\n    {body}\n"
            (tmp_path / f"planted_{name}.py").write_text(source)
            planted[name] = runner.Part(f"planted_{name}", limit)
        monkeypatch.setattr(runner, "PARTS", planted)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


def test_the_first_parts_run_dry(tmp_path):
    done = command("--dry", "--only", "info", "bench", out=tmp_path)
    assert done.returncode == 0, done.stdout
    ended = summary(tmp_path)
    assert [each["outcome"] for each in ended.values()] == ["passed", "passed"]
    passport = json.loads((tmp_path / "summary.json").read_text())["passport"]
    assert passport["torch"] == torch.__version__.partition("+")[0]
    assert {"device", "driver", "triton", "cupy", "numpy", "python", "commit", "date"} <= set(passport)
    timed = [row for row in rows(tmp_path, "bench") if "latency_us" in row]
    assert {row["method"] for row in timed} >= {"eager", "torch.linalg.eigh", "gather + bmm"}
    assert all("residual" in row for row in timed if row["kind"] != "floor"), "a time without its error"
    assert len(list(tmp_path.iterdir())) <= 8


@pytest.mark.slow
def test_every_part_runs_dry(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
    done = command("--dry", out=tmp_path)
    assert done.returncode == 0, done.stdout
    ended = summary(tmp_path)
    assert list(ended) == list(runner.PARTS)
    assert all(part["outcome"] == "passed" or part["sentence"] for part in ended.values())
    assert {row.get("backend") for row in rows(tmp_path, "smoke")} >= {"triton", "eager"}
    assert all("residual" in row for row in rows(tmp_path, "smoke") if row.get("backend") == "eager")
    assert {row.get("what") for row in rows(tmp_path, "train")} >= {"lists", "selection alone", "step"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_every_part_says_so_and_the_rest_go_on(tmp_path):
    done = command("--only", "smoke", "tests", "profile", out=tmp_path)
    assert done.returncode == 1
    ended = summary(tmp_path)
    assert list(ended) == ["smoke", "tests", "profile"]
    assert {part["sentence"] for part in ended.values()} == {"torch sees no CUDA device"}
    assert done.stdout.count("torch sees no CUDA device") == 3
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_no_part_does_anything(tmp_path):
    assert command(out=tmp_path).returncode == 1
    assert {part["sentence"] for part in summary(tmp_path).values()} == {"torch sees no CUDA device"}


def test_a_crash_loses_no_other_rows(plant, tmp_path, capsys):
    plant(
        before=("session.row(number=1)", 30),
        crash=("session.row(number=2); os.kill(os.getpid(), signal.SIGSEGV)", 30),
        error=("session.row(number=3); raise ValueError('planted')", 30),
        after=("session.row(number=4)", 30),
    )
    assert runner.main(["--out", str(tmp_path)]) == 1
    ended = summary(tmp_path)
    assert [part["outcome"] for part in ended.values()] == ["passed", "failed", "failed", "passed"]
    assert ended["crash"]["sentence"] == "it was ended by SIGSEGV"
    assert ended["error"]["sentence"] == "ValueError: planted"
    assert [rows(tmp_path, name)[0]["number"] for name in ended] == [1, 2, 3, 4]
    assert "failed: crash, error" in capsys.readouterr().out


@pytest.mark.slow
def test_limits_hold_also_for_what_a_part_starts_and_refuses_to_end(plant, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_GRACE", 0.2)
    stubborn = "signal.signal(signal.SIGINT, signal.SIG_IGN); session.row(child=os.fork() or 0); time.sleep(60)"
    plant(stubborn=(stubborn, 6.0), after=("session.row(number=1)", 30))
    start = time.monotonic()
    assert runner.main(["--out", str(tmp_path)]) == 1
    assert time.monotonic() - start < 30
    assert "limit of 6 s" in summary(tmp_path)["stubborn"]["sentence"]
    assert summary(tmp_path)["after"]["outcome"] == "passed"
    child = max(row["child"] for row in rows(tmp_path, "stubborn"))
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "(zombie)" in status.read_text()


def test_parts_for_which_no_time_is_left_are_not_begun(plant, tmp_path):
    plant(first=("pass", 30), second=("pass", 30))
    assert runner.main(["--out", str(tmp_path), "--seconds", "10"]) == 1
    assert {part["outcome"] for part in summary(tmp_path).values()} == {"no time left"}


def test_a_wrong_row_fails_its_part_and_what_is_not_here_fails_only_where_it_is_wanted(plant, tmp_path):
    absent = "from benchmarks.device_check.session import NotHere; raise NotHere('no tool')"
    plant(absent=(absent, 30))
    assert runner.main(["--dry", "--out", str(tmp_path)]) == 0
    assert runner.main(["--out", str(tmp_path)]) == 1
    plant(wrong=("session.row(number=1, wrong='it is wrong')", 30))
    assert runner.main(["--dry", "--out", str(tmp_path)]) == 1
    assert summary(tmp_path)["wrong"]["sentence"] == "it is wrong"


@pytest.mark.parametrize("option", ["--quick", "--dry"])
def test_a_table_of_a_few_problems_is_refused(option, tmp_path):
    done = command(option, "--write-table", str(tmp_path / "table.json"), out=tmp_path)
    assert done.returncode == 2
    assert "--write-table must come without --quick and --dry" in done.stderr
    assert list(tmp_path.iterdir()) == []


def timed(backend, store, members, size, width, microseconds):
    row = {"run": "2027-01-02T03:04:05", "kind": "ours", "backend": backend, "store": store, "N": size, "d": width}
    return row | {"B": members} | ({"latency_us": microseconds} if microseconds else {"failed": "sine is 1"})


def test_a_benchmark_makes_the_table(tmp_path, monkeypatch):
    installed = {"device": "cpu", "store": "host", "max_nodes": None, "max_width": None, "members": 1,
                 "order": ["native"], "measured": None}  # fmt: skip
    (tmp_path / "installed.json").write_text(json.dumps({"source": "words", "rows": [installed]}))
    monkeypatch.setattr(table, "INSTALLED", tmp_path / "installed.json")
    found = [
        {"run": "2027-01-02T03:04:05", "device": "Card", "copy_bytes_s": 3e12},
        *(
            timed(name, "device", 16, 64, 384, each)
            for name, each in (("triton", 20.0), ("cuda", 10.0), ("cupy", None))
        ),
        *(timed(name, "device", 132, 64, 384, each) for name, each in (("triton", 20.0), ("cuda", 30.0))),
        {**timed("cupy", "device", 132, 64, 384, None), "left_out": "too slow"},
        *(timed(name, "device", 16, 64, 2048, each) for name, each in (("triton", 20.0), ("cuda", 10.0))),
        timed("triton", "device", 16, 4096, 384, 500.0),
        timed("cuda", "device", 16, 2048, 384, None),
        *(timed("triton", "host", 16, 128, 384, each) for each in (15.0, 90.0)),  # resident, gathered
        timed("native", "host", 16, 128, 384, 30.0),
        {
            "run": "2027-01-02T03:04:05",
            "kind": "peer",
            "store": "device",
            "B": 16,
            "N": 64,
            "d": 384,
            "latency_us": 1.0,
        },
    ]
    assert table.write(found, tmp_path / "made.json")
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))["rows"]
    assert made[-1] == installed
    assert {(row["device"], row["measured"]) for row in made[:-1]} == {("Card", "2027-01-02, Card")}
    assert [
        tuple(row[name] for name in ("store", "max_nodes", "max_width", "members", "order")) for row in made[:-1]
    ] == [
        ("device", 64, 384, 132, ["triton", "cuda", "cupy"]),
        ("device", 64, None, 1, ["cuda", "triton"]),  # and nothing for d = 384, of which it says the same
        ("device", None, None, 1, ["triton"]),
        ("host", None, None, 1, ["native", "triton"]),
    ]


def test_the_installed_table_is_what_was_measured():
    """But for one problem, at which a fault of the benchmark left Triton out."""
    found = [row for row in report.timed() if row["B"] != 4096]
    installed = json.loads(table.INSTALLED.read_text(encoding="utf-8"))["rows"]
    ours = [row for row in installed if row["device"] == "NVIDIA H200"]
    assert ours == table.entries(found, "NVIDIA H200", "2026-11-27, NVIDIA H200")


def test_the_page_shows_the_committed_times():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert "\n".join(report.tables()) in page
    summaries = json.loads(Path(report.FOLDER, "runs.json").read_text(encoding="utf-8"))
    assert {run["passport"]["device"] for run in summaries} == {"NVIDIA H200"}


def test_no_table_is_made_of_nothing(plant, tmp_path, capsys):
    row = "method='cuda', kind='ours', backend='cuda', store='device', B=1, N=64, d=9, solved=1, failed='sine is 1'"
    plant(bench=(f"session.row({row}); session.row(device='Card', copy_bytes_s=1.0)", 30))
    path = tmp_path / "table.json"
    assert runner.main(["--out", str(tmp_path / "out"), "--write-table", str(path)]) == 1
    assert not path.exists()
    assert "no table to write" in capsys.readouterr().out


def test_a_row_that_was_cut_off_is_passed_over(tmp_path):
    (tmp_path / session.ROWS).write_text('{"run": "a", "part": "x"}\n{"run": "b", "part": "x"}\n{"run": "a", "pa')
    assert session.rows_of(tmp_path, "a") == [{"run": "a", "part": "x"}]


@pytest.mark.parametrize(("size", "width"), [(2, 5), (40, 12), (700, 24)])
def test_the_truth_is_lapacks_and_a_wrong_vector_is_seen(size, width):
    features = torch.rand(size, width, generator=torch.Generator().manual_seed(size)) + 0.05
    units = torch.nn.functional.normalize(features.double()).numpy()
    affinity = units @ units.T - np.eye(size)
    laplacian = np.diag(affinity.sum(axis=1)) - affinity
    values, vectors = np.linalg.eigh(laplacian)  # the affinities are positive: the constant vector comes first
    exact = truth.exact(features.numpy())
    assert abs(exact.norm - np.abs(laplacian).sum(axis=1).max()) < 1e-9 * exact.norm
    assert abs(exact.values[0] - values[1]) < 1e-9 * exact.norm
    assert abs(exact.vector @ vectors[:, 1]) > 1 - 1e-9
    if size > 2:
        assert abs(exact.values[1] - values[2]) < 1e-9 * exact.norm
    vector = fiedler_rows(features, torch.arange(size)[None], backend="eager").vector
    assert truth.fault(truth.distance(vector, [exact]), ours=True) is None
    spoilt = vector + 1e-3 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(0))
    assert truth.fault(truth.distance(spoilt, [exact]), ours=True) is not None
    for other in (torch.ones_like(vector), torch.full_like(vector, float("nan"))):
        found = truth.distance(other, [exact])
        assert all(truth.fault(found, ours=ours) is not None for ours in (True, False))
    if size > 3:
        third = torch.from_numpy(vectors[:, 2]).float()[None]
        assert "turned" in str(truth.fault(truth.distance(third, [exact]), ours=True))


def test_counters_of_a_kernel_are_one_row():
    text = (
        "==PROF== Connected\nours: status [1]\n"
        '"ID","Process ID","Kernel Name","Block Size","Grid Size","Section Name",'
        '"Metric Name","Metric Unit","Metric Value"\n'
        '"0","7","solve_small","(256, 1, 1)","(64, 1, 1)","Occupancy","Achieved Occupancy","%","12.5"\n'
        '"0","7","solve_small","(256, 1, 1)","(64, 1, 1)","SpeedOfLight","Duration","us","300.1"\n'
        '"1","7","gram_tiles","(128, 1, 1)","(9, 1, 1)","SpeedOfLight","Duration","us","5.0"\n'
    )
    first, second = kernels(text)
    assert first["kernel"] == "solve_small"
    assert first["metrics"] == {"Achieved Occupancy [%]": "12.5", "Duration [us]": "300.1"}
    assert second["metrics"] == {"Duration [us]": "5.0"}
    assert kernels("==ERROR== no permission") == []


def test_a_skip_is_a_failure_where_a_gpu_is_required(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests/gpu/conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_skipped():\n    pytest.skip('no device')\n"
        "@pytest.mark.xfail\ndef test_expected():\n    raise AssertionError\n"
        "def test_passes(): pass\n"
    )
    code = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = python(code, "-q", "-p", "no:cacheprovider", str(tmp_path), "--require-gpu")
    assert done.returncode == 1
    assert "no device" in done.stdout
    assert "1 failed, 1 passed, 1 xfailed" in done.stdout

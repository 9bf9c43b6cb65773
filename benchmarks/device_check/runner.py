"""Everything that only a GPU can show, in one command that may be cut off at any moment.

    python -m benchmarks.device_check [--dry] [--quick] [--only PART …] [--skip PART …] [--seconds 470] [--out FOLDER]
                                      [--write-table PATH]

Parts run in this order, each in a process and within a time of its own; what one of them crashes or kills is lost to
that part alone. Nothing is installed or downloaded.

    info        device, driver, versions, tools
    build       the extension for this device's architecture; the Triton kernels compiled on all cores meanwhile
    smoke       every backend against float64, its bits repeated, and alone
    tests       tests/gpu, where a skip is a failure
    bench       latency, throughput and CUDA-graph time beside every peer
    train       selection beside a busy default stream: the CPU's lists, milliseconds a step
    sanitizers  memcheck and racecheck
    profile     Nsight Compute's counters of every kernel

FOLDER (default: $OUT, else build/device-check) gets rows.jsonl, each row on disk before the next is made; log.txt; and
summary.json with the passport, written anew whenever a part ends. Without a device every part fails in a sentence.
--dry runs every part to its end on tiny problems on the CPU; a device or tool that is not there is then no failure.
The exit status is 0 where no part failed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.device_check import table
from benchmarks.device_check.passport import passport
from benchmarks.device_check.session import ROOT, Session, rows_of


class Part(NamedTuple):
    """A module with ``run(session)``, the most seconds it gets, and whether its dry run has Triton's interpreter."""

    module: str
    limit: float
    interpreted: bool = False


_FOLDER = "benchmarks.device_check.parts"
PARTS = {
    "info": Part(f"{_FOLDER}.info", 20),
    "build": Part(f"{_FOLDER}.build", 100),
    "smoke": Part(f"{_FOLDER}.smoke", 75, interpreted=True),
    "tests": Part(f"{_FOLDER}.tests", 130),
    "bench": Part(f"{_FOLDER}.bench", 130),
    "train": Part(f"{_FOLDER}.train", 75),
    "sanitizers": Part(f"{_FOLDER}.sanitizers", 130),
    "profile": Part(f"{_FOLDER}.profile", 40),
}
_LEAST = 8.0  # seconds; a part that would get less is not begun
_GRACE = 5.0  # seconds between asking a process to stop and killing it
_SHOWN = 15  # last lines of a failed part's output


class Ended(NamedTuple):
    """How a part went."""

    part: str
    outcome: str  # passed, failed, no time left; in a dry run also: not here
    sentence: str
    seconds: float


def _stopped(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process and end all that it started; after ``seconds`` the process, too. Was that necessary?"""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that hangs in the driver does not end at all
            process.wait(_GRACE)
    return False


def _run_part(session: Session, part: Part, limit: float) -> Ended:
    """One part in a process group of its own, its output appended to log.txt."""
    environment = session.environment()
    if session.dry and part.interpreted:
        environment["TRITON_INTERPRET"] = "1"  # read when triton is first imported
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.device_check.worker"]
    with Path(session.out, "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        late = _stopped(process, limit)
    last = [row for row in rows_of(session.out, session.run) if row["part"] == session.part][-1:]
    if last and "outcome" in last[0]:
        outcome, sentence = last[0]["outcome"], last[0]["sentence"]
    elif late:
        outcome, sentence = "failed", f"it was stopped at its limit of {limit:.0f} s"
    elif process.returncode < 0:
        outcome, sentence = "failed", f"it was ended by {signal.Signals(-process.returncode).name}"
    else:
        outcome, sentence = "failed", f"it ended with status {process.returncode} before its last row"
    if outcome == "not here" and not session.dry:
        outcome = "failed"
    return Ended(session.part, outcome, sentence, round(time.monotonic() - start, 1))


def _show_log(out: Path, since: int) -> None:
    with (out / "log.txt").open("rb") as log:
        log.seek(since)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line and line[:6] != '{"run"']
    print(*(f"    {line[:200]}" for line in lines[-_SHOWN:]), sep="\n", end="\n" if lines else "", flush=True)


def _show_times(rows: list[dict[str, Any]]) -> None:
    """A line for each method and problem of the benchmark: microseconds, or why there are none."""
    for row in rows:
        if "method" in row:
            problem = f"B={row['B']} ({row['solved']}) N={row['N']} d={row['d']}"
            shown = (
                f"{name} {row[name]}"
                for name in ("latency_us", "queued_us", "graph_us", "failed", "left_out")
                if name in row
            )
            print(f"    {row['method']:22s} {problem:28s}", *shown)


def _write_summary(out: Path, head: dict[str, Any], ended: list[Ended]) -> None:
    """Whole or not at all: the old file is replaced by a complete one."""
    text = json.dumps(head | {"parts": [each._asdict() for each in ended]}, indent=1)
    part = out / "summary.json.part"
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(out / "summary.json")


def run_parts(names: list[str], out: Path, seconds: float, *, dry: bool, quick: bool) -> tuple[list[Ended], str]:
    """Run these parts of PARTS, in order; how each went, and the run's name."""
    start, run = time.time(), dt.datetime.now(dt.timezone.utc).isoformat(timespec="milliseconds")
    head = {"run": run, "passport": passport(), "dry": dry, "quick": quick, "allowed seconds": seconds}
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").touch()
    ended: list[Ended] = []
    for name in names:
        now, part = time.time(), PARTS[name]
        limit = min(part.limit * (2 if dry else 1), seconds - (now - start) - _GRACE)  # no machine is lent to a dry run
        _write_summary(out, head | {"running": name, "seconds": now - start}, ended)
        if limit < min(_LEAST, part.limit):
            ended.append(Ended(name, "no time left", f"fewer than {_LEAST:.0f} s were left", 0.0))
        else:
            since = (out / "log.txt").stat().st_size
            session = Session(run, name, part.module, str(out), now + limit, dry=dry, quick=quick)
            ended.append(_run_part(session, part, limit))
            if ended[-1].outcome == "failed":
                _show_log(out, since)
        last = ended[-1]
        print(f"{name}: {last.outcome} after {last.seconds} s{last.sentence and ': '}{last.sentence}", flush=True)
    _write_summary(out, head | {"running": None, "seconds": time.time() - start}, ended)
    return ended, run


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny problems on the CPU")
    parser.add_argument("--quick", action="store_true", help="the few most telling problems only")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", default=list(PARTS))
    parser.add_argument("--skip", nargs="+", choices=PARTS, metavar="PART", default=[])
    parser.add_argument("--seconds", type=float, default=470.0, help="for everything together")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "build" / "device-check")))
    parser.add_argument("--write-table", type=Path, metavar="PATH", help='what backend="auto" should follow here')
    options = parser.parse_args(arguments)
    if options.write_table and (options.quick or options.dry):
        parser.error("--write-table must come without --quick and --dry: a few problems are no rule for the others.")
    if options.write_table and not options.write_table.parent.is_dir():
        parser.error(f"--write-table must be in a folder that exists, got {options.write_table}")
    options.out = options.out.resolve()  # parts run in the repository's folder
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run, report, and say whether anything failed."""
    options = _arguments(arguments)
    names = [name for name in PARTS if name in options.only and name not in options.skip]
    ended, run = run_parts(names, options.out, options.seconds, dry=options.dry, quick=options.quick)
    failed = [each.part for each in ended if each.outcome not in ("passed", "not here")]
    rows = rows_of(options.out, run)
    _show_times(rows)
    if options.write_table and not table.write(rows, options.write_table):
        print("no backend was timed with right results, so there is no table to write")
        failed.append("--write-table")
    print(f"{len(ended)} parts, failed: {', '.join(failed) or 'none'}; results in {options.out}")
    return int(bool(failed))

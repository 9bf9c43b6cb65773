"""Was the pilot right? Its forecasts beside full runs, on data that it was tuned on and on data that it was not.

    python -m benchmarks.pilot_record                        # what is missing, then the record and its table
    python -m benchmarks.pilot_record fashion-mnist-clean    # some of the pilots; no record
    python -m benchmarks.pilot_record --conclude             # the record anew from pilots that were run
    python -m benchmarks.pilot_record --table                # only print the table of the committed record

A pilot gets a twentieth of the arithmetic of the comparison in benchmarks/results/study/NAME.json that it stands for:
learner FLOPs of all trainings of `full`, `uniform` and the recommended selection there, over five seeds. What it says
of recommended minus uniform, and of recommended minus full, stands beside what those trainings showed. Rows of the pool
and of the reference are limited to what two minutes on two idle cores allow; encoder features are kept between pilots,
so that extraction is timed in none of them. digits and wordnet-verbs are what the pilot's constants were set on.

Two things to know of the record. In every pair that is clear the selection beats uniform, so "always ahead" would have
the same signs (`ahead_in_full_runs`); the comparison with full training goes both ways. And the form of the intervals
(their quantile, their skew, the least a clear lead keeps) and the verdict's rule for gains over full training were
settled after a first look at the untuned pairs, with numbers from the tuned ones; the pilots recorded here were run
afterwards.
"""

import argparse
import hashlib
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.study import DATA, FAULTS, ROOT, RUNS, STUDY
from spectral_sampler.cli import options, program
from spectral_sampler.experiment import reference
from spectral_sampler.experiment.cell import Places, load
from spectral_sampler.experiment.corruption import corrupt
from spectral_sampler.experiment.piloting import pilot
from spectral_sampler.experiment.piloting.plan import Plan, Room, comparison_samples, plan_for
from spectral_sampler.experiment.piloting.verdict import conclude
from spectral_sampler.experiment.report import by_policy, estimate, read_json, write_json
from spectral_sampler.experiment.runner import circumstances

RESULT = ROOT / "benchmarks" / "results" / "pilot-record.json"
TUNED = ("digits", "wordnet-verbs")
SHARE = 0.049
"""A twentieth, less what batches of whole samples round up."""
POOL, HELD_OUT, SELECTIONS = 2000, 4000, 2
PAIRS = [f"{data}-{fault}" for data in DATA for fault in FAULTS]
_COMMAND = "python -m benchmarks.pilot_record"


def plan(settings) -> Plan:
    """A twentieth of the comparison, and no clock."""
    task = load(settings, Places())
    seen = corrupt(task.train.labels, settings.corruption, len(task.classes), 0, task.known)
    rows, pool = len(seen.rows), min(len(seen.rows), POOL)
    room = Room(SHARE * comparison_samples(settings, rows), rows, pool, len(np.unique(seen.labels)))
    return Plan(pool, HELD_OUT, *plan_for(settings, room, SELECTIONS, settings.keep_ratio))


def remember_features(folder: Path) -> None:
    """Lets encoders read every sample once, whatever subset it is in: pilots of one data set share them."""
    compute = reference.encoded_features

    def remembered(samples, name, version, cache):
        del version
        plain = samples.plain()
        parts = plain.texts if hasattr(plain, "texts") else [row.numpy().tobytes() for row in plain.inputs]
        keys = [hashlib.sha256(part if isinstance(part, bytes) else part.encode()).hexdigest() for part in parts]
        path = folder / f"{name}.npz"
        known: dict[str, Any] = {}
        if path.exists():
            with np.load(path, allow_pickle=False) as found:
                known = dict(zip(found["keys"].tolist(), found["rows"], strict=True))
        missing = np.array([place for place, key in enumerate(keys) if key not in known], dtype=np.int64)
        if len(missing):
            rows = np.asarray(compute(samples.subset(missing), name, "row", cache))
            known.update(zip((keys[place] for place in missing), rows, strict=True))
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                np.savez(file, keys=np.array(list(known)), rows=np.stack(list(known.values())))
            Path(file.name).replace(path)
        return np.stack([known[key] for key in keys])

    reference.encoded_features = remembered


def run(name: str, work: Path) -> None:
    """One pilot; a finished one is kept."""
    path = work / f"{name}.json"
    if path.exists():
        return
    chosen = options.settings(program.parser().parse_args(shlex.split(RUNS[name])))
    write_json(path, pilot(chosen, plan=plan(chosen), jobs=1, say=print, command=f"{_COMMAND} {name}"))


def truth(name: str, selection: str) -> dict[str, Any]:
    """What five seeds of full runs showed, and what they cost."""
    found = by_policy(read_json(STUDY / f"{name}.json")["cells"])
    shown = {}
    for other in ("uniform", "full"):
        pairs = [found[selection][seed]["test_accuracy"] - found[other][seed]["test_accuracy"] for seed in found[other]]
        points = estimate([100.0 * pair for pair in pairs])
        shown[other] = {"points": round(points.mean, 3), "half_width": round(points.half_width, 3)}
    flops = sum(cell["learner_flops"] for policy in ("full", "uniform", selection) for cell in found[policy].values())
    return {**shown, "learner_flops": flops}


def pair(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """One line of the record."""
    selection = found["proposed"]["recommended"]
    shown = truth(name, selection)
    data, _, fault = name.rpartition("-")
    entry: dict[str, Any] = {
        "data": data, "fault": fault, "tuned_on": data in TUNED, "selection": selection, "verdict": found["verdict"],
        "learner_flops": found["measured"]["learner_flops"],
        "share": round(found["measured"]["learner_flops"] / shown["learner_flops"], 4),
        "plan": found["measured"]["plan"], "processor_seconds": found["measured"]["processor_seconds"],
    }  # fmt: skip
    for expected in found["expected"][:2]:
        full, low, high = shown[expected["against"]], expected["low"], expected["high"]
        entry[expected["against"]] = {
            "expected": [expected[part] for part in ("points", "low", "high")],
            "shown": [full["points"], full["half_width"]],
            "clear": abs(full["points"]) > full["half_width"],
            "right_sign": (expected["points"] > 0) == (full["points"] > 0),
            "covered": low <= full["points"] <= high,
        }
    return entry


def concluded(found: dict[str, Any]) -> dict[str, Any]:
    """The same trainings and facts, judged by the constants as they are now."""
    from spectral_sampler.experiment.piloting.cost import Cost
    from spectral_sampler.experiment.settings import Settings

    cost = Cost(**found["measured"]["cost"])
    return {**found, **conclude(Settings(**found["settings"]), found["data"], found["measured"]["runs"], cost)}


def summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over the pairs."""
    counts: dict[str, Any] = {"pairs": len(pairs), "largest_share": max(line["share"] for line in pairs)}
    for other in ("uniform", "full"):
        clear = [line[other] for line in pairs if line[other]["clear"]]
        counts[other] = {
            "clear": len(clear), "right_sign": sum(line["right_sign"] for line in clear),
            "ahead_in_full_runs": sum(line["shown"][0] > 0 for line in clear),
            "covered": sum(line[other]["covered"] for line in pairs),
        }  # fmt: skip
    counts["verdicts"] = {word: sum(line["verdict"] == word for line in pairs) for word in ("yes", "no", "undecided")}
    counts["yes_where_uniform_wins"] = sum(
        line["verdict"] == "yes" and line["uniform"]["clear"] and line["uniform"]["shown"][0] < 0 for line in pairs
    )
    return counts


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    head = ["pair", "selection", "verdict", "minus uniform: expected", "full runs", "minus full: expected", "full runs",
            "share of FLOPs"]  # fmt: skip
    lines = [head, ["---"] * 3 + ["--:"] * 5]
    for line in record["pairs"]:
        cells = [f"{line['data']} {line['fault']}" + (" (tuned on)" if line["tuned_on"] else ""), line["selection"],
                 line["verdict"]]  # fmt: skip
        for other in ("uniform", "full"):
            (points, low, high), (shown, half) = line[other]["expected"], line[other]["shown"]
            bold = "**" if line[other]["clear"] else ""
            cells += [f"{points:+.1f} ({low:+.1f} to {high:+.1f})", f"{bold}{shown:+.2f} ± {half:.2f}{bold}"]
        lines.append([*cells, f"{100 * line['share']:.1f} %"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"such as {PAIRS[0]}; default all")
    parser.add_argument("--conclude", action="store_true", help="run nothing; pairs without a pilot are left out")
    parser.add_argument("--table", action="store_true", help="run and write nothing")
    parser.add_argument("--work", type=Path, default=ROOT / "pilot-results", metavar="DIR")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(read_json(RESULT)), json.dumps(read_json(RESULT)["summary"], indent=1), sep="\n\n")
        return
    unknown = [name for name in arguments.names if name not in PAIRS]
    if unknown:
        parser.error(f"NAME must be one of {', '.join(PAIRS)}, got {unknown[0]}")
    torch.set_num_threads(1)
    remember_features(arguments.work / "features")
    for name in [] if arguments.conclude else arguments.names or PAIRS:
        print(name)
        run(name, arguments.work)
    if arguments.names:
        return
    found = {name: concluded(read_json(path)) for name in PAIRS if (path := arguments.work / f"{name}.json").exists()}
    pairs = [pair(name, result) for name, result in found.items()]
    record = {
        "circumstances": circumstances(_COMMAND),
        "summary": {"untuned": summary([line for line in pairs if not line["tuned_on"]]),
                    "tuned": summary([line for line in pairs if line["tuned_on"]])},
        "pairs": pairs,
        "runs": {name: {part: result["measured"][part] for part in ("runs", "cost")} | {"data": result["data"],
                 "settings": result["settings"]} for name, result in found.items()},
    }  # fmt: skip
    write_json(RESULT, record)
    print(table(record))


if __name__ == "__main__":
    main()

"""The arena: selections against the strongest simple means of training on as many samples.

    python -m benchmarks.arena                                  # run what is missing (hours)
    python -m benchmarks.arena digits-clean digits-noise20      # some of the comparisons
    python -m benchmarks.arena digits-clean --redo jest 3       # one training anew, beside the committed one
    python -m benchmarks.arena --list                           # names and commands

A comparison is one call of ``spectral-sampler compare``, and anybody's policy enters it by that command and ``--plugin
MODULE``. What it writes stays in a working folder, so that an interrupted arena goes on where it stopped; what the
documents need of it is committed as ``benchmarks/results/arena/NAME.json``.
"""

from benchmarks import study
from benchmarks.study import ROOT, main

ARENA = ROOT / "benchmarks" / "results" / "arena"

DATA = {**study.DATA, "fashion-mnist": study.FASHION}
NATURAL = {
    "wordnet-fields": "--data wordnet-fields",
    "diamonds": "--data diamonds",
    "opinions": "--data opinions",
}
"""Uneven, or wrong, as they are found; only as they are."""

TUNED_ON = ("fashion-mnist", "digits")
"""Data that our own selections were designed on; never added up with the others."""

CONDITIONS = {
    "clean": "",
    "noise20": "--label-noise 0.2",
    "noise50": "--label-noise 0.5",
    "confusion20": "--confusion-noise 0.2",
    "confusion40": "--confusion-noise 0.4",
    "imbalance10": "--imbalance 10",
    "imbalance100": "--imbalance 100",
    "imbalance10-noise20": "--imbalance 10 --label-noise 0.2",
    "duplicate50": "--duplicate 0.5",
    "overlap": "--overlap 0.5",
}

OURS = (
    "plausible-even", "plausible-learnable", "plausible-learnable-fresh", "plausible-even-balanced",
    "plausible-learnable-balanced", "plausible-learnable-oversampled", "all-labelled",
)  # fmt: skip
"""Beside the controls, under every condition; the last one selects nothing, and trains on the reference's rows too."""
FIELD = (
    "auto", "saln", "gstds", "rho-loss", "jest", "jest-joint", "infobatch", "gradient-norm", "sensitivity", "bayesian",
    "divbs", "seta", "uds", "el2n", "forgetting", "k-centre", "herding", "leverage",
)  # fmt: skip
"""Those of others, and what the pilot recommends, which costs a pilot each; under the conditions `IN_FULL`."""
IN_FULL = ("clean", "noise20")

SEEDS = {"wordnet-10": 10, "wordnet-verbs": 10, "digits": 10}
"""Where a training takes a second and intervals are wide."""
FEWEST_SEEDS = 5


def _command(where: str, data: str, condition: str) -> str:
    ceilings = ("oracle", "oracle-balanced") if data == "opinions" else ()  # wrong by nature: nobody asked for noise
    policies = (*OURS, *ceilings, *(FIELD if condition in IN_FULL else ()))
    seeds = f"--seeds {SEEDS.get(data, FEWEST_SEEDS)}"
    parts = ["compare", where, CONDITIONS[condition], "--schedule constant", seeds, f"--policies {','.join(policies)}"]
    return " ".join(filter(None, parts))


GRID = {
    **{f"{data}-{condition}": _command(where, data, condition)
       for data, where in DATA.items() for condition in CONDITIONS},
    **{f"{data}-clean": _command(where, data, "clean") for data, where in NATURAL.items()},
}  # fmt: skip

_UNTUNED = [f"{data}-{condition}" for data in DATA if data not in TUNED_ON for condition in IN_FULL]
BESIDE = {
    "held-out": ("--reference held-out --policies jest,rho-loss,plausible-even,plausible-learnable", _UNTUNED),
    "twins": ("--reference twin --policies jest,rho-loss,plausible-even,plausible-learnable", _UNTUNED),
    "flops": (
        "--equal flops --runs-per-reference 10 --policies saln,gstds,jest,rho-loss,plausible-even,plausible-learnable",
        ["digits-clean", "digits-noise20"],
    ),
}
"""What some of them are asked besides: references that know no encoder, but the held-out rows; that know neither, and
learnt from the other half of the learner's own rows; and equal arithmetic instead of equal samples, a reference shared
by ten trainings."""

RUNS = {
    **GRID,
    **{f"{name}-{asked}": f"{GRID[name].partition(' --policies')[0]} {options}"
       for asked, (options, names) in BESIDE.items() for name in names},
}  # fmt: skip
"""Name and command of every comparison."""


if __name__ == "__main__":
    main(RUNS, ARENA, ROOT / "arena-results", __doc__.splitlines()[0])

"""The picture of the arena: every policy's distance to the strongest control, one mark a condition.

    python -m benchmarks.standing_figure

writes ``benchmarks/results/arena/standing.png`` from the committed files, of the data that nothing was tuned on.
"""

from matplotlib.figure import Figure

from benchmarks.arena import ARENA, DATA, TUNED_ON
from benchmarks.tables import standings
from spectral_sampler.experiment.policies import SELECT_NOTHING

UNTUNED = tuple(name for name in DATA if name not in TUNED_ON)
TICKS = (-10.0, -5.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
LEAST, MOST = TICKS[0], TICKS[-1]  # points; what lies beyond stands at the edge


def figure(data: str) -> Figure:
    """Policies from the best mean to the worst; filled marks are clear of zero."""
    found = sorted(standings(data), key=lambda one: one.mean)
    drawn = Figure(figsize=(9, 0.24 * len(found) + 1.2), dpi=120, layout="constrained")
    axes = drawn.subplots()
    for place, one in enumerate(found):
        control = one.policy in SELECT_NOTHING
        for margin in one.margins.values():
            points = 100 * margin.mean
            at, mark = min(max(points, LEAST), MOST), "<" if points < LEAST else ">" if points > MOST else "o"
            colour = "#777777" if control else "#009E73" if points > 0 else "#D55E00"
            axes.plot(at, place, mark, color=colour, markersize=5, mew=0.8,
                      mfc=colour if margin.clear_of_zero else "white")  # fmt: skip
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xticks(TICKS, labels=[f"{tick:+g}" if tick else "0" for tick in TICKS])
    axes.set_yticks(range(len(found)), labels=[one.policy for one in found], fontsize=8)
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.grid(axis="y", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(
        "balanced accuracy minus the strongest control's of the condition, points; filled: clear of zero (95 %)"
    )
    axes.set_title("One mark a condition; grey: controls and ceilings", loc="left", fontsize=9)
    return drawn


def main() -> None:
    figure(",".join(UNTUNED)).savefig(ARENA / "standing.png")


if __name__ == "__main__":
    main()

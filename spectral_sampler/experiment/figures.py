"""Pictures of a comparison, each returned as a matplotlib figure and never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.experiment.outcomes import BASELINE, by_policy, estimate, rows, strongest
from spectral_sampler.experiment.policies import SELECT_NOTHING
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AXES",
    "accuracy_figure",
    "axes_of",
    "class_counts",
    "class_figure",
    "difference_figure",
    "pictured_batch_figure",
    "save_figures",
    "schedule_figure",
]

_COLOURS = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#0072B2",
    "#999933",
    "#882255",
    "#44AA99",
)
"""Okabe and Ito's colours, told apart by all common kinds of colour blindness, then Tol's; lines differ in dash and
marker too."""
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*Xp<"
_FEWEST = 3  # seeds for a band
_KINDS = {
    "rejected": ("#BBBBBB", "o", "rejected"),
    "spectral": ("#D55E00", "^", "by Fiedler score"),
    "weighted": ("#0072B2", "s", "by weighted draw"),
    "uniform": ("#009E73", "D", "at random"),
}


def _figure(width: float, height: float) -> Any:
    """A figure with its own Agg canvas: no window system, no state shared through pyplot."""
    figure = optional("matplotlib.figure").Figure(figsize=(width, height), dpi=120, layout="constrained")
    optional("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def _plain(name: object) -> str:
    """A name of the user's as it stands: matplotlib takes what is between two dollar signs for a formula."""
    return str(name).replace("$", r"\$")


def _tidy(axes: Any, x: str, y: str, title: str = "") -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize="medium", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


def _style(results: dict[str, Any], policy: str) -> dict[str, Any]:
    """Colour, dash and marker of a policy, the same in every picture of a comparison."""
    number = list(results["policies"]).index(policy)
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


AXES = {
    "samples": "samples trained on",
    "flops": "GFLOP, looking and reference counted",
    "seconds": "seconds, without the reference",
}
"""What accuracy can be drawn against."""


def axes_of(results: dict[str, Any]) -> list[str]:
    """Those of `AXES` that every training has numbers for; seconds only where each ran alone on the machine."""
    runs = [run for found in by_policy(results["cells"]).values() for run in found.values() if run["samples"]]
    flops = all("reference_flops" in run for run in runs)
    alone = all(run.get("clock", {}).get("jobs") == 1 for run in runs)
    return [name for name, known in (("samples", True), ("flops", flops), ("seconds", alone)) if known]


def _spent(run: dict[str, Any], against: str) -> list[float]:
    """What a training had taken of something at each checkpoint."""
    if against == "seconds":
        return [float(value) for value in run["clock"]["seconds"]]
    if against == "samples":
        return [float(point["samples"]) for point in run["curve"]]
    a_sample, a_look = run["learner_flops"] / run["samples"], run.get("looking_flops", 0.0) / run["curve"][-1]["step"]
    reference = run["reference_flops"]
    return [(reference + a_sample * point["samples"] + a_look * point["step"]) / 1e9 for point in run["curve"]]


def _bands(runs: list[dict[str, Any]], against: str) -> tuple[Any, Any, Any]:
    """Mean of what was spent, mean accuracy and half-width of its 95 % interval at every checkpoint, in per cent; NaN
    where the interval is too wide to say anything."""
    common = min(len(run["curve"]) for run in runs)  # trainings of a few steps have fewer
    spent = np.mean([_spent(run, against)[-common:] for run in runs], axis=0)
    curves = np.array([[point["test_accuracy"] for point in run["curve"][-common:]] for run in runs])
    estimates = [estimate(column.tolist()) for column in curves.T]
    mean = np.array([100 * value.mean for value in estimates])
    return spent, mean, np.array([np.nan if value.too_wide else 100 * value.half_width for value in estimates])


def accuracy_figure(results: dict[str, Any], *, narrow: bool = False, against: str = "samples") -> Any:
    """Test accuracy against what was spent, one line and one band of ± the 95 % half-width for every policy; a level
    line for what trained on nothing.

    Bands end at 0 and 100 %, and are missing where seeds are too few: two give intervals that cover each other.

    Args:
        narrow: for a small screen, with the legend beneath and without bands.
        against: one of `AXES`.
    """
    figure = _figure(5.4, 5.6) if narrow else _figure(8.5, 5.0)
    axes = figure.add_subplot()
    grouped = by_policy(results["cells"])
    curves: list[tuple[Any, Any]] = []
    final = []
    for policy in (policy for policy in results["policies"] if policy in grouped):
        runs, style = list(grouped[policy].values()), _style(results, policy)
        final.append(100 * float(np.mean([run["test_accuracy"] for run in runs])))
        if not all(run["samples"] for run in runs):
            axes.axhline(final[-1], label=_plain(policy), linewidth=1.2, **{**style, "marker": None})
            continue
        spent, mean, half = _bands(runs, against)
        if len(runs) >= _FEWEST and not narrow:
            low, high = (np.clip(edge, 0.0, 100.0) for edge in (mean - half, mean + half))
            axes.fill_between(spent, low, high, color=style["color"], alpha=0.12, linewidth=0)
        every = max(1, len(mean) // 8)
        axes.plot(spent, mean, label=_plain(policy), markersize=4.5, markevery=every, linewidth=1.6, **style)
        curves.append((spent, mean))
    axes.set_xscale("log")
    _plain_numbers(axes)
    # The end of training is what differs; the first steps from chance would squeeze it into a line.
    margin = max(max(final) - min(final), 2.0)
    bottom = max(0.0, min(final) - margin)
    axes.set_ylim(bottom, min(100.0, max(final) + 0.3 * margin))
    if curves:
        axes.set_xlim(left=0.8 * min(spent[np.argmax(mean >= bottom)] for spent, mean in curves))
    _tidy(axes, f"{AXES[against]} (log scale)", "test accuracy, %", _accuracy_title(results, narrow=narrow))
    if narrow:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    else:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _plain_numbers(axes: Any) -> None:
    """No powers of ten along a logarithmic axis."""
    ticker = optional("matplotlib.ticker")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))  # a training may span less than a decade
    axes.xaxis.set_major_formatter(
        ticker.FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    )
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _accuracy_title(results: dict[str, Any], *, narrow: bool) -> str:
    seeds = len(results["seeds"])
    title = f"mean over {seeds} seed{'s' if seeds > 1 else ''}"
    bands = "band: 95 % interval" if seeds >= _FEWEST else "too few for bands"
    return title if narrow else f"{_plain(results['settings']['data'])}: {title}, {bands}"


def difference_figure(results: dict[str, Any]) -> Any:
    """Accuracy minus that of the strongest control, paired by seed, a point and its 95 % interval for every other
    policy; of uniform where it is the strongest."""
    found = rows(results["cells"], results["policies"])
    control = strongest(found) or BASELINE
    lines = [
        line if control == BASELINE else line._replace(difference=line.margin)
        for line in found
        if (line.difference if control == BASELINE else line.margin)
    ]
    figure = _figure(5.4, 1.1 + 0.34 * max(len(lines), 1))
    axes = figure.add_subplot()
    for place, line in enumerate(reversed(lines)):
        mean, half = (100 * value for value in line.difference or (np.nan, np.nan))
        unknown = line.difference is None or line.difference.too_wide
        style = _style(results, line.policy)
        width = None if unknown else half
        axes.errorbar(mean, place, xerr=width, capsize=3, markersize=6, **{**style, "linestyle": "none"})
        if unknown:
            axes.annotate("± –", (mean, place), xytext=(8, 0), textcoords="offset points", va="center")
    axes.axvline(0.0, color="#777777", linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(lines)), [_plain(line.policy) for line in reversed(lines)])
    axes.set_ylim(-0.6, max(len(lines), 1) - 0.4)
    axes.margins(x=0.12)
    name = "uniform selection, 95 % interval" if control == BASELINE else _plain(control)
    _tidy(axes, f"points above or below {name}", "")
    axes.grid(visible=False, axis="y")
    return figure


def schedule_figure(results: dict[str, Any], *, narrow: bool = False) -> Any:
    """The keep ratio of every candidate batch of the training, and its mean."""
    figure = _figure(5.4, 3.0) if narrow else _figure(6.5, 3.6)
    axes = figure.add_subplot()
    ratios = np.asarray(results["keep_ratios"], dtype=float)
    epochs = np.arange(len(ratios)) * results["settings"]["epochs"] / len(ratios)
    axes.plot(epochs, ratios, color="#0072B2", linewidth=1.8, label=f"{results['settings']['schedule']} schedule")
    axes.axhline(
        float(ratios.mean()), color="#D55E00", linestyle="--", linewidth=1.2, label=f"mean {ratios.mean():.3f}"
    )
    axes.set_ylim(0.0, 1.02)
    _tidy(axes, "epoch", "keep ratio", "Share of every candidate batch that is trained on")
    axes.legend(loc="upper left", frameon=False)
    return figure


def class_figure(results: dict[str, Any], policy: str) -> Any:
    """How often each class was selected by ``policy``, as a share of how often it was offered (GSTDS Fig. 10).

    Left: the most and the least selected class over the training, with the mean of all. Right: every class in the whole
    training, in descending order.
    """
    selected, offered = class_counts(results, policy)
    overall = 100 * selected.sum(0) / (offered * len(selected))
    order = np.argsort(-overall, kind="stable")
    names = [_plain(name) for name in results["classes"]]
    figure = _figure(10.5, 4.2)
    curves, bars = figure.subplots(1, 2)
    runs = list(by_policy(results["cells"])[policy].values())
    epochs = (np.arange(len(selected)) + 1) * _epochs(results, runs) / len(selected)
    for place, colour, marker, word in ((0, "#D55E00", "o", "most"), (-1, "#0072B2", "s", "least")):
        label = order[place]
        share = 100 * selected[:, label] / offered[label]
        curves.plot(epochs, share, color=colour, marker=marker, markersize=4, label=f"{word} selected: {names[label]}")
    everything = 100 * selected.sum(1) / offered.sum()
    curves.plot(epochs, everything, color="#777777", linestyle="--", label="all classes")
    curves.set_ylim(bottom=0.0)
    _tidy(curves, "epoch", "selected, % of the offered", f"{_plain(policy)}: two classes over the training")
    curves.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)  # clear of every curve
    colours = ["#D55E00", *["#BBBBBB"] * (len(order) - 2), "#0072B2"]
    bars.bar(range(len(order)), overall[order], color=colours[: len(order)])
    mean = 100 * selected.sum() / (offered.sum() * len(selected))
    bars.axhline(mean, color="#777777", linestyle="--", linewidth=1.0, label=f"all classes: {mean:.0f} %")
    bars.legend(frameon=False, loc="upper right")
    few = len(order) <= 15
    bars.set_xticks(range(len(order)) if few else [0, len(order) - 1])
    ends = range(len(order)) if few else (0, len(order) - 1)
    bars.set_xticklabels(
        [names[order[place]] for place in ends], rotation=45 if few else 0, ha="right" if few else "center"
    )
    _tidy(bars, "class" if few else "class, in this order", "selected, % of the offered", "Whole training, all classes")
    return figure


def class_counts(results: dict[str, Any], policy: str) -> tuple[Any, Any]:
    """Times (checkpoints, C) each class was selected by ``policy`` and times (C,) it was offered at each checkpoint,
    means over seeds."""
    runs = list(by_policy(results["cells"])[policy].values())
    most = max(len(run["selected_per_class"]) for run in runs)
    blank = [[0] * len(results["classes"])]  # trainings of a few steps have fewer checkpoints
    counts = [blank * (most - len(run["selected_per_class"])) + run["selected_per_class"] for run in runs]
    offered = np.mean([run["corruption"]["rows_per_class"] for run in runs], axis=0)
    return np.mean(counts, axis=0), np.maximum(offered * _epochs(results, runs) / most, 1e-12)


def _epochs(results: dict[str, Any], runs: list[dict[str, Any]]) -> float:
    """Times that every row was offered; at equal FLOPs a policy stops when it has spent its own."""
    settings = results["settings"]
    if settings.get("equal", "samples") == "samples":
        return float(settings["epochs"])
    offered = [run["steps"] * settings["candidate_batch_size"] / run["corruption"]["rows"] for run in runs]
    return float(np.mean(offered))


def pictured_batch_figure(results: dict[str, Any], policy: str, *, narrow: bool = False) -> Any | None:
    """One candidate batch early and late, its reference features on their two principal components, by the reason of
    each sample's selection (GSTDS Fig. 8); None where ``policy`` has none."""
    runs = by_policy(results["cells"])[policy].values()
    picture = next((run["pictured_batch"] for run in runs if run.get("pictured_batch")), None)
    if picture is None:
        return None
    points = np.asarray(picture["points"], dtype=float)
    figure = _figure(5.4, 8.0) if narrow else _figure(10.0, 4.8)
    panels = figure.subplots(2 if narrow else 1, 1 if narrow else 2, sharex=True, sharey=True)
    shown: dict[str, Any] = {}
    for axes, moment in zip(panels, picture["moments"], strict=True):
        kinds = np.asarray(moment["kinds"])
        for kind, (colour, marker, words) in _KINDS.items():
            chosen = points[kinds == kind]
            if len(chosen):
                shown[words] = axes.scatter(
                    chosen[:, 0], chosen[:, 1], c=colour, marker=marker, s=34, edgecolors="white", linewidths=0.5
                )
        first, second = (round(100 * share) for share in picture["variance_shares"])
        _tidy(axes, f"first component ({first} % of variance)", f"second component ({second} %)",
              f"Epoch {moment['epoch']}, keep ratio {moment['keep_ratio']:.2f}: {np.sum(kinds != 'rejected')} of "
              f"{len(kinds)} selected")  # fmt: skip
    title = f"{_plain(policy)}: the same {len(points)} candidates (batch {picture['batch']}) early and late"
    figure.suptitle(title if narrow else f"{title}, reference features", fontsize="medium")
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False)
    return figure


def save_figures(results: dict[str, Any], folder: Path) -> list[Path]:
    """All pictures of ``results`` as PNG files in ``folder``; classes and one batch for each selection that is no
    control."""
    pictures = {
        "accuracy" if name == "samples" else f"accuracy-{name}": accuracy_figure(results, against=name)
        for name in axes_of(results)
    }
    pictures["keep-ratio"] = schedule_figure(results)
    grouped = by_policy(results["cells"])
    for policy in results["policies"]:
        if policy in SELECT_NOTHING or policy not in grouped:
            continue
        pictures[f"classes-{policy}"] = class_figure(results, policy)
        batch = pictured_batch_figure(results, policy)
        if batch is not None:
            pictures[f"batch-{policy}"] = batch
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in pictures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, metadata={"Software": None})  # the same bytes from every version of matplotlib's stamp
        paths.append(path)
    return paths

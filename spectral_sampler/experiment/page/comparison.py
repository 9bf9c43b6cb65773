"""The sections of a page that say how a comparison came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_sampler.experiment import figures
from spectral_sampler.experiment.outcomes import (
    at_equal_flops,
    by_policy,
    estimate,
    leader,
    margin,
    not_compared,
    pays,
    rows,
    strongest,
)
from spectral_sampler.experiment.page.examples import Training, often, suspicion, training
from spectral_sampler.experiment.page.markup import (
    Html,
    bar,
    cell,
    definitions,
    element,
    joined,
    picture,
    shortened,
    table,
)
from spectral_sampler.experiment.page.samples import gallery
from spectral_sampler.experiment.policies import FULL, FULL_EQUAL_COMPUTE, SELECT_NOTHING
from spectral_sampler.experiment.report import cost_columns, cost_note, footnote, headline, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectral_sampler.experiment.cell import Places
    from spectral_sampler.experiment.outcomes import Estimate, Row

__all__ = ["comparison", "made", "overview"]

_FEWEST_CLASSES = 24  # shown whole; of more, the ends
_END = 8

_WORDS = {
    FULL: "every sample of every batch",
    FULL_EQUAL_COMPUTE: "every sample, stopped when as many were seen as the selections see",
    "uniform": "as many of the same candidates, at random",
    "small": "ordinary shuffled training, in batches so much smaller that as many samples are seen",
    "balanced": "the same, every class equally often",
    "clean-once": "labels that the features contradict left out beforehand, then as small",
    "clean-once-balanced": "the same, every class equally often",
    "confident-learning": "labels that a cross-validated probe takes for wrong left out beforehand, then as small",
    "confident-learning-balanced": "the same, every class equally often",
    "probe": "nothing is trained but a linear classifier on the reference's features",
    "oracle": "the labels that are truly wrong left out beforehand, then as small: the ceiling",
    "oracle-balanced": "the same, every class equally often",
    "all-labelled": "as small, on the rows held out for the reference too",
    "loss-weighted": "by chance, samples that the reference finds easy more often",
    "saln": "the largest entries of the Fiedler vector",
    "gstds": "half by the Fiedler vector, half by chance weighted by confidence",
    "plausible-even": "by chance and evenly over the epochs, without labels that the features contradict",
    "plausible-learnable": "of the plausible ones, those that the learner does not know yet",
    "rho-loss": "those whose loss is furthest above that of a held-out model",
    "jest": "by how much more the learner has to lose than the reference",
}


_CHEAPER = {
    "samples": "Further left is cheaper: the same accuracy from fewer samples.",
    "flops": "The same with everything counted: looking at candidates, and the reference before the first step.",
    "seconds": "The same on the clock of this machine, where each training ran alone.",
}


class _Page(NamedTuple):
    """What every section reads."""

    results: dict[str, Any]
    lines: list[Row]
    runs: dict[str, dict[int, dict[str, Any]]]
    best: str | None
    anchor: str

    @property
    def policies(self) -> list[str]:
        """With a finished training, in their order."""
        return [line.policy for line in self.lines]

    def section(self, name: str, title: str, *children: object) -> Html:
        """A titled part that can be linked to."""
        return element("section", element("h3", title), *children, id=f"{self.anchor}-{name}")


def comparison(results: dict[str, Any], places: Places | None, anchor: str) -> Html:
    """Everything of one condition; samples are shown where ``places`` says where they lie."""
    lines = rows(results["cells"], results["policies"])
    best = leader(lines)
    page = _Page(results, lines, by_policy(results["cells"]), best and best.policy, anchor)
    found = training(results, places) if places is not None else None
    return joined(
        _answer(lines, not_compared(results["cells"])),
        _accuracy(page),
        _classes(page),
        _kept(page, found),
        _suspected(page, found, places),
        _cost(page),
        page.section("made", "How it was made", made(results)),
    )


def _answer(lines: list[Row], missing: list[str]) -> Html:
    said = element("ul", *(element("li", line) for line in [*verdict(lines).split("\n"), *missing]))
    kind = "yes" if pays(lines) else "no"
    return element("div", element("p", headline(lines), class_="answer"), said, class_=f"verdict {kind}")


def _difference(value: Estimate | None) -> Html:
    """Bold and coloured where clear of zero."""
    if value is None:
        return cell("")
    kind = ("gain" if value.mean > 0 else "loss") if value.clear_of_zero else None
    return cell(value.percent(signed=True).replace("-", "−"), kind)


def overview(conditions: Sequence[tuple[Html, dict[str, Any]]]) -> Html:
    """Several conditions, by what names them, a line each."""
    body: list[list[object]] = []
    found = [(name, rows(results["cells"], results["policies"])) for name, results in conditions]
    named = any(strongest(lines) not in {None, "uniform"} for _, lines in found)
    equal = "Uniform and the best selection train on equally many samples."
    if any(at_equal_flops(lines) for _, lines in found):
        equal = "Uniform and the best selection spend as many FLOPs."
    for name, lines in found:
        reached = {line.policy: line.accuracy.percent() for line in lines}
        best, control = leader(lines), strongest(lines)
        ahead = [_difference(margin(best)), best.policy, best.accuracy.percent()] if best else ["", "", ""]
        strong = "" if control in {None, "uniform"} else f"{control} {reached[control or '']}"
        body.append([name, *ahead, reached.get("uniform", ""), *([strong] if named else []), reached.get(FULL, "")])
    header = ["condition", "best minus strongest control" if named else "best minus uniform", "best selection",
              "its accuracy, %", "uniform, %", *(["strongest, %"] if named else []), "everything, %"]  # fmt: skip
    note = f"{equal} Bold: the 95 % interval is clear of zero."
    return table("Test accuracy", header, body, note)


def _accuracy(page: _Page) -> Html:
    lines, control = page.lines, strongest(page.lines)
    columns: dict[str, list[object]] = {
        "policy": [line.policy for line in lines],
        "test accuracy, %": [line.accuracy.percent() for line in lines],
        "minus uniform, points": [_difference(line.difference) for line in lines],
        "minus strongest, points": [_difference(line.margin) for line in lines],
        "balanced accuracy, %": [line.balanced.percent() if line.balanced else "" for line in lines],
        "samples": [f"{line.samples:,.0f}" for line in lines],
        "of full": ["" if np.isnan(line.samples_ratio) else f"{100 * line.samples_ratio:.1f} %" for line in lines],
        "seeds": [str(line.seeds) for line in lines],
        "wrong labels": [f"{100 * line.wrong_label_share:.1f} %" for line in lines],
    }
    hidden = {
        "minus strongest, points": control in {None, "uniform"},
        "balanced accuracy, %": not any(line.balanced for line in lines),
        "of full": at_equal_flops(lines),
        "seeds": len({line.seeds for line in lines}) == 1,  # the note has it
        "wrong labels": not any(line.wrong_label_share > 0 for line in lines),
    }
    shown = {title: entries for title, entries in columns.items() if not hidden.get(title)}
    body = [list(entries) for entries in zip(*shown.values(), strict=True)]
    numbers = table("Accuracy on the test part at the end of training", list(shown), body, footnote(lines))
    return joined(
        page.section("accuracy", "Accuracy", numbers, _charts(page), _parts(page)),
        element("details", element("summary", "What the policies are"), definitions(_policies(page))),
    )


def _parts(page: _Page) -> Html | None:
    """Accuracy on the other parts of the data, where the trainings were evaluated on them."""
    parts = {
        "train_accuracy": "training rows, %",
        "validation_accuracy": "validation, %",
        "test_accuracy": "test, %",
        "test_balanced_accuracy": "test, mean over classes, %",
    }
    runs = {policy: list(found.values()) for policy, found in page.runs.items()}
    known = [name for name in parts if all(run.get(name) is not None for found in runs.values() for run in found)]
    if known == ["test_accuracy"]:
        return None
    body = [
        [policy, *(estimate([run[name] for run in runs[policy]]).percent() for name in known)]
        for policy in page.policies
    ]
    note = "Training rows: those that were trained on, without augmentation, labels as the learner saw them."
    return table("Accuracy on every part", ["policy", *(parts[name] for name in known)], body, note)


def _policies(page: _Page) -> dict[str, object]:
    """What every policy does, and its arguments."""
    found: dict[str, object] = {}
    for policy in page.policies:
        run = next(iter(page.runs[policy].values()))
        arguments = element("span", f" {run.get('selection')}", class_="soft")
        plain = policy in {FULL, FULL_EQUAL_COMPUTE} or run.get("selection") in {None, "None"}
        found[policy] = joined(_WORDS.get(policy, ""), None if plain else arguments)
    return found


def _charts(page: _Page) -> Html:
    results, shown = page.results, []
    ends = ", ".join(f"{line.policy} {100 * line.accuracy.mean:.1f} %" for line in page.lines)
    control = strongest(page.lines) or "uniform"
    to = {line.policy: line.difference if control == "uniform" else line.margin for line in page.lines}
    differences = [f"{policy} {value.percent(signed=True)}" for policy, value in to.items() if value]
    if differences:
        alt = f"Points above {control} selection: {', '.join(differences)}."
        shown.append(
            picture(figures.difference_figure(results), alt, "95 % intervals; clear of the dashed line means decided.")
        )
    if all(run.get("has_curve", True) for runs in page.runs.values() for run in runs.values()):
        known = figures.axes_of(results)
        for name in known:
            alt = f"Accuracy against {figures.AXES[name]}; at the end {ends}."
            drawn = figures.accuracy_figure(results, narrow=True, against=name)
            shown.append(picture(drawn, alt, _CHEAPER[name], "chart" if known[1:] else "chart tall"))
    ratios = np.asarray(results["keep_ratios"], dtype=float)
    alt = f"Keep ratio over the training, from {ratios[0]:.2f} to {ratios[-1]:.2f}, mean {ratios.mean():.2f}."
    caption = "How many of the candidates a selection keeps; full keeps all of them."
    shown.append(picture(figures.schedule_figure(results, narrow=True), alt, caption))
    return element("div", *shown, class_="charts")


def _classes(page: _Page) -> Html | None:
    """How often every class was trained on, by policy, sorted by the best selection."""
    if not page.best:
        return None
    shares = {}
    for policy in page.policies:
        if policy not in SELECT_NOTHING or policy == "uniform":
            selected, offered = figures.class_counts(page.results, policy)
            shares[policy] = selected.sum(0) / (offered * len(selected))
    order = np.argsort(-shares[page.best if page.best in shares else "uniform"], kind="stable").tolist()
    few = len(order) <= _FEWEST_CLASSES
    chosen = order if few else [*order[:_END], *order[-_END:]]
    counts = [run["corruption"]["rows_per_class"] for runs in page.runs.values() for run in runs.values()]
    sizes = np.mean(counts, axis=0)
    body = [
        [
            shortened(page.results["classes"][label], 40),
            f"{sizes[label]:,.0f}",
            *(bar(values[label]) for values in shares.values()),
        ]
        for label in chosen
    ]
    which = "every class" if few else f"the {_END} most and the {_END} least selected of {len(order)} classes"
    note = "Uniform selection shows what chance alone does. A row may be offered more than once."
    made_table = table(f"Times selected per time offered, {which}", ["class", "rows", *shares], body, note)
    return page.section("classes", "Which classes are trained on", made_table)


def _kept(page: _Page, found: Training | None) -> Html | None:
    if page.best is None:
        return None
    batch = figures.pictured_batch_figure(page.results, page.best, narrow=True)
    parts: list[object] = []
    for which, words in (("most_selected", "most"), ("least_selected", "least, or never")):
        shown = often(page.results, page.best, found, which) if found else []
        if shown and found:
            parts += [element("h4", f"Trained on {words}"), gallery(found.samples, shown)]
    if batch is not None:
        alt = f"Two scatter plots of one candidate batch: what {page.best} selects early and late in training."
        caption = "Every point is a sample, placed by the principal components of its features."
        title = element("summary", "One candidate batch early and late")
        parts.append(element("details", title, picture(batch, alt, caption)))
    if not parts:
        return None
    seed = "" if found is None else f", seed {found.seed}"
    lead = element("p", f"Of {page.best}{seed}. The number says how often a sample was trained on.")
    return page.section("kept", "What was kept and what was left", lead, *parts)


def _suspected(page: _Page, found: Training | None, places: Places | None) -> Html | None:
    if found is None or places is None:
        return None
    said = suspicion(found, places)
    shown = gallery(found.samples, said.shown) if said.shown else None
    return page.section("suspects", "Suspected wrong labels", element("p", said.sentence), shown)


def _cost(page: _Page) -> Html:
    titles, body = cost_columns(page.lines)
    distinct = []
    for line in page.lines:
        counts = [run["distinct_samples"] for run in page.runs[line.policy].values() if "distinct_samples" in run]
        distinct.append(f"{np.mean(counts):,.0f}" if counts else "")
    header = [titles[0], titles[1], "distinct", *(title.replace("\n", ", ") for title in titles[2:])]
    lines = [[*line[:2], count, *line[2:]] for line, count in zip(body, distinct, strict=True)]
    made_table = table("Cost of one training", header, lines, cost_note(page.lines))
    return page.section("cost", "What it cost", made_table)


def made(results: dict[str, Any]) -> Html:
    """Command, date, commit, versions, machine and settings."""
    how = results.get("circumstances") or {}
    settings = {name.replace("_", " "): value for name, value in (results.get("settings") or {}).items()}
    entries: dict[str, object] = {
        "date": how.get("date"),
        "commit": how.get("commit"),
        "seeds": ", ".join(map(str, results.get("seeds") or [])),
        "rows": ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in (results.get("rows") or {}).items()),
        "machine": ", ".join(f"{value} cores" if name == "cores" else str(value)
                             for name, value in (how.get("machine") or {}).items()),
        "versions": ", ".join(f"{name} {number}" for name, number in (how.get("versions") or {}).items()),
    }  # fmt: skip
    command = element("pre", element("code", how["command"])) if how.get("command") else None
    listed = element("details", element("summary", "All settings"), definitions(settings))
    return joined(command, definitions(entries), listed)

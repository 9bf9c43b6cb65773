"""The sections of a page that say what a pilot found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.experiment.page.comparison import made
from spectral_sampler.experiment.page.examples import Training, training
from spectral_sampler.experiment.page.markup import Html, bar, code, definitions, element, joined, shortened, table
from spectral_sampler.experiment.page.samples import Shown, gallery
from spectral_sampler.experiment.report import WIDEST

if TYPE_CHECKING:
    from spectral_sampler.experiment.cell import Places

__all__ = ["pilot"]

_ANSWERS = {
    "yes": "Yes, selecting pays on this data.",
    "no": "No, selecting does not pay on this data.",
    "undecided": "Undecided: the pilot cannot tell.",
}
_CLASSES = 24


def pilot(results: dict[str, Any], places: Places | None) -> Html:
    """Everything a pilot says; samples are shown where ``places`` says where they lie."""
    found = training(results, places) if places is not None else None
    names = _names(results, found)
    verdict = str(results["verdict"])
    badge = element("span", verdict, class_="badge")
    answer = element("p", badge, _ANSWERS.get(verdict, ""), class_="answer")
    kind = verdict if verdict in _ANSWERS else "undecided"
    return joined(
        element("div", answer, element("p", results.get("reason", "")), class_=f"verdict {kind}"),
        _proposed(results),
        _expected(results),
        _data(results, names),
        _examples(results, names, found),
        _measured(results),
        element("section", element("h2", "How it was made"), made(results), id="made"),
    )


def _proposed(results: dict[str, Any]) -> Html:
    proposed, advice = results.get("proposed") or {}, results.get("advice") or []
    ratio = proposed.get("keep_ratio", results.get("keep_ratio"))
    facts = definitions({"selection": proposed.get("selection"), "keep ratio": _number(ratio, ".2f")})
    program = code(proposed["code"]) if proposed.get("code") else None
    listed = element("ul", *(element("li", sentence) for sentence in advice)) if advice else None
    return element("section", element("h2", "What to do"), facts, program, listed, id="proposed")


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _interval(low: Any, high: Any) -> str:
    """In points; none where it is wider than the scale bears."""
    if low is None or high is None or high - low > 200 * WIDEST:
        return "–"
    return f"{low:+.2f} to {high:+.2f}"


def _expected(results: dict[str, Any]) -> Html | None:
    parts = ("extraction", "selection", "training", "total", "against_total")
    body = []
    for entry in results.get("expected") or []:
        seconds = entry.get("seconds") or {}
        body.append([f"against {entry['against']}", _number(entry.get("keep_ratio"), ".2f"),
                     _number(entry.get("points"), "+.2f"), _interval(entry.get("low"), entry.get("high")),
                     *(_number(seconds.get(part), ",.1f") for part in parts)])  # fmt: skip
    if not body:
        return None
    header = ["the proposed training", "keep ratio", "points", "95 % interval", "extraction, s", "selection, s",
              "training, s", "together, s", "the other, s"]  # fmt: skip
    note = (
        "Points of test accuracy above (+) or below (−) the other. Seconds are of a whole training on this machine, "
        f"extracting the reference's features included. –: no interval within ± {100 * WIDEST:.0f} points."
    )
    made_table = table("What the proposed training is expected to give", header, body, note)
    return element("section", element("h2", "What to expect"), made_table, id="expected")


def _names(results: dict[str, Any], found: Training | None) -> list[str]:
    """Of the classes, as far as they are known."""
    listed = (results.get("data") or {}).get("classes")
    given = listed if isinstance(listed, list) else found.task.classes if found else ()
    return [str(name) for name in given]


def _name(names: list[str], label: Any) -> str:
    """Of a class given by number or by name."""
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else str(label)


def _data(results: dict[str, Any], names: list[str]) -> Html | None:
    data = results.get("data") or {}
    if not data:
        return None
    classes, rows, whole = data.get("classes"), _number(data.get("rows"), ","), data.get("rows_in_all")
    informative = data.get("features_informative", True)
    facts = definitions({
        "training rows": rows if whole in {None, data.get("rows")} else f"{rows} looked at, of {whole:,}",
        "classes": len(classes) if isinstance(classes, list) else classes,
        "suspected wrong labels": _counted(data.get("suspected"), data.get("suspected_share")),
        "copies": _number(data.get("copies"), ","),
        "near copies": _number(data.get("near_copies"), ","),
        "largest class to smallest": _number(data.get("imbalance"), ".1f"),
        "labels the features predict": _percent(data.get("reference_accuracy"))
        + ("" if informative else ", no more than a guess: suspects mean nothing"),
        "classes that overlap most": _overlap(data.get("overlap") or [], names),
    })  # fmt: skip
    return element("section", element("h2", "What is in the data"), facts, _sizes(data, names), id="data")


def _counted(count: Any, share: Any) -> str:
    return _number(count, ",") + (f" ({_percent(share)})" if share is not None else "")


def _overlap(pairs: list[Any], names: list[str]) -> str:
    """Pairs of classes with the shares of each that lie among the other."""
    words = []
    for entry in pairs:
        pair, shares = (
            (entry["classes"], entry.get("shares", [])) if isinstance(entry, dict) else (entry[:2], entry[2:])
        )
        listed = " and ".join(f"{100 * share:.0f} %" for share in shares)
        words.append(" and ".join(_name(names, label) for label in pair) + (f" ({listed})" if listed else ""))
    return "; ".join(words)


def _sizes(data: dict[str, Any], names: list[str]) -> Html | None:
    sizes = data.get("rows_per_class")
    if not sizes:
        return None
    named = (
        list(sizes.items()) if isinstance(sizes, dict) else [(_name(names, i), size) for i, size in enumerate(sizes)]
    )
    named.sort(key=lambda entry: -entry[1])
    shown = named if len(named) <= _CLASSES else [*named[: _CLASSES // 2], *named[-_CLASSES // 2 :]]
    total, largest = max(1, sum(size for _, size in named)), max(1, named[0][1])
    which = "all classes" if shown is named else f"the largest and the smallest of {len(named)}"
    body = [
        [shortened(name, 40), f"{size:,}", f"{100 * size / total:.1f} %", bar(size / largest)] for name, size in shown
    ]
    return table(f"Training rows of a class, {which}", ["class", "rows", "of all", "of the largest"], body)


def _examples(results: dict[str, Any], names: list[str], found: Training | None) -> Html | None:
    """Rows are those of the data as its owner counts them."""
    examples = results.get("examples") or {}
    own = found.task.rows if found else None
    places = {} if own is None else {int(number): place for place, number in enumerate(own)}
    suspects = [
        Shown(places.get(entry["row"], entry["row"]), _name(names, entry["label"]),
              f"→ looks like {_name(names, entry['looks_like'])}", entry["row"])
        for entry in examples.get("suspects") or []
    ]  # fmt: skip
    samples, parts = found.task.train if found else None, []
    if suspects:
        parts += [element("h3", "Suspected wrong labels"), gallery(samples, suspects)]
    labels = dict(zip(found.rows.rows.tolist(), found.rows.labels.tolist(), strict=True)) if found else {}
    for kind, title in (("kept", "Selected most"), ("left", "Left out")):
        rows = [(places.get(row, row), row) for row in examples.get(kind) or []]
        shown = [Shown(place, _name(names, labels[place]), "", row) for place, row in rows if place in labels]
        if shown:
            parts += [element("h3", title), gallery(samples, shown)]
    return element("section", element("h2", "Samples"), *parts, id="examples") if parts else None


def _measured(results: dict[str, Any]) -> Html | None:
    measured = results.get("measured") or {}
    runs = measured.get("runs") or []
    if not measured:
        return None
    body = [
        [*(str(run.get(name, "")) for name in ("policy", "seed", "rows", "epochs")), _percent(run.get("test_accuracy"))]
        for run in runs
    ]
    flops = measured.get("learner_flops")
    facts = definitions({
        "seconds": _number(measured.get("seconds"), ",.1f"),
        "learner": "" if flops is None else f"{flops / 1e9:,.2f} GFLOP",
        "of the comparison it stands for": _percent(measured.get("share_of_comparison")),
    })  # fmt: skip
    listed = (
        table("The short trainings behind this", ["policy", "seed", "rows", "epochs", "accuracy"], body)
        if body
        else None
    )
    return element("section", element("h2", "What the pilot did"), facts, listed, id="measured")

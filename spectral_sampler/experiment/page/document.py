"""The page as a whole: head, contents, and one section for every condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.page.comparison import comparison, overview
from spectral_sampler.experiment.page.markup import Html, element, joined
from spectral_sampler.experiment.page.pilot import pilot
from spectral_sampler.experiment.page.style import STYLE
from spectral_sampler.experiment.report import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spectral_sampler.experiment.cell import Places

__all__ = ["write_page"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load: nothing, whatever a class name contains."""


def write_page(
    path: Path,
    results: dict[str, Any] | Sequence[tuple[str, dict[str, Any]]],
    places: Places | None = None,
    *,
    title: str | None = None,
) -> Path:
    """Writes ``results`` as one HTML file that needs no other, and returns ``path``.

    Args:
        results: of a comparison or a pilot, or several comparisons as ``(title, results)``.
        places: where the data lies, for the samples on the page; None shows none.
        title: of the page; by default what it is of.

    Raises:
        ArgumentError: ``results`` is none of these, or the data set is not where it was.
        MissingPackage: matplotlib, or Pillow for images.
    """
    if isinstance(results, dict) and "verdict" in results:
        name = title or f"Does selection pay on {results.get('settings', {}).get('data', 'this data')}?"
        body = element("main", pilot(results, places))
    else:
        conditions = [("", results)] if isinstance(results, dict) else list(results)
        if not conditions or not all("cells" in found and "policies" in found for _, found in conditions):
            raise argument_error("results", "those of a comparison or a pilot", type(results), "compare returns them.")
        data = ", ".join(dict.fromkeys(str(found["settings"]["data"]) for _, found in conditions))
        name = title or f"Which samples to train on: {data}"
        body = element("main", *_conditions(conditions, places))
    write_text(path, _document(name, body))
    return path


def _conditions(conditions: Sequence[tuple[str, dict[str, Any]]], places: Places | None) -> list[Html]:
    if len(conditions) == 1:
        return [comparison(conditions[0][1], places, "all")]
    anchors = [f"condition-{number}" for number in range(1, len(conditions) + 1)]
    links = [element("a", heading, href=f"#{anchor}") for anchor, (heading, _) in zip(anchors, conditions, strict=True)]
    parts = [overview(list(zip(links, (found for _, found in conditions), strict=True)))]
    for anchor, (heading, found) in zip(anchors, conditions, strict=True):
        parts.append(element("section", element("h2", heading), comparison(found, places, anchor), id=anchor))
    return parts


def _document(title: str, body: Html) -> str:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    foot = element(
        "footer", element("p", "Made by spectral-sampler. This file needs no other and loads nothing.", class_="note")
    )
    whole = element("html", head, element("body", element("header", element("h1", title)), body, foot), lang="en")
    return f"<!doctype html>\n{joined(whole)}\n"

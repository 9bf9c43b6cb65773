"""HTML in which everything is escaped unless it was made here."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Html", "bar", "cell", "code", "definitions", "element", "joined", "picture", "shortened", "table", "text"]

_VOID = frozenset({"img", "meta", "br"})


class Html(str):
    """Markup that is safe as it stands. Any other string is text, and is escaped where it is put into an element."""

    __slots__ = ()


def text(value: object) -> Html:
    """``value`` as text; what is no Unicode (the bytes of an odd file name) becomes a question mark."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True))


def joined(*parts: object) -> Html:
    """The parts one after the other, None left out."""
    return Html("".join(text(part) for part in parts if part is not None))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """``<tag name="value">children</tag>``; ``class_`` stands for class, an attribute that is None is left out."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    opening = "".join(f' {name}="{text(str(value))}"' for name, value in names.items())
    return Html(f"<{tag}{opening}>" if tag in _VOID else f"<{tag}{opening}>{joined(*children)}</{tag}>")


def shortened(value: object, length: int = 60) -> str:
    """At most ``length`` characters, on one line, with an ellipsis in place of the rest."""
    line = " ".join(str(value).split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


def cell(value: object, kind: str | None = None) -> Html:
    """One cell of a table, of a class of the style."""
    return element("td", value, class_=kind)


def _cell(value: object) -> Html:
    return value if isinstance(value, Html) and value.startswith("<td") else cell(value)


def table(caption: object, header: Sequence[object], body: Sequence[Sequence[object]], note: object = None) -> Html:
    """A table whose first column names the line; the other columns are numbers and flush right. Wide ones scroll.

    Cells are text, or made by `cell`.
    """
    head = element("tr", *(element("th", name, scope="col") for name in header))
    lines = [element("tr", element("th", line[0], scope="row"), *(_cell(value) for value in line[1:])) for line in body]
    made = element("table", element("caption", caption), element("thead", head), element("tbody", *lines))
    # A box that scrolls must be reachable by keyboard.
    scrolling = element("div", made, class_="wide", tabindex="0", role="region", aria_label=caption)
    return joined(scrolling, element("p", note, class_="note") if note else None)


def definitions(entries: dict[str, object]) -> Html:
    """Names and what they are; entries that are None or empty are left out."""
    shown = {name: value for name, value in entries.items() if value not in (None, "", [], {})}
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in shown.items()))


def code(value: object) -> Html:
    """Lines of a program or of a terminal."""
    return element("pre", element("code", value), tabindex="0")


def bar(share: float) -> Html:
    """A share of 1 in per cent, over a bar of that length."""
    width = f"--share:{100 * min(max(share, 0.0), 1.0):.1f}%"
    return element("span", f"{100 * share:.0f} %", class_="bar", style=width)


def picture(figure: Any, alt: str, caption: object = None, kind: str = "chart") -> Html:
    """A matplotlib figure as an image in SVG, sharp at any size and the same bytes every time."""
    stream = io.BytesIO()
    with optional("matplotlib").rc_context({"svg.hashsalt": "spectral-sampler", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    image = element("img", src=f"data:image/svg+xml;base64,{data}", alt=alt)
    return element("figure", image, element("figcaption", caption) if caption else None, class_=kind)

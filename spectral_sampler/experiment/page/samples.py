"""What single samples look like: a small picture, the beginning of a text, the first columns of a table."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.experiment.page.markup import Html, element, joined, shortened
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spectral_sampler.experiment.samples import Samples

__all__ = ["Shown", "gallery", "look"]

_SIDE = 56  # pixels, of the longer side
_COLOURS = 64  # of a photograph: a third of the bytes, and the eye sees no difference at this size
_COLUMNS = 6
_CHARACTERS = 160


class Shown(NamedTuple):
    """One sample and what is said of it."""

    row: int
    label: str
    note: str = ""
    number: int | None = None
    """The row as the owner of the data counts it, where that is another."""


def look(samples: Samples, row: int, alt: str) -> Html:
    """Sample ``row`` as the learner's inputs or their source show it, without augmentation."""
    texts = getattr(samples, "texts", None)
    if texts is not None:
        return element("blockquote", shortened(texts[row], _CHARACTERS))
    if hasattr(samples, "picture"):
        return _image(samples.picture(row), alt, whole=True)
    stored = getattr(samples, "inputs", None)
    value = torch.as_tensor(samples.plain()[row][0] if stored is None else stored[row]).detach().cpu()
    if value.ndim == 2 or (value.ndim == 3 and value.shape[0] in {1, 3, 4}):
        return _image(value, alt, whole=value.dtype == torch.uint8)
    return _columns(value)


def _image(value: torch.Tensor, alt: str, *, whole: bool) -> Html:
    """(H, W) or (C, H, W) as a PNG; of the ``whole`` range of its type, or stretched from its own smallest value to
    its largest."""
    pixels = value.float().numpy()
    pixels = pixels[None] if pixels.ndim == 2 else pixels[:3]
    if whole:
        scaled = pixels if value.dtype == torch.uint8 else 255.0 * pixels
    else:
        finite = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(finite.min()), float(finite.max())
        scaled = 255.0 * (finite - low) / (high - low or 1.0)
    array = np.clip(np.nan_to_num(scaled), 0.0, 255.0).round().astype(np.uint8)
    images = optional("PIL.Image")
    image = images.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    (image.quantize(_COLOURS) if image.mode == "RGB" else image).save(stream, format="PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return element("img", src=f"data:image/png;base64,{data}", alt=alt, width=image.width, height=image.height)


def _columns(value: torch.Tensor) -> Html:
    """The first numbers of a row."""
    numbers = value.flatten()[:_COLUMNS].tolist()
    rest = value.numel() - len(numbers)
    listed = " · ".join(f"{number:.3g}" for number in numbers)
    return element("blockquote", f"{listed}{f' and {rest:,} more' if rest else ''}")


def gallery(samples: Samples | None, entries: Iterable[Shown]) -> Html:
    """The samples ``entries`` side by side, each with its label, its row and its note; names alone without samples."""
    made, pictured = [], True
    for entry in entries:
        name, number = shortened(entry.label, 40), entry.row if entry.number is None else entry.number
        seen: Any = None if samples is None else look(samples, entry.row, f"row {number}, labelled {name}")
        pictured = pictured and seen is not None and seen.startswith("<img")
        note = joined(element("br"), element("span", shortened(entry.note, 80))) if entry.note else None
        words = element("figcaption", element("b", name), note, element("br"), f"row {number:,}")
        made.append(element("li", element("figure", seen, words)))
    return element("ul", *made, class_="samples" if pictured else "samples words")

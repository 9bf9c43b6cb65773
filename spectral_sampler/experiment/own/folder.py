"""Pictures in folders named after their classes, as torchvision's ImageFolder reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.own.arrays import digest_of
from spectral_sampler.experiment.own.raw import Options, Part, Raw
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PictureFiles", "in_colour", "read_folder"]

_ENDINGS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}  # torchvision's
_TESTS, _VALIDATIONS = ("test",), ("val", "valid", "validation")
_SPLITS = {"train", "training", "test", "testing", *_VALIDATIONS}


def in_colour(picture: Any, which: str) -> Any:
    """A PIL picture in RGB.

    Raises:
        ArgumentError: one of more than 8 bits a channel, which PIL would clip to white or black.
    """
    if picture.mode.startswith(("I", "F")):
        rule, remedy = "pictures of 8 bits a channel", "Scale its values to 0 … 255 first."
        raise argument_error("data", rule, f"{which} of PIL's mode {picture.mode}", remedy)
    return picture.convert("RGB")


class PictureFiles:
    """Map-style ``(PIL picture in RGB, label)``.

    Args:
        paths: M files.
        labels: (M,) class names.
    """

    def __init__(self, paths: list[Path], labels: NDArray[Any]) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        path, pil = self.paths[row], optional("PIL.Image")
        try:
            with pil.open(path) as picture:
                return in_colour(picture, str(path)), self.labels[row]
        except (OSError, SyntaxError, pil.DecompressionBombError) as error:  # what cannot be identified is the first
            what = f"{path} ({error})"
            raise argument_error("data", "a folder of readable pictures", what, "Repair or remove that file.") from None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    """In torchvision's order, folder by folder and through links: row i is sample i of an ImageFolder."""
    found = sorted(os.walk(folder, followlinks=True))
    return [Path(inside) / name for inside, _, names in found for name in sorted(names)
            if Path(name).suffix.lower() in _ENDINGS]  # fmt: skip


def _part(folder: Path) -> Part:
    paths: list[Path] = []
    labels: list[str] = []
    for named in _folders(folder):
        pictures = _pictures(named)
        if not pictures:
            rule = "a folder with pictures in every folder of a class"
            raise argument_error("data", rule, f"none in {named}", "Remove that folder, or put pictures into it.")
        paths += pictures
        labels += [named.name] * len(pictures)
    if not paths:
        rule, remedy = "a folder of folders, one for each class", "See torchvision's ImageFolder."
        raise argument_error("data", rule, f"{folder} without any", remedy)
    names = np.array(labels)
    return Part(PictureFiles(paths, names), names)


def read_folder(folder: Path, options: Options) -> Raw:
    """The pictures under ``train`` and ``test``, ``val`` or ``valid``; or under ``folder`` itself, without a split.

    Raises:
        ArgumentError: folders without pictures, or a stated split that is not there.
    """
    splits = {path.name: path for path in _folders(folder)}
    if "train" not in splits or not _folders(splits["train"]):  # a class may be called so
        if options.test_split:
            rule, remedy = "left out for a folder without train", "A stratified fifth is the test part."
            raise argument_error("test-split", rule, repr(options.test_split), remedy)
        if splits and {name.lower() for name in splits} <= _SPLITS:
            rule, what = "a folder with train and test, or of classes", f"{', '.join(splits)} in {folder}"
            remedy = "The training pictures belong into train/CLASS/…"
            raise argument_error("data", rule, what, remedy + ("." if "train" not in splits else ", not into train/."))
        parts: dict[str, Part | None] = {"train": _part(folder), "test": None, "validation": None}
    else:
        names = _split_names(folder, splits, options.test_split)
        parts = {part: _part(splits[name]) if name else None for part, name in names.items()}
    content = digest_of(*(_content(folder, part) for part in parts.values()))
    found = parts["train"]
    assert found is not None  # noqa: S101 - there is always one
    return Raw(folder.name, "photographs", found, content, parts["test"], parts["validation"], argument="class folders")


def _split_names(folder: Path, splits: dict[str, Path], stated: str) -> dict[str, str]:
    """The folder of every part; "" for a part that has none."""
    others = ", ".join(name for name in splits if name != "train")
    test = stated or next((name for name in (*_TESTS, *_VALIDATIONS) if name in splits), "")
    if (test and test not in splits) or test == "train" or (others and not test):
        rule = f"a folder beside train ({others or 'none is there'})"
        raise argument_error("test-split", rule, repr(test), f"It is looked for in {folder}.")
    validation = next((name for name in _VALIDATIONS if name in splits and name != test), "")
    return {"train": "train", "test": test, "validation": validation}


def _content(folder: Path, part: Part | None) -> list[Any]:
    if part is None:
        return []
    return [digest_of(str(path.relative_to(folder)), path.read_bytes()) for path in part.inputs.paths]

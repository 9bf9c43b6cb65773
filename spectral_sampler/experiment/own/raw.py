"""What a reader of somebody's data hands over: a training part, perhaps others, and how it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DEFAULT_LABEL", "DEFAULT_TEXT", "Options", "Part", "Raw"]

DEFAULT_LABEL, DEFAULT_TEXT = "label", "text"


class Options(NamedTuple):
    """How to read it."""

    label_column: str = DEFAULT_LABEL
    text_column: str = ""
    """"" for the column ``text`` where there is one that holds texts."""
    test_data: str = ""
    """A second table with the test rows."""
    test_split: str = ""
    """The folder beside ``train`` with the test pictures, or what a table's column ``split`` says of test rows."""


class Part(NamedTuple):
    """M samples: an array (M, …), M texts, or a map-style data set of pictures or tensors."""

    inputs: Any
    labels: NDArray[Any]
    """(M,) as they are given: numbers or names."""


class Raw(NamedTuple):
    """A data set as its owner has it. Without a test part, a stratified fifth of the training part becomes it."""

    name: str
    kind: str
    """"photographs" (PIL pictures to be augmented), "images", "table", "texts" or "tensors"."""
    train: Part
    content: str
    """Sixteen hexadecimal digits that change with inputs, labels and split."""
    test: Part | None = None
    validation: Part | None = None
    classes: tuple[str, ...] | None = None
    """Names in the order of the class numbers, where the owner says them."""
    features: NDArray[Any] | None = None
    losses: NDArray[Any] | None = None
    """Of a reference, for the rows of ``train``."""
    augmented: Any = None
    """The training part as a data set with random augmentation."""
    argument: str = "y"
    """What its labels are called."""

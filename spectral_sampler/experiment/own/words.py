"""Texts as numbers of words, by hashing: no vocabulary to build, to keep or to download."""

from __future__ import annotations

import re
import zlib

import torch

__all__ = ["VOCABULARY", "word_rows"]

VOCABULARY = 1 + (1 << 14)
"""Word numbers there are; 0 is padding. Of a text's few hundred words hardly two share one of 16,384."""

_LONGEST = 256  # words; what follows is cut off
_WORD = re.compile(r"\w+|[^\w\s]")


def word_rows(texts: list[str]) -> torch.Tensor:
    """(M, length) int64 word numbers of ``texts``, in lower case, padded with 0; a mark of punctuation is a word."""
    rows = [
        [1 + zlib.crc32(word.encode("utf-8", "surrogatepass")) % (VOCABULARY - 1) for word in found[:_LONGEST]]
        for found in (_WORD.findall(text.lower()) for text in texts)
    ]
    padded = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded

"""The one owner of randomness: draws that are a function of where they are used, not of what was drawn before.

A draw is keyed by ``(seed, epoch, batch, stream, dataset index)`` and nothing else, so a run resumed at any batch,
with any number of workers, ranks or batches looked ahead, sees the same numbers, and no global generator is read or
advanced. The keys pass through SplitMix64's finaliser (Steele, Lea and Flood 2014), whose output is equidistributed
over 64 bits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FOURIER", "TIES", "TURN", "mixed", "permutation", "permuted", "recurring", "uniforms"]

_GOLDEN = 0x9E3779B97F4A7C15
TURN = (5.0**0.5 - 1.0) / 2.0  # no other step fills (0, 1) more evenly
_AGAIN = 3.0**0.5  # within a turn; sums of both steps fill it almost as evenly as one sequence would
_MASK = (1 << 64) - 1
TIES = 0x7165  # the stream that ranks equals, so that ties say nothing about other draws
FOURIER = 0x464F5552  # the stream of random frequencies
_PERMUTATION_STREAM = 0x5045524D  # keeps the candidate order independent of every draw inside a batch
_SORTED, _ROUNDS, _CHUNK = 1 << 14, 8, 1 << 18  # items that are sorted; of the network; positions that stay in cache


def _mix_int(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser of every word."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


def _words(key: tuple[int, ...], indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits for each index under an integer key; every part of the key is mixed before the next is added."""
    state = 0
    for part in key:
        state = _mix_int((state + _GOLDEN + (part & _MASK)) & _MASK)
    # Twice through the finaliser: consecutive indices differ in few bits, and so may two keys.
    offsets = mixed(indices.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(state))
    return mixed(offsets ^ np.uint64(state))


def uniforms(seed: int, epoch: int, batch: int, indices: NDArray[np.int64], stream: int = 0) -> NDArray[np.float64]:
    """Uniform draws in the open interval (0, 1), one for each dataset index.

    Args:
        seed, epoch, batch: integers that say where the draw is used (batch = number of the candidate batch in its
            epoch).
        indices: (n,) dataset indices; equal indices get equal draws.
        stream: separates draws made for different purposes at the same place.

    Returns:
        (n,) float64, each an odd multiple of 2⁻⁵³, so that neither 0 nor 1 occurs and ``log`` is finite.
    """
    words = _words((seed, epoch, batch, stream), np.asarray(indices, dtype=np.int64))
    return np.asarray(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def recurring(
    seed: int, turn: int, indices: NDArray[np.int64], stream: int = 0, *, again: NDArray[np.int64] | int = 0
) -> NDArray[np.float64]:
    """Uniform draws in (0, 1) that move by the golden ratio from turn to turn, and by √3 where a sample comes again
    in one turn, for the ``again_i``-th time: ``frac(u_i + turn · (√5 − 1) / 2 + again_i · √3)``.

    In one turn they are as `uniforms`, independent between samples. Over the turns one sample's draws form a Weyl
    sequence, which fills (0, 1) as evenly as any: the share of k turns in which it falls below r is r to within
    O(log k / k), where independent draws miss it by O(1 / √k).
    """
    turned = uniforms(seed, 0, 0, indices, stream) + (turn * TURN) % 1.0 + (again * _AGAIN) % 1.0
    turned -= np.floor(turned)
    return np.clip(turned, 2.0**-53, 1.0 - 2.0**-53)


@lru_cache(maxsize=16)
def _permutation_tables(seed: int, epoch: int, size: int) -> tuple[int, int, NDArray[np.int64]]:
    """(a, b, the rounds' functions (8, a)) of a Feistel network over a · b ≥ size; (size, 1, the order) where small."""
    key = (seed, epoch, _PERMUTATION_STREAM)
    if size <= _SORTED:
        a, b, table = size, 1, np.argsort(_words(key, np.arange(size, dtype=np.int64)))  # the words are distinct
    else:
        a = math.isqrt(size - 1) + 1
        b = -(-size // a)
        words = _words(key, np.arange(_ROUNDS * a, dtype=np.int64)).reshape(_ROUNDS, a) >> np.uint64(32)
        ranges = np.resize([a, b], (_ROUNDS, 1)).astype(np.uint64)
        table = ((words * ranges) >> np.uint64(32)).astype(np.int64)
    table.setflags(write=False)
    return a, b, table


def permuted(seed: int, epoch: int, size: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """What stands at ``positions`` of a pseudo-random order of ``range(size)`` that is never formed.

    A Feistel network (Luby and Rackoff 1988) over pairs (position // b, position % b), whose eight round functions are
    tables of about √size hashes; the few results beyond the range walk on (Black and Rogaway 2002). Up to 16,384
    items hashes are sorted instead: a network over so few is not every permutation alike.

    Args:
        seed, epoch, size: the key; the order is a function of these alone.
        positions: int64 of any shape, in [0, size).

    Returns:
        int64 of the shape of ``positions``; over all positions a bijection onto range(size).
    """
    a, b, table = _permutation_tables(seed, epoch, size)
    if b == 1:
        return np.asarray(table[positions])

    def network(values: NDArray[np.int64]) -> NDArray[np.int64]:
        left, right = np.divmod(values, b)
        modulus, other = a, b
        for row in table:
            left += row.take(right)
            # left mod modulus: below it the subtraction wraps around to a huge number, and the minimum is left itself
            left = np.minimum(left.view(np.uint64), (left - modulus).view(np.uint64)).view(np.int64)
            left, right, modulus, other = right, left, other, modulus
        return left * b + right  # an even number of rounds: left is left again

    found = network(np.asarray(positions, dtype=np.int64))
    while (beyond := found >= size).any():
        found[beyond] = network(found[beyond])
    return found


def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """All of the order of `permuted`, shape (size,)."""
    order = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        order[start : start + _CHUNK] = permuted(seed, epoch, size, np.arange(start, min(start + _CHUNK, size)))
    return order

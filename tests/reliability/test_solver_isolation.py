"""A faulty row is refused or marked, and no other member of its batch, or of the store, has another bit for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import solver_checks as checks
import torch
from solver_backends import WAYS, each_way, members_of, same_bits, widened
from solver_cases import post_relu, sentences

from spectral_sampler.errors import ArgumentError
from spectral_sampler.fiedler import Status, fiedler_vector

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

HUGE = 1e200
ENTRIES = {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf, "finite only in float64": HUGE}
KINDS = [*ENTRIES, "zero row", "all zero"]


def poisoned(clean: np.ndarray, kind: str, member: int, row: int, column: int) -> np.ndarray:
    """Features (B, N, d) float64 with one fault."""
    features = clean.astype(np.float64)
    if kind in ENTRIES:
        features[member, row, column] = ENTRIES[kind]
    elif kind == "zero row":
        features[member, row] = 0.0
    else:
        features[member] = 0.0
    return features


def cast(way, features: np.ndarray) -> torch.Tensor:
    with np.errstate(over="ignore"):
        return widened(way, features.astype(np.float32 if way.dtype == torch.float32 else np.float64))


def placements(clean: np.ndarray, every: bool):
    """Each row of each member, with every kind of fault, or with one kind after the other; columns in turn. Of many
    rows some: the first, the last, and those on either side of the ends of vector registers and blocks."""
    members, size, width = clean.shape
    rows = range(size) if size < 30 else sorted({0, 1, 15, 16, 31, size // 2, size - 2, size - 1})
    for place, (member, row) in enumerate(itertools.product(range(members), rows)):
        for kind in KINDS if every else [KINDS[place % len(KINDS)]]:
            yield kind, member, row, (member * size + row) % width


def check_isolation(one, way, clean: np.ndarray, every: bool = True) -> None:
    """Every placement of every fault in the batch ``clean`` (B, N, d)."""
    faults = list(placements(clean, every))
    problems = [members_of(cast(way, poisoned(clean, *fault))) for fault in faults]
    good, *marked = way.solve([members_of(cast(way, clean)), *problems])
    for (kind, member, row, _), result in zip(faults, marked, strict=True):
        label = f"{way.name}, N={clean.shape[1]}, {kind} in row {row} of member {member}"
        others = np.arange(len(clean)) != member
        invalid = checks.has(result, Status.INVALID)
        if kind == "finite only in float64" and way.dtype == torch.float64:
            one.check(not invalid.any(), f"{label}: refused")
        else:
            one.check(invalid[member] and not invalid[others].any(), f"{label}: {invalid} are called invalid")
            rest = [name for name, field in result._asdict().items() if name != "status" and field[member].any()]
            one.check(not rest, f"{label}: {rest} are not zero")
        alike = same_bits(checks.taken(result, others), checks.taken(good, others))
        one.check(alike, f"{label}: other members have other bits")


@each_way
def test_a_faulty_row_marks_its_member_and_no_other(way, line, number):
    way.skip_if_unusable()
    one = line("solver", f"poison, {way.name}: marked, and the other members' bits are the same")
    size, members = (5, 2) if way.slow else (9, 4)
    check_isolation(one, way, np.stack([post_relu(seed, size, 19) for seed in range(members)]), every=not way.slow)
    if way.slow:
        return
    for size, width in number([(33, 70), (200, 40)], [(33, 70), (64, 64), (129, 33), (200, 40), (300, 600)]):
        clean = np.stack([sentences(seed, size, width) for seed in range(3)])
        check_isolation(one, way, clean, every=False)


def check_refusal(one, solve, clean: np.ndarray) -> None:
    """``solve(features)`` names the row and the member of every fault that float32 cannot hold."""
    for kind, member, row, column in placements(clean, every=True):
        features = poisoned(clean, kind, member, row, column)
        with np.errstate(over="ignore"):
            features = features.astype(np.float32)
        named = f"rows {list(range(min(10, len(clean[0])))) if kind == 'all zero' else [row]}"
        try:
            solve(features)
        except ArgumentError as error:
            told = str(error)
            one.check(named[:-1] in told and f"of member {member}" in told, f"{kind}, {row}, {member}: told {told!r}")
        else:
            one.failed(f"{kind} in row {row} of member {member} was solved")


@pytest.mark.parametrize("way", [way for way in WAYS if way.backend], ids=lambda way: way.name)
def test_a_faulty_row_is_named(way, line):
    way.skip_if_unusable()
    one = line("solver", f"poison, {way.name}: refused by row and member")
    clean = np.stack([post_relu(seed, 13, 19) for seed in range(4)])
    check_refusal(
        one, lambda features: fiedler_vector(torch.from_numpy(features).to(way.place), backend=way.backend), clean
    )


def check_store(one, way, features: np.ndarray) -> None:
    """``features`` (M, d): every third row of a store is asked for, and each of the others holds a fault in turn."""
    clean = cast(way, features)
    indices = torch.arange(0, len(features), 3).reshape(2, -1)
    places = [row for row in range(len(features)) if row % 3]
    problems = []
    for place, row in enumerate(places):
        store = clean.clone()
        store[row] = list(ENTRIES.values())[place % 3] if place % 4 else 0.0
        problems.append((store, indices))
    good, *found = way.solve([(clean, indices), *problems])
    for row, result in zip(places, found, strict=True):
        one.check(same_bits(good, result), f"{way.name}: a fault in row {row}, which nobody asked for, changes bits")


@each_way
def test_a_faulty_row_of_the_store_that_is_not_asked_for(way, line):
    way.skip_if_unusable()
    one = line("solver", f"poison, {way.name}: a faulty row of the store that is not asked for changes no bit")
    check_store(one, way, post_relu(0, 12 if way.slow else 78, 19))


def check_neighbours(one, way, features: np.ndarray) -> None:
    """Members of ``features`` (B, N, d) alone, among others, in another order and elsewhere in a store."""
    clean = widened(way, features)
    count, size, width = clean.shape
    filler = torch.full((5, width), 7.0, dtype=clean.dtype)
    order = torch.arange(count).flip(0)
    moved = (torch.cat((filler, clean[order].reshape(-1, width))), 5 + members_of(clean)[1])
    alone = [members_of(clean[member : member + 1]) for member in range(count)]
    constant = torch.ones_like(clean[:1])
    beside = [members_of(torch.cat((constant, clean[member : member + 1]))) for member in range(count)]
    together, turned, *others = way.solve([members_of(clean), moved, *alone, *beside])
    one.check(
        same_bits(checks.taken(turned, order), together), f"{way.name}, N={size}: other bits elsewhere in a store"
    )
    for member in range(count):
        expected = checks.taken(together, [member])
        one.check(same_bits(others[member], expected), f"{way.name}, N={size}, member {member}: other bits alone")
        pair = checks.taken(others[count + member], [1])
        one.check(same_bits(pair, expected), f"{way.name}, N={size}, member {member}: other bits beside a constant one")


@each_way
def test_neighbours_change_no_bit(way, line, number):
    way.skip_if_unusable()
    one = line("solver", f"same start, other neighbours or another place, {way.name}: the same bits")
    if way.slow:
        check_neighbours(one, way, np.stack([post_relu(seed, 9, 14) for seed in range(2)]))
        return
    for builder in (post_relu, sentences):
        for size, width in [(2, 5), (17, 33), (31, 5), (97, 41), (200, 64)]:
            members = 3 if size > 60 else number(10, 64)
            check_neighbours(one, way, np.stack([builder(seed, size, width) for seed in range(members)]))

"""A check that cannot fail checks nothing: each of the solver's, given a fault, has to count it, and none without."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import solver_checks as checks
import test_solver_cases
import test_solver_determinism
import test_solver_inputs
import test_solver_isolation
import test_solver_relations
import torch
from solver_backends import EAGER
from solver_cases import CASES, post_relu, two_clusters
from solver_lines import GAPS, SolverLines

from spectral_sampler.fiedler import FiedlerResult, Status, fiedler_vector

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLUSTERS = next(number for number, case in enumerate(CASES) if case.builder is two_clusters)


def with_fields(change):
    """Eager, whose result ``change(result, rows, indices)`` alters."""

    def solve(problems):
        return [change(one, *problem) for one, problem in zip(EAGER.solve(problems), problems, strict=True)]

    return EAGER._replace(solve=solve)


def on_features(change):
    """Eager, of features that ``change(rows)`` alters."""
    return EAGER._replace(solve=lambda problems: EAGER.solve([(change(rows), indices) for rows, indices in problems]))


def nudged(vector: torch.Tensor, by: float) -> torch.Tensor:
    vector = vector.clone()
    vector[:, 0] += by
    return vector


def second(result: FiedlerResult, rows, indices) -> FiedlerResult:
    """The eigenvector above the one that is looked for."""
    truth = checks.truth_of_features(rows[indices].numpy())
    return result._replace(
        vector=torch.from_numpy(truth.vectors[:, :, 1]).float(), value=torch.from_numpy(truth.values[:, 1]).float()
    )


def not_finite(result: FiedlerResult, rows, indices) -> FiedlerResult:
    return result._replace(vector=torch.where(torch.arange(result.vector.shape[1]) == 3, torch.nan, result.vector))


OF_CASES = {
    "ratios": {
        "an entry off by 1e-4": lambda r, *_: r._replace(vector=nudged(r.vector, 1e-4)),
        "a value off by 1e-4": lambda r, *_: r._replace(value=r.value * (1 + 1e-4)),
        "a length of 1 + 1e-5": lambda r, *_: r._replace(vector=r.vector * (1 + 1e-5)),
        "a large residual": lambda r, *_: r._replace(residual=r.residual * 100),
        "an error that is too small": lambda r, *_: r._replace(vector=nudged(r.vector, 1e-6), error=r.error * 0),
        "NaN": not_finite,
    },
    "index": {"the next eigenvector": second},
    "gaps": {"a gap too large": lambda r, *_: r._replace(gap=r.gap * 2)},
    "status": {
        "the sign": lambda r, *_: r._replace(vector=-r.vector),
        "called degenerate": lambda r, *_: r._replace(status=r.status | int(Status.DEGENERATE)),
        "called indefinite": lambda r, *_: r._replace(status=r.status | int(Status.INDEFINITE)),
        "not converged": lambda r, *_: r._replace(status=r.status & ~int(Status.CONVERGED)),
        "a gap too small": lambda r, *_: r._replace(gap=r.gap / 4),
        "not the cut": lambda r, *_: r._replace(vector=r.vector.roll(1, dims=1)),
    },
}


def tally(line):
    """``tally(name, limit)`` is a line that is not in the table, on which faults are counted."""
    shown = line("solver", "planted faults: every one is counted, and none where there is none")
    return shown, lambda limit=None: dataclasses.replace(shown, limit=limit, told=[])


def test_cases(line):
    shown, fresh = tally(line)

    def counted(way) -> SolverLines:
        lines = SolverLines(*(fresh(limit) for limit in (1.0, 0.0, None, GAPS)), [0, 0])
        test_solver_cases.check_cases(lines, way, [CLUSTERS], [range(6)])
        lines.close()
        return lines

    sound = counted(EAGER)._asdict()
    for kind, one in ((kind, sound[kind]) for kind in OF_CASES):
        shown.check(one.checks > 0 and not one.failures, f"{kind} of a sound solver: {one.told}")
    for kind, faults in OF_CASES.items():
        for name, change in faults.items():
            one = getattr(counted(with_fields(change)), kind)
            shown.check(one.failures >= 1, f"{name} is not counted on the line of {kind}")


def last_bit(result: FiedlerResult, members) -> FiedlerResult:
    """One entry of each of ``members`` (B,) bool is the next float."""
    vector = result.vector.clone()
    vector[members, 1] = torch.nextafter(vector[members, 1], torch.tensor(2.0, dtype=vector.dtype))
    return result._replace(vector=vector)


def leaking(result: FiedlerResult, *_) -> FiedlerResult:
    """The member after a faulty one has another last bit."""
    return last_bit(result, ((result.status & int(Status.INVALID)) != 0).roll(1))


def unmarked(result: FiedlerResult, *_) -> FiedlerResult:
    return result._replace(status=torch.ones_like(result.status))


def remembering():
    """A solver whose result has another last bit from the fourth call on."""
    calls = []

    def change(result, *_):
        calls.append(1)
        return last_bit(result, torch.arange(len(result.value)) == 0) if len(calls) > 3 else result

    return with_fields(change)


def by_place(result: FiedlerResult, rows, indices) -> FiedlerResult:
    """The order of the rows leaks into the vector."""
    slope = torch.linspace(-1e-3, 1e-3, result.vector.shape[1])
    vector = torch.nn.functional.normalize(result.vector + slope, dim=1)
    return result._replace(vector=vector.to(result.vector.dtype))


def test_members(line):
    shown, fresh = tally(line)
    small = np.stack([post_relu(seed, 5, 9) for seed in range(3)])
    faulty_elsewhere = with_fields(lambda r, rows, _: r if torch.isfinite(rows).all() else last_bit(r, [0]))
    crowded = with_fields(lambda r, *_: last_bit(r, [0]) if len(r.value) > 1 else r)
    by_threads = with_fields(
        lambda r, *_: r._replace(vector=nudged(r.vector, 1e-3)) if torch.get_num_threads() > 1 else r
    )
    summed = on_features(lambda rows: rows / (rows * rows).sum(dim=1, keepdim=True).sqrt().clamp(max=1e18))
    cut_off = on_features(lambda rows: torch.where(rows.abs() < 1e-38, 0.0, rows))
    relations, isolation = test_solver_relations, test_solver_isolation
    stacks = {"post-ReLU": np.stack([post_relu(seed, 10, 14) for seed in range(2)])}
    altered = (leaking, unmarked)
    planted = [
        ("isolation", lambda one, way: isolation.check_isolation(one, way, small), [*map(with_fields, altered)]),
        ("store", lambda one, way: isolation.check_store(one, way, post_relu(0, 18, 7)), [faulty_elsewhere]),
        ("neighbours", lambda one, way: isolation.check_neighbours(one, way, small), [crowded]),
        ("scale", lambda one, way: relations.check_scale(one, way, 2, 8, 11), [summed, cut_off]),
        ("relations", lambda one, way: relations.check_relations(one, way, stacks), [with_fields(by_place)]),
        ("kept", lambda one, way: relations.check_kept(one, way, post_relu, range(9), 40, 30), [with_fields(by_place)]),
        ("repeats", lambda one, way: test_solver_determinism.check_repeats(one, way, 4), [remembering()]),
        ("threads", lambda one, way: test_solver_determinism.check_threads(one, way, 1), [by_threads]),
        ("busy", lambda one, way: test_solver_determinism.check_busy(one, way, 0.1), [remembering()]),
    ]  # fmt: skip
    for name, check, faults in planted:
        one = fresh(1.0)
        check(one, EAGER)
        shown.check(one.checks > 0 and not one.failures, f"{name} of a sound solver: {one.told[:3]}")
        for number, way in enumerate(faults):
            one = fresh(1.0)
            check(one, way)
            shown.check(one.failures >= 1, f"fault {number} of {name} is not counted")


def test_inputs(line):
    shown, fresh = tally(line)

    def swapped(features):
        """Reads memory as it lies, whatever order its bytes have."""
        known = isinstance(features, np.ndarray) and features.dtype.byteorder == ">" and features.dtype.itemsize == 4
        read = features.view(features.dtype.newbyteorder("<")) if known else features
        return fiedler_vector(read, invalid="mark")

    def unstrided(features):
        """Reads the first numbers in memory, whatever the strides are."""
        wrong = isinstance(features, torch.Tensor) and not features.is_contiguous()
        return fiedler_vector(features.mT.reshape(features.shape) if wrong else features)

    def real_part(features):
        return fiedler_vector(np.real(np.asarray(features)))

    def marking(features):
        return fiedler_vector(features, invalid="mark")

    inputs, clean = test_solver_inputs, np.stack([post_relu(seed, 5, 9) for seed in range(3)])
    whole, casts = inputs.whole(0, 12, 20), {"array": np.copy} | inputs.CAST
    planted = [
        (lambda one, solve: inputs.check_casts(one, solve, whole, casts), [swapped, unstrided]),
        (lambda one, solve: inputs.check_refused(one, solve, inputs.REFUSED), [real_part]),
        (lambda one, solve: test_solver_isolation.check_refusal(one, solve, clean), [marking]),
    ]  # fmt: skip
    for check, faults in planted:
        one = fresh()
        check(one, fiedler_vector)
        shown.check(one.checks > 0 and not one.failures, f"inputs of a sound solver: {one.told[:3]}")
        for solve in faults:
            one = fresh()
            check(one, solve)
            shown.check(one.failures >= 1, f"{solve.__name__} is not counted")

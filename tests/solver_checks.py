"""Checks that hold for every solved graph, whatever solved it. None compares vectors entry by entry.

Each check is a ratio that must not exceed its line in TOLERANCE. The unit is e · ‖L‖_∞ = ulp · max(‖L‖_∞, w), where
w = 1 is the size of a cosine, whose rounding a small L does not refine; N is not in it, since rounding of S is
entrywise. The truth is float64 LAPACK's decomposition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.linalg
import torch

from spectral_sampler import limits
from spectral_sampler.fiedler import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from solver_cases import Expectation
    from torch import Tensor

    from spectral_sampler.fiedler import FiedlerResult

TOLERANCE = {
    "length": 4.0,  # | ‖v‖ − 1 | / ulp
    "constant": 4.0,  # |Σ v| / √N / ulp
    "residual": 16.0,  # ‖Lv − θv‖ in units
    "rayleigh": 16.0,  # |vᵀLv − θ| in units
    "value": 16.0,  # |θ − λ2| in units
    "index": 0.0,  # negative pivots of L + (2‖L‖/N) 11ᵀ − (θ − δ) I, δ = 32 units
    "angle": 4.0,  # sin of the angle to the eigenspace of [λ2, λ2 + 16 units], times the gap behind it, in units
    "reported": 4.0,  # the residual the solver itself reports, in units
    "error": 1.0,  # the largest error of a difference of two entries, over the reported bound and a rounding of both
}
NOT_TOO_LARGE = "a gap is not overestimated by more than a tenth"
CLUSTER = limits.RESIDUAL  # a lower vector is looked for again beyond that: of two closer ones either is right


class Truth(NamedTuple):
    """Of B graphs: L (B, N, N), the pairs on the constant vector's complement, ‖L‖_∞, the unit, degrees."""

    laplacian: np.ndarray
    values: np.ndarray  # (B, N − 1)
    vectors: np.ndarray  # (B, N, N − 1)
    norm: np.ndarray
    unit: np.ndarray
    degrees: np.ndarray
    ulp: float

    @property
    def gap(self) -> np.ndarray:
        """λ3 − λ2 in units; infinite for N = 2."""
        if self.values.shape[1] == 1:
            return np.full(len(self.values), np.inf)
        return (self.values[:, 1] - self.values[:, 0]) / self.unit


def truth_of_affinity(affinity: np.ndarray, ulp: float, weight: float = 0.0) -> Truth:
    """The truth about symmetric weights (B, N, N)."""
    others = affinity * (1 - np.eye(affinity.shape[-1]))
    degrees = others.sum(axis=-1)
    laplacian = degrees[:, :, None] * np.eye(affinity.shape[-1]) - others
    size = laplacian.shape[-1]
    norm = (np.abs(degrees) + np.abs(others).sum(axis=-1)).max(axis=-1)
    # An orthonormal basis of the complement keeps the constant vector out whatever the eigenvalues are.
    complement = scipy.linalg.null_space(np.ones((1, size)))
    values, inner = np.linalg.eigh(complement.T @ laplacian @ complement)
    unit = ulp * np.maximum(norm, weight)
    return Truth(laplacian, values, complement @ inner, norm, np.maximum(unit, 1e-300), degrees, ulp)


def truth_of_features(features: np.ndarray) -> Truth:
    """The truth about the cosine graphs of features (B, N, d)."""
    ulp = np.finfo(np.float64 if features.dtype == np.float64 else np.float32).eps
    rows = features.astype(np.longdouble)
    rows = rows / np.abs(rows).max(axis=-1, keepdims=True)
    rows = (rows / np.sqrt((rows * rows).sum(axis=-1, keepdims=True))).astype(np.float64)
    return truth_of_affinity(rows @ rows.transpose(0, 2, 1), float(ulp), weight=1.0)


def in_float64(truth: Truth) -> Truth:
    """The truth about float32 features, for results of the same numbers in float64: their graph in finer units."""
    ulp = float(np.finfo(np.float64).eps)
    return truth._replace(unit=np.maximum(truth.norm, 1.0) * ulp, ulp=ulp)


def _negative_pivots(matrix: np.ndarray) -> int:
    """Negative eigenvalues of a symmetric matrix by Sylvester's law from its LDLᵀ."""
    _, pivots, _ = scipy.linalg.ldl(matrix)
    return int((np.linalg.eigvalsh(pivots) < 0).sum()) if np.diag(pivots, 1).any() else int((np.diag(pivots) < 0).sum())


def ratios(result: FiedlerResult, truth: Truth) -> dict[str, np.ndarray]:
    """Every ratio of TOLERANCE, (B,) each."""
    vector, value = result.vector.double().cpu().numpy(), result.value.double().cpu().numpy()
    size, unit = vector.shape[1], truth.unit
    image = np.einsum("bij,bj->bi", truth.laplacian, vector)
    outside = truth.values > (truth.values[:, 0] + CLUSTER * unit)[:, None]
    parts = np.einsum("bij,bi->bj", truth.vectors, vector)
    sine = np.sqrt(np.where(outside, parts**2, 0).sum(axis=1))
    behind = np.where(outside, truth.values, np.inf).min(axis=1) - truth.values[:, 0]
    shifted = truth.laplacian + (2 * truth.norm / size)[:, None, None]
    shifted = shifted - (value - 32 * unit)[:, None, None] * np.eye(size)
    return {
        "length": np.abs(np.linalg.norm(vector, axis=1) - 1) / truth.ulp,
        "constant": np.abs(vector.sum(axis=1)) / size**0.5 / truth.ulp,
        "residual": np.linalg.norm(image - value[:, None] * vector, axis=1) / unit,
        "rayleigh": np.abs((vector * image).sum(axis=1) - value) / unit,
        "value": np.abs(value - truth.values[:, 0]) / unit,
        "index": np.array([_negative_pivots(matrix) for matrix in shifted]),
        "angle": np.where(sine == 0, 0.0, sine * np.where(np.isfinite(behind), behind, 0.0) / unit),
        "reported": result.residual.double().cpu().numpy() * truth.norm / unit,
        "error": _errors(vector, truth) / (result.error.double().cpu().numpy() + truth.ulp),
    }


def _errors(vector: np.ndarray, truth: Truth) -> np.ndarray:
    """Largest error of the difference of two entries (B,), up to sign and length."""
    exact = truth.vectors[:, :, 0]
    exact = exact * np.where((exact * vector).sum(axis=1) < 0, -1.0, 1.0)[:, None]
    return np.ptp(vector / np.linalg.norm(vector, axis=1)[:, None] - exact, axis=1)


def taken(fields: FiedlerResult | Truth, members: np.ndarray) -> FiedlerResult | Truth:
    """Those members of a result or of the truth."""
    return type(fields)(*(field if isinstance(field, float) else field[members] for field in fields))


class Claim(NamedTuple):
    """What must hold of each of ``members`` (B,) bool; ``seen`` (B, …) tells what was found where it does not."""

    what: str
    members: np.ndarray
    holds: np.ndarray
    seen: np.ndarray

    @property
    def failing(self) -> np.ndarray:
        """Numbers of the members of which it does not hold."""
        return np.flatnonzero(self.members & ~self.holds)


def hold(claims: Iterable[Claim], label: str = "") -> None:
    """Every claim holds."""
    for claim in claims:
        wrong = claim.failing
        assert not wrong.size, f"{label}: {claim.what} must hold, and members {wrong} have {claim.seen[wrong]}"


def finite_claims(result: FiedlerResult) -> Iterator[Claim]:
    """No field holds a NaN or an infinity."""
    for name, field in result._asdict().items():
        whole = torch.isfinite(field).reshape(len(field), -1).all(dim=1).cpu().numpy()
        yield Claim(f"{name} is finite", np.ones_like(whole), whole, field.cpu().numpy())


def check_ratios(result: FiedlerResult, truth: Truth, label: str = "") -> int:
    """All ratios within tolerance and all fields finite; the number of ratios checked."""
    hold(finite_claims(result), label)
    found = ratios(result, truth)
    for name, limit in TOLERANCE.items():
        worst = int(found[name].argmax())
        assert found[name][worst] <= limit, f"{label}: {name} of member {worst} is {found[name][worst]:.3g} > {limit}"
    return sum(len(values) for values in found.values())


def has(result: FiedlerResult, bit: Status) -> np.ndarray:
    """(B,) bool."""
    return (result.status.cpu().numpy() & int(bit)) != 0


def estimated_norm(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """‖L‖_∞ at least and at most, (B,) each, where it is estimated (`graph.FactoredLaplacian`): from some rows, that of
    the largest degree among them, and as 1 where it is less."""
    sums, degrees = np.abs(truth.laplacian).sum(axis=2), np.abs(truth.degrees)
    largest = degrees >= degrees.max(axis=1, keepdims=True) - 8 * truth.unit[:, None]  # rounding decides between these
    least = np.where(largest, sums, np.inf).min(axis=1)
    return np.maximum(least, 1.0), np.maximum(truth.norm, 1.0)


def status_claims(
    result: FiedlerResult, truth: Truth, norm: tuple[np.ndarray, np.ndarray] | None = None
) -> Iterator[Claim]:
    """Status bits and gap agree with the true spectrum, where that is not itself within rounding of the threshold.

    ``norm``: ‖L‖_∞ at least and at most, (B,) each, where the solver does not know it.
    """
    lowest, gap, status = truth.values[:, 0] / truth.unit, truth.gap, result.status.cpu().numpy()
    everyone = np.ones(len(status), dtype=bool)
    yield Claim("converged", everyone, has(result, Status.CONVERGED), status)
    yield Claim("not called invalid", everyone, ~has(result, Status.INVALID), status)
    degenerate, indefinite = has(result, Status.DEGENERATE), has(result, Status.INDEFINITE)
    yield Claim("a gap of so few units is flagged", gap < limits.GAP / 2, degenerate, gap)
    # The gap of N = 2 is taken for 2 ‖L‖_∞, which is itself rounding where the two rows are orthogonal.
    large = np.where(np.isfinite(gap), gap, 2 * truth.norm / truth.unit) > 2 * limits.GAP
    yield Claim("a gap of so many units is not flagged", large, ~degenerate, gap)
    yield Claim("so many units below zero are called indefinite", lowest < -2 * limits.RESIDUAL, indefinite, lowest)
    yield Claim("so few units are not called indefinite", lowest > -limits.RESIDUAL / 2, ~indefinite, lowest)
    least, most = (truth.norm, truth.norm) if norm is None else norm
    reported = result.gap.double().cpu().numpy() * most / truth.unit
    yield Claim("a degenerate member reports no gap", degenerate, reported == 0, reported)
    told, both = ~degenerate & np.isfinite(gap), np.stack((reported, gap), axis=1)
    with np.errstate(invalid="ignore"):  # the gap of N = 2, of which nothing is told, is infinite
        yield Claim(NOT_TOO_LARGE, told, reported * least / most <= 1.1 * gap + 4, both)
        yield Claim("a gap is not grossly underestimated", told, reported >= 0.5 * gap - 4, both)


def check_status(result: FiedlerResult, truth: Truth, label: str = "") -> None:
    """Every claim about the status holds."""
    hold(status_claims(result, truth), label)


def sign_claims(result: FiedlerResult, truth: Truth, indices: np.ndarray | None = None) -> Iterator[Claim]:
    """The documented sign rule, restated; members within a tenth of a threshold are left out."""
    vector = result.vector.double().cpu().numpy()
    root = vector.shape[1] ** 0.5
    skew = root * (vector**3).sum(axis=1)
    centred = truth.degrees - truth.degrees.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    spread = length / root / truth.unit
    correlation = (vector * centred).sum(axis=1) / np.maximum(length, 1e-300)
    ordered = vector if indices is None else np.take_along_axis(vector, np.argsort(indices, axis=1), axis=1)
    on_a_side = np.abs(ordered) * root >= 1e-2
    first = np.take_along_axis(ordered, on_a_side.argmax(axis=1)[:, None], axis=1)[:, 0]
    even = np.abs(skew) < 0.9e-2
    ruled, unruled = np.abs(correlation) > 1.1e-2, np.abs(correlation) < 0.9e-2
    yield Claim("the skew is positive", np.abs(skew) > 1.1e-2, skew > 0, skew)
    yield Claim("low degrees come first", even & (spread > 32) & ruled, correlation < 0, correlation)
    yield Claim("the lowest index is on the positive side", even & ((spread < 8) | unruled), first > 0, first)


def check_sign(result: FiedlerResult, truth: Truth, indices: np.ndarray | None = None, label: str = "") -> None:
    """Every claim about the sign holds."""
    hold(sign_claims(result, truth, indices), label)


def expectation_claims(result: FiedlerResult, expectation: Expectation, seeds: range) -> Iterator[Claim]:
    """What a case of `solver_cases` says on top."""
    everyone = np.ones(len(seeds), dtype=bool)
    for bit, wanted in ((Status.DEGENERATE, expectation.degenerate), (Status.INDEFINITE, expectation.indefinite)):
        if wanted is not None:
            yield Claim(f"{bit!r} is {wanted}", everyone, has(result, bit) == wanted, result.status.cpu().numpy())
    vector = result.vector.double().cpu().numpy()
    if expectation.group is not None:
        groups = [expectation.group(seed) for seed in seeds]
        cut = [v[group].min() > 0 > v[~group].max() for v, group in zip(vector, groups, strict=True)]
        yield Claim("the vector is the cut", everyone, np.array(cut), vector)
    if expectation.order is not None:
        orders = [np.argsort(expectation.order(seed)) for seed in seeds]
        steps = [np.diff(v[order]) for v, order in zip(vector, orders, strict=True)]
        monotone = [(step > 0).all() or (step < 0).all() for step in steps]
        yield Claim("the vector is monotone", everyone, np.array(monotone), vector)


def check_expectation(result: FiedlerResult, expectation: Expectation, seeds: range, label: str) -> None:
    """Every claim of a case holds."""
    hold(expectation_claims(result, expectation, seeds), label)


def check_all(result: FiedlerResult, features: Tensor, expectation: Expectation, seeds: range, label: str) -> int:
    """Every check above on the graphs of ``features`` (B, N, d)."""
    truth = truth_of_features(features.numpy())
    number = check_ratios(result, truth, label)
    check_status(result, truth, label)
    check_sign(result, truth, label=label)
    check_expectation(result, expectation, seeds, label)
    return number

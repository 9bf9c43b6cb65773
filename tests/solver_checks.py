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
    "angle": 4.0,  # sin of the angle to the eigenspace of [λ2, λ2 + 8 units], times the gap behind it, in units
    "reported": 4.0,  # the residual the solver itself reports, in units
    "error": 1.0,  # the largest error of a difference of two entries, over the reported bound and a rounding of both
}
CLUSTER = 8.0


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


def check_ratios(result: FiedlerResult, truth: Truth, label: str = "") -> int:
    """All ratios within tolerance and all fields finite; the number of ratios checked."""
    for name, field in result._asdict().items():
        assert torch.isfinite(field).all(), f"{label}: {name} is not finite"
    found = ratios(result, truth)
    for name, limit in TOLERANCE.items():
        worst = int(found[name].argmax())
        assert found[name][worst] <= limit, f"{label}: {name} of member {worst} is {found[name][worst]:.3g} > {limit}"
    return sum(len(values) for values in found.values())


def has(result: FiedlerResult, bit: Status) -> np.ndarray:
    """(B,) bool."""
    return (result.status.cpu().numpy() & int(bit)) != 0


def check_status(result: FiedlerResult, truth: Truth, label: str = "") -> None:
    """Status bits and gap agree with the true spectrum, where that is not itself within rounding of the threshold."""
    lowest, gap = truth.values[:, 0] / truth.unit, truth.gap
    assert has(result, Status.CONVERGED).all(), f"{label}: not converged"
    assert not has(result, Status.INVALID).any(), f"{label}: called invalid"
    degenerate, indefinite = has(result, Status.DEGENERATE), has(result, Status.INDEFINITE)
    small, large = gap < limits.GAP / 2, gap > 2 * limits.GAP
    assert degenerate[small].all(), f"{label}: gaps {gap[small & ~degenerate]} units were not flagged"
    assert not degenerate[large].any(), f"{label}: gaps {gap[large & degenerate]} units were flagged"
    below, above = lowest < -2 * limits.RESIDUAL, lowest > -limits.RESIDUAL / 2
    assert indefinite[below].all(), f"{label}: {lowest[below & ~indefinite]} units were not called negative"
    assert not indefinite[above].any(), f"{label}: indefinite was flagged at {lowest[above & indefinite]} units"
    reported = result.gap.double().cpu().numpy() * truth.norm / truth.unit
    assert (reported[degenerate] == 0).all(), f"{label}: a degenerate member reports a gap"
    told = ~degenerate & np.isfinite(gap)
    assert (reported[told] <= 1.1 * gap[told] + 4).all(), f"{label}: a gap is overestimated"
    assert (reported[told] >= 0.5 * gap[told] - 4).all(), f"{label}: a gap is grossly underestimated"


def check_sign(result: FiedlerResult, truth: Truth, indices: np.ndarray | None = None, label: str = "") -> None:
    """The documented sign rule, restated; members within a tenth of a threshold are left out."""
    vector = result.vector.double().cpu().numpy()
    size = vector.shape[1]
    for member, v in enumerate(vector):
        order = np.argsort(np.arange(size) if indices is None else indices[member])
        skew = size**0.5 * (v**3).sum()
        centred = truth.degrees[member] - truth.degrees[member].mean()
        spread = np.linalg.norm(centred) / size**0.5 / truth.unit[member]
        correlation = v @ centred / max(np.linalg.norm(centred), 1e-300)
        on_a_side = v[order][np.abs(v[order]) * size**0.5 >= 1e-2]
        if abs(skew) > 1.1e-2:
            assert skew > 0, f"{label}: member {member} has skew {skew}"
        elif abs(skew) < 0.9e-2 and spread > 32 and abs(correlation) > 1.1e-2:
            assert correlation < 0, f"{label}: member {member} puts the high degrees first ({correlation})"
        elif abs(skew) < 0.9e-2 and (spread < 8 or abs(correlation) < 0.9e-2):
            assert on_a_side[0] > 0, f"{label}: the lowest index of member {member} is on the negative side"


def check_expectation(result: FiedlerResult, expectation: Expectation, seeds: range, label: str) -> None:
    """What a case of `solver_cases` says on top."""
    for bit, wanted in ((Status.DEGENERATE, expectation.degenerate), (Status.INDEFINITE, expectation.indefinite)):
        if wanted is not None:
            assert (has(result, bit) == wanted).all(), f"{label}: {bit!r} is not {wanted} in {has(result, bit)}"
    vector = result.vector.double().cpu().numpy()
    for v, seed in zip(vector, seeds, strict=True):
        if expectation.group is not None:
            group = expectation.group(seed)
            assert v[group].min() > 0 > v[~group].max(), f"{label}, seed {seed}: not the cut"
        if expectation.order is not None:
            steps = np.diff(v[np.argsort(expectation.order(seed))])
            assert (steps > 0).all() or (steps < 0).all(), f"{label}, seed {seed}: not monotone"


def check_all(result: FiedlerResult, features: Tensor, expectation: Expectation, seeds: range, label: str) -> int:
    """Every check above on the graphs of ``features`` (B, N, d)."""
    truth = truth_of_features(features.numpy())
    number = check_ratios(result, truth, label)
    check_status(result, truth, label)
    check_sign(result, truth, label=label)
    check_expectation(result, expectation, seeds, label)
    return number

"""The exact Fiedler vector in float64, at a price that allows 4096 rows and more, and how far an answer is from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse.linalg

from spectral_sampler import limits

if TYPE_CHECKING:
    from torch import Tensor

_DENSE = 512  # rows; above, ARPACK with products by the features is cheaper than LAPACK
_BLOCK = 1024  # rows of S at a time, for ‖L‖_∞
TURNED = 4.0  # e: sin(angle to the exact vector) · gap that ours may reach; 1.2 is the most that was seen
WRONG = 1e-2  # sine of the angle above which anyone's answer is wrong, where the gap decides the vector at all


class Truth(NamedTuple):
    """Of one cosine graph: unit rows (N, d), degrees (N,), ‖L‖_∞, λ2 and λ3 (for N = 2: λ2 + 2 ‖L‖_∞), and v (N,)."""

    units: np.ndarray
    degrees: np.ndarray
    norm: float
    values: tuple[float, float]
    vector: np.ndarray

    def product(self, vector: np.ndarray) -> np.ndarray:
        """L v. The diagonal of S is in both terms and cancels."""
        return self.degrees * vector - self.units @ (self.units.T @ vector)

    @property
    def gap(self) -> float:
        """(λ3 − λ2) / ‖L‖_∞."""
        return (self.values[1] - self.values[0]) / self.norm

    @property
    def rounding(self) -> float:
        """e: what rounding of one float32 cosine is worth in units of ‖L‖_∞."""
        return limits.ULP * max(self.norm, 1.0) / self.norm


def exact(rows: np.ndarray) -> Truth:
    """The truth about the cosine graph of the rows (N, d), none of them zero."""
    units = rows.astype(np.float64)
    units /= np.abs(units).max(axis=1, keepdims=True)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    degrees, size = units @ units.sum(axis=0), len(units)
    sums = np.concatenate([np.abs(units[i : i + _BLOCK] @ units.T).sum(axis=1) for i in range(0, size, _BLOCK)])
    norm = float((np.abs(degrees - 1) + sums - 1).max()) or 1.0
    truth = Truth(units, degrees, norm, (0.0, 0.0), np.zeros(size))
    # The constant vector, whose eigenvalue is 0, goes to the upper end of the spectrum.
    if size <= _DENSE:
        values, vectors = np.linalg.eigh(np.diag(degrees) - units @ units.T + 2 * norm / size)
    else:
        operator = scipy.sparse.linalg.LinearOperator(
            (size, size), matvec=lambda x: truth.product(x.ravel()) + 2 * norm * x.mean(), dtype=np.float64
        )
        start = np.random.default_rng(size).normal(size=size)
        values, vectors = scipy.sparse.linalg.eigsh(operator, k=2, which="SA", ncv=48, v0=start, tol=1e-12)
    upper = float(values[1]) if size > 2 else float(values[0]) + 2 * norm
    return truth._replace(values=(float(values[0]), upper), vector=vectors[:, 0])


def truths(features: Tensor, indices: Tensor) -> list[Truth]:
    """Of the graphs of ``indices`` (b, N) into ``features`` (M, d), wherever they lie."""
    return [exact(features[member.to(features.device)].double().cpu().numpy()) for member in indices]


def distance(vectors: Tensor, known: list[Truth], keep: float = 0.3) -> dict[str, float]:
    """The worst of vectors (b, N) against as many truths.

    Returns:
        residual and turned: ‖Lv − θv‖ / ‖L‖_∞ and sin(angle to the exact vector) · gap, both in e. sine, and gap of the
        narrowest graph. constant: |Σ v| / √N. kept: least share of the ``keep`` · N largest entries that is the exact
        vector's.
    """
    found: dict[str, list[float]] = {name: [] for name in ("residual", "turned", "sine", "gap", "constant", "kept")}
    for vector, truth in zip(vectors.double().cpu().numpy(), known, strict=True):
        v = vector / (np.linalg.norm(vector) or 1.0)
        image = truth.product(v)
        residual = np.linalg.norm(image - (v @ image) * v) / truth.norm
        cosine = float(v @ truth.vector)
        sine = float(np.linalg.norm(v - cosine * truth.vector))  # and not by 1 − cosine², which has no digits left
        count = max(1, int(keep * len(v)))
        ours, exact_ones = (set(np.argsort(-each)[:count]) for each in (v, np.copysign(1.0, cosine) * truth.vector))
        found["residual"].append(residual / truth.rounding)
        found["turned"].append(sine * truth.gap / truth.rounding)
        found["sine"].append(sine)
        found["gap"].append(truth.gap)
        found["constant"].append(abs(v.sum()) / len(v) ** 0.5)
        found["kept"].append(len(ours & exact_ones) / count)
    least = ("gap", "kept")
    return {name: float((np.min if name in least else np.max)(each)) for name, each in found.items()}


def fault(found: dict[str, float], *, ours: bool) -> str | None:
    """What is wrong with an answer at this `distance`, or None. Ours is right to rounding, a peer's vector nearly."""
    limit = {"residual": limits.RESIDUAL, "turned": TURNED, "constant": 1e-4} if ours else {}
    for name, most in limit.items():
        if found[name] > most:
            return f"{name} is {found[name]:.3g}, more than {most:g}"
    decided = not found["turned"] <= TURNED  # a NaN is no answer
    return f"sine is {found['sine']:.3g}, more than {WRONG:g}" if decided and not found["sine"] <= WRONG else None

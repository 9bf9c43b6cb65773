"""Counts what `solver_checks` claims of solved graphs on lines of the table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import solver_checks as checks
import torch

from spectral_sampler import limits

# Of float64 results LAPACK's float64 decomposition does not know these: its errors are as large. What is left says as
# much: a small residual, and an index that leaves room for no lower eigenvalue.
UNKNOWN_IN_FLOAT64 = ("value", "angle", "error")

GAPS = 0.1  # %: `FiedlerResult` says that one graph of a thousand may have its λ3 missed


class SolverLines(NamedTuple):
    """What is told of one way to solve."""

    ratios: object
    index: object
    status: object
    gaps: object
    too_large: list  # numbers of graphs whose gap is, and of all

    @classmethod
    def opened(cls, line, what: str, way) -> SolverLines:
        """Its lines, whose names begin with ``what``. The gap in float64 is uncertain: no line for it."""
        what = f"{what}, {way.name}"
        gaps = f"{what}: gaps that are overestimated by more than a tenth"
        return cls(
            line("solver", f"{what}: ratios of residual, value, angle, error, …", 1.0, "of the limit"),
            line("solver", f"{what}: eigenvalues below the one found, by inertia", 0.0, "eigenvalues"),
            line("solver", f"{what}: status, sign and what is known of the graph"),
            None if way.dtype == torch.float64 else line("solver", gaps, GAPS, "% of the graphs"),
            [0, 0],
        )

    def close(self) -> None:
        """The share of overestimated gaps, which only the whole run has."""
        wrong, asked = self.too_large
        if self.gaps is not None:
            self.gaps.passed(asked, worst=100 * wrong / max(1, asked))

    def count(self, way, result, truth, label, expectation=None, seeds=None) -> None:
        """Every check of `solver_checks`; a member that is not finite has failed, and nothing else is asked of it."""
        label = f"{way.name}, {label}"
        claims = list(checks.finite_claims(result))
        whole = np.logical_and.reduce([claim.holds for claim in claims])
        for member in np.flatnonzero(~whole):
            self.ratios.failed(f"{label}: member {member} is not finite")
        if not whole.any():
            return
        sound, truth = checks.taken(result, whole), checks.taken(truth, whole)
        found = checks.ratios(sound, truth)
        index = found.pop("index")
        count(self.index, index, np.ones(len(index), dtype=bool), label)
        double = way.dtype == torch.float64
        for name, values in found.items():
            if double and name in UNKNOWN_IN_FLOAT64:
                continue
            # Sums in float64 run over fewer, longer parts: the residual is not about 1 e, but still CONVERGED.
            limit = limits.RESIDUAL if double and name == "reported" else checks.TOLERANCE[name]
            count(self.ratios, values / limit, np.ones(len(values), dtype=bool), f"{label}: {name}")
        told = list(checks.status_claims(sound, truth, None if way.formed else checks.estimated_norm(truth)))
        told = [*(told[:2] if double else told), *checks.sign_claims(sound, truth)]
        if expectation is not None:
            known = [seed for seed, kept in zip(seeds, whole, strict=True) if kept]
            # Gaps that are zero to float32 are not to float64.
            told += checks.expectation_claims(
                sound, expectation._replace(degenerate=None) if double else expectation, known
            )
        for claim in told:
            if claim.what == checks.NOT_TOO_LARGE:
                self.too_large[0] += len(claim.failing)
                self.too_large[1] += int(claim.members.sum())
                continue
            self.status.passed(int(claim.members.sum()) - len(claim.failing))
            for member in claim.failing:
                self.status.failed(f"{label}, member {member}: {claim.what}, but {claim.seen[member]}")


def count(one, values: np.ndarray, members: np.ndarray, label: str) -> None:
    """Values (B,) of ``members`` (B,) bool against the line's limit, told one by one where they exceed it."""
    asked = values[members]
    wrong = ~(asked <= one.limit)  # a NaN is wrong
    if len(asked):
        one.worst = max(one.worst or 0.0, float(np.nan_to_num(asked, nan=np.inf).max()))
    one.passed(int((~wrong).sum()))
    for member in np.flatnonzero(members)[wrong]:
        one.failed(f"{label} of member {member}: {values[member]:.3g} {one.unit} exceed {one.limit:g}")

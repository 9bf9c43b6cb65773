"""Every threshold, salt and status bit of the solver, once. `csrc/solver_limits.h` is made from this file.

    python spectral_sampler/limits.py > csrc/solver_limits.h

The unit is e = ulp · max(‖L‖_∞, 1) / ‖L‖_∞: what rounding of one cosine is worth in units of ‖L‖_∞. Rounding of S is
entrywise, so it turns an eigenvector by about e / gap whatever N is: at most 1.2 e / gap over 7,400 graphs of 3 to
20,000 rows. Therefore no threshold holds N.
"""

from __future__ import annotations

import enum

ULP = 2.0**-23  # of float32
STOP = 1.0  # ulp: a Lanczos run stops where the bound on its residual is below this
RESIDUAL = 16.0  # e: CONVERGED is a residual, INDEFINITE minus a value, up to this; a converged residual is about 1 e
GAP = 32.0  # e: DEGENERATE is a gap up to this, where rounding turns the vector by 3 % or more
UNEVEN = 16.0  # e · ‖L‖_∞: a smaller root mean square of the centred degrees is rounding
SIDE = 1e-2  # |√N Σ v³|, correlation with the degrees, √N |v_i|: smaller ones decide no sign
APART = 0.25  # a probe stops where its bound is this share of its distance to λ2: λ3 is told from λ2 then
PROBE_SALT = 0x5EED  # of the start vector of the run that looks for λ3
ROUNDS = 4  # searches at most: each further one begins where a probe found a lower vector
MOST_STEPS = 1024  # of one Lanczos run in a kernel; realistic graphs take 20 to 60
NORM_ROWS = 16  # rows of S summed to estimate ‖L‖_∞ where S is never formed
REFINED = 192  # rows from which float32 graphs are refined: entries are small there, and the products in float64 cheap
CLOSE = 0.15  # APART for these, and for Ritz vectors that their probe keeps away from; .25 misses 1 % of double λ2
MOST_LOCKED = 3  # such Ritz vectors: with 1 the probe is longer, with 8 the gap is worse
REFINE_STEPS = 8  # of the run that starts from the residual of v in float64
WORST = 8.0**0.5  # differences of entries of two unit vectors are never farther apart: the bound where there is no gap
ABOVE = 4.0  # above the spectrum of L / ‖L‖_∞, which lies in [−1, 1]


class Status(enum.IntFlag):
    """Bits of a solver's `status`."""

    CONVERGED = 1
    DEGENERATE = 2  # the gap is within rounding: any unit vector of an eigenspace would do, this one is deterministic
    INDEFINITE = 4  # negative cosines made the lowest eigenvalue negative
    INVALID = 8  # some row has no direction; the vector is zero


def header() -> str:
    """The same as a C++ header: ``GAP`` is ``spectral::kGap``, ``Status.CONVERGED`` is ``spectral::kConverged``."""
    lines = ["// Made by `python spectral_sampler/limits.py`, which says what each of these is; do not edit."]
    lines += ["#pragma once", "", "namespace spectral {", ""]
    for name, value in globals().items():
        if name.isupper():
            camel = "".join(part.capitalize() for part in name.split("_"))
            # float and not double: a device would compute in double with it.
            number = f"float k{camel} = {value!r}f" if isinstance(value, float) else f"int k{camel} = {value}"
            lines.append(f"constexpr {number};")
    bits = ", ".join(f"k{bit.name.capitalize()} = {bit.value}" for bit in Status if bit.name)
    return "\n".join([*lines, "", f"enum Status : long long {{ {bits} }};", "", "}  // namespace spectral", ""])


if __name__ == "__main__":
    print(header(), end="")  # noqa: T201

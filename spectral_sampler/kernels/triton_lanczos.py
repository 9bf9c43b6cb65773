"""Device functions shared by the Triton solvers: deflated Lanczos, the tridiagonal eigenproblem, and what a result
reports.

One program owns one graph and holds everything here in registers. The basis is a (KP, NP) tile whose first rows are
*locked*: row 0 is the constant vector, row 1 (while λ3 is looked for) the Fiedler vector. Orthogonalising a new
vector against the tile after the three-term recurrence therefore deflates the constant at every step. Nothing is
written to global memory and read back, so no ordering between a program's own stores and loads is assumed.

Vectors are (NP,) with zeros from N on; every length is in units of ‖L‖_∞, so that each threshold is a pure number.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202  (a Triton function's arguments have no Python types)

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["canonical_sign", "solve_member", "status_bits"]

_ULP = tl.constexpr(1.1920929e-07)  # of float32
_TINY = tl.constexpr(1e-30)  # far below anything that matters in units of ‖L‖_∞, far above the smallest float32
_PIVOT = tl.constexpr(1e-9)
_ROUNDS = tl.constexpr(4)  # of multisection: 4 log2(257) = 32 bits of the first interval
_AGAIN = tl.constexpr(4)  # times the search starts again because the probe found something lower
_SIDE = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def _norm(x):
    return tl.sqrt_rn(tl.sum(x * x, axis=0))


@triton.jit
def _entry(x, lane, index):
    """Entry ``index`` of a vector held in registers, known to every thread."""
    return tl.sum(tl.where(lane == index, x, 0.0), axis=0)


@triton.jit
def _start(index, inside, salt):
    """The start vectors of `fiedler.start_vectors`: white noise in [−1, 1) by a hash of the dataset index."""
    lowest = tl.min(tl.where(inside, index, _SIDE), axis=0)
    word = (index - lowest + (1 + salt)).to(tl.uint32)
    word = (word ^ (word >> 16)) * 0x7FEB352D
    word = (word ^ (word >> 15)) * 0x846CA68B
    word = word ^ (word >> 16)
    return tl.where(inside, (word >> 8).to(tl.float32) * 1.1920929e-07 - 1.0, 0.0)


@triton.jit
def times(affinity, degree, shrink, x, node, NP: tl.constexpr, TILE: tl.constexpr):
    """L x / ‖L‖_∞. ``affinity`` is the (NP, NP) tile itself (TILE = 0), or a pointer to it, read TILE rows at a
    time.
    """
    if TILE == 0:
        product = tl.sum(affinity * x[None, :], axis=1)
    else:
        product = tl.zeros((NP,), dtype=tl.float32)
        for first in range(0, NP, TILE):
            row = first + tl.arange(0, TILE)
            tile = tl.load(affinity + row[:, None] * NP + node[None, :])
            # S is symmetric: the column sums of a tile of rows need only the tile's own entries of x.
            own = tl.sum(tl.where(row[:, None] == node[None, :], x[None, :], 0.0), axis=1)
            product += tl.sum(tile * own[:, None], axis=0)
    return (degree * x - product) * shrink


@triton.jit
def _orthogonalise(x, basis):
    """Classical Gram-Schmidt, twice, against every row of the basis (unused rows are zero), and the products with
    the rows.
    """
    first = tl.sum(basis * x[None, :], axis=1)
    x = x - tl.sum(basis * first[:, None], axis=0)
    second = tl.sum(basis * x[None, :], axis=1)
    return x - tl.sum(basis * second[:, None], axis=0), first + second


@triton.jit
def _unit(x, basis):
    """x less its parts along the basis, at length 1; zero where nothing is left of it."""
    length = _norm(x)
    x, _ = _orthogonalise(x / tl.maximum(length, _TINY), basis)
    length = _norm(x)
    return tl.where(length > 1e-4, x / tl.maximum(length, _TINY), 0.0)


@triton.jit
def _away_from_zero(pivot, least):
    return tl.where(tl.abs(pivot) < least, tl.where(pivot < 0.0, -least, least), pivot)


@triton.jit
def _eigenvalue(alpha, below, first, last, lane, RANK: tl.constexpr, WIDTH: tl.constexpr):
    """Eigenvalue number RANK (1 = lowest) of the tridiagonal matrix on rows first..last; 4 where there are fewer.

    By multisection with Sturm's count of negative pivots, WIDTH shifts at a time. alpha: (KP,) diagonal; below: (KP,)
    coupling of each row to the row before it.
    """
    used = (lane >= first) & (lane <= last)
    least = tl.min(tl.where(used, alpha, float("inf")), axis=0)
    most = tl.max(tl.where(used, alpha, float("-inf")), axis=0)
    coupling = 2.0 * tl.max(tl.where(used, tl.abs(below), 0.0), axis=0)
    low = least - coupling  # Gershgorin
    high = least if RANK == 1 else most + coupling
    place = (tl.arange(0, WIDTH) + 1).to(tl.float32) / (WIDTH + 1)
    for _ in range(_ROUNDS):
        shift = low + (high - low) * place
        pivot = _entry(alpha, lane, first) - shift
        negative = tl.where(pivot <= _TINY, 1, 0)
        for row in range(first + 1, last + 1):
            link = _entry(below, lane, row)
            pivot = _entry(alpha, lane, row) - shift - link * link / _away_from_zero(pivot, _TINY)
            negative += tl.where(pivot <= _TINY, 1, 0)
        clear = tl.sum(tl.where(negative < RANK, 1, 0), axis=0).to(tl.float32)
        width = (high - low) / (WIDTH + 1)
        low = low + width * clear
        high = low + width
    return tl.where(last - first + 1 < RANK, 4.0, low)


@triton.jit
def _lowest_vector(alpha, below, value, first, last, lane, KP: tl.constexpr):
    """Unit eigenvector of the tridiagonal matrix for its eigenvalue θ, by the twisted factorisation.

    With the forward pivots D⁺, the backward pivots D⁻ and γ = D⁺ + D⁻ − (α − θ), the vector is 1 where |γ| is least and
    follows outwards by ratios. Source: Dhillon and Parlett, SIAM J. Matrix Anal. Appl. 25 (2004), §3.
    """
    used = (lane >= first) & (lane <= last)
    forward = tl.full((KP,), 1.0, dtype=tl.float32)
    backward = tl.full((KP,), 1.0, dtype=tl.float32)
    above = tl.zeros((KP,), dtype=tl.float32)  # coupling of each row to the row after it
    down = value * 0.0 + 1.0
    up = value * 0.0 + 1.0
    link = value * 0.0
    for step in range(last - first + 1):
        row = first + step
        coupling = tl.where(step == 0, 0.0, _entry(below, lane, row))
        down = _away_from_zero(_entry(alpha, lane, row) - value - coupling * coupling / down, _PIVOT)
        forward = tl.where(lane == row, down, forward)
        row = last - step
        up = _away_from_zero(_entry(alpha, lane, row) - value - link * link / up, _PIVOT)
        backward = tl.where(lane == row, up, backward)
        above = tl.where(lane == row, link, above)
        link = _entry(below, lane, row)
    gamma = tl.where(used, tl.abs(forward + backward - (alpha - value)), float("inf"))
    twist = tl.argmin(gamma, axis=0)
    left = tl.where(used & (lane < twist), -above / forward, 1.0)
    right = tl.where(used & (lane > twist), -below / backward, 1.0)
    vector = tl.where(used, tl.cumprod(left, axis=0, reverse=True) * tl.cumprod(right, axis=0), 0.0)
    return vector / _norm(vector)


@triton.jit
def _enough(ritz, bound, value, smallest, locked):
    """Has Lanczos gone far enough? The first search to one ulp; the probe once λ3 is told apart from λ2, or is below
    it.
    """
    distance = ritz - value
    probed = (bound <= 0.25 * tl.maximum(distance, smallest)) | (distance + bound < 0.0)
    return tl.where(locked == 1, bound <= _ULP, probed)


@triton.jit
def _cycle(affinity, degree, shrink, basis, q, locked, value, smallest, node, lane, N,
           NP: tl.constexpr, KP: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
           CHECK: tl.constexpr):  # fmt: skip
    """Lanczos from q on the complement of the locked rows until the lowest Ritz pair is good enough or the basis is
    full.

    Returns the Ritz value, the Ritz vector, the bound β|y_last| on its residual, the second Ritz value, the number of
    matvecs, and whether an invariant subspace was found (breakdown, or as many vectors as there are dimensions).
    """
    alpha = tl.zeros((KP,), dtype=tl.float32)
    below = tl.zeros((KP,), dtype=tl.float32)
    weights = tl.zeros((KP,), dtype=tl.float32)
    slot = locked
    ritz = value
    bound = value * 0.0
    exhausted = slot < 0
    running = slot > 0
    while running:
        basis = tl.where(lane[:, None] == slot, q[None, :], basis)
        w, products = _orthogonalise(times(affinity, degree, shrink, q, node, NP, TILE), basis)
        alpha = tl.where(lane == slot, products, alpha)
        length = _norm(w)
        exhausted = (length <= _ULP) | (slot + 1 >= N)
        stop = exhausted | (slot + 1 >= KP)
        if stop | ((slot + 1 - locked) % CHECK == 0):
            ritz = _eigenvalue(alpha, below, locked, slot, lane, 1, WIDTH)
            weights = _lowest_vector(alpha, below, ritz, locked, slot, lane, KP)
            bound = length * tl.abs(_entry(weights, lane, slot))
            running = (stop | _enough(ritz, bound, value, smallest, locked)) == 0
        slot += 1
        below = tl.where(lane == slot, length, below)
        q = w / tl.maximum(length, _TINY)
    vector = tl.sum(basis * weights[:, None], axis=0)
    second = _eigenvalue(alpha, below, locked, slot - 1, lane, 2, WIDTH)
    return ritz, vector, bound, second, slot - locked, exhausted


@triton.jit
def solve_member(affinity, degree, size, index, inside, node, N, most,
                 NP: tl.constexpr, KP: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
                 CHECK: tl.constexpr):  # fmt: skip
    """Fiedler pair of one graph, then λ3 by a second run kept away from it, as `fiedler` does; size: ‖L‖_∞.

    Returns vector, Rayleigh quotient and residual (both over ‖L‖_∞), number of matvecs, gap (0 where degenerate) and
    the rounding unit of a gap.
    """
    lane = tl.arange(0, KP)
    shrink = tl.where(size > 0.0, 1.0 / tl.where(size > 0.0, size, 1.0), 1.0)
    # An entry of S carries an error of one ulp however small the others are: a norm below 1 does not refine it.
    rounding = _ULP * tl.where(size > 0.0, tl.maximum(size, 1.0) * shrink, 1.0)
    smallest = 8.0 * N * rounding
    one = tl.where(inside, 1.0 / tl.sqrt_rn(N.to(tl.float32)), 0.0)
    vector = tl.zeros((NP,), dtype=tl.float32)
    value = size * 0.0
    second = size * 0.0  # second Ritz value, never below λ3
    gap = size * 0.0 + 2.0
    total = N * 0
    again = N * 0
    locked = N * 0 + 1
    q = _start(index, inside, 0)
    while locked < 3:
        basis = tl.where(lane[:, None] == 0, one[None, :], 0.0)
        basis = tl.where((lane[:, None] == 1) & (locked == 2), vector[None, :], basis)
        ritz, x, bound, other, used, exhausted = _cycle(
            affinity, degree, shrink, basis, _unit(q, basis), locked, value, smallest, node, lane, N,
            NP, KP, TILE, WIDTH, CHECK)  # fmt: skip
        total += used
        q = _unit(x, basis)  # a cycle that ends short goes on from its own Ritz vector
        finished = exhausted | _enough(ritz, bound, value, smallest, locked) | (total >= most)
        if locked == 1:
            vector = q
            value = ritz
            second = other
            if finished:
                q = _start(index, inside, 0x5EED)
                locked = tl.where(N > 2, 2, 3)
        elif finished:
            # Where the first run settled on a higher eigenvector the probe finds the lower one; then begin there.
            lower = (ritz + bound < value) & (again < _AGAIN)
            again += 1
            gap = tl.minimum(tl.maximum(tl.minimum(ritz - bound, second) - value, 0.0), 2.0)
            locked = tl.where(lower, 1, 3)
    image = times(affinity, degree, shrink, vector, node, NP, TILE)
    value = tl.sum(image * vector, axis=0)
    residual = _norm(image - value * vector)
    return vector, value, residual, total + 1, tl.where(gap <= smallest, 0.0, gap), rounding


@triton.jit
def canonical_sign(vector, degree, size, index, inside, N):
    """The vector with the sign of `fiedler.canonical_sign`: small far group, else low degrees, else lowest dataset
    index.
    """
    root = tl.sqrt_rn(N.to(tl.float32))
    skew = root * tl.sum(vector * vector * vector, axis=0)
    centred = tl.where(inside, degree - tl.sum(degree, axis=0) / N, 0.0)
    spread = _norm(centred)
    uneven = spread > 16.0 * N * _ULP * size
    correlation = tl.sum(vector * centred, axis=0) / tl.where(uneven, spread, 1.0)
    side = tl.where(inside & (root * tl.abs(vector) >= 0.01), index, _SIDE)
    first = tl.sum(tl.where(side == tl.min(side, axis=0), vector, 0.0), axis=0)
    ruling = tl.where(uneven & (tl.abs(correlation) >= 0.01), -correlation, first)
    ruling = tl.where(tl.abs(skew) >= 0.01, skew, ruling)
    return tl.where(ruling < 0.0, -vector, vector)


@triton.jit
def status_bits(value, residual, gap, rounding, N):
    """The bits of `fiedler.Status` but INVALID: converged 1, degenerate 2, indefinite 4."""
    bits = tl.where(residual <= 16.0 * N * _ULP, 1, 0)
    bits += tl.where(gap == 0.0, 2, 0)
    return bits + tl.where(value < -16.0 * N * rounding, 4, 0)

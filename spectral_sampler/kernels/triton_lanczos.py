"""Device functions shared by the Triton solvers: deflated Lanczos, the tridiagonal eigenproblem, and what a result
reports.

One program owns one graph and holds S (up to 128 nodes), the basis and its vectors in registers. The first rows of the
basis are *locked*: row 0 is the constant vector, row 1 (while λ3 is looked for) the Fiedler vector. Orthogonalising a
new vector against all rows after the three-term recurrence therefore deflates the constant at every step.

The entries of the tridiagonal matrix T alone go through global memory, so that a loop over its rows reads them as
scalars: a vector in registers gives up an entry only by a sum over the block, at several barriers. One barrier stands
between a program's stores and its loads, and CUDA defines it to order them (PTX ISA, "bar": accesses before it are
performed with regard to all threads of the block). The next store to a row that was read comes after the barriers of
the step in between.

Vectors are (NP,) with zeros from N on; every length is in units of ‖L‖_∞, so that each threshold is a pure number.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202  (a Triton function's arguments have no Python types)

from __future__ import annotations

import triton
import triton.language as tl

from spectral_sampler import limits

__all__ = ["SCRATCH", "canonical_sign", "report", "solve_member", "times"]

SCRATCH = tl.constexpr(2)  # floats of global memory for each basis row: α and the coupling to the row before it
_ULP = tl.constexpr(limits.ULP)
_STOP = tl.constexpr(limits.STOP * limits.ULP)
_ABOVE = tl.constexpr(limits.ABOVE)
_APART = tl.constexpr(limits.APART)
_SIDE = tl.constexpr(limits.SIDE)
_GAP = tl.constexpr(limits.GAP)
_RESIDUAL = tl.constexpr(limits.RESIDUAL)
_ROUNDS = tl.constexpr(limits.ROUNDS)
_WORST = tl.constexpr(limits.WORST)
_PROBE_SALT = tl.constexpr(limits.PROBE_SALT)
_UNEVEN = tl.constexpr(limits.UNEVEN)
_CONVERGED, _DEGENERATE, _INDEFINITE, _INVALID = (tl.constexpr(int(bit)) for bit in limits.Status)
_TINY = tl.constexpr(1e-30)  # far below anything that matters in units of ‖L‖_∞, far above the smallest float32
_GROUP = tl.constexpr(4)
_PIVOT = tl.constexpr(1e-9)
_RESOLVED = tl.constexpr(1e-9)  # width to which an eigenvalue of T is enclosed, where float32 can tell so much
_SPECTRUM = tl.constexpr(1.001)  # T has its spectrum in [−1, 1] but for rounding
_NO_INDEX = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def _norm(x):
    return tl.sqrt_rn(tl.sum(x * x, axis=0))


@triton.jit
def _start(index, inside, salt):
    """The start vectors of `graph.start_vectors`: white noise in [−1, 1) by a hash of the dataset index."""
    lowest = tl.min(tl.where(inside, index, _NO_INDEX), axis=0)
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


# The basis is two tiles of KP / 2 rows each, and the late one is touched only when the early one is full: most searches
# end before. Where tensor cores have made S, a tile is (NP, rows), ACROSS: it lies as they left S, a thread has two
# nodes and many rows, and the sums below take few shuffles. Without such an S (rows, NP) takes fewer registers.


@triton.jit
def _empty(NP: tl.constexpr, ROWS: tl.constexpr, ACROSS: tl.constexpr):
    if ACROSS:
        return tl.zeros((NP, ROWS), dtype=tl.float32)
    else:
        return tl.zeros((ROWS, NP), dtype=tl.float32)


@triton.jit
def _put(rows, x, lane, slot, ACROSS: tl.constexpr):
    """The tile with x as its row ``slot``, or as it is where it has no such row."""
    if ACROSS:
        return tl.where(lane[None, :] == slot, x[:, None], rows)
    else:
        return tl.where(lane[:, None] == slot, x[None, :], rows)


@triton.jit
def _products(rows, x, ACROSS: tl.constexpr):
    """Of each row with x."""
    if ACROSS:
        return tl.sum(rows * x[:, None], axis=0)
    else:
        return tl.sum(rows * x[None, :], axis=1)


@triton.jit
def _mixed(rows, weights, ACROSS: tl.constexpr):
    """The rows' sum by weights: (NP,)."""
    if ACROSS:
        return tl.sum(rows * weights[None, :], axis=1)
    else:
        return tl.sum(rows * weights[:, None], axis=0)


@triton.jit
def _part(rows, x, lane, slot, ACROSS: tl.constexpr):
    """The part of x along the rows, and the product with row ``slot``, 0 where there is no such row."""
    products = _products(rows, x, ACROSS)
    return _mixed(rows, products, ACROSS), tl.sum(tl.where(lane == slot, products, 0.0), axis=0)


@triton.jit
def _late_part(rows, x, lane, slot, ACROSS: tl.constexpr):
    """`_part`; its name tells benchmarks/gpu_counts.py which instructions most steps pass over."""
    return _part(rows, x, lane, slot, ACROSS)


@triton.jit
def _without(x, early, late, lane, slot, HALF: tl.constexpr, ACROSS: tl.constexpr):
    """x less its parts along rows 0..slot, by classical Gram-Schmidt, and the product with row ``slot``."""
    part, along = _part(early, x, lane, slot, ACROSS)
    rest = x - part
    if slot >= HALF:
        part, along = _late_part(late, x, lane, slot - HALF, ACROSS)
        rest = rest - part
    return rest, along


@triton.jit
def _orthogonalise(x, early, late, lane, slot, HALF: tl.constexpr, ACROSS: tl.constexpr):
    """Gram-Schmidt twice, against rows 0..slot (the rows after it are zero), and the product with row ``slot``."""
    x, first = _without(x, early, late, lane, slot, HALF, ACROSS)
    x, second = _without(x, early, late, lane, slot, HALF, ACROSS)
    return x, first + second


@triton.jit
def _unit(x, early, late, lane, locked, HALF: tl.constexpr, ACROSS: tl.constexpr):
    """x less its parts along the locked rows, at length 1; zero where nothing is left of it."""
    length = _norm(x)
    x, _ = _orthogonalise(x / tl.maximum(length, _TINY), early, late, lane, locked - 1, HALF, ACROSS)
    length = _norm(x)
    return tl.where(length > 1e-4, x / tl.maximum(length, _TINY), 0.0)


@triton.jit
def _away_from_zero(pivot, least):
    return tl.where(tl.abs(pivot) < least, tl.where(pivot < 0.0, -least, least), pivot)


@triton.jit
def _place(number, crowded, WIDTH: tl.constexpr):
    """Where shift ``number`` of 1 … WIDTH lies in [0, 1]: evenly, or crowded towards 1 by powers of two."""
    even = number / (WIDTH + 1)
    return tl.where(crowded, 1.0 - tl.exp2(-32.0 * even), even)


@triton.jit
def _eigenvalue(alpha, below, low, high, crowded, first, last, RANK: tl.constexpr, WIDTH: tl.constexpr):
    """Eigenvalue number RANK (1 = lowest) of T on rows first..last, known to lie in [low, high]; `limits.ABOVE` where
    there are fewer. alpha, below: pointers to the diagonal and to the coupling of each row to the row before it.

    By multisection, WIDTH shifts at a time. As many eigenvalues lie below a shift as its leading minors change sign,
    which follow one another by p ← (α − shift) p − β² p′: no division stands between two rows. Every four rows they are
    brought back to the size of 1 by a power of two; β is no smaller than an ulp, so between they cannot vanish.
    ``crowded``: the eigenvalue is expected close below ``high``, and the first shifts are crowded there.
    """
    number = (tl.arange(0, WIDTH) + 1).to(tl.float32)
    while high - low > tl.maximum(tl.maximum(tl.abs(low), tl.abs(high)) * _ULP, _RESOLVED):
        shift = low + (high - low) * _place(number, crowded, WIDTH)
        minor = shift * 0.0 + 1.0
        before = shift * 0.0
        changes = tl.zeros((WIDTH,), dtype=tl.int32)
        for row in range(first, last + 1, _GROUP):
            for step in tl.static_range(_GROUP):
                here = row + step <= last
                link = tl.load(below + row + step, mask=here & (row + step > first), other=0.0)
                diagonal = tl.load(alpha + row + step, mask=here, other=2.0 * _SPECTRUM)  # no change of sign
                after = (diagonal - shift) * minor - link * link * before
                after = tl.where(after == 0.0, -_TINY * minor, after)
                changes += tl.where((after < 0.0) != (minor < 0.0), 1, 0)
                before = minor
                minor = after
            largest = tl.maximum(tl.abs(minor), tl.abs(before)).to(tl.int32, bitcast=True)
            scale = ((254 << 23) - (largest & 0x7F800000)).to(tl.float32, bitcast=True)
            minor *= scale
            before *= scale
        clear = tl.sum(tl.where(changes < RANK, 1, 0), axis=0).to(tl.float32)
        width = high - low
        high = tl.where(clear < WIDTH, low + width * _place(clear + 1.0, crowded, WIDTH), high)
        low = low + width * _place(clear, crowded, WIDTH)
        crowded = crowded & False
    return tl.where(last - first + 1 < RANK, _ABOVE, low)


@triton.jit
def _lowest_vector(alpha, below, value, first, last, KP: tl.constexpr):
    """Unit eigenvector of T for its eigenvalue θ, by the twisted factorisation.

    With the forward pivots D⁺, the backward pivots D⁻ and γ = D⁺ + D⁻ − (α − θ), the vector is 1 where |γ| is least and
    follows outwards by ratios. Source: Dhillon and Parlett, SIAM J. Matrix Anal. Appl. 25 (2004), §3.
    """
    lane = tl.arange(0, KP)
    used = (lane >= first) & (lane <= last)
    forward = tl.full((KP,), 1.0, dtype=tl.float32)
    backward = tl.full((KP,), 1.0, dtype=tl.float32)
    down = value * 0.0 + 1.0
    up = value * 0.0 + 1.0
    link_down = value * 0.0
    link_up = value * 0.0
    for step in range(last - first + 1):
        down = _away_from_zero(tl.load(alpha + first + step) - value - link_down * link_down / down, _PIVOT)
        up = _away_from_zero(tl.load(alpha + last - step) - value - link_up * link_up / up, _PIVOT)
        forward = tl.where(lane == first + step, down, forward)
        backward = tl.where(lane == last - step, up, backward)
        # Read a step ahead, because the divisions wait for them.
        more = step < last - first
        link_down = tl.load(below + first + step + 1, mask=more, other=0.0)
        link_up = tl.load(below + last - step, mask=more, other=0.0)
    diagonal = tl.load(alpha + lane, mask=used, other=0.0)
    before = tl.load(below + lane, mask=used & (lane > first), other=0.0)
    after = tl.load(below + lane + 1, mask=used & (lane < last), other=0.0)
    gamma = tl.where(used, tl.abs(forward + backward - (diagonal - value)), float("inf"))
    twist = tl.argmin(gamma, axis=0)
    left = tl.where(used & (lane < twist), -after / forward, 1.0)
    right = tl.where(used & (lane > twist), -before / backward, 1.0)
    vector = tl.where(used, tl.cumprod(left, axis=0, reverse=True) * tl.cumprod(right, axis=0), 0.0)
    return vector / _norm(vector)


@triton.jit
def _look(alpha, below, ritz, looked, first, last, length, KP: tl.constexpr, WIDTH: tl.constexpr):
    """Lowest Ritz pair of T on rows first..last, and the bound β|y_last| on its residual, β = ``length``.

    ``ritz`` is the value at the last look, which this one is not above (Cauchy) and, once converged, close below.
    """
    tl.debug_barrier()  # T is read from here
    ritz = _eigenvalue(alpha, below, ritz * 0.0 - _SPECTRUM, ritz, looked, first, last, 1, WIDTH)
    weights = _lowest_vector(alpha, below, ritz, first, last, KP)
    return ritz, weights, length * tl.abs(tl.sum(tl.where(tl.arange(0, KP) == last, weights, 0.0), axis=0))


@triton.jit
def _enough(ritz, bound, value, smallest, locked):
    """Has Lanczos gone far enough? The first search to one ulp; the probe once λ3 is told apart from λ2, or is below
    it.
    """
    distance = ritz - value
    probed = (bound <= tl.maximum(distance, smallest) * _APART) | (distance + bound < 0.0)
    return tl.where(locked == 1, bound <= _STOP, probed)


@triton.jit
def _cycle(affinity, degree, shrink, early, q, scratch, locked, value, smallest, node, lane, N,
           NP: tl.constexpr, KP: tl.constexpr, TILE: tl.constexpr, ACROSS: tl.constexpr,
           WIDTH: tl.constexpr, CHECK: tl.constexpr):  # fmt: skip
    """Lanczos from q on the complement of the locked rows until the lowest Ritz pair is good enough or the basis is
    full.

    Returns the Ritz value, the Ritz vector, the bound β|y_last| on its residual, the second Ritz value (for the first
    search only), the number of matvecs, and whether an invariant subspace was found (breakdown, or as many vectors as
    there are dimensions).
    """
    HALF: tl.constexpr = KP // 2
    alpha = scratch
    below = scratch + KP
    late = _empty(NP, HALF, ACROSS)
    weights = tl.zeros((KP,), dtype=tl.float32)
    slot = locked
    ritz = value * 0.0 + _SPECTRUM
    bound = value * 0.0
    second = value * 0.0 + _ABOVE
    exhausted = slot < 0
    looked = slot < 0
    running = slot > 0
    while running:
        early = _put(early, q, lane, slot, ACROSS)
        if slot >= HALF:
            late = _put(late, q, lane, slot - HALF, ACROSS)
        image = times(affinity, degree, shrink, q, node, NP, TILE)
        w, along = _orthogonalise(image, early, late, lane, slot, HALF, ACROSS)
        tl.store(alpha + slot, along)
        length = _norm(w)
        exhausted = (length <= _ULP) | (slot + 1 >= N)
        stop = exhausted | (slot + 1 >= KP)
        if stop | ((slot + 1 - locked) % CHECK == 0):
            ritz, weights, bound = _look(alpha, below, ritz, looked, locked, slot, length, KP, WIDTH)
            looked = slot > 0
            running = (stop | _enough(ritz, bound, value, smallest, locked)) == 0
            if (running == 0) & (locked == 1):
                second = _eigenvalue(alpha, below, ritz, value * 0.0 + _SPECTRUM, slot < 0, locked, slot, 2, WIDTH)
        slot += 1
        if running:
            tl.store(below + slot, length)
        q = w / tl.maximum(length, _TINY)
    front, back = tl.split(tl.trans(tl.reshape(weights, (2, HALF))))
    vector = _mixed(early, front, ACROSS) + _mixed(late, back, ACROSS)
    return ritz, vector, bound, second, slot - locked, exhausted


@triton.jit
def solve_member(affinity, degree, size, index, inside, node, scratch, N, most,
                 NP: tl.constexpr, KP: tl.constexpr, TILE: tl.constexpr, ACROSS: tl.constexpr,
                 WIDTH: tl.constexpr, CHECK: tl.constexpr):  # fmt: skip
    """Fiedler pair of one graph, then λ3 by a second run kept away from it, as `fiedler` does; size: ‖L‖_∞.

    Returns vector, Rayleigh quotient and residual as measured (both over ‖L‖_∞), number of matvecs, gap, and the unit e
    of `limits`. ``scratch``: SCRATCH · KP floats of global memory; ``most``: steps of one search.
    """
    HALF: tl.constexpr = KP // 2
    lane = tl.arange(0, HALF)
    shrink = tl.where(size > 0.0, 1.0 / tl.where(size > 0.0, size, 1.0), 1.0)
    unit = tl.where(size > 0.0, tl.maximum(size, 1.0) * shrink, 1.0) * _ULP
    smallest = unit * _GAP
    one = tl.where(inside, 1.0 / tl.sqrt_rn(N.to(tl.float32)), 0.0)
    vector = tl.zeros((NP,), dtype=tl.float32)
    value = size * 0.0
    second = size * 0.0  # second Ritz value, never below λ3
    gap = size * 0.0 + 2.0
    total = N * 0
    taken = N * 0  # steps of this search
    searches = N * 0
    locked = N * 0 + 1
    q = _start(index, inside, 0)
    while locked < 3:
        early = _put(_empty(NP, HALF, ACROSS), one, lane, 0, ACROSS)
        early = _put(early, tl.where(locked == 2, vector, 0.0), lane, 1, ACROSS)
        q = _unit(q, early, early, lane, locked, HALF, ACROSS)
        ritz, x, bound, other, used, exhausted = _cycle(
            affinity, degree, shrink, early, q, scratch, locked, value, smallest, node, lane, N,
            NP, KP, TILE, ACROSS, WIDTH, CHECK)  # fmt: skip
        total += used
        taken += used
        # A cycle that ends short goes on from its own Ritz vector.
        q = _unit(x, early, early, lane, locked, HALF, ACROSS)
        finished = exhausted | _enough(ritz, bound, value, smallest, locked) | (taken >= most)
        if locked == 1:
            vector = q
            value = ritz
            second = other
            if finished:
                q = _start(index, inside, _PROBE_SALT)
                locked = tl.where(N > 2, 2, 3)
                taken = N * 0
        elif finished:
            # Where the first run settled on a higher eigenvector the probe finds the lower one; then begin there.
            searches += 1
            lower = (ritz < value - unit * _RESIDUAL) & (searches < _ROUNDS)
            # After a restart the Ritz vector may mix λ3's with those behind it, whose values are higher.
            doubt = tl.where(taken > used, 2.0 * bound, bound)
            gap = tl.minimum(tl.maximum(tl.minimum(ritz - doubt, second) - value, 0.0), 2.0)
            locked = tl.where(lower, 1, 3)
            taken = N * 0
    image = times(affinity, degree, shrink, vector, node, NP, TILE)
    value = tl.sum(image * vector, axis=0)
    return vector, value, _norm(image - value * vector), total + 1, gap, unit


@triton.jit
def canonical_sign(vector, degree, size, index, inside, N):
    """The vector with the sign of `graph.canonical_sign`: small far group, else low degrees, else lowest dataset
    index.
    """
    root = tl.sqrt_rn(N.to(tl.float32))
    skew = root * tl.sum(vector * vector * vector, axis=0)
    centred = tl.where(inside, degree - tl.sum(degree, axis=0) / N, 0.0)
    spread = _norm(centred)
    uneven = spread > root * tl.maximum(size, 1.0) * _UNEVEN * _ULP
    correlation = tl.sum(vector * centred, axis=0) / tl.where(uneven, spread, 1.0)
    side = tl.where(inside & (root * tl.abs(vector) >= _SIDE), index, _NO_INDEX)
    first = tl.sum(tl.where(side == tl.min(side, axis=0), vector, 0.0), axis=0)
    ruling = tl.where(uneven & (tl.abs(correlation) >= _SIDE), -correlation, first)
    ruling = tl.where(tl.abs(skew) >= _SIDE, skew, ruling)
    return tl.where(ruling < 0.0, -vector, vector)


@triton.jit
def report(value, residual, gap, unit, refused):
    """(residual, status, gap, error) of `fiedler.FiedlerResult` from what was measured, all over ‖L‖_∞."""
    residual = tl.maximum(residual, unit)
    gap = tl.where(gap <= unit * _GAP, 0.0, gap)
    status = tl.where(residual <= unit * _RESIDUAL, _CONVERGED, 0) + tl.where(gap == 0.0, _DEGENERATE, 0)
    status += tl.where(value < -unit * _RESIDUAL, _INDEFINITE, 0)
    error = tl.where(gap > 0.0, tl.minimum(2.0 * residual / tl.where(gap > 0.0, gap, 1.0), _WORST), _WORST)
    return residual, tl.where(refused == 0, status, _INVALID), gap, error

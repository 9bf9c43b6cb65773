"""What is passed as features: every dtype and layout is cast, with the bits of the numbers it holds, or refused by a
named error. Nothing is read as if it were something else.
"""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pytest
import torch
from solver_backends import WAYS, members_of, same_bits
from solver_cases import post_relu

from spectral_sampler.errors import ArgumentError, BackendUnavailable
from spectral_sampler.fiedler import Status, fiedler_rows, fiedler_vector

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

each_backend = pytest.mark.parametrize("way", [way for way in WAYS if way.backend], ids=lambda way: way.name)


def whole(seed: int, size: int, width: int) -> np.ndarray:
    """Whole numbers from 0 to 126, one in every row: exact in every dtype below but bool."""
    return np.round(post_relu(seed, size, width) * 20 + 1).clip(0, 126).astype(np.float32)


def negative_view(x: np.ndarray) -> torch.Tensor:
    """A tensor whose memory holds −x, and which has the bit of a lazy negation."""
    imaginary = torch.complex(torch.zeros(x.shape), torch.from_numpy(-x)).conj().imag
    assert imaginary.is_neg()
    return imaginary


def unaligned(x: np.ndarray) -> np.ndarray:
    memory = np.zeros(x.nbytes + 1, dtype=np.uint8)
    found = np.frombuffer(memory, x.dtype, x.size, 1).reshape(x.shape)
    found[...] = x
    return found


def read_only(x: np.ndarray) -> np.ndarray:
    found = x.copy()
    found.flags.writeable = False
    return found


DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", ">f2", ">f4", ">i2", ">i4", ">i8", ">u4"]
CAST = {
    **{f"array {name}": lambda x, n=name: x.astype(n) for name in DTYPES},
    "Fortran order": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "every other row": lambda x: np.repeat(x, 2, axis=-2)[..., ::2, :],
    "backwards": lambda x: np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1],
    "unaligned": unaligned,
    "read-only": read_only,
    "big-endian, backwards": lambda x: x[..., ::-1].astype(">f4")[..., ::-1],
    "nested lists": lambda x: x.astype("i8").tolist(),
    **{
        f"tensor {dtype}": lambda x, d=dtype: torch.from_numpy(x).to(d)
        for dtype in (
            *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32),
            *(torch.float16, torch.bfloat16, torch.float32),
        )
    },
    "tensor, transposed": lambda x: torch.from_numpy(x).mT.contiguous().mT,
    "tensor, every other column": lambda x: torch.from_numpy(x).repeat_interleave(2, dim=-1)[..., ::2],
    "tensor, offset": lambda x: torch.cat((torch.zeros(3), torch.from_numpy(x).flatten()))[3:].reshape(x.shape),
    "tensor, lazily negated": negative_view,
    "tensor, with a gradient": lambda x: torch.from_numpy(x).requires_grad_(True),
    "parameter": lambda x: torch.nn.Parameter(torch.from_numpy(x)),
}
WIDER = {  # float64 is solved in float64: the bits of that
    "array f8": lambda x: x.astype("f8"),
    "array >f8": lambda x: x.astype(">f8"),
    "array longdouble": lambda x: x.astype(np.longdouble),
    "tensor float64, transposed": lambda x: torch.from_numpy(x).double().mT.contiguous().mT,
}
TWO = {  # of features that are 0 or 1
    "array bool": lambda x: x.astype(bool),
    "tensor bool": lambda x: torch.from_numpy(x.astype(bool)),
    "array bool, every other column": lambda x: np.repeat(x.astype(bool), 2, axis=-1)[..., ::2],
}
SHARED = {  # rows that are one in memory
    "array, broadcast": lambda x: np.broadcast_to(x[..., :1, :], x.shape),
    "tensor, expanded": lambda x: torch.from_numpy(x)[..., :1, :].expand(x.shape),
}


def check_casts(one, solve, features: np.ndarray, casts: dict) -> None:
    """``solve`` gives each cast of ``features`` the bits of the first, or refuses it by a named error."""
    expected = None
    for name, cast in casts.items():
        label = f"{name}, {features.shape}"
        try:
            found = solve(cast(features))
        except (ArgumentError, BackendUnavailable) as error:
            one.check(str(error).startswith(("features must be ", "Backend ")), f"{label}: told {error}")
            continue
        expected = found if expected is None else expected
        one.check(same_bits(found, expected), f"{label}: other bits")


def public(way):
    def solve(features):
        """By the caller's path: an array goes to the device as a tensor does."""
        moved = features.to(way.place) if isinstance(features, torch.Tensor) and way.place != "cpu" else features
        return fiedler_vector(moved, backend=way.backend)

    return solve


def check_all_casts(one, solve) -> None:
    plain = {"array": np.copy}
    for size, width in ((2, 1), (5, 3), (12, 20), (33, 65), (200, 24)):
        features = whole(size, size, width)
        for shaped in (features, np.stack((features, whole(size + 1, size, width)))):
            check_casts(one, solve, shaped, plain | CAST)
            check_casts(one, solve, shaped, {"array": lambda x: x.astype(float)} | WIDER)
            zeros = (shaped > np.median(shaped)).astype(np.float32)
            zeros[..., 0] = 1
            check_casts(one, solve, zeros, plain | TWO)
            check_casts(
                one, solve, shaped, {"array": lambda x: np.repeat(x[..., :1, :], x.shape[-2], axis=-2)} | SHARED
            )


@each_backend
def test_dtypes_and_layouts(way, line):
    way.skip_if_unusable()
    check_all_casts(line("solver", f"dtypes and layouts, {way.name}: the bits of the same numbers"), public(way))


REFUSED = {
    "complex64 array": np.ones((4, 3), dtype=np.complex64),
    "complex128 array": np.ones((4, 3), dtype=complex),
    "complex tensor": torch.ones(4, 3, dtype=torch.complex64),
    "object array": np.array([[1, None], [2, 3]], dtype=object),
    "object array of numbers": np.ones((4, 3), dtype=object),
    "strings": np.array([["1", "2"], ["3", "4"]]),
    "bytes": np.array([[b"1", b"2"], [b"3", b"4"]]),
    "dates": np.full((4, 3), np.datetime64(dt.date(2020, 1, 1))),
    "durations": np.full((4, 3), np.timedelta64(1, "s")),
    "records": np.ones(4, dtype=[("a", "f4"), ("b", "f4")]),
    "masked array": np.ma.masked_array(np.ones((4, 3)), mask=np.eye(4, 3)),
    "number": 3.0,
    "nothing": None,
    "text": "features",
    "dictionary": {"features": [[1.0, 2.0], [3.0, 4.0]]},
    "set": {1.0, 2.0},
    "1-D array": np.ones(6),
    "1-D tensor": torch.ones(6),
    "4-D array": np.ones((2, 2, 2, 2)),
    "empty list": [],
    **{
        f"empty {shape}": np.ones(shape, dtype=np.float32)
        for shape in ((0,), (0, 3), (4, 0), (0, 0), (0, 4, 3), (2, 4, 0), (2, 0, 3))
    },
    "one row": np.ones((1, 3)),
    "members of one row": torch.ones(4, 1, 3),
    "sparse tensor": torch.eye(4).to_sparse(),
}


def check_refused(one, solve, sources: dict) -> None:
    for name, source in sources.items():
        try:
            solve(source)
        except Exception as error:  # noqa: BLE001, PERF203, another than ArgumentError is what is looked for
            named = isinstance(error, ArgumentError) and str(error).startswith("features must be ")
            one.check(named, f"{name}: {type(error).__name__}, {error}")
        else:
            one.failed(f"{name}: solved")


@each_backend
def test_refused_by_a_named_error(way, line):
    way.skip_if_unusable()
    check_refused(line("solver", f"what is no features, {way.name}: refused by a named error"), public(way), REFUSED)


SIZES = sorted({*range(1, 20), *(k + step for k in (32, 64, 128, 192, 256) for step in (-1, 0, 1))})


@each_backend
def test_every_small_shape_is_solved(way, line):
    """N and d around every block and register width, from stores in half precision too: defined, and in bounds of N."""
    way.skip_if_unusable()
    one = line("solver", f"shapes, {way.name}: converged, the same from half-precision storage")
    for size, width in itertools.chain(
        itertools.product(SIZES[1:20], (1, 7, 31)), ((n, d) for n in (3, 33) for d in SIZES)
    ):
        rows, indices = members_of(whole(width, size, width)[None])
        found = [
            fiedler_rows(rows.to(way.place, d), indices.to(way.place), backend=way.backend)
            for d in (torch.float32, torch.float16)
        ]
        converged = bool(found[0].status & int(Status.CONVERGED)) and bool(torch.isfinite(found[0].vector).all())
        one.check(converged, f"{size} × {width}: status {found[0].status}")
        one.check(same_bits(*found), f"{size} × {width}: other bits from half-precision storage")


STORES = {
    "transposed": lambda x: x.T.contiguous().T,
    "every other column": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "every other row": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "offset": lambda x: torch.cat((torch.zeros(3), x.flatten()))[3:].reshape(x.shape),
}


@each_backend
def test_layouts_of_a_store(way, line):
    way.skip_if_unusable()
    one = line("solver", f"layouts of a store, {way.name}: the same bits")
    for size, width in ((2, 1), (5, 3), (12, 20), (33, 65), (200, 24)):
        rows = torch.from_numpy(whole(size, 2 * size, width)).to(way.place)
        indices = torch.arange(2 * size, device=way.place).flip(0).reshape(2, size)
        expected = fiedler_rows(rows, indices, backend=way.backend)
        for name, lay in STORES.items():
            found = fiedler_rows(lay(rows.cpu()).to(way.place), indices, backend=way.backend)
            one.check(same_bits(found, expected), f"{name}, {size} × {width}: other bits")
            turned = fiedler_rows(rows, indices.T.contiguous().T, backend=way.backend)
            one.check(same_bits(turned, expected), f"indices transposed, {size} × {width}: other bits")

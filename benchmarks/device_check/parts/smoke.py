"""Does every backend launch, is it right, and are its bits the same again and alone? The most wanted shapes first."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.device_check import inputs, truth
from benchmarks.device_check.methods import backends
from benchmarks.device_check.session import NotHere
from benchmarks.device_check.timing import wait

if TYPE_CHECKING:
    from benchmarks.device_check.methods import Method
    from benchmarks.device_check.session import Session

_HALF, _SINGLE = torch.float16, torch.float32
CASES = [  # (B, N, d, type of the features)
    (16, 128, 2048, _HALF), (16, 128, 384, _SINGLE), (4, 64, 768, _HALF), (2, 1024, 768, _HALF), (4, 256, 768, _HALF),
    (4, 100, 31, _SINGLE), (4, 17, 1280, _HALF), (2, 200, 384, _SINGLE), (2, 512, 768, _HALF), (1, 4096, 384, _HALF),
    (2, 1500, 768, _HALF), (3, 2, 5, _SINGLE), (3, 3, 1, _SINGLE),
]  # fmt: skip
_DRY = [(2, 9, 32, _HALF)]


def _poison(device: torch.device) -> None:
    """Leave NaN in the memory that torch hands out next, so that an output that is not written shows."""
    kept = [torch.full((1 << power,), torch.nan, device=device) for power in (10, 14, 18, 22) for _ in range(8)]
    del kept


def _same(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def examined(method: Method, features: torch.Tensor, indices: torch.Tensor, repeats: int) -> dict[str, Any]:
    """One backend on one problem: its `truth.distance`, and in ``wrong`` what is not as it must be."""
    start = time.perf_counter()
    first = method.solve(features, indices)
    wait()
    seconds = round(time.perf_counter() - start, 3)
    again = []
    for _ in range(repeats):
        _poison(features.device)
        again.append(method.solve(features, indices))
    alone = method.solve(features, indices[-1:].contiguous())
    same = all(_same(first, each) for each in again)
    same_alone = _same([field[-1:] for field in first], alone)
    few = 1 if indices.shape[1] > 1024 else 2
    found = truth.distance(first.vector[:few], truth.truths(features, indices[:few]))
    wrong = truth.fault(found, ours=True)
    if not same:
        wrong = "a repeated solve has other bits"
    elif not same_alone and method.name != "cupy":  # cuBLAS chooses its kernels by the number of members
        wrong = "a member solved alone has other bits"
    return found | {
        "wrong": wrong,
        "first_call_s": seconds,
        "same_bits": same,
        "same_bits_alone": same_alone,
        "num_matvecs": float(first.num_matvecs.double().mean()),
        "status": first.status.tolist(),
    }


def run(session: Session) -> None:
    """A row for each case and backend."""
    device = session.device()
    usable, reasons = backends(device)
    for name, reason in reasons.items():
        session.row(backend=name, reason=reason, wrong=None if session.dry else f"{name} cannot be used: {reason}")
    if not usable:
        raise NotHere("no backend can be used")
    for members, size, width, dtype in _DRY if session.dry else CASES[: 4 if session.quick else None]:
        features = inputs.store(width, max(2 * size, members * size), device, dtype, seed=size + width)
        indices = inputs.index_sets(features, members, size, 0)[0]
        for name, method in usable.items():
            if size > method.largest:
                continue
            problem = {"backend": name, "B": members, "N": size, "d": width, "dtype": str(dtype).removeprefix("torch.")}
            try:
                told = examined(method, features, indices, 1 if session.dry else 5)
            except Exception as error:  # noqa: BLE001  (the next case may work)
                traceback.print_exc()
                told = {"wrong": f"{type(error).__name__}: {str(error)[:300]}"}
            wrong = told.pop("wrong")
            session.row(**problem, **told, wrong=wrong and f"{name} at B={members}, N={size}, d={width}: {wrong}")
            if wrong and "CUDA error" in wrong:
                return  # the context is lost: nothing after it would mean anything

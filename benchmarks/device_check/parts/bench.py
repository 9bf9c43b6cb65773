"""Latency, throughput and CUDA-graph time of every backend and its peers, the most telling problems first.

A row's time stands only beside its distance from float64; a wrong answer has no time. Peers do other work: those with
eigh compute all eigenvectors, from an L that torch makes by cuBLAS.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.device_check import inputs, timing, truth
from benchmarks.device_check.methods import Method, backends, peers

if TYPE_CHECKING:
    from benchmarks.device_check.session import Session

PROBLEMS = [  # (B, N, d)
    (16, 128, 2048), (132, 128, 2048), (16, 1024, 768), (16, 256, 2048), (16, 64, 768), (264, 128, 384), (16, 512, 768),
    (4, 4096, 384), (132, 256, 768), (1024, 128, 2048), (16, 2048, 768), (16, 128, 384), (132, 64, 384), (16, 200, 768),
    (132, 512, 2048), (1, 128, 2048), (132, 1024, 768), (4096, 128, 2048), (1, 1024, 2048), (1, 4096, 2048),
    (16, 100, 31),
]  # fmt: skip
_DRY = [(2, 24, 16), (2, 40, 31)]
_CAP = 0.4  # seconds of one method on one problem
_GRAPHS = 12


class _Bench:
    """Times methods on problems; one whose call took half its cap, and a peer that failed, gets no larger problem."""

    def __init__(self, session: Session, device: torch.device) -> None:
        self.session, self.device = session, device
        self.cap = 0.05 if session.dry else _CAP
        self.cache = 1 << 12 if session.dry else torch.cuda.get_device_properties(device).L2_cache_size
        self.slow: dict[str, tuple[int, int]] = {}  # N, and work B · N², that took a method longer than its cap
        self.stores: dict[tuple[int, str], torch.Tensor] = {}

    def store(self, width: int, size: int, place: str) -> torch.Tensor:
        """Features of this width on the device or on the host; those of one width at a time are kept."""
        kept = self.stores.get((width, "device"))
        if kept is None or len(kept) < 2 * size:
            self.stores.clear()
            rows = inputs.store(width, 4 * size, self.device) if self.session.dry else None
            self.stores[width, "device"] = inputs.large_store(width, size, self.device) if rows is None else rows
        if (width, place) not in self.stores:
            self.stores[width, place] = self.stores[width, "device"].cpu()
        return self.stores[width, place]

    def problem(self, methods: list[Method], members: int, size: int, width: int) -> None:
        features = self.store(width, size, "device")
        sets = inputs.index_sets(features, members, size, self.cache)
        known = truth.truths(features, sets[0, : 1 if size > 512 else 2])
        for method in methods:
            solved = min(members, method.members)
            row = {"method": method.name, "kind": method.kind, "backend": method.backend, "store": method.store,
                   "B": members, "N": size, "d": width, "dtype": "float16", "solved": solved,
                   "threads": torch.get_num_threads()}  # fmt: skip
            if size > method.largest:
                continue
            work = (size, solved * size**2)
            least = self.slow.get(method.name)
            if least is not None and work[0] >= least[0] and work[1] >= least[1]:
                self.session.row(**row, left_out="it took too long, or failed, on a smaller problem")
                continue
            try:
                told = self.timed(method, self.store(width, size, method.store), sets[:, :solved], known)
            except Exception as error:  # noqa: BLE001  (the next method may work)
                traceback.print_exc()
                told = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            wrong = told.get("failed") if method.kind == "ours" else None
            self.session.row(**row, **told, wrong=wrong and f"{method.name} at B={members}, N={size}: {wrong}")
            if told.get("latency_us", 0.0) > 5e5 * self.cap or (method.kind == "peer" and "failed" in told):
                self.slow[method.name] = work
            if "CUDA error" in told.get("failed", ""):
                raise RuntimeError(told["failed"])  # the context is lost: nothing after it would mean anything

    def timed(
        self, method: Method, features: torch.Tensor, sets: torch.Tensor, known: list[truth.Truth]
    ) -> dict[str, Any]:
        """Is it right, and then: how long does it take?"""
        sets = sets.to(features.device).contiguous()

        def call(number: int) -> Any:
            return method.solve(features, sets[number % len(sets)])

        start = time.perf_counter()
        result = call(0)
        timing.wait()
        told: dict[str, Any] = {"first_call_s": round(time.perf_counter() - start, 4)}
        if method.kind != "floor":
            vectors = getattr(result, "vector", result)
            told |= truth.distance(vectors[: len(known)], known)
            fault = truth.fault(told, ours=method.kind == "ours")
            if fault is not None:
                return told | {"failed": fault}
        if hasattr(result, "num_matvecs"):
            told["num_matvecs"] = float(result.num_matvecs.double().mean())
        if method.kind == "peer" and told["first_call_s"] > 3 * self.cap:  # more than libraries take to load
            return told | {"latency_us": told["first_call_s"] * 1e6, "runs": 1}
        on_device = self.device.type == "cuda" and method.store == "device"
        told |= timing.calls(call, min(self.cap, self.session.left() / 4), queued=on_device)
        bytes_a_call = sets[0].numel() * features.shape[1] * features.element_size()
        told["rotated_bytes"] = bytes_a_call * min(len(sets), told["runs"])
        if method.graph and on_device and sets.shape[2] <= 1024:
            try:
                told["graph_us"] = timing.replayed(call, min(len(sets), _GRAPHS))
            except Exception as error:  # noqa: BLE001  (its other times stand)
                told["graph_failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        return told


def run(session: Session) -> None:
    """A row for each problem and method, after one for the ceilings of the device."""
    device = session.device()
    usable, reasons = backends(device)
    for name, reason in reasons.items():
        session.row(backend=name, reason=reason)  # smoke has called that a failure
    methods = [*usable.values(), *peers(device, usable)]
    if device.type == "cuda":
        timing.warm_clocks(1.0)
        session.row(device=torch.cuda.get_device_name(device), **timing.ceilings())
    bench, problems = _Bench(session, device), _DRY if session.dry else PROBLEMS[: 3 if session.quick else None]
    for number, problem in enumerate(problems):
        if session.left() < 6.0:
            session.row(left_out=f"{len(problems) - number} problems: no time left")
            return
        timing.warm_clocks(0.2)
        bench.problem(methods, *problem)

# ruff: noqa: E402  (thread counts are set before the libraries that read them are imported)
"""`make bench`: every problem against every peer, the limits of the machine, memory, threads, and the end-to-end share.

Writes benchmarks/results/cpu.json and, from it, docs/performance.md. Options: --quick (few repeats, no large problems).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
if __name__ == "__main__" and any(os.environ.get(name) != one for name, one in _ONE_THREAD.items()):
    # Thread counts are read when the libraries load, so the whole process starts again with them set.
    again = [sys.executable, "-m", "benchmarks.run", *sys.argv[1:]]
    os.execve(sys.executable, again, {**os.environ, **_ONE_THREAD})  # noqa: S606

import numpy as np
import torch

from benchmarks import end_to_end, measure, peers, problems, render
from spectral_sampler.kernels import native

RESULTS = Path(__file__).parent / "results" / "cpu.json"
_PEER_MEMBERS = 4  # members a peer solves in one timed call; its time is for one member, as ours is


_SIDE = 1024  # of the square product that is timed in every round: the SGEMM rate of that moment


def small_problem(problem: problems.Problem, repeats: int) -> dict[str, Any]:
    """All peers on one problem; times in seconds for one member."""
    members, size, width = problem.shape
    few = problem.indices[: max(1, min(_PEER_MEMBERS, members))]
    actions = {"native": lambda: native.solve(problem.store, problem.indices)}
    actions["graph"] = lambda: native.cosine_graph(problem.store, problem.indices)
    square = torch.randn(_SIDE, _SIDE)
    actions["sgemm"] = lambda: square @ square
    for name, peer in peers.PEERS.items():
        actions[name] = lambda peer=peer: peer(problem.store, few)
    times = measure.interleaved(actions, repeats)
    share = {name: members if name in ("native", "graph") else len(few) for name in times}
    limit = np.array(times["sgemm"]) * size * (size + 1) * width / (2 * _SIDE**3)
    truth = measure.exact(problem.store, few)
    rows = {}
    for name in peers.PEERS:
        rows[name] = {
            "seconds": float(np.median(times[name])) / share[name],
            "ratio": measure.ratios(times["native"], times[name], members / share[name]),
            "accuracy": measure.accuracy(peers.PEERS[name](problem.store, few), truth),
        }
    own, graph = np.array(times["native"]) / members, np.array(times["graph"]) / members
    solved = native.solve(problem.store, problem.indices)
    return {
        "problem": problem.name,
        "shape": [members, size, width],
        "dtype": str(problem.store.dtype).removeprefix("torch."),
        "seconds": float(np.median(own)),
        "graph seconds": float(np.median(graph)),
        "solver / graph": float(np.median((own - graph) / graph)),
        "graph / limit": float(np.median(graph / limit)),
        "all / limit": float(np.median(own / limit)),
        "matvecs": float(solved.num_matvecs.double().mean()),
        "accuracy": measure.accuracy(solved.vector[: len(few)].numpy(), truth),
        "peers": rows,
    }


def crossover(repeats: int) -> list[dict[str, Any]]:
    """Seconds with S formed and not formed, over N and d."""
    found = []
    for width in (128, 512, 2048):
        store = problems.rectified(4096, width)
        for size in (256, 512, 768, 1024, 2048):
            indices = problems.problem("", store, 1, size).indices
            forms = {
                form: (lambda form=form, i=indices, s=store: native.solve(s, i, form=form))
                for form in ("dense", "factored")
            }
            times = measure.interleaved(forms, repeats)
            found.append({"N": size, "d": width, **{form: float(np.median(each)) for form, each in times.items()}})
    return found


def large_problem(rates: dict[str, float], repeats: int) -> dict[str, Any]:
    """Against ARPACK with a LinearOperator, with the loosest tolerance whose residual is no larger than ours."""
    problem = problems.large()
    solved = native.solve(problem.store, problem.indices)
    own = measure.residual(problem, solved.vector.numpy())
    tolerance, residual = 0.0, np.inf
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 0.0):
        residual = measure.residual(problem, peers.scipy_eigsh_matrix_free(tolerance)(problem.store, problem.indices))
        if residual <= own:
            break
    peer = peers.scipy_eigsh_matrix_free(tolerance)
    actions = {
        "native": lambda: native.solve(problem.store, problem.indices),
        "peer": lambda: peer(problem.store, problem.indices),
    }
    times = measure.interleaved(actions, repeats)
    steps = int(solved.num_matvecs[0])
    bytes_read = problem.indices.numel() * problem.store.shape[1] * problem.store.element_size() * steps
    return {
        "problem": problem.name,
        "shape": list(problem.shape),
        "seconds": float(np.median(times["native"])),
        "residual": own,
        "matvecs": steps,
        "all / limit": float(np.median(times["native"])) / (bytes_read / rates["read"]),
        "peer": "SciPy eigsh, LinearOperator",
        "peer seconds": float(np.median(times["peer"])),
        "peer residual": residual,
        "peer tolerance": tolerance,
        "ratio": measure.ratios(times["native"], times["peer"]),
    }


def memory() -> dict[str, Any]:
    """Peak beyond the store at N = 262,144, d = 256, in a process of its own."""
    found = {}
    for dtype in ("float32", "float16"):
        command = [sys.executable, "-m", "benchmarks.peak", "262144", "256", dtype]
        found[dtype] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def threads(repeats: int) -> dict[str, Any]:
    """Two threads against one."""
    problem = problems.problem("rectified", problems.rectified(8192, 2048), 64, 128)

    def on(count: int) -> None:
        torch.set_num_threads(count)
        native.solve(problem.store, problem.indices)

    times = measure.interleaved({"two": lambda: on(2), "one": lambda: on(1)}, 3 * repeats)
    torch.set_num_threads(1)
    return {"shape": list(problem.shape), "ratio": measure.ratios(times["two"], times["one"])}


def main() -> None:
    """Measure, write, render."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reason = native.unusable_reason()
    if reason is not None:
        sys.exit(f"the native kernels cannot be measured: {reason}")
    repeats = 3 if options.quick else 9
    found: dict[str, Any] = {"passport": measure.passport(), "rates": measure.rates(), "small": []}
    for problem in problems.small():
        slow = problem.shape[1] >= 1024
        print(f"{problem.name} {problem.shape}", flush=True)
        found["small"].append(small_problem(problem, max(3, repeats // 3) if slow else repeats))
    found["threads"] = threads(repeats)
    found["crossover"] = crossover(3)
    if not options.quick:
        print("large problems", flush=True)
        found["large"] = large_problem(found["rates"], 3)
        found["memory"] = memory()
    print("end to end", flush=True)
    found["end to end"] = end_to_end.measure_all(steps=4 if options.quick else 12)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.out == RESULTS:
        render.main()


if __name__ == "__main__":
    main()
